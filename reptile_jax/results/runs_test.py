"""Tests that a kept run is the run of its workdir, and that its weights give what is said of them."""

import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from configs import gradient_combinations
from reptile_jax.results import runs
from reptile_jax.run import pretrained
from reptile_jax.run.metrics import read_rows
from reptile_jax.run.pretrained import SHIPPED
from reptile_jax.testing.small_images import members, write_folder
from reptile_jax.testing.small_runs import SMALL, run, run_here, typed

ARCHIVES = os.environ.get("REPTILE_OMNIGLOT")
MINIIMAGENET = os.environ.get("REPTILE_MINIIMAGENET")
IMAGES = {
    "data__size": 8, "model__filters": 8, "classes": 3, "shots": 1, "train_shots": 3, "inner_iters": 2,
    "meta_batch": 2, "meta_iters": 4, "eval_iters": 3, "eval_samples": 10, "eval_shots": (1,), "eval_interval": 2,
}  # fmt: skip


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    done = run_here("--workdir=omniglot_5way_seeds", cwd=folder, **SMALL | {"eval_shots": "(1,5)", "num_seeds": 2})
    assert done.returncode == 0, done.stderr
    return folder / "omniglot_5way_seeds"


@pytest.fixture
def results(tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "RESULTS", tmp_path / "results")
    return tmp_path / "results"


def agree(a, b):
    """Returns whether accuracies differ by at most four standard errors."""
    return abs(a["accuracy"] - b["accuracy"]) <= 4 * np.hypot(a["ci95"], b["ci95"]) / 1.96


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """Returns the folder for the prepared copy of Omniglot."""
    return tmp_path_factory.mktemp("tfds")


@pytest.mark.skipif(not ARCHIVES, reason="real Omniglot: REPTILE_OMNIGLOT=DIR names the folder of its archives")
@pytest.mark.parametrize("name", [name for name in SHIPPED if name.startswith("omniglot")])
def test_shipped_weights_are_as_good_as_the_readme_says(tmp_path, prepared, name):
    tasks = 250 if name.endswith("_5way") else 50  # each of which has 20 queries instead of 5
    fields = {"data__archives": ARCHIVES, "data__dir": prepared, "eval_samples": tasks, "eval_train": False}
    done = run("--mode=eval", f"--pretrained={name}", config=None, cwd=tmp_path, **fields)
    assert done.returncode == 0, done.stderr
    measured, said = json.loads((tmp_path / "runs" / name / "results.json").read_text()), runs.kept(name).results
    assert measured["meta_iters"] == said["meta_iters"]
    for protocol in ("transductive", "inductive"):
        for shots in ("1", "5"):
            kept = said["test"][protocol][shots]
            kept = kept["seeds"]["0"] if "seeds" in kept else kept
            assert agree(measured["test"][protocol][shots], kept)
    assert not agree(measured["test"]["inductive"]["1"], kept), "a check that cannot fail"  # 5-shot


@pytest.mark.skipif(
    not MINIIMAGENET, reason="REPTILE_MINIIMAGENET=DIR, a folder with train/, val/ and test/, is not set"
)
def test_the_weights_of_mini_imagenet_are_as_good_as_the_readme_says(tmp_path):
    fields = {"data__dir": MINIIMAGENET, "eval_samples": 50, "eval_train": False}
    config = "miniimagenet_1shot_5way"
    done = run("--mode=eval", "--pretrained=miniimagenet_5way", config=config, cwd=tmp_path, **fields)
    assert done.returncode == 0, done.stderr
    measured = json.loads((tmp_path / "runs" / config / "results.json").read_text())["test"]
    for protocol in ("transductive", "inductive"):
        assert agree(measured[protocol]["1"], runs.kept("miniimagenet_1shot_5way").results["test"][protocol]["1"])
        other = runs.kept("miniimagenet_5shot_5way").results["test"][protocol]["5"]
        assert not agree(measured[protocol]["1"], other), "a check that cannot fail"


