"""Tests of the benchmark's calculations and output; no test depends on a speed."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from configs import miniimagenet_1shot_5way, omniglot_1shot_5way, omniglot_1shot_20way
from parity_tests import benchmark, workloads
from reptile_jax.config import ConfigError
from reptile_jax.devices import mesh_of
from reptile_jax.networks.mini_imagenet import MiniImageNetClassifier
from reptile_jax.networks.omniglot import OmniglotClassifier
from reptile_jax.run import curves
from reptile_jax.tasks import kind_of
from reptile_jax.testing.small_runs import small
from reptile_torch_ref import model, reptile


@pytest.mark.parametrize(
    ("module", "network"),
    [(omniglot_1shot_5way, OmniglotClassifier), (omniglot_1shot_20way, OmniglotClassifier),
     (miniimagenet_1shot_5way, MiniImageNetClassifier)],
)  # fmt: skip
def test_operations_are_those_that_xla_counts(module, network):
    config = module.get_config()
    data = config.data
    images = jnp.zeros((config.inner_batch, data.size, data.size, data.channels))
    network = network(config.classes, config.model.filters, "matmul")
    params = jax.eval_shape(network.init, jax.random.key(0), images)
    gradient = jax.jit(jax.grad(lambda params, images: jnp.sum(network.apply(params, images))))
    counted = gradient.lower(params, images).compile().cost_analysis()["flops"]
    steps = config.meta_batch * config.inner_iters
    assert 0.9 < benchmark.flops(config) / (steps * counted) < 1  # XLA also counts batch norm, ReLU and all else


HERE = Path(__file__).parent
SIDES = ("jax", "torch", "ratio")
SMALL_BENCHMARK = """
import json, sys
from pathlib import Path
from parity_tests import benchmark
from reptile_jax.testing.small_runs import small
benchmark.SECONDS, benchmark.MEMORY = 0.01, (2, 3)
if sys.argv[4] == "False":
    benchmark.training_process = lambda *_: None
