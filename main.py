"""Trains and evaluates Reptile: python main.py --config=configs/NAME.py [--config.FIELD=VALUE ...] [--workdir=DIR]."""

import os
import signal
import sys


def interrupted_at_once(number: int, _: object) -> None:
    """Ends the program on a signal where there is nothing to save, whatever threads are still at work."""
    message = "interrupted: the same command goes on from the newest checkpoint, or begins anew"
    print(message, file=sys.stderr, flush=True)
    os._exit(128 + number)


if __name__ == "__main__":
    for number in (signal.SIGINT, signal.SIGTERM):  # before the imports, which take seconds
        signal.signal(number, interrupted_at_once)
    sys.stdout, sys.stderr = (stream or open(os.devnull, "w") for stream in (sys.stdout, sys.stderr))  # noqa: SIM115

import time
from pathlib import Path
from typing import NoReturn

import jax
from absl import app, flags, logging
from ml_collections import config_flags

from reptile_jax.config import ConfigError
from reptile_jax.data import DataError
from reptile_jax.devices import ElsewhereError, keep_compiled
from reptile_jax.run import train
from reptile_jax.run.checkpoint import CheckpointError
from reptile_jax.run.interrupt import Interrupted
from reptile_jax.run.pretrained import name_of
from reptile_jax.run.weights_file import WeightsError

CONFIGS = Path(__file__).parent / "configs"
SAVED = CONFIGS / "saved.py"
try:
    CONFIG = config_flags.DEFINE_config_file("config", None, "The run's config, a file of configs/.", lock_config=True)
except flags.Error as error:  # it looks into a --flagfile already
    sys.exit(f"error: {error}")
WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run; default: runs/<config name>.")
MODE = flags.DEFINE_enum(
    "mode",
    "train",
    ["train", "eval", "parity", "benchmark"],
    "Train and then evaluate, evaluate only, compare with PyTorch, or measure the speed of both.",
)
DISTRIBUTED = flags.DEFINE_bool(
    "distributed", False, "Run as one of several processes; what the flags below leave out, the cluster says."
)
COORDINATOR = flags.DEFINE_string("coordinator_address", None, "HOST:PORT of process 0, for --distributed.")
NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "Number of processes, for --distributed.", lower_bound=1)
PROCESS_ID = flags.DEFINE_integer(
    "process_id", None, "Number of this process from 0, for --distributed.", lower_bound=0
)
PRETRAINED = flags.DEFINE_string(
    "pretrained", None, "Workdir, checkpoint, weights file or name of shipped weights to start from."
)


def parse_flags(argv: list[str]) -> list[str]:
    """Parses the flags; one that cannot be is one line, a misspelt field with the name that was meant."""
    try:
        rest = flags.FLAGS([argv[0], *saved_config(argv), *argv[1:]])
        if MODE.value == "parity" and not flags.FLAGS["config"].present:
            rest = flags.FLAGS([*argv, f"--config={CONFIGS / 'quickstart.py'}"])
    except Exception as error:  # a config is a program, and can fail in any way
        sys.exit(f"error: {why_not_parsed(error)}")
    if len(rest) > 1:
        sys.exit(f"error: unexpected argument {rest[1]}: flags are written --name=value")
    config = flags.FLAGS["config"]
    named = config.config_filename if config.present else ""
    if not os.path.isfile(named.partition(":")[0]) and (named or MODE.value != "benchmark"):
        saved = f", for there is no {WORKDIR.value}/config.json" if WORKDIR.value and not config.present else ""
        sys.exit(f"error: config={named} is no file: give configs/NAME.py{saved}")
    for name in ("workdir", "pretrained"):
        if flags.FLAGS[name].value == "":
            sys.exit(f"error: {name}= names nothing: give a path, or leave it out")
    for name in ("coordinator_address", "num_processes", "process_id"):
        if flags.FLAGS[name].present and not DISTRIBUTED.value:
            sys.exit(f"error: {name}={flags.FLAGS[name].value} is for several processes: give --distributed with it")
    if DISTRIBUTED.value and MODE.value in ("parity", "benchmark"):
        sys.exit(f"error: mode={MODE.value} is for one process: leave --distributed out")
    return rest


