"""`main.py --mode=benchmark`: compares the speed of this project and of the PyTorch implementation."""

import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import torch
from ml_collections import ConfigDict
from tqdm import tqdm

from configs import omniglot_1shot_5way, omniglot_1shot_20way
from parity_tests import bridge, workloads
from parity_tests.workloads import EVAL_TASKS, Work
from reptile_jax.config import ConfigError
from reptile_jax.cores import usable_cores
from reptile_jax.devices import TASKS, best_cpu_devices, mesh_of
from reptile_jax.run.evaluate import label_of
from reptile_jax.run.programs import network_of
from reptile_jax.tasks import kind_of
from reptile_torch_ref.model import MEMORY as LAYOUT

ROUNDS = 7  # how often each measurement is taken by default; the measurements take turns
SECONDS = 1.5  # about how long one measurement takes
LONGER = 12  # times as long: training with and without curves, because a run waits for points only at checkpoints
SIZES = (1024, 2048, 4096)  # of the matrix products with which the rates are compared
PARTS = ("sampling", "optimiser", "backward")  # of a training step, in the order in which they are removed
WITH_CURVES = "train with curves"
DEFAULT_LAYOUT = "train beside PyTorch's default layout"  # measured if the reference has its channels last
MEMORY = (5, 100)  # number of measurements of the training process's memory, and of meta-iterations between them


