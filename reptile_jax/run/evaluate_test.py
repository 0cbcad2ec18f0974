"""Tests what an evaluation measures and where it writes the results, with commands as a person types them."""

import hashlib
import json
import shutil
import subprocess

import jax
import numpy as np
import pytest

from reptile_jax.config import ConfigError
from reptile_jax.devices import mesh_of, put
from reptile_jax.predict.learner import Learner
from reptile_jax.run import evaluate, pretrained, train, weights_file
from reptile_jax.run.checkpoint import CheckpointError
from reptile_jax.run.programs import eval_program, initial_states
from reptile_jax.tasks import kind_of
from reptile_jax.testing.small_runs import content_of, small, state_of, typed


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Makes a finished run, runs/own in a folder."""
    folder = tmp_path_factory.mktemp("trained")
    train.train_and_evaluate(small(), folder / "runs" / "own")
    return folder


@pytest.fixture
def folder(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "folder")


def results_of(workdir):
    return json.loads((workdir / "results.json").read_text())


def unlocked_content_of(workdir):
    return {path: content for path, content in content_of(workdir).items() if path.name != ".lock"}


def evaluated(*flags, cwd):
    done = typed("--mode=eval", *flags, cwd=cwd)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_results_name_what_made_them(folder):
    run = folder / "runs" / "own"
    digest = hashlib.sha256(b"".join(np.asarray(x).tobytes() for x in jax.tree.leaves(state_of(run, small()).params)))
    assert results_of(run)["weights"] == {"source": "checkpoints/12", "sha256": digest.hexdigest()}
    assert results_of(run)["config"] == json.loads((run / "config.json").read_text())
    evaluated("--pretrained=runs/own/checkpoints/4", "--config.eval_seed=3", cwd=folder)
    other = results_of(folder / "runs" / "own_at_4")
    assert other["weights"]["source"] == "../own/checkpoints/4" and other["config"]["eval_seed"] == 3
    assert other["weights"]["sha256"] != digest.hexdigest()
    pretrained.export(run, folder / "own.safetensors")
    evaluated("--pretrained=own.safetensors", "--workdir=elsewhere", cwd=folder)
    assert results_of(folder / "elsewhere")["weights"] == {
        "source": "../own.safetensors",
        "sha256": digest.hexdigest(),
    }


@pytest.mark.parametrize("named", ["runs/own/checkpoints/4", "other.safetensors", "runs/other"])
def test_an_evaluation_never_replaces_the_results_of_another_run(folder, named):
    """Another checkpoint, a file or another run is refused; the run's own newest weights are evaluated."""
    run = folder / "runs" / "own"
    train.train_and_evaluate(small(meta_iters=4), folder / "runs" / "other")
    pretrained.export(folder / "runs" / "other", folder / "other.safetensors")
    before = unlocked_content_of(run)
    refused = typed("--mode=eval", f"--pretrained={named}", "--workdir=runs/own", cwd=folder)
    assert refused.returncode == 1 and unlocked_content_of(run) == before
    assert refused.stderr == (
        f"error: workdir=runs/own holds a run of its own, whose results those of {named} would replace: name another "
        "one\n"
    )
    (run / "results.json").unlink()
    evaluated("--pretrained=runs/own", "--workdir=runs/own", cwd=folder)
    evaluated("--pretrained=runs/own/checkpoints/12", "--workdir=runs/own", cwd=folder)
    assert unlocked_content_of(run) == before


def test_an_evaluation_in_another_way_never_replaces_the_results_of_its_run(folder):
    """Fields that do not change the training may be other ones; the rest is evaluated in a folder of its own."""
    run = folder / "runs" / "own"
    before = unlocked_content_of(run)
    for named in ("--workdir=runs/own", "--pretrained=runs/own --workdir=runs/own"):
        refused = typed("--mode=eval", *named.split(), "--config.learning_rate=0.5", cwd=folder)
        assert refused.returncode == 1 and unlocked_content_of(run) == before
        assert refused.stderr == (
            "error: workdir=runs/own holds a run whose results this evaluation would replace (learning_rate: 0.001 -> "
            "0.5): keep its fields, or give --pretrained=runs/own --workdir=ANOTHER\n"
        )
    evaluated("--pretrained=runs/own", "--workdir=other", "--config.learning_rate=0.5", cwd=folder)
    evaluated("--workdir=runs/own", "--config.eval_seed=3", cwd=folder)
    assert results_of(run)["config"]["eval_seed"] == 3


def test_a_run_without_a_checkpoint_yet_is_a_run(folder):
    run = folder / "runs" / "young"
    run.mkdir()
    (run / "config.json").write_text("{}")
    with pytest.raises(ConfigError, match="holds a run of its own"):
        train.evaluate_only(small(), run, folder / "runs" / "own")


