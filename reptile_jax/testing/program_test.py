"""Tests main.py as a person runs it: one process, its flags, its output and its exit status."""

import json
import os
import signal
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from reptile_jax.run.train import train_and_evaluate
from reptile_jax.testing.small_runs import SMALL, command, prepared, run, run_here, small, wait_for


def test_killed_and_started_again_it_ends_as_if_never_killed(tmp_path):
    whole = run("--workdir=whole", cwd=tmp_path, **SMALL)
    assert whole.returncode == 0, whole.stderr
    process = subprocess.Popen(
        command("--workdir=part", **SMALL), cwd=tmp_path, stderr=subprocess.DEVNULL, start_new_session=True
    )
    wait_for((tmp_path / "part" / "checkpoints" / "20").exists, process)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "part" / "results.json").exists(), "it was not killed while training"
    again = run("--workdir=part", cwd=tmp_path, **SMALL)
    assert again.returncode == 0, again.stderr
    assert "Resuming part at meta-iteration" in again.stderr
    assert again.stdout == whole.stdout
    results = [json.loads((tmp_path / name / "results.json").read_text()) for name in ("whole", "part")]
    assert results[0] == results[1]
    rows = [
        [{**json.loads(line), "meta_iters_per_second": 0} for line in (tmp_path / name / "metrics.jsonl").open()]
        for name in ("whole", "part")
    ]
    assert rows[0] == rows[1] and [row["step"] for row in rows[0]] == list(range(5, 301, 5))


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129)])
def test_a_signal_saves_the_run_and_says_how_to_go_on(tmp_path, number, status):
    fields = SMALL | {"meta_iters": 100_000, "checkpoint_interval": 100_000}
    process = subprocess.Popen(
        # The tests themselves may run under nohup.
        prepared("signal.signal(signal.SIGHUP, signal.SIG_DFL)", command("--workdir=run", **fields)),
        cwd=tmp_path, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    metrics = tmp_path / "run" / "metrics.jsonl"
    try:
        wait_for((tmp_path / "run" / "checkpoints").exists, process)
        time.sleep(1)
        process.send_signal(number)
        _, stderr = process.communicate(timeout=300)
    finally:
        process.kill()
    assert process.returncode == status
    last = stderr.splitlines()[-1]
    assert last.startswith("interrupted at meta-iteration ") and "Traceback" not in stderr
    stopped_at = int(last.split()[3].rstrip(","))
    assert [int(p.name) for p in (tmp_path / "run" / "checkpoints").iterdir()] == [stopped_at]
    assert len(metrics.read_text().splitlines()) == stopped_at // 5


def test_a_run_under_nohup_does_not_end_with_its_connection(tmp_path):
    fields = SMALL | {"meta_iters": 60}
    process = subprocess.Popen(
        ["nohup", *command("--workdir=run", **fields)], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    wait_for((tmp_path / "run" / "config.json").exists, process)
    process.send_signal(signal.SIGHUP)
    process.communicate(timeout=300)
    assert process.returncode == 0 and (tmp_path / "run" / "checkpoints" / "60").exists()


def test_in_a_thread_a_run_goes_as_elsewhere(tmp_path):
    with ThreadPoolExecutor() as pool:
        results = pool.submit(train_and_evaluate, small(), str(tmp_path / "thread")).result()
    assert results == train_and_evaluate(small(), str(tmp_path / "here"))


def test_output_in_ascii(tmp_path):
    """ASCII has no ±, and no blocks for a bar."""
    fields = SMALL | {"meta_iters": 5}
    done = run("--workdir=run", cwd=tmp_path, env=os.environ | {"PYTHONIOENCODING": "ascii"}, **fields)
    assert done.returncode == 0, done.stderr
    assert " +- " in done.stdout and (done.stdout + done.stderr).isascii() and "\\" not in done.stderr
    assert "±" in run("--mode=eval", "--workdir=run", cwd=tmp_path, **fields).stdout


@pytest.mark.parametrize(
    ("config", "fields", "seconds"),
    [("omniglot_1shot_20way", {}, seconds) for seconds in (0, 4, 8)] + [("quickstart", {"meta_batch": 100}, 5)],
)
def test_a_large_run_ends_soon_after_a_signal(tmp_path, config, fields, seconds):
    """The signal comes during compiling or training; the meta-iterations to the next checkpoint would take minutes."""
    process = subprocess.Popen(
        command("--workdir=run", config=config, **fields | {"data__name": "glyphs"}),
        cwd=tmp_path, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    wait_for((tmp_path / "run" / "config.json").exists, process)
    time.sleep(seconds)
    process.send_signal(signal.SIGTERM)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 143 and "the same command goes on from there" in stderr.splitlines()[-1]


def test_default_workdir_output_and_evaluation_mode(tmp_path):
    fields = SMALL | {"meta_iters": 10}
    trained = run_here(cwd=tmp_path, **fields)
    assert trained.returncode == 0, trained.stderr
    lines = trained.stdout.splitlines()
    assert lines[0].startswith("glyphs (synthetic), 3-way, after 10 meta-iterations")
    assert lines[-1].startswith("test accuracy, 3-way 1-shot, transductive: ") and lines[-1].endswith("over 12 tasks")
    assert (tmp_path / "runs" / "quickstart" / "results.json").exists()
    assert run_here("--mode=eval", cwd=tmp_path, **fields).stdout == trained.stdout
    flags = ("--mode=eval", "--workdir=w", "--pretrained=runs/quickstart")
    assert run_here(*flags, cwd=tmp_path, **fields).stdout == trained.stdout


@pytest.mark.parametrize(
    ("flags", "fields", "message"),
    [
        ([], {"classes": 1}, "error: classes=1 is not possible: give at least 2"),
        ([], {"data__name": "mnist"}, "error: data.name='mnist' is not possible: give one of omniglot, glyphs"),
        (["--mode=eval"], {}, "error: runs/quickstart holds no checkpoint"),
        (["--mode=eval", "--pretrained=nowhere"], {}, "error: nowhere holds no checkpoint"),
        (["stray"], {}, "error: unexpected argument stray"),
    ],
)
def test_errors_are_one_line_and_nothing_is_written(tmp_path, flags, fields, message):
    failed = run(*flags, cwd=tmp_path, **fields)
    assert failed.returncode != 0 and failed.stdout == ""
    assert failed.stderr.startswith(message) and failed.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("flag", "named"), [("--config.clases=5", "clases"), ("--config.classes=five", "classes")])
def test_misspelt_fields_and_wrong_types_are_refused(tmp_path, flag, named):
    failed = run(flag, cwd=tmp_path)
    assert failed.returncode != 0 and named in failed.stderr
    assert not list(tmp_path.iterdir())
