"""Tests, with the real program, what happens if the disk, the machine or a person disturbs a run."""

import hashlib
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from reptile_jax.files import lock
from reptile_jax.run import checkpoint
from reptile_jax.testing.small_runs import (
    SMALL,
    command,
    limit,
    prepared,
    rows_of,
    run,
    run_here,
    same_bits,
    small,
    state_of,
    wait_for,
)

FIELDS = SMALL | {"meta_iters": 30, "checkpoint_interval": 10}
ERRORS = ("Traceback", "Error:")
ONE_DEVICE = os.environ | {"JAX_NUM_CPU_DEVICES": "1"}  # like this process, so that a process has the same rounding


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Makes a run that nothing disturbed."""
    folder = tmp_path_factory.mktemp("whole")
    done = run_here("--workdir=run", cwd=folder, **FIELDS)
    assert done.returncode == 0, done.stderr
    return folder / "run"


@pytest.fixture
def copy(whole, tmp_path):
    """Makes a copy of the run whose results are not written yet."""
    shutil.copytree(whole, tmp_path / "run")
    (tmp_path / "run" / "results.json").unlink()
    return tmp_path / "run"


def go_on(workdir, status=0, first=None, compiled=None):
    """Starts the run in a workdir again, by its name alone; in a process of its own if that runs a line `first`.

    Such a process keeps its compiled programs in the folder `compiled`, if that is given.
    """
    if first is None:
        done = run_here(f"--workdir={workdir}", config=None, cwd=workdir.parent)
    else:
        words = prepared(first, command(f"--workdir={workdir}", config=None))
        env = ONE_DEVICE | ({"JAX_COMPILATION_CACHE_DIR": str(compiled)} if compiled else {})
        done = subprocess.run(words, env=env, capture_output=True, text=True, timeout=600)
    assert done.returncode == status, done.stderr
    assert not any(error in done.stderr for error in ERRORS), done.stderr
    return done


def ends_as(workdir, whole):
    """Returns whether weights, optimiser state, metrics and results equal those of the undisturbed run."""
    config = small(**FIELDS)
    same_results = [json.loads((folder / "results.json").read_text()) for folder in (workdir, whole)]
    return (
        same_bits(state_of(workdir, config), state_of(whole, config))
        and rows_of(workdir) == rows_of(whole)
        and same_results[0] == same_results[1]
    )


def garble(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def largest(folder):
    return max((p for p in folder.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)


DAMAGES = {
    "truncated": lambda folder: os.truncate(largest(folder), 100),
    "emptied": lambda folder: [os.truncate(p, 0) for p in folder.rglob("*") if p.is_file()],
    "garbled in a byte": lambda folder: garble(largest(folder)),
    "half deleted": lambda folder: shutil.rmtree(folder / "state"),
    "without its seal": lambda folder: (folder / checkpoint.SEAL).unlink(),
    "its seal garbled": lambda folder: garble(folder / checkpoint.SEAL),
    "its seal emptied": lambda folder: os.truncate(folder / checkpoint.SEAL, 0),
    "its seal of another form": lambda folder: (folder / checkpoint.SEAL).write_text("[1]"),
    "a file in its place": lambda folder: (shutil.rmtree(folder), folder.touch()),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_not_the_newest(copy, damage):
    DAMAGES[damage](copy / "checkpoints" / "30")
    assert checkpoint.find(copy, quiet=True)[1] == 20


@pytest.mark.parametrize("damage", ["garbled in a byte", "without its seal", "a file in its place"])
def test_a_damaged_checkpoint_is_said_and_the_one_before_is_used(copy, whole, damage):
    DAMAGES[damage](copy / "checkpoints" / "30")
    done = go_on(copy)
    said = [line for line in done.stderr.splitlines() if "is damaged, " in line]
    assert len(said) == 1 and str(copy / "checkpoints" / "30") in said[0], done.stderr
    assert "at meta-iteration 20" in done.stderr
    assert ends_as(copy, whole)
    assert [path.name for path in (copy / checkpoint.SET_ASIDE).iterdir()] == ["30.0"]  # moved, not deleted


def test_all_checkpoints_damaged_is_an_error_and_no_fresh_start(copy):
    for folder in (copy / "checkpoints").iterdir():
        garble(largest(folder))
    before = sorted(str(p) for p in copy.rglob("*"))
    failed = go_on(copy, status=1)
    assert "all 3 checkpoints are damaged: restore one from a backup, or name another workdir" in failed.stderr
    assert sorted(str(p) for p in copy.rglob("*")) == before


def test_killed_before_the_first_seal_it_begins_anew(copy, whole):
    """The run looks as if it was killed before its first seal; without the note, this counts as damage."""
    for other in ("20", "30"):
        shutil.rmtree(copy / "checkpoints" / other)
    first, note = copy / "checkpoints" / "10", copy / "checkpoints" / checkpoint.WRITING
    (first / checkpoint.SEAL).unlink()
    assert "all 1 checkpoints are damaged" in go_on(copy, status=1).stderr
    note.write_text("10")
    assert "damaged" not in go_on(copy).stderr
    assert ends_as(copy, whole) and not note.exists() and not (copy / checkpoint.SET_ASIDE).exists()


@pytest.mark.parametrize("text", ["", "..", "30"])
def test_a_note_that_is_wrong_removes_nothing(copy, whole, text):
    (copy / "checkpoints" / checkpoint.WRITING).write_text(text)
    assert "at meta-iteration 30" in go_on(copy).stderr
    assert ends_as(copy, whole)


def test_a_checkpoint_of_another_network_or_version_is_named(copy):
    seal = copy / "checkpoints" / "30" / checkpoint.SEAL
    content = json.loads(seal.read_text())
    del content["checksum"]
    content["arrays"]["params/params/dense/kernel"] = "float32[1, 300, 3]"
    content["checksum"] = hashlib.sha256(json.dumps(content).encode()).hexdigest()
    seal.write_text(json.dumps(content))
    failed = go_on(copy, status=1)
    assert "dense/kernel is float32[1, 300, 3] there and float32[1, 256, 3] here" in failed.stderr
    assert failed.stderr.splitlines()[-1].startswith("error: ")


def test_metrics_cut_in_a_line_are_mended(copy, whole):
    shutil.rmtree(copy / "checkpoints" / "30")
    metrics = copy / "metrics.jsonl"
    lines = metrics.read_text().splitlines(keepends=True)
    metrics.write_text("".join(lines[:-1]) + lines[-1][:20])
    go_on(copy)
    assert ends_as(copy, whole)


def test_metrics_cut_before_the_newest_checkpoint_are_made_again(copy, whole):
    metrics = copy / "metrics.jsonl"
    lines = metrics.read_text().splitlines(keepends=True)
    metrics.write_text("".join(lines[:3]) + "no row\n" + "".join(lines[4:]))
    done = go_on(copy)
    assert "checkpoints/20 is intact, but metrics.jsonl has 3 of the 4 rows before it" in done.stderr
    assert "at meta-iteration 10" in done.stderr
    assert ends_as(copy, whole)


def test_metrics_that_are_lost_do_not_make_checkpoints_damaged(copy, whole):
    """The weights are not lost: the cure in the message works."""
    (copy / "metrics.jsonl").unlink()
    failed = go_on(copy, status=1).stderr
    assert "damaged" not in failed and "metrics.jsonl lacks rows from before every intact checkpoint" in failed
    cure = failed.split()[-2:]
    assert cure == [f"--pretrained={copy / 'checkpoints' / '30'}", "--workdir=ANOTHER"]
    done = run_here(*cure, cwd=copy.parent, **FIELDS)
    assert done.returncode == 0, done.stderr
    shutil.copy(whole / "metrics.jsonl", copy)
    go_on(copy)
    assert ends_as(copy, whole)


@pytest.mark.parametrize("line", ['{"step": "x"}', '{"step": 31}', "[31]", '{"step": 30, "loss": 1}', '{"step": 3'])
def test_what_is_no_row_after_the_last_is_dropped(copy, whole, line):
    with (copy / "metrics.jsonl").open("a") as metrics:
        metrics.write(line)
    go_on(copy)
    assert ends_as(copy, whole)


def test_killed_before_its_first_checkpoint_a_run_keeps_its_pretrained_weights(whole, tmp_path):
    fields = FIELDS | {"meta_iters": 150, "checkpoint_interval": 150}
    assert run_here(f"--pretrained={whole}", "--workdir=never", cwd=tmp_path, **fields).returncode == 0
    process = start(tmp_path / "killed", f"--pretrained={whole}", **fields)
    wait_for(lambda: (tmp_path / "killed" / "metrics.jsonl").exists(), process)
    process.kill()
    process.communicate()
    assert checkpoint.newest(tmp_path / "killed") == 0, "it was not killed before its first checkpoint"
    go_on(tmp_path / "killed")
    config = small(**fields)
    assert same_bits(state_of(tmp_path / "killed", config), state_of(tmp_path / "never", config))
    assert rows_of(tmp_path / "killed") == rows_of(tmp_path / "never")


def test_the_config_may_be_left_out_and_free_fields_changed(copy, whole):
    go_on(copy)
    assert ends_as(copy, whole)
    again = run_here("--workdir=run", "--config.eval_samples=24", config=None, cwd=copy.parent)
    assert again.returncode == 0 and again.stdout.splitlines()[-1].endswith("over 24 tasks")
    refused = run_here("--workdir=run", "--config.seed=3", "--config.sgd=True", config=None, cwd=copy.parent)
    assert refused.returncode == 1
    assert "holds another run (seed: 0 -> 3; sgd: False -> True)" in refused.stderr


def test_a_workdir_in_use_is_refused_and_a_dead_runs_lock_is_none(copy, whole):
    with lock(copy / ".lock"):
        failed = go_on(copy, status=1)
        assert failed.stderr.splitlines()[-1].startswith(f"error: workdir={copy} is in use by process {os.getpid()} on")
    (copy / ".lock").write_text("process 1 on elsewhere")  # what a killed run leaves
    go_on(copy)
    assert ends_as(copy, whole)


def test_a_workdir_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    failed = run_here("--workdir=file/run", cwd=tmp_path, **FIELDS)
    assert failed.returncode == 1
    last = failed.stderr.splitlines()[-1]
    assert last.startswith("error: workdir=file/run: ") and "name another workdir" in last
    assert not any(error in failed.stderr for error in ERRORS)


def test_a_disk_full_while_saving_leaves_the_checkpoints_before(copy, whole, tmp_path):
    for later in ("20", "30"):
        shutil.rmtree(copy / "checkpoints" / later)
    failed = go_on(copy, status=1, first=limit(200_000), compiled=tmp_path / "compiled")
    assert failed.stderr.count("compiled programs cannot be kept there or read ([Errno 27] File too large)") == 1
    last = failed.stderr.splitlines()[-1]
    assert "checkpoints/20 cannot be written" in last and last.endswith("goes on from the newest")
    assert checkpoint.newest(copy) == 10
    assert "at meta-iteration 10" in go_on(copy).stderr
    assert ends_as(copy, whole)


def test_compiled_programs_that_a_kill_left_unfinished(copy, whole, tmp_path):
    compiled, line = tmp_path / "compiled", "compiled programs cannot be kept there or read ("
    assert line not in go_on(copy, first="pass", compiled=compiled).stderr
    for file in compiled.glob("*-cache"):
        os.truncate(file, file.stat().st_size // 2)
    (copy / "results.json").unlink()
    done = go_on(copy, first="pass", compiled=compiled)
    assert done.stderr.count(line) == 1 and f"{compiled}: {line}" in done.stderr
    assert "Warning" not in done.stderr and ends_as(copy, whole)


def test_a_disk_full_while_logging(copy, whole, tmp_path):
    for later in ("20", "30"):
        shutil.rmtree(copy / "checkpoints" / later)
    size = (copy / "metrics.jsonl").stat().st_size
    failed = go_on(copy, status=1, first=limit(size // 2), compiled=tmp_path / "compiled")
    assert failed.stderr.splitlines()[-1].startswith(f"error: workdir={copy}: File too large")
    assert checkpoint.newest(copy) == 10
    go_on(copy)
    assert ends_as(copy, whole)


@pytest.fixture
def disk(tmp_path):
    """Makes a separate small disk."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", folder], capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"no disk can be mounted, only limits on files are tested: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", folder], check=True)


