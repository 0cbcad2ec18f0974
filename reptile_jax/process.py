"""Prepares the signals and the output of a program before anything else happens."""

import codecs
import contextlib
import importlib.util
import os
import runpy
import signal
import sys
from pathlib import Path

from reptile_jax.run.interrupt import stop_signals


def prepare() -> None:
    """Handles signals, and output that is closed or whose encoding lacks ±, before the imports, which take seconds."""
    for number in stop_signals():
        signal.signal(number, _interrupted_at_once)
    codecs.register_error("plain", _plain)
    sys.stdout, sys.stderr = (stream or open(os.devnull, "w") for stream in (sys.stdout, sys.stderr))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="plain")  # type: ignore[union-attr]


def console() -> None:
    """Runs the command reptile-jax, which is main.py: in a wheel it is inside the package, in a checkout beside it."""
    name = "reptile_jax.main"
    if importlib.util.find_spec(name) is None:
        name = "main"
        sys.path.insert(0, str(Path(__file__).parents[1]))
    runpy.run_module(name, run_name="__main__")


def _interrupted_at_once(number: int, _: object) -> None:
    """Ends the program on a signal if there is nothing to save, even if threads are still running."""
    message = "interrupted: the same command goes on from the newest checkpoint, or starts again"
    with contextlib.suppress(OSError):  # the terminal may be gone
        print(message, file=sys.stderr, flush=True)
    os._exit(128 + number)


def _plain(error: UnicodeError) -> tuple[str, int]:
    """Spells out the characters that an encoding lacks."""
    assert isinstance(error, UnicodeEncodeError)
    return "+-" if error.object[error.start] == "±" else "?", error.start + 1
