"""Tests several devices and several processes, on one machine without accelerators."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from reptile_jax.files import lock
from reptile_jax.testing import eight_devices
from reptile_jax.testing.small_runs import SMALL, WAVES, command, run, same_bits, small, small_waves, state_of, wait_for

HERE = Path(__file__).parent / "testing"
MORE = {"meta_batch": 5, "meta_iters": 20, "checkpoint_interval": 5}
FIELDS = SMALL | MORE
ON_WAVES = WAVES | MORE | {"num_seeds": 1, "eval_untrained": False}  # which takes less time


def devices(count):
    """Returns the environment of a process with `count` virtual CPU devices, also on a machine with a GPU."""
    return os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": f"--xla_force_host_platform_device_count={count}"}


def test_on_eight_devices():
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-x", str(HERE / "eight_devices.py")],
        env=devices(8), cwd=HERE.parents[1], capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    assert "skipped" not in done.stdout.splitlines()[-1]


def start(processes, cwd, *flags, **fields):
    """Starts main.py as several processes with eight virtual devices in all."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    return [
        subprocess.Popen(
            command(
                "--distributed", f"--coordinator_address={address}", f"--num_processes={processes}",
                f"--process_id={i}", *flags, **fields,
            ),
            env=devices(8 // processes), cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for i in range(processes)
    ]  # fmt: skip


def finish(processes):
    """Waits for processes, and returns their exit statuses, outputs and errors."""
    outputs = [process.communicate(timeout=600) for process in processes]
    return [(process.returncode, *output) for process, output in zip(processes, outputs, strict=True)]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Makes a run of two processes that is never interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    ended = finish(start(2, folder, "--workdir=run", config="sinusoid", **ON_WAVES))
    assert [status for status, *_ in ended] == [0, 0], ended
    assert "\ntest squared error, 10 points" in ended[0][1] and "squared error" not in ended[1][1]  # one of them prints
    return folder / "run"


def test_two_processes_train_as_one(tmp_path):
    """Compares one meta-iteration in float32; eight_devices.py compares twenty in float64."""
    fields = FIELDS | {"meta_iters": 1}
    for processes in (1, 2):
        ended = finish(start(processes, tmp_path, f"--workdir={processes}", **fields))
        assert [status for status, *_ in ended] == [0] * processes, ended
        assert "\ntest accuracy, 3-way 1-shot" in ended[0][1]  # one of them prints
        assert not any("accuracy" in out for _, out, _ in ended[1:])
    states = [state_of(tmp_path / name, small(**fields)) for name in ("1", "2")]
    assert eight_devices.distance(*states) < 1e-4
    other = eight_devices.train(small(**fields, seed=1), 1, np.float32, 1)
    assert eight_devices.distance(states[0], other) > 1e-2  # the comparison can fail


def test_two_processes_in_float64(tmp_path):
    """Compares twenty meta-iterations of two processes with four devices each with one process on one device."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    script = HERE / "two_processes.py"
    commands = [[sys.executable, str(script), str(tmp_path / f"{n}.npz"), str(port), str(n), str(i)]
                for n in (2, 1) for i in range(n)]  # fmt: skip
    environment = {"PYTHONPATH": str(HERE.parents[1]), "JAX_ENABLE_X64": "1"}
    ended = []
    for group in (commands[:2], commands[2:]):
        count = 4 if len(group) == 2 else 1
        ended += finish([subprocess.Popen(c, env=devices(count) | environment, stderr=subprocess.PIPE, text=True)
                         for c in group])  # fmt: skip
    assert [status for status, *_ in ended] == [0, 0, 0], ended
    two, one = (np.load(tmp_path / f"{n}.npz")["weights"] for n in (2, 1))
    assert one.dtype == np.float64 and np.linalg.norm(two - one) / np.linalg.norm(one) < 1e-7
    assert np.linalg.norm(np.roll(two, 1) - one) / np.linalg.norm(one) > 1e-3


def test_a_signal_to_one_of_two_processes_saves_the_run_of_both(whole, tmp_path):
    processes = start(2, tmp_path, "--workdir=run", config="sinusoid", **ON_WAVES | {"checkpoint_interval": 1})
    wait_for((tmp_path / "run" / "checkpoints" / "2").exists, *processes)
    processes[1].send_signal(signal.SIGTERM)
    ended = finish(processes)
    assert [status for status, *_ in ended] == [143, 143], ended
    again = finish(start(2, tmp_path, "--workdir=run", config="sinusoid", **ON_WAVES))
    assert [status for status, *_ in again] == [0, 0], again
    assert "Resuming run at meta-iteration" in again[0][2]
    config = small_waves(**ON_WAVES)
    assert same_bits(state_of(tmp_path / "run", config), state_of(whole, config))
    results = [json.loads((folder / "results.json").read_text()) for folder in (whole, tmp_path / "run")]
    assert results[0] == results[1]


def test_an_evaluation_of_two_processes_goes_on_after_a_signal(whole, tmp_path):
    run = shutil.copytree(whole, tmp_path / "run")
    (run / "results.json").unlink()
    (run / ".lock").unlink()
    words = ("--mode=eval", "--workdir=run", "--config.eval_samples=1000")
    processes = start(2, tmp_path, *words, config=None)
    wait_for((run / ".lock").exists, *processes)
    time.sleep(1)
    processes[1].send_signal(signal.SIGTERM)
    ended = finish(processes)
    assert [status for status, *_ in ended] == [143, 143], ended
    (unfinished,) = run.glob("unfinished_evaluation_*")
    alone = shutil.copytree(run, tmp_path / "alone")
    again = finish(start(2, tmp_path, *words, config=None))
    assert [status for status, *_ in again] == [0, 0], again
    assert "Resuming the evaluation in run at task" in again[0][2] and not unfinished.exists()
    (alone / unfinished.name).unlink()
    fresh = finish(start(2, tmp_path, "--mode=eval", "--workdir=alone", *words[2:], config=None))
    assert [status for status, *_ in fresh] == [0, 0] and "Resuming" not in fresh[0][2]
    results = [json.loads((tmp_path / name / "results.json").read_text()) for name in ("run", "alone")]
    assert results[0]["test"] == results[1]["test"]


def test_what_one_process_cannot_do_ends_both(tmp_path):
    """Only process 0 takes the lock, and it is refused."""
    (tmp_path / "run").mkdir()
    with lock(tmp_path / "run" / ".lock"):
        (status, _, err), (other_status, _, other_err) = finish(
            start(2, tmp_path, "--workdir=run", config="sinusoid", **ON_WAVES)
        )
    assert (status, other_status) == (1, 1)
    assert err.splitlines()[-1].startswith("error: workdir=run is in use by process ")
    assert other_err.splitlines()[-1] == "error: another process of the run failed, and says why"


@pytest.mark.parametrize(
    ("flags", "fields", "message"),
    [
        (["--process_id=1"], {}, "error: process_id=1 is for several processes: give --distributed"),
        (["--distributed"], {}, "error: --distributed: coordinator_address should be defined"),
        (["--distributed", "--num_processes=0"], {}, "error: flag --num_processes=0"),
    ],
)
def test_flags_of_several_processes(tmp_path, flags, fields, message):
    failed = run(*flags, cwd=tmp_path, **fields)
    assert failed.returncode != 0 and failed.stderr.startswith(message) and failed.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_sequential_tasks_train_on_one_device_and_say_so(tmp_path):
    fields, results = FIELDS | {"meta_iters": 1, "inner_state": "sequential"}, tmp_path / "one" / "results.json"
    (status, _, err), *_ = finish(start(1, tmp_path, "--workdir=one", **fields))
    assert status == 0 and "inner_state=sequential passes the second moment from task to task: 1 of 8 devices" in err
    for status, _, err in finish(start(2, tmp_path, "--workdir=two", **fields)):
        assert status == 1 and "error: inner_state='sequential' passes the second moment" in err
    of_one_device = json.loads(results.read_text())
    results.unlink()
    for status, _, err in finish(start(2, tmp_path, "--mode=eval", "--workdir=one", config=None)):
        assert status == 0 and "passes the second moment" not in err  # every device evaluates
    assert json.loads(results.read_text())["test"] == of_one_device["test"]