benchmark.run({"small": small(**json.loads(sys.argv[3]))}, Path(sys.argv[1]), rounds=int(sys.argv[2]))
"""


@pytest.mark.parametrize(
    ("network", "devices", "rounds", "more", "processes"),  # training processes take a minute
    [("omniglot", 2, 1, [], True), ("miniimagenet", 1, 2, ["train_default_layout"], False)],
)
def test_a_small_benchmark(tmp_path, network, devices, rounds, more, processes):
    fields = {"meta_iters": 100, "model.name": network}
    arguments = [tmp_path / "run", str(rounds), json.dumps(fields), str(processes)]
    command = [sys.executable, "-c", SMALL_BENCHMARK, *arguments]
    environment = os.environ | {"JAX_NUM_CPU_DEVICES": str(devices), "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(command, check=True, env=environment, capture_output=True, text=True)
    config, printed = small(**fields), done.stdout
    results = json.loads((tmp_path / "run" / "benchmark.json").read_text())
    assert [name for name in results["small"] if name.startswith("train")] == ["train", *more]
    for kind in ("train", "eval", *more):
        measured = results["small"][kind]
        for side in SIDES:
            low, high = measured[f"{side}_range"]
            assert 0 < low <= measured[side] <= high
        (jax_low, jax_high), (torch_low, torch_high) = measured["jax_range"], measured["torch_range"]
        assert jax_low / torch_high <= measured["ratio"] <= jax_high / torch_low
    setting = results["small"]
    per_second = setting["gflops"]["median"] / setting["train"]["jax"]
    assert per_second == pytest.approx(benchmark.flops(config) / 1e9)
    assert setting["share_of_matmul"]["range"][0] <= setting["share_of_matmul"]["median"] < 1
    assert {key for key in setting if key.startswith("share_")} == {
        "share_of_matmul", "share_sampling", "share_forward", "share_backward", "share_optimiser",
    }  # fmt: skip
    by_count = setting["devices"]
    assert list(by_count) == ["1", "2"][:devices]
    on_one, on_all = by_count["1"], by_count[str(devices)]
    for what in ("train", "eval"):
        assert on_all[what]["median"] == setting[what]["jax"]
        assert on_one[f"{what}_beside_one"]["range"] == [1, 1]
        ratio = on_all[what]["median"] / on_one[what]["median"]
        assert ratio == pytest.approx(on_all[f"{what}_beside_one"]["median"])
    assert "small on glyphs (synthetic)" in printed and "| train, meta-iterations/s | " in printed
    if processes:
        process = setting["process"]
        assert set(process["first_meta_iteration_seconds"]) == {"cold", "warm"}
        assert list(process["resident_megabytes"]) == ["3", "6"]
        assert process["peak_megabytes"] >= max(process["resident_megabytes"].values())


SECTIONS = {  # of the README -> file and setting
    "5-way": ("omniglot.json", "5way"),
    "20-way": ("omniglot.json", "20way"),
    "Mini-ImageNet, 5-way": ("miniimagenet.json", "miniimagenet_1shot_5way"),
}


@pytest.mark.parametrize("section", SECTIONS)
def test_the_readme_shows_what_the_benchmark_wrote(section):
    file, setting = SECTIONS[section]
    results = json.loads((HERE / "measured" / file).read_text())[setting]
    rows = []
    measured = lambda value: benchmark.Measured(value["median"], *value["range"])  # noqa: E731
    for kind in ("train", "eval"):
        sides = [benchmark.Measured(results[kind][side], *results[kind][f"{side}_range"]) for side in SIDES]
        rows.append(f"{kind}, {results[kind]['unit']} | {' | '.join(map(str, sides))}")
    for count, on in results["devices"].items():
        cells = [str(measured(on[what])) for what in ("train", "train_beside_one", "eval", "eval_beside_one")]
        rows.append(f"{count} | {' | '.join(cells)} | {measured(on['curve_share_of_run']).percent()}")
    for kind, value in results["process"]["first_meta_iteration_seconds"].items():
        rows.append(f"compilation cache {kind} | {measured(value)} s")
    (shown,) = re.findall(rf"(?s)### {section}\n(.*?)(?=\n### |\nThe fastest)", (HERE / "README.md").read_text())
    assert len(rows) >= 6 and [row for row in rows if f"{row} |" not in shown] == []
    assert all(line == "" or line.startswith("| ") for line in shown.split("\n"))


def test_a_point_of_the_curves_is_as_many_tasks_as_in_a_run(monkeypatch):
    """With three sets, a run draws a training task and one of the held-out set."""
    config = small(**{"data.validation_classes": 20, "eval_set": "test"})
    mesh = mesh_of(config)
    data, drawn = kind_of(config).load(config, mesh), []
    measured = curves._outcomes
    monkeypatch.setattr(curves, "_outcomes", lambda *arguments: drawn.append(arguments[1:]) or measured(*arguments))
    workloads.training_with_curves(config, data, mesh)(1)
    ((states, iterations, _, pools, seeds),) = drawn
    assert len(data.pools) == 3 and len(states) == len(iterations) == len(seeds) == 1
    assert [tuple(map(int, pool)) for pool in zip(*pools, strict=True)] == [data.pools["train"], data.pools["test"]]


def test_the_default_layout_is_pytorchs(monkeypatch):
    config, used = small(meta_iters=100, **{"model.name": "miniimagenet"}), []
    data = kind_of(config).load(config, mesh_of(config))
    plain = reptile.meta_iteration
    noted = lambda *arguments: used.append(model.MEMORY["miniimagenet"]) or plain(*arguments)  # noqa: E731
    monkeypatch.setattr(reptile, "meta_iteration", noted)
    for memory in (torch.contiguous_format, None):
        workloads.training_torch(config, data, memory)(1)
    assert used == [torch.contiguous_format, torch.channels_last]
    assert model.MEMORY["miniimagenet"] == torch.channels_last


def test_several_seeds_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="num_seeds=2: PyTorch trains one seed"):
        benchmark.run({"small": small(num_seeds=2)}, tmp_path / "run")


def test_the_shares_of_parts_of_known_times():
    """The whole step takes 10 s; it takes 9 s without sampling, then 7 s without Adam, then 2 s without backward."""
    rates = {f"without {n} parts": np.array([1 / seconds]) for n, seconds in enumerate((10, 9, 7, 2))}
    assert benchmark.shares(rates) == pytest.approx(
        {"sampling": 0.1, "optimiser": 0.2, "backward": 0.5, "forward": 0.2}
    )


def test_a_training_process_that_fails_is_an_error():
    with pytest.raises(Exception, match="footprint"):
        benchmark.footprint(small(**{"data.name": "omniglot", "data.dir": "/dev/null/none"}), "", 1)
