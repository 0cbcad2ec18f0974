"""Trains and evaluates Reptile: python main.py --config=NAME [--config.FIELD=VALUE ...] [--workdir=DIR]; see --help."""

import contextlib
import os
import sys

from reptile_jax import process

if __name__ == "__main__":
    process.prepare()  # before the imports, which take seconds

import time
from pathlib import Path
from typing import NoReturn

import jax
from absl import logging

from reptile_jax import command_line
from reptile_jax.command_line import Asked
from reptile_jax.config import ConfigError
from reptile_jax.data import DataError
from reptile_jax.devices import ElsewhereError, at_once, divide_cpu, keep_compiled, make_cpu_devices
from reptile_jax.run.checkpoint import CheckpointError
from reptile_jax.run.interrupt import Interrupted
from reptile_jax.run.train import TrainingError, evaluate_only, train_and_evaluate
from reptile_jax.run.weights_file import WeightsError


def train(asked: Asked) -> None:
    """Trains and then evaluates; continues a run that was interrupted."""
    train_and_evaluate(asked.config, asked.workdir, asked.pretrained)


def evaluate(asked: Asked) -> None:
    """Evaluates trained weights: those of a run, a checkpoint or a file, or the shipped ones."""
    evaluate_only(asked.config, asked.workdir, asked.pretrained)


def parity(asked: Asked) -> None:
    """Compares every step of the computation with the PyTorch implementation."""
    from parity_tests import report

    if not report.run(asked.config, asked.workdir):
        sys.exit(1)


def benchmark(asked: Asked) -> None:
    """Measures the speed of training and evaluation, and that of the PyTorch implementation."""
    from parity_tests import benchmark

    settings = {asked.name: asked.config} if asked.config else benchmark.published()
    benchmark.run(settings, asked.workdir, asked.rounds or benchmark.ROUNDS)


def predict(asked: Asked) -> None:
    """Learns classes from one folder of images per class, and classifies other images."""
    from reptile_jax.predict import folder

    assert asked.pretrained and asked.support and asked.queries  # `command_line` checks this
    folder.predict(asked.pretrained, asked.support, asked.queries, asked.output, asked.top or 1)


def demo(asked: Asked) -> None:
    """Serves a page on which you draw characters and see how the network classifies another drawing."""
    from reptile_jax.demo import server

    assert asked.pretrained  # `command_line` checks this
    server.serve(asked.pretrained, asked.host or "127.0.0.1", asked.port or 8000)


MODES = {
    "train": train, "eval": evaluate, "predict": predict, "demo": demo, "parity": parity, "benchmark": benchmark
}  # fmt: skip
EXTRAS = {"demo": "demo", "parity": "torch", "benchmark": "torch"}  # the extra of the package that a mode needs


def main() -> None:
    """Does what the flags ask for."""
    asked = command_line.parse(sys.argv, MODES)
    logging.set_verbosity(logging.FATAL)  # Orbax logs what it raises, which is said here in one line
    keep_compiled()
    make_devices(asked)
    if asked.distributed:
        connect(asked)
    try:
        jax.devices()
    except (RuntimeError, AssertionError) as error:  # the latter if there is no such platform
        sys.exit(f"error: JAX_PLATFORMS={os.environ.get('JAX_PLATFORMS', '')} provides no device ({error}): change it")
    try:
        MODES[asked.mode](asked)
    except (ConfigError, DataError, CheckpointError, ElsewhereError, TrainingError, WeightsError) as error:
        fail(str(error))
    except ModuleNotFoundError as error:
        if asked.mode not in EXTRAS:
            raise
        in_wheel = command_line.IN_WHEEL and asked.mode == "demo"  # the other two need a checkout's files
        cure = "'reptile-jax[demo]'" if in_wheel else f"-e '.[{EXTRAS[asked.mode]}]' in a checkout"
        fail(f"mode={asked.mode} needs {error.name}: pip install {cure}")
    except BrokenPipeError:
        fail("the reader of the output closed it: the files of the run are complete, and the same command goes on")
    except OSError as error:
        reason = f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}"
        workdir, file = (Path(os.path.abspath(str(path))) for path in (asked.workdir, error.filename or asked.workdir))
        inside = workdir.is_relative_to(file) or file.is_relative_to(workdir)
        if asked.mode in command_line.ONLY_IN["workdir"] and inside:
            fail(f"workdir={asked.workdir}: {reason}: make room and write access there, or name another workdir")
        fail(f"{reason}: make room and give access there")
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        fail(f"the run does not fit into the memory ({str(error).splitlines()[0]}): give {less_memory(asked)}")
    except Interrupted as interrupted:
        with contextlib.suppress(OSError):  # the terminal may be gone
            print(interrupted, file=sys.stderr, flush=True)
        sys.exit(interrupted.status)


def make_devices(asked: Asked) -> None:
    """Divides the CPU into devices for the run; one of several processes does so only if `cpu_devices` is given."""
    if asked.cpu_devices:
        make_cpu_devices(asked.cpu_devices)
    elif asked.mode in command_line.ONLY_IN["cpu_devices"] and not asked.distributed:
        # The caller of `main` may already have devices. An impossible config is refused later, with a message.
        with contextlib.suppress(RuntimeError, AttributeError, TypeError):
            divide_cpu(asked.config if asked.mode == "train" else None)


def less_memory(asked: Asked) -> str:
    """Names what may be too large for the memory."""
    if asked.mode == "predict":
        return "fewer classes or images in support, or fewer queries at a time"
    fields = ["inner_batch", "meta_batch"] if asked.mode != "eval" else []
    first = ""
    if asked.config is not None and at_once(asked.config):
        first = "tasks_at_once=one, or "
    else:
        fields = fields[:1]  # the tasks of a meta-batch are in memory one after the other
    return f"{first}a smaller {', '.join([*fields, 'eval_batch', 'shots', 'num_seeds'])} or classes"


def connect(asked: Asked) -> None:
    """Joins the other processes of the run."""
    try:
        jax.distributed.initialize(asked.coordinator_address, asked.num_processes, asked.process_id)
    except (ValueError, RuntimeError) as error:
        sys.exit(
            f"error: --distributed: {' '.join(str(error).split())}: give --coordinator_address=HOST:PORT "
            f"--num_processes=N --process_id=0..N-1, or start it under a cluster that JAX knows"
        )


def fail(message: str) -> NoReturn:
    """Ends the program with one line; does so at once if there are several processes, because others may never end."""
    print(f"error: {message}", file=sys.stderr, flush=True)
    if jax.process_count() > 1:
        time.sleep(0 if jax.process_index() else 1)  # when process 0 ends, JAX ends the others; they need time to print
        os._exit(1)
    sys.exit(1)


if __name__ == "__main__":
    main()
