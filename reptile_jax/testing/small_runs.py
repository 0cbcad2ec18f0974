"""Short runs on the synthetic characters, in this process and as a person starts them, and comparisons of runs."""

import contextlib
import io
import json
import os
import runpy
import signal
import subprocess
import sys
import time
from pathlib import Path
from unittest import mock

import jax
import numpy as np

from configs import quickstart, sinusoid
from reptile_jax.devices import mesh_of
from reptile_jax.run import checkpoint, programs

MAIN = Path(__file__).parents[2] / "main.py"
SMALL = {
    "classes": 3, "shots": 1, "train_shots": 3, "inner_batch": 4, "inner_iters": 2, "meta_batch": 2, "meta_iters": 300,
    "eval_batch": 3, "eval_iters": 3, "eval_samples": 12, "eval_interval": 5, "checkpoint_interval": 10,
}  # fmt: skip
TIMES = "meta_iters_per_second"


def small(**fields):
    """Returns the config of a run on the synthetic characters that takes seconds."""
    config = quickstart.get_config()
    config.update(
        classes=3, shots=1, train_shots=3, inner_batch=4, inner_iters=2, meta_batch=2, meta_iters=12, eval_batch=3,
        eval_iters=3, eval_samples=12, eval_interval=5, eval_shots=(1, 2), checkpoint_interval=4,
    )  # fmt: skip
    config.update_from_flattened_dict(fields)
    return config


WAVES = {
    "num_seeds": 2, "meta_iters": 300, "eval_iters": 6, "eval_samples": 12, "eval_interval": 5,
    "checkpoint_interval": 10,
}  # fmt: skip


def small_waves(**fields):
    """Returns the config of a run on sine waves that takes seconds."""
    config = sinusoid.get_config()
    config.update_from_flattened_dict(WAVES | {"meta_iters": 12} | fields)
    return config


def rows_of(workdir):
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if name != TIMES} for row in rows]


def state_of(workdir, config):
    checkpoints, iteration = checkpoint.find(workdir)
    return checkpoints.restore(iteration, programs.state_shapes(config, mesh_of(config)))


def content_of(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def same_bits(a, b):
    return all(
        np.asarray(x).tobytes() == np.asarray(y).tobytes() for x, y in zip(*map(jax.tree.leaves, (a, b)), strict=True)
    )


def wait_for(condition, *processes):
    """Waits until a condition holds; fails if a process ends before, or after five minutes."""
    deadline = time.monotonic() + 300
    while not condition():
        assert all(process.poll() is None for process in processes), "it ended before"
        assert time.monotonic() < deadline, "it takes too long"
        time.sleep(0.005)


def command(*flags, config="quickstart", **fields):
    overrides = [f"--config.{name.replace('__', '.')}={value}" for name, value in fields.items()]
    named = [f"--config={MAIN.parent / 'configs' / config}.py"] if config else []
    return [sys.executable, str(MAIN), *named, *overrides, *flags]


def prepared(first, words):
    """Returns a command that runs a line of Python and then becomes the program `words`.

    It takes the place of `preexec_fn`, which may hang in a process with threads, such as JAX's.
    """
    code = f"import os, signal, sys\n{first}\nos.execv(sys.argv[1], sys.argv[1:])"
    return [sys.executable, "-c", code, *words]


def limit(size):
    """Returns a line of Python that limits the files of its process to `size` bytes, as a full disk does."""
    return f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({size}, resource.RLIM_INFINITY))\n"


def run(*flags, cwd, env=None, **fields):
    return subprocess.run(command(*flags, **fields), cwd=cwd, env=env, capture_output=True, text=True, timeout=600)


def run_here(*flags, cwd, **fields):
    """Does the same as `run`, in this process and on its devices."""
    return typed(*command(*flags, **fields)[2:], cwd=cwd)


def run_module(*words, cwd):
    """Runs a module of this repository as `python -m` does, in another folder."""
    environment = os.environ | {"PYTHONPATH": str(MAIN.parent)}
    command = [sys.executable, "-m", *words]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=600)


def typed(*words, cwd):
    """Runs main.py in this process, or a module after "-m", with the words that follow.

    This saves the seconds that imports take, and those that compiling takes if the config was run before.
    `command_line_test.py` shows that it gives the same as a process of its own.
    """
    jax.devices()  # main.py does not divide the CPU once there are devices, which all tests of this process share
    out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True) for _ in range(2))
    handlers = {number: signal.getsignal(number) for number in signal.valid_signals()}
    argv = [str(MAIN), *words] if words[:1] != ("-m",) else list(words[1:])
    before = os.environ.copy()
    with contextlib.chdir(cwd), mock.patch.object(sys, "argv", argv), contextlib.ExitStack() as streams:
        streams.enter_context(contextlib.redirect_stdout(out))
        streams.enter_context(contextlib.redirect_stderr(err))
        try:
            if words[:1] == ("-m",):
                runpy.run_module(words[1], run_name="__main__", alter_sys=True)
            else:
                runpy.run_path(str(MAIN), run_name="__main__")
            status = 0
        except SystemExit as ended:  # as the interpreter handles it
            status = ended.code if isinstance(ended.code, int | None) else 1
            if not isinstance(ended.code, int | None):
                print(ended.code, file=sys.stderr)
        finally:
            for number, handler in handlers.items():
                if handler is not None and signal.getsignal(number) is not handler:
                    signal.signal(number, handler)
            assert os.environ == before
    out, err = (stream.buffer.getvalue().decode() for stream in (out, err))
    return subprocess.CompletedProcess(argv, status or 0, out, err)