def why_not_parsed(error: BaseException) -> str:
    """Says in one line what is wrong with the flags."""
    while error.args and isinstance(error.args[0], BaseException):  # ml_collections wraps one error in another
        error = error.args[0]
    text = str(error.args[0] if error.args else error)
    if isinstance(error, KeyError):
        text = f"the config has no field {text.replace(chr(10), '. ')}: its fields are those of configs/default.py"
    flag, failed, traceback = text.partition(": Error whilst parsing config file")
    if isinstance(error, SyntaxError | ImportError) or "config_config" in text:  # the latter is its module's name
        text = f"--config names a file that is no config ({type(error).__name__}: {text}): give configs/NAME.py"
    elif failed:
        text = f"{flag}: {traceback.splitlines()[-1]}"
    elif "is defined twice" in text:
        text = "--config is given twice: give it once"
    return " ".join(text.split())


def saved_config(argv: list[str]) -> list[str]:
    """Returns what stands for a --config that is left out: that of the run in the workdir, or of what is evaluated."""
    given = {}
    for argument, following in zip(argv[1:], [*argv[2:], ""], strict=True):
        name, equals, value = argument.lstrip("-").partition("=")
        given[name] = value if equals else following
    named = given.get("pretrained") if given.get("mode") == "eval" else None
    if not named and given.get("workdir") and os.path.isfile(f"{given['workdir']}/config.json"):
        named = given["workdir"]
    return [f"--config={SAVED}:{named}"] if named and "config" not in given else []


def connect() -> None:
    """Joins the other processes of the run."""
    try:
        jax.distributed.initialize(COORDINATOR.value, NUM_PROCESSES.value, PROCESS_ID.value)
    except (ValueError, RuntimeError) as error:
        sys.exit(
            f"error: --distributed: {' '.join(str(error).split())}: give --coordinator_address=HOST:PORT "
            f"--num_processes=N --process_id=0..N-1, or start it under a cluster that JAX knows"
        )


def main(_: list[str]) -> None:
    """Runs the mode that the flags name."""
    if not flags.FLAGS["verbosity"].present:
        logging.set_verbosity(logging.FATAL)  # Orbax logs what it raises, which is said here in one line
    keep_compiled()
    if DISTRIBUTED.value:
        connect()
    try:
        jax.devices()
    except (RuntimeError, AssertionError) as error:  # the latter where there is no such platform
        sys.exit(f"error: JAX_PLATFORMS={os.environ.get('JAX_PLATFORMS', '')} gives no device ({error}): change it")
    file, _, argument = flags.FLAGS["config"].config_filename.partition(":") if CONFIG.value else (MODE.value, "", "")
    name = name_of(argument) if file == str(SAVED) else "_".join(filter(None, (Path(file).stem, argument)))
    workdir = Path(WORKDIR.value or Path("runs") / name)
    run = train.train_and_evaluate if MODE.value == "train" else train.evaluate_only
    try:
        if MODE.value in ("parity", "benchmark"):
            sys.exit(beside_torch(name, workdir))
        run(CONFIG.value, workdir, PRETRAINED.value)
    except (ConfigError, DataError, CheckpointError, ElsewhereError, train.TrainingError, WeightsError) as error:
        fail(str(error))
    except BrokenPipeError:
        fail("the output was closed by its reader: what the run wrote before is whole, and the same command goes on")
    except OSError as error:
        reason = f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}"
        fail(f"workdir={workdir}: {reason}: make room and write access there, or name another workdir")
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        reason = str(error).splitlines()[0]
        fail(
            f"the run does not fit into the memory ({reason}): give less meta_batch, inner_iters, num_seeds or classes"
        )
    except Interrupted as interrupted:
        print(interrupted, file=sys.stderr)
        sys.exit(interrupted.status)


def fail(message: str) -> NoReturn:
    """Ends the program with one line; as one of several processes at once, for the others may not come to an end."""
    print(f"error: {message}", file=sys.stderr, flush=True)
    if jax.process_count() > 1:
        time.sleep(0 if jax.process_index() else 1)  # with process 0 JAX ends the others, who have their line to say
        os._exit(1)
    sys.exit(1)


def beside_torch(name: str, workdir: Path) -> int:
    """Compares results or speed with the PyTorch reference on this machine; returns the exit status."""
    try:
        from parity_tests import benchmark, report
    except ModuleNotFoundError as error:
        sys.exit(f"error: --mode={MODE.value} needs {error.name}: pip install -e '.[torch]'")
    if MODE.value == "parity":
        return 0 if report.run(CONFIG.value, workdir) else 1
    benchmark.run({name: CONFIG.value} if CONFIG.value else benchmark.published(), workdir)
    return 0


if __name__ == "__main__":
    app.run(main, flags_parser=parse_flags)