@pytest.mark.parametrize("free", [0, 50_000, 200_000, 1_000_000])
def test_a_full_disk(disk, whole, free):
    """The disk is full at once, or becomes full while logging or while saving."""
    workdir = shutil.copytree(whole, disk / "run")
    for later in ("20", "30"):
        shutil.rmtree(workdir / "checkpoints" / later)
    (workdir / "results.json").unlink()
    filling = disk / "filling"
    filling.write_bytes(bytes(shutil.disk_usage(disk).free - free))
    failed = go_on(workdir, status=1, first="pass")
    last = failed.stderr.splitlines()[-1]
    assert last.startswith("error: ") and "No space left on device" in last and "make room" in last, failed.stderr
    filling.unlink()
    assert checkpoint.newest(workdir) == 10
    go_on(workdir)
    assert ends_as(workdir, whole)


def test_what_is_not_finite_is_named_and_never_saved(tmp_path):
    """The weights grow by a factor of a thousand per step: they are finite at first, but not later."""
    failed = run_here("--workdir=run", cwd=tmp_path, **FIELDS | {"weight_decay": 1e4, "checkpoint_interval": 1})
    assert failed.returncode == 1
    last = failed.stderr.splitlines()[-1]
    assert last.startswith("error: meta-iteration ") and "the loss or the update is not finite in the tasks of " in last
    classes = last.partition("tasks of ")[2].partition(";")[0].split(", ")
    assert len(classes) == 3 and all("/rot" in name for name in classes)
    iteration = int(last.split()[2].rstrip(":"))
    assert f"the newest checkpoint is {iteration};" in last
    config = small(**FIELDS | {"weight_decay": 1e4})
    state = state_of(tmp_path / "run", config)
    assert int(state.iteration[0]) == iteration > 0
    assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves(state))


