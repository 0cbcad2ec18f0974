"""`main.py --mode=benchmark`: this project against the PyTorch reference, on the same episodes, on this machine."""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import torch
from ml_collections import ConfigDict
from tqdm import tqdm

from configs import omniglot_1shot_5way, omniglot_1shot_20way
from parity_tests import workloads
from parity_tests.workloads import EVAL_TASKS, MATRIX, Work
from reptile_jax.classes import load_data
from reptile_jax.config import validate
from reptile_jax.devices import mesh_of

ROUNDS = 9  # times that every measurement is taken, one after the other in turn
SECONDS = 1.5  # that one measurement takes, about
PARTS = ("sampling", "optimiser", "backward")  # of a training step, in the order in which they are taken away
MEMORY = (5, 100)  # measurements of the training process's memory, and meta-iterations between them


class Rate(NamedTuple):
    """Units a second: the median over the rounds, and the extremes."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        """As "41.2 (39.8 to 42.0)"."""
        return f"{self.median:.3g} ({self.low:.3g} to {self.high:.3g})"


def published() -> dict[str, ConfigDict]:
    """Returns the published 5-way and 20-way runs, on the embedded data set."""
    settings = {"5way": omniglot_1shot_5way.get_config(), "20way": omniglot_1shot_20way.get_config()}
    for config in settings.values():
        config.data.name = "glyphs"
    return settings


def run(settings: dict[str, ConfigDict], workdir: Path) -> None:
    """Measures, prints a table, and writes benchmark.json in the workdir.

    Everything is measured in turn, `ROUNDS` times, so that what else the machine does meets all alike. The data set is
    that of the configs; no accuracy is measured.

    Args:
        settings: the configs to measure, by name.
        workdir: where benchmark.json goes.

    Raises:
        ConfigError: an impossible config.
        DataError: the data is missing or damaged.
    """
    for config in settings.values():
        validate(config)
    versions = {"jax": jax.__version__, "torch": torch.__version__}
    results: dict[str, Any] = {
        "machine": {"device": jax.devices()[0].device_kind, "cpus": os.cpu_count(), "versions": versions}
    }
    for name, config in settings.items():
        print(
            f"{name}: JAX {jax.__version__} on {jax.devices()[0].device_kind}, PyTorch {torch.__version__} on the CPU"
        )
        results[name] = measure(name, config)
    first = next(iter(settings.values()))
    results["process"] = training_process(first)
    workdir.mkdir(parents=True, exist_ok=True)
    (workdir / "benchmark.json").write_text(json.dumps(results, indent=2) + "\n")


def measure(name: str, config: ConfigDict) -> dict[str, Any]:
    """Measures one setting, and prints it."""
    mesh = mesh_of(config)
    data = load_data(config, mesh)
    works = {
        "train, JAX": workloads.training(config, data),
        "train, PyTorch": workloads.training_torch(config, data),
        "eval, JAX": workloads.evaluation(config, data),
        "eval, PyTorch": workloads.evaluation_torch(config, data),
        "matrix product": workloads.products(),
        "curve point": workloads.curve(config, data),
        **{f"without {n} parts": workloads.without(config, data, *PARTS[:n]) for n in range(len(PARTS) + 1)},
        "end of the run": workloads.training(config, data, iteration=config.meta_iters * 9 // 10),
        **{
            f"meta_batch {tasks}": workloads.training(with_batch(config, tasks), data)
            for tasks in (1, 2 * config.meta_batch)
        },
    }
    rates = measured_in_turn(name, works)
    for work in ("eval, JAX", "eval, PyTorch"):
        rates[work] = [EVAL_TASKS * rate for rate in rates[work]]
    rate = {work: summary(values) for work, values in rates.items()}
    result: dict[str, Any] = {}
    for kind, unit in (("train", "meta-iterations/s"), ("eval", "tasks/s")):
        jax_rate, torch_rate = rates[f"{kind}, JAX"], rates[f"{kind}, PyTorch"]
        ratio = summary([a / b for a, b in zip(jax_rate, torch_rate, strict=True)])
        result[kind] = {"unit": unit, "ratio": ratio.median, "ratio_range": ratio[1:]}
        for side, of_side in (("jax", summary(jax_rate)), ("torch", summary(torch_rate))):
            result[kind] |= {side: of_side.median, f"{side}_range": of_side[1:]}
        row(f"{kind}, {unit}", f"JAX {summary(jax_rate)}", f"PyTorch {summary(torch_rate)}", f"ratio {ratio}")
    gflop = flops(config) / 1e9
    peak = 2 * MATRIX**3 / 1e9 * rate["matrix product"].median
    reached = rate["train, JAX"].median * gflop
    row(
        "arithmetic, GFLOP/s", f"training {reached:.0f}", f"{MATRIX}³ product {peak:.0f}", f"share {reached / peak:.0%}"
    )
    result["gflops"] = {"per_meta_iteration": gflop, "reached": reached, "matmul": peak, "share": reached / peak}
    point = 1 / rate["curve point"].median
    between = config.eval_interval / rate["train, JAX"].median
    row("a point of the curves", f"{1000 * point:.0f} ms", f"every {config.eval_interval} meta-iterations",
        f"{point / (point + between):.0%} of a run's time, not in the rates above")  # fmt: skip
    result["curve"] = {"seconds_per_point": point, "share_of_run": point / (point + between)}
    result["shares"] = shares(rates)
    row("where the time goes", *(f"{part} {share:.1%}" for part, share in result["shares"].items()))
    result["scaling"] = {"end_of_run": rate["end of the run"].median / rate["train, JAX"].median}
    per_task = {tasks: 1000 / (tasks * rate[work].median) for tasks, work in
                ((1, "meta_batch 1"), (config.meta_batch, "train, JAX"),
                 (2 * config.meta_batch, f"meta_batch {2 * config.meta_batch}"))}  # fmt: skip
    result["scaling"]["milliseconds_per_task"] = per_task
    row("scaling", *(f"meta_batch {tasks}: {ms:.2f} ms a task" for tasks, ms in per_task.items()),
        f"rate at the end of the run: {result['scaling']['end_of_run']:.0%} of that at its start")  # fmt: skip
    return result


def row(name: str, *cells: str) -> None:
    """Prints a row of the table."""
    print(f"  {name + ':':<28}" + "; ".join(cells))


def summary(values: list[float]) -> Rate:
    """Median and extremes."""
    return Rate(statistics.median(values), min(values), max(values))


def measured_in_turn(name: str, works: dict[str, Work]) -> dict[str, list[float]]:
    """The rates of every work in `ROUNDS` rounds, units/s; each is run once before, to compile and to warm up."""
    amounts, rates = {}, {work: [] for work in works}
    with tqdm(total=len(works) * (ROUNDS + 1), desc=name, leave=False, disable=None) as bar:
        for work, do in works.items():
            do(1)
            amounts[work] = max(1, round(SECONDS * rate_of(do, 2)))
            bar.update()
        for _ in range(ROUNDS):
            for work, do in works.items():
                rates[work].append(rate_of(do, amounts[work]))
                bar.update()
    return rates


def rate_of(do: Work, amount: int) -> float:
    """Does some units of work: units/s."""
    began = time.perf_counter()
    do(amount)
    return amount / (time.perf_counter() - began)


def shares(rates: dict[str, list[float]]) -> dict[str, float]:
    """The share of each part of a training step in its time, from the times without it, median over the rounds.

    The variants take away one of `PARTS` after the other; what is left is the forward pass.
    """
    times = np.array([[1 / rate for rate in rates[f"without {n} parts"]] for n in range(len(PARTS) + 1)])
    parts = np.append(times[:-1] - times[1:], times[-1:], axis=0) / times[0]  # [parts, rounds]
    return dict(zip((*PARTS, "forward"), np.median(parts, axis=1).tolist(), strict=True))


def with_batch(config: ConfigDict, tasks: int) -> ConfigDict:
    """The config with another meta-batch."""
    other = config.copy_and_resolve_references()
    other.meta_batch = tasks
    return other


def flops(config: ConfigDict) -> float:
    """Floating-point operations of one meta-iteration, those of the network's products alone.

    A product in the forward pass has two in the backward pass, for weights and inputs; the images have no gradient.
    """
    sizes, channels = (14, 7, 4, 2), (1, 64, 64, 64)
    layers = [size**2 * 9 * inputs * 64 for size, inputs in zip(sizes, channels, strict=True)]
    per_image = 2 * (3 * (sum(layers) + 256 * config.classes) - layers[0])
    return per_image * config.meta_batch * config.inner_iters * config.inner_batch


def training_process(config: ConfigDict) -> dict[str, Any]:
    """Starts training processes of their own, PyTorch not imported, and prints what they take.

    Returns:
        Seconds from the start of the process to the end of the first meta-iteration, without and with a compilation
        cache, and the process's resident memory, MB: by meta-iterations, and the most that it was.
    """
    seconds: dict[str, list[float]] = {"cold": [], "warm": []}
    for i in range(3):
        with tempfile.TemporaryDirectory() as cache:
            seconds["cold"].append(footprint(config, cache, 0)[0])
            seconds["warm"].append(footprint(config, cache, 0)[0])
            if i == 0:
                _, (*memory, peak) = footprint(config, cache, MEMORY[0])
    first = {kind: summary(values) for kind, values in seconds.items()}
    by_iteration = {1 + i * MEMORY[1]: round(megabytes) for i, megabytes in enumerate(memory)}
    print("a training process alone")
    row("first meta-iteration", *(f"{kind} compilation cache {rate} s" for kind, rate in first.items()))
    row(
        "resident memory, MB",
        *(f"{megabytes} at {iteration}" for iteration, megabytes in by_iteration.items()),
        f"at most {peak:.0f}",
    )
    return {
        "first_meta_iteration_seconds": {kind: rate.median for kind, rate in first.items()},
        "resident_megabytes": by_iteration,
        "peak_megabytes": round(peak),
    }


def footprint(config: ConfigDict, cache: str, measurements: int) -> tuple[float, list[float]]:
    """Runs `reptile_jax.footprint`: seconds to its first line, and what it prints."""
    arguments = [config.to_json(), str(measurements), str(MEMORY[1])]
    began = time.perf_counter()
    with subprocess.Popen(
        [sys.executable, "-m", "reptile_jax.footprint", *arguments],
        env=os.environ | {"JAX_COMPILATION_CACHE_DIR": cache},
        cwd=Path(__file__).parent.parent,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        first = process.stdout.readline()
        seconds = time.perf_counter() - began
        memory = [float(line) for line in (first, *process.stdout) if line]
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, process.args)
    return seconds, memory