def test_shipped_weights_are_of_the_kept_runs():
    assert sorted(SHIPPED) == sorted(runs.WITH_WEIGHTS)
    for name in SHIPPED:
        config, states = pretrained.load(name)
        kept = runs.kept(name)
        assert json.loads(config.to_json()) == json.loads(kept.config.to_json()) | {"num_seeds": 1}  # the first seed
        assert int(states.iteration[0]) == kept.config.meta_iters == kept.results["meta_iters"]
    assert sum(file.stat().st_size for file in SHIPPED.values()) < 4e6


def test_a_kept_run_is_the_run_of_its_workdir(workdir, results):
    runs.keep(workdir)
    whole, kept = read_rows(workdir / "metrics.jsonl"), runs.kept("omniglot_5way_seeds")
    assert kept.results == json.loads((workdir / "results.json").read_text()) and kept.config.num_seeds == 2
    assert [row["step"] for row in kept.rows] == [row["step"] for row in whole]
    damaged = shutil.copytree(workdir, results / "other")
    (damaged / "results.json").write_text(json.dumps(kept.results).replace('"tasks": 12', '"tasks": 7'))
    with pytest.raises(ValueError, match=r"7 tasks were evaluated, but eval_samples=12"):
        runs.keep(damaged)
    before = (results / "omniglot_5way_seeds" / "results.json").read_bytes()
    other = shutil.copytree(workdir, results.parent / "omniglot_5way_seeds")
    evaluation = [f"--workdir={other}", "--config.eval_samples=7", "--config.eval_seed=5"]
    assert typed("--mode=eval", *evaluation, cwd=results.parent).returncode == 0
    with pytest.raises(
        ValueError, match="was evaluated with other fields than those of its config: eval_samples, eval_seed"
    ):
        runs.keep(other)
    assert (results / "omniglot_5way_seeds" / "results.json").read_bytes() == before


def test_the_duration_of_a_run_is_that_of_its_meta_iterations():
    rows = [{"step": 900, "meta_iters_per_second": 1.0}, {"step": 1500, "meta_iters_per_second": 2.0}]
    assert runs.Run(None, {}, rows).seconds() == 900 + 300
    assert runs.Run(None, {}, rows[:1]).seconds() == 900


def test_thinned_rows_are_means_of_equal_parts():
    rng = np.random.default_rng(0)
    rows = [
        {"step": 10 * i, "test_accuracy": float(rng.random()), "meta_iters_per_second": float(rng.uniform(1, 9))}
        for i in range(1, 31)
    ]
    thin = runs.thinned(rows, 6)
    assert [row["step"] for row in thin] == [50, 100, 150, 200, 250, 300]
    for i, row in enumerate(thin):
        inside = rows[5 * i : 5 * i + 5]
        assert row["test_accuracy"] == pytest.approx(sum(r["test_accuracy"] for r in inside) / 5)
        assert 50 / row["meta_iters_per_second"] == pytest.approx(sum(10 / r["meta_iters_per_second"] for r in inside))
    assert runs.thinned(rows[:3], 6) == rows[:3]


def test_the_command_names_what_differs(workdir, results):
    runs.keep(workdir)
    command = runs.kept("omniglot_5way_seeds").command("quickstart")
    assert command.startswith("main.py --config=configs/quickstart.py --config.")
    fields = dict(re.findall(r"--config\.(\w+)=([^ `']+)", command))
    assert fields.pop("num_seeds") == "2" and fields.pop("eval_shots") == "(1,5)" and len(fields) > 5
    assert all(str(SMALL[name]) == value for name, value in fields.items())
    own = runs.Run(gradient_combinations.get_config("sum2"), {}, []).command("gradient_combinations:sum2")
    assert own == "main.py --config=configs/gradient_combinations.py:sum2"
    narrow = gradient_combinations.get_config("sum2")
    narrow.model.filters = 32
    assert runs.Run(narrow, {}, []).command("gradient_combinations:sum2") == f"{own} --config.model.filters=32"