class Measured(NamedTuple):
    """The median, the lowest and the highest value of the rounds."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        """Returns text such as "41.2 (39.8 to 42)"."""
        return f"{self.median:.3g} ({self.low:.3g} to {self.high:.3g})"

    def percent(self) -> str:
        """Returns text such as "50% (48% to 51%)"."""
        return f"{self.median:.1%} ({self.low:.1%} to {self.high:.1%})"

    def as_json(self) -> dict[str, Any]:
        """Returns {"median": …, "range": [LOW, HIGH]}."""
        return {"median": self.median, "range": [self.low, self.high]}


def published() -> dict[str, ConfigDict]:
    """Returns the published 5-way and 20-way runs, on the synthetic characters."""
    settings = {"5way": omniglot_1shot_5way.get_config(), "20way": omniglot_1shot_20way.get_config()}
    for config in settings.values():
        config.data.name = "glyphs"
    return settings


def run(settings: dict[str, ConfigDict], workdir: Path, rounds: int = ROUNDS) -> None:
    """Measures, prints a table, and writes benchmark.json in the workdir.

    The measurements take turns, so that other work on the machine affects all of them equally. The configs name the
    data set; no accuracy is measured.

    Args:
        settings: the configs to measure, by name.
        workdir: the folder for benchmark.json.
        rounds: how often each measurement is taken; those of separate training processes at most three times.

    Raises:
        ConfigError: a config is impossible.
        DataError: the data is missing or damaged.
    """
    for config in settings.values():
        bridge.check(config)
        if config.num_seeds != 1:
            raise ConfigError(f"num_seeds={config.num_seeds}: PyTorch trains one seed: give num_seeds=1")
    workdir.mkdir(parents=True, exist_ok=True)
    versions = {"jax": jax.__version__, "torch": torch.__version__}
    device = jax.devices()[0].device_kind
    results: dict[str, Any] = {"machine": {"device": device, "cpus": usable_cores(), "versions": versions}}
    programs = f"JAX {versions['jax']} on {device}, PyTorch {versions['torch']} on cpu"
    for name, config in settings.items():
        print(f"\n{name} on {label_of(config)}; {programs}\n")
        results[name] = measure(name, config, rounds)
        (workdir / "benchmark.json").write_text(json.dumps(results, indent=2) + "\n")
    for name, config in settings.items():
        print(f"\n{name} on {label_of(config)}: a training process alone\n")
        results[name]["process"] = training_process(config, min(rounds, 3))
    (workdir / "benchmark.json").write_text(json.dumps(results, indent=2) + "\n")


def measure(name: str, config: ConfigDict, rounds: int) -> dict[str, Any]:
    """Measures one setting, and prints it as two tables."""
    there = len(jax.devices())
    of_run = best_cpu_devices(config, there) if jax.devices()[0].platform == "cpu" else there
    counts = sorted({of_run, there, *(2**i for i in range(there.bit_length()))})
    meshes = {count: mesh_of(config, jax.devices()[:count]) for count in counts}
    sets = {count: kind_of(config).load(config, mesh) for count, mesh in meshes.items()}
    mesh, data = meshes[of_run], sets[of_run]
    batches = (1, config.meta_batch, 2 * config.meta_batch)
    channels_last = LAYOUT[config.model.name] != torch.contiguous_format
    works = {
        "train, PyTorch": workloads.training_torch(config, data),
        "eval, PyTorch": workloads.evaluation_torch(config, data),
        **({DEFAULT_LAYOUT: workloads.training_torch(config, data, torch.contiguous_format)} if channels_last else {}),
        **{f"product of {size}": workloads.products(size) for size in SIZES},
        **{f"without {n} parts": workloads.without(config, data, *PARTS[:n]) for n in range(len(PARTS) + 1)},
        "late": workloads.training(config, data, mesh, iteration=config.meta_iters * 9 // 10),
        **{f"meta_batch {tasks}": workloads.training(with_batch(config, tasks), data, mesh) for tasks in batches},
    }
    for count in counts:
        works[f"train on {count}"] = workloads.training(config, sets[count], meshes[count])
        works[f"{WITH_CURVES} on {count}"] = workloads.training_with_curves(config, sets[count], meshes[count])
        works[f"eval on {count}"] = workloads.evaluation(config, sets[count], meshes[count])
    rates = measured_in_turn(name, works, rounds)
    for count in counts:  # of one task, not of a dispatch of them, and of one meta-iteration
        rates[f"eval on {count}"] *= EVAL_TASKS * meshes[count].shape[TASKS]
        rates[f"{WITH_CURVES} on {count}"] *= config.eval_interval
    rates["eval, PyTorch"] *= EVAL_TASKS
    result: dict[str, Any] = {"data": label_of(config)}

    row("", "this program", "PyTorch implementation", "ratio, pair by pair")
    row("---", "---", "---", "---")
    compared = {  # key in the results -> this program's work, the reference's, what is printed, and the unit
        "train": (f"train on {of_run}", "train, PyTorch", "train", "meta-iterations/s"),
        "eval": (f"eval on {of_run}", "eval, PyTorch", "eval", "tasks/s, both protocols"),
    }
    if channels_last:
        compared["train_default_layout"] = (f"train on {of_run}", *2 * (DEFAULT_LAYOUT,), "meta-iterations/s")
    for key, (ours, theirs, title, unit) in compared.items():
        sides = {"jax": rates[ours], "torch": rates[theirs], "ratio": rates[ours] / rates[theirs]}
        measured = {side: median(values) for side, values in sides.items()}
        row(f"{title}, {unit}", *measured.values())
        result[key] = {"unit": unit}
        for side, each in measured.items():
            result[key] |= {side: each.median, f"{side}_range": each[1:]}

    speed = rates[f"train on {of_run}"]
    size = max(SIZES, key=lambda size: size**3 * median(rates[f"product of {size}"]).median)
    peak = 2 * size**3 / 1e9 * rates[f"product of {size}"]
    reached = flops(config) / 1e9 * speed
    others = {
        "gflops": median(reached),
        "matmul_gflops": median(peak),
        "share_of_matmul": median(reached / peak),
        "curve_share_of_run": median(1 - rates[f"{WITH_CURVES} on {of_run}"] / speed),
        **{f"share_{part}": median(share) for part, share in shares(rates).items()},
        **{
            f"milliseconds_per_task_{tasks}": median(1000 / (tasks * rates[f"meta_batch {tasks}"])) for tasks in batches
        },
        "late_beside_early": median(rates["late"] / speed),
    }
    result |= {key: measured.as_json() for key, measured in others.items()}
    print()
    row("", "training")
    row("---", "---")
    row("arithmetic, GFLOP/s", f"{others['gflops']}: {others['share_of_matmul'].percent()} of the "
        f"{others['matmul_gflops']} of a {size}³ product, the fastest of {', '.join(map(str, SIZES))}")  # fmt: skip
    share = others["curve_share_of_run"].percent()
    row(f"curves, a point every {config.eval_interval} meta-iterations, not in the rates above", f"{share} of a run")
    for part in (*PARTS, "forward"):
        row(f"{part}, share of a step", others[f"share_{part}"].percent())
    for tasks in batches:
        row(f"a task at meta_batch={tasks}", f"{others[f'milliseconds_per_task_{tasks}']} ms")
    row("rate at nine tenths of the run, beside that at its start", others["late_beside_early"].percent())
    result["devices"] = scaling(config, counts, rates)
    return result


def scaling(config: ConfigDict, counts: list[int], rates: dict[str, np.ndarray]) -> dict[str, Any]:
    """Prints the rates for each number of devices, and their ratio to the rate of one device in the same round."""
    print()
    row("devices", "meta-iterations/s", "beside one", "evaluation, tasks/s", "beside one", "curves' share of a run")
    row(*6 * ["---"])
    by_count = {}
    for count in counts:
        train = rates[f"train on {count}"]
        measured = {
            "train": median(train),
            "train_beside_one": median(train / rates["train on 1"]),
            "eval": median(rates[f"eval on {count}"]),
            "eval_beside_one": median(rates[f"eval on {count}"] / rates["eval on 1"]),
            "curve_share_of_run": median(1 - rates[f"{WITH_CURVES} on {count}"] / train),
        }
        row(count, *list(measured.values())[:-1], measured["curve_share_of_run"].percent())
        by_count[str(count)] = {key: value.as_json() for key, value in measured.items()}
    return by_count


def row(*cells: object) -> None:
    """Prints a row of a table."""
    print(f"| {' | '.join(map(str, cells))} |")


def median(values: np.ndarray) -> Measured:
    """Returns the median and the extremes of the values [rounds]."""
    return Measured(float(np.median(values)), float(np.min(values)), float(np.max(values)))


def measured_in_turn(name: str, works: dict[str, Work], rounds: int) -> dict[str, np.ndarray]:
    """Returns the rates of every work, units/s, [rounds]; before, each work is done once to compile and to warm up."""
    amounts, rates = {}, {work: np.zeros(rounds) for work in works}
    with tqdm(total=len(works) * (rounds + 1), desc=name, leave=False, disable=None) as bar:
        for work, do in works.items():
            do(1)
            seconds = SECONDS * (LONGER if work.startswith(("train on", WITH_CURVES)) else 1)
            amounts[work] = max(1, round(seconds * rate_of(do, 2)))
            bar.update()
        for i in range(rounds):
            for work, do in works.items():
                rates[work][i] = rate_of(do, amounts[work])
                bar.update()
    return rates


def rate_of(do: Work, amount: int) -> float:
    """Does `amount` units of work, and returns units/s."""
    began = time.perf_counter()
    do(amount)
    return amount / (time.perf_counter() - began)


def shares(rates: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns the share [rounds] that each part of a training step has in the step's time.

    Each variant of the step leaves out one more of `PARTS`; the last variant has only the forward pass. The time of a
    part is the difference between two variants. The shares of a round add up to 1, but their medians may not, and the
    share of a short part can be below 0.
    """
    times = np.array([1 / rates[f"without {n} parts"] for n in range(len(PARTS) + 1)])
    parts = np.append(times[:-1] - times[1:], times[-1:], axis=0) / times[0]
    return dict(zip((*PARTS, "forward"), parts, strict=True))


