"""Tests sine waves with main.py: training, killing and resuming, and evaluation before and after."""

import json
import os
import signal
import subprocess

import numpy as np
import pytest

from reptile_jax.testing.small_runs import WAVES, command, rows_of, run, same_bits, small_waves, state_of, wait_for

STEPS = [f"after {n} step{'s' * (n != 1)}" for n in (0, 1, 2, 4, 6)]


def test_killed_and_started_again_it_ends_as_if_never_killed(tmp_path):
    whole = run("--workdir=whole", config="sinusoid", cwd=tmp_path, **WAVES)
    assert whole.returncode == 0, whole.stderr
    process = subprocess.Popen(
        command("--workdir=part", config="sinusoid", **WAVES),
        cwd=tmp_path, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    wait_for((tmp_path / "part" / "checkpoints" / "20").exists, process)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "part" / "results.json").exists(), "it was not killed while training"
    again = run("--workdir=part", config="sinusoid", cwd=tmp_path, **WAVES)
    assert again.returncode == 0, again.stderr
    assert "Resuming part at meta-iteration" in again.stderr
    assert again.stdout == whole.stdout
    config = small_waves(meta_iters=WAVES["meta_iters"])
    assert same_bits(*(state_of(tmp_path / name, config) for name in ("whole", "part")))
    assert not same_bits(
        state_of(tmp_path / "whole", config), state_of(tmp_path / "whole" / "checkpoints" / "290", config)
    )
    results = [json.loads((tmp_path / name / "results.json").read_text()) for name in ("whole", "part")]
    assert [results[0][name] == results[1][name] for name in ("meta_iters", "test", "untrained")] == [True] * 3
    rows = [rows_of(tmp_path / name) for name in ("whole", "part")]
    assert rows[0] == rows[1] and [row["step"] for row in rows[0]] == list(range(5, 301, 5))
    assert all(np.isfinite(row["test_squared_error"]) for row in rows[0])


def test_meta_training_beats_no_meta_training_and_leaves_results_and_pictures(tmp_path):
    fields = {"num_seeds": 1, "meta_iters": 4000, "eval_iters": 6, "eval_samples": 200, "checkpoint_interval": 4000}
    done = run("--workdir=run", config="sinusoid", cwd=tmp_path, **fields)
    assert done.returncode == 0, done.stderr
    assert {"results.json", "tasks.png", "learning_curve.png"} < {path.name for path in (tmp_path / "run").iterdir()}
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    trained, untrained = results["test"], results["untrained"]["test"]
    assert list(trained) == list(untrained) == STEPS
    for of_steps in (*trained.values(), *untrained.values()):
        assert of_steps["10"].keys() == {"squared_error", "ci95", "tasks"} and of_steps["10"]["tasks"] == 200
    last, first = trained[STEPS[-1]]["10"], trained[STEPS[0]]["10"]
    assert last["squared_error"] < 0.6 * untrained[STEPS[-1]]["10"]["squared_error"]
    assert last["squared_error"] < 0.6 * first["squared_error"]
    lines = done.stdout.splitlines()
    assert lines[0] == "sine waves, mean squared error, after 4000 meta-iterations (± 95% interval)"
    assert len(lines) == len(STEPS) + 2 and all("meta-trained" in x and "untrained" in x for x in lines[1:-1])
    shown = f"{last['squared_error']:.4f} ± {last['ci95']:.4f}"
    assert lines[-1] == f"test squared error, 10 points, 6 steps: {shown} over 200 tasks"


@pytest.mark.parametrize("mode", ["parity", "benchmark"])
def test_what_is_of_images_alone_says_so(mode, tmp_path):
    done = run(f"--mode={mode}", config="sinusoid", cwd=tmp_path, num_seeds=1)
    assert done.returncode == 1 and done.stdout == "" and not list(tmp_path.iterdir())
    assert done.stderr.startswith("error: data.name=sinusoid is not possible") and done.stderr.count("\n") == 1