def test_a_meta_update_that_is_not_finite_is_never_saved(tmp_path):
    """The loss and the delta are finite, but the new weights are not."""
    failed = run_here("--workdir=run", cwd=tmp_path, **FIELDS | {"meta_step": 3e38, "learning_rate": 1.0, "sgd": True})
    assert failed.returncode == 1
    last = failed.stderr.splitlines()[-1]
    assert last.startswith("error: meta-iteration 0: the loss or the update is not finite in no task of its own"), last
    assert "meta_step=3e+38" in last and checkpoint.newest(tmp_path / "run") is None


def test_the_same_seed_gives_the_same_bits(whole, tmp_path):
    assert run("--workdir=run", cwd=tmp_path, env=ONE_DEVICE, **FIELDS).returncode == 0
    assert ends_as(tmp_path / "run", whole)
    other = run_here("--workdir=other", cwd=tmp_path, **FIELDS | {"seed": 1})
    assert other.returncode == 0 and not ends_as(tmp_path / "other", whole)


def start(workdir, *flags, **fields):
    words = command(f"--workdir={workdir}", *flags, **fields)
    return subprocess.Popen(words, env=ONE_DEVICE, stderr=subprocess.PIPE, text=True)


def test_a_signal_in_the_evaluation_ends_it_and_loses_nothing(tmp_path):
    """After the signal, the evaluation goes on, is killed without a warning, and then ends as one without a stop."""
    fields = FIELDS | {"meta_iters": 1, "eval_samples": 400}
    process = start(tmp_path / "run", **fields)
    wait_for(lambda: (tmp_path / "run" / "learning_curve.png").exists(), process)
    process.send_signal(signal.SIGTERM)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 143
    assert stderr.splitlines()[-1] == "interrupted in the evaluation, saved: the same command goes on from there"
    assert checkpoint.newest(tmp_path / "run") == 1 and not (tmp_path / "run" / "results.json").exists()
    process = start(tmp_path / "run", **fields)
    wait_for(lambda: process.stderr.readline().startswith("Resuming the evaluation in"), process)
    process.kill()
    process.communicate()
    done = run_here("--workdir=run", cwd=tmp_path, **fields)
    assert done.returncode == 0 and "Resuming the evaluation in" in done.stderr
    assert run_here("--mode=eval", "--pretrained=run", "--workdir=other", cwd=tmp_path, **fields).returncode == 0
    results = [json.loads((tmp_path / name / "results.json").read_text()) for name in ("run", "other")]
    assert results[0]["test"] == results[1]["test"] and results[0]["train"] == results[1]["train"]