def with_batch(config: ConfigDict, tasks: int) -> ConfigDict:
    """Returns the config with another meta-batch."""
    other = config.copy_and_resolve_references()
    other.meta_batch = tasks
    return other


def flops(config: ConfigDict) -> float:
    """Returns the floating-point operations of one meta-iteration; it counts only the network's products.

    Each product of the forward pass has two products in the backward pass: one for the gradient of the weights and one
    for the gradient of the inputs. The first product has only one, because the network's inputs need no gradient.
    """
    plain = config.copy_and_resolve_references()
    plain.convolution = "lax"
    network, one = network_of(plain), jnp.zeros((1, *kind_of(config).input_shape(config)))
    params = jax.eval_shape(network.init, jax.random.key(0), one)
    forward = list(products(jax.make_jaxpr(network.apply)(params, one).jaxpr))
    return (3 * sum(forward) - forward[0]) * config.meta_batch * config.inner_iters * config.inner_batch


def products(jaxpr: Any) -> Iterator[int]:
    """Yields the floating-point operations of every convolution and matrix product of a program, in order."""
    for equation in jaxpr.eqns:
        shapes = [math.prod(x.aval.shape) for x in (*equation.invars, *equation.outvars)]
        if equation.primitive.name == "conv_general_dilated":  # a kernel [height, width, in, out]
            yield 2 * shapes[1] * shapes[2] // equation.invars[1].aval.shape[3]
        elif equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            yield 2 * shapes[2] * math.prod(equation.invars[0].aval.shape[i] for i in contracted)
        for inner in equation.params.values():
            inner = getattr(inner, "jaxpr", inner)
            if hasattr(inner, "eqns"):
                yield from products(inner)