def test_what_was_evaluated_in_a_folder_of_its_own_is_evaluated_again(folder):
    """The folder is enough to evaluate again, even after everything was moved."""
    first = evaluated("--pretrained=runs/own/checkpoints/4", "--config.eval_seed=7", cwd=folder)
    before = results_of(folder / "runs" / "own_at_4")
    (folder / "runs").rename(folder / "moved")
    assert evaluated("--workdir=moved/own_at_4", cwd=folder) == first
    assert results_of(folder / "moved" / "own_at_4") == before
    assert evaluated("--workdir=moved/own_at_4", "--config.eval_seed=5", cwd=folder) != first
    (folder / "moved" / "own_at_4" / "results.json").write_text("{}")
    refused = typed("--mode=eval", "--workdir=moved/own_at_4", cwd=folder)
    assert refused.returncode == 1 and "has results that do not name their config" in refused.stderr


def test_a_run_on_a_disk_that_is_read_only(folder, tmp_path):
    """The results are printed."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = lambda *options: subprocess.run(["mount", *options], capture_output=True, text=True)  # noqa: E731
    if (failed := mount("-t", "tmpfs", "-o", "size=64m", "tmpfs", disk)).returncode:
        pytest.skip(f"no disk can be mounted: {failed.stderr.strip()}")
    try:
        run = shutil.copytree(folder / "runs" / "own", disk / "run")
        shown = evaluated(f"--workdir={run}", cwd=folder)
        before = unlocked_content_of(run)
        assert mount("-o", "remount,ro", disk).returncode == 0
        done = typed("--mode=eval", f"--workdir={run}", cwd=folder)
        assert done.returncode == 0 and done.stdout == shown and unlocked_content_of(run) == before
        assert f"{run} is read-only: the results are printed, and not kept." in done.stderr
    finally:
        subprocess.run(["umount", disk], check=True)


def test_weights_that_are_not_finite_are_an_error(folder):
    config, states = pretrained.load(folder / "runs" / "own")
    state = jax.tree.map(lambda x: x[0], states)
    params = jax.tree.map(np.array, state.params)
    params["params"]["dense"]["bias"][1] = np.nan
    file = folder / "bad.safetensors"
    weights_file.save(file, state._replace(params=params), config)
    message = "bad.safetensors holds numbers that are not finite, in params/params/dense/bias: name other weights"
    with pytest.raises(CheckpointError, match=message):
        train.evaluate_only(small(), folder / "new", file)
    with pytest.raises(CheckpointError, match=message):
        train.train_and_evaluate(small(), folder / "new", file)
    with pytest.raises(CheckpointError, match=message):
        Learner(file)
    assert not (folder / "new").exists()


def test_a_home_folder_may_be_written_as_a_tilde(folder, monkeypatch):
    monkeypatch.setenv("HOME", str(folder))
    pretrained.export("~/runs/own", folder / "own.safetensors")
    for place, named in {"a": "~/runs/own", "b": "~/runs/own/checkpoints/12", "c": "~/own.safetensors"}.items():
        evaluated(f"--pretrained={named}", f"--workdir=~/{place}", cwd=folder)
        assert results_of(folder / place)["meta_iters"] == 12
        Learner(named)
    assert evaluated("--config=~/runs/own/config.json", "--workdir=~/runs/own", cwd=folder)
    assert train.evaluate_only(small(), "~/runs/own")["meta_iters"] == 12
    assert not (folder / "~").exists()


def test_a_device_that_is_fast_gets_several_dispatches_at_a_time(monkeypatch):
    """How many they are changes no value."""
    config, calls, values = small(eval_samples=23), {}, {}
    mesh = mesh_of(config)
    data, states = kind_of(config).load(config, mesh), put(mesh, initial_states(config))
    program = eval_program(config, mesh, 1)
    monkeypatch.setattr(evaluate, "EVAL_TASKS", 5)
    for seconds in (0, 1e6):
        monkeypatch.setattr(evaluate, "DISPATCH", seconds)
        calls[seconds] = []
        values[seconds] = evaluate.measure(config, program, data, "test", 1, states, mesh, after=calls[seconds].append)
    tasks = {seconds: [len(x["inductive"][0]) for x in of_one] for seconds, of_one in calls.items()}
    assert tasks == {0: [5, 5, 5, 5, 3], 1e6: [5, 18]}
    assert values[0] == values[1e6]
    whole = {seconds: np.concatenate([x["inductive"][0] for x in of_one]) for seconds, of_one in calls.items()}
    assert np.array_equal(whole[0], whole[1e6]) and len(np.unique(whole[0])) > 1