def test_a_second_interrupt_ends_the_program_at_once(tmp_path):
    process = start(tmp_path / "run", **FIELDS | {"meta_iters": 100_000, "checkpoint_interval": 100_000})
    wait_for(lambda: (tmp_path / "run" / "checkpoints").exists(), process)
    os.kill(process.pid, signal.SIGSTOP)  # so that both signals are there before the first one ends it
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGTERM)
    os.kill(process.pid, signal.SIGCONT)
    process.communicate(timeout=60)
    assert process.returncode in (-signal.SIGTERM, -signal.SIGINT) and checkpoint.newest(tmp_path / "run") is None


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells which libraries a process has loaded")
@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_among_the_imports(tmp_path, number, status):
    process = start(tmp_path / "run", **FIELDS)
    wait_for(lambda: "libjax" in Path(f"/proc/{process.pid}/maps").read_text(), process)
    process.send_signal(number)
    _, stderr = process.communicate(timeout=10)
    assert process.returncode == status and stderr.startswith("interrupted: the same command") and len(stderr) < 100


FULL = pytest.param("2>/dev/full", marks=pytest.mark.skipif(not Path("/dev/full").exists(), reason="no such device"))


@pytest.mark.parametrize("streams", [FULL, "2>&-", ">&- 2>&-"])
def test_a_run_that_nobody_listens_to(whole, tmp_path, streams):
    words = [*command(f"--workdir={tmp_path / 'run'}", **FIELDS)]
    assert subprocess.run(f"{shlex.join(words)} {streams}", shell=True, env=ONE_DEVICE, timeout=300).returncode == 0
    assert ends_as(tmp_path / "run", whole)