def training_process(config: ConfigDict, rounds: int) -> dict[str, Any]:
    """Starts separate training processes, which do not import PyTorch, and prints their time and memory.

    Returns:
        The seconds from the start of the process to the end of the first meta-iteration, without and with a compilation
        cache; and, on Linux, the process's resident memory in MB, at meta-iterations and at its peak.
    """
    seconds: dict[str, list[float]] = {"cold": [], "warm": []}
    memory: list[float] = []
    for i in range(rounds):
        with tempfile.TemporaryDirectory() as cache:
            seconds["cold"].append(footprint(config, cache, 0)[0])
            seconds["warm"].append(footprint(config, cache, 0)[0])
            if i == 0 and sys.platform == "linux":
                _, (_, *memory) = footprint(config, cache, MEMORY[0])
    starts = {kind: median(np.array(values)) for kind, values in seconds.items()}
    row("", "a training process, PyTorch not imported")
    row("---", "---")
    for kind, measured in starts.items():
        row(f"its start to the end of the first meta-iteration, compilation cache {kind}", f"{measured} s")
    result: dict[str, Any] = {
        "first_meta_iteration_seconds": {kind: measured.as_json() for kind, measured in starts.items()}
    }
    if memory:
        *at_points, peak = map(round, memory)
        by_iteration = {(i + 1) * MEMORY[1]: megabytes for i, megabytes in enumerate(at_points)}
        row("resident memory, MB, at meta-iteration", ", ".join(f"{i}: {mb}" for i, mb in by_iteration.items()))
        row("resident memory at most, training, curves, checkpoints and evaluation", f"{peak} MB")
        result |= {"resident_megabytes": by_iteration, "peak_megabytes": peak}
    return result


def footprint(config: ConfigDict, cache: str, measurements: int) -> tuple[float, list[float]]:
    """Runs `parity_tests.footprint`; returns the seconds to its first line, and the numbers that it prints."""
    arguments = [config.to_json(), str(measurements), str(MEMORY[1])]
    began = time.perf_counter()
    with subprocess.Popen(
        [sys.executable, "-m", "parity_tests.footprint", *arguments],
        # On a GPU, the memory that this process leaves must do.
        env=os.environ | {"JAX_COMPILATION_CACHE_DIR": cache, "XLA_PYTHON_CLIENT_PREALLOCATE": "false"},
        cwd=Path(__file__).parent.parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stdout is not None
        first = process.stdout.readline()
        seconds = time.perf_counter() - began
        memory = [float(line) for line in (first, *process.stdout) if line]
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, process.args)
    return seconds, memory