def test_a_run_without_test_results_and_the_folder_itself(workdir, results, tmp_path, monkeypatch):
    workdir = shutil.copytree(workdir, tmp_path / workdir.name)
    monkeypatch.chdir(workdir)
    runs.keep(Path())
    assert (results / workdir.name / "results.json").exists() and not (results / "results.json").exists()
    whole = json.loads((workdir / "results.json").read_text())
    whole["validation"] = whole.pop("test")
    (workdir / "results.json").write_text(json.dumps(whole))
    with pytest.raises(ValueError, match=r"was not evaluated on test classes: .*--config\.eval_set=test"):
        runs.keep(workdir)


@pytest.fixture
def on_images(tmp_path, results, monkeypatch):
    """Keeps a run on images with its weights, under the name "photos"; returns the folder of its images."""
    monkeypatch.setattr(runs, "WITH_WEIGHTS", ("photos",))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    images = tmp_path / "images"
    for name, letters in (("train", "abcd"), ("test", "efg")):
        write_folder(images / name, members(dict.fromkeys(letters, 6)))
    done = run_here("--workdir=runs/photos", config="images", cwd=tmp_path, data__dir=images, **IMAGES)
    assert done.returncode == 0, done.stderr
    runs.keep(tmp_path / "runs" / "photos")
    monkeypatch.setitem(SHIPPED, "photos", results / "photos" / "weights.safetensors")
    return images


def test_kept_weights_serve_with_another_copy_of_the_images(on_images, tmp_path, results):
    for file in on_images.rglob("*.png"):
        Image.open(file).point(lambda value: value ^ 1).save(file)
    evaluate = ["--mode=eval", f"--config.data.dir={on_images}"]
    own = typed(*evaluate, "--pretrained=runs/photos", "--workdir=own", cwd=tmp_path)
    assert own.returncode == 1 and "holds other images than" in own.stderr
    done = typed(*evaluate, "--pretrained=photos", "--workdir=evaluated", "--config.eval_samples=20", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    runs.keep(tmp_path / "evaluated")
    kept = runs.kept("evaluated")
    assert kept.rows == [] and kept.facts() == "20 test tasks" and kept.results["test"]["inductive"]["1"]["tasks"] == 20
    assert kept.command("images").startswith("main.py --mode=eval --pretrained=photos --config=configs/images.py ")
    assert [file.name for file in (results / "evaluated").iterdir()] == ["results.json"]
    assert str(on_images) not in (results / "evaluated" / "results.json").read_text()


def test_an_evaluation_alone_replaces_no_run_and_is_of_shipped_weights(on_images, tmp_path, results):
    before = {file: file.read_bytes() for file in (results / "photos").iterdir()}
    other = tmp_path / "other" / "photos"
    evaluate = ["--mode=eval", f"--config.data.dir={on_images}", f"--workdir={other}"]
    assert typed(*evaluate, "--pretrained=photos", cwd=tmp_path).returncode == 0
    with pytest.raises(ValueError, match=r"holds an evaluation alone, and .* a run: give the workdir another name"):
        runs.keep(other)
    assert {file: file.read_bytes() for file in (results / "photos").iterdir()} == before
    own = tmp_path / "own"
    assert typed(*evaluate[:2], f"--workdir={own}", "--pretrained=runs/photos", cwd=tmp_path).returncode == 0
    with pytest.raises(
        ValueError, match=r"holds an evaluation of .*runs/photos/checkpoints/4: evaluate shipped weights"
    ):
        runs.keep(own)


def test_what_is_kept_names_no_folder_of_the_machine(on_images, results):
    for file in (results / "photos").iterdir():
        assert str(on_images).encode() not in file.read_bytes()
    assert runs.kept("photos").command("images").endswith(" --config.data.dir=DIR")
    assert str(on_images) in (on_images.parent / "runs" / "photos" / "config.json").read_text()
