"""Keeps what an evaluation has measured so far, so that the same command continues it after an interruption."""

import hashlib
import io
import json
import sys
import time
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from reptile_jax.config import ConfigError
from reptile_jax.devices import is_main, same_everywhere, together
from reptile_jax.files import replace_bytes
from reptile_jax.progress import say

FILE = "unfinished_evaluation"  # inside a workdir; a hash of what is evaluated follows
SECONDS = 30.0  # between two writes of the file
SEAL = hashlib.sha256().digest_size  # bytes of the checksum at the beginning of the file

Series = tuple[str, int, str]  # of tasks: weights ("trained" or "untrained"), shots, set
Values = dict[str, np.ndarray]  # by the measure's name: [seeds, tasks]


class Unfinished:
    """The values that an evaluation has measured so far.

    The value of a task depends, but for rounding, only on what the evaluation is `of` and on the task's number. An
    evaluation in several parts therefore has the same result as one without an interruption.
    """

    def __init__(self, workdir: Path | None, of: dict[str, Any], machine: str) -> None:
        """Reads what an interrupted evaluation of the same left in the workdir; every process must call it.

        Args:
            workdir: the folder of the file, which process 0 writes; None means that nothing is kept.
            of: what the values depend on, as JSON can hold it.
            machine: what this evaluation computes on, as `devices.machine` says it.

        Raises:
            ConfigError: the processes find different values.
            OSError: there is a file, but it cannot be read.
        """
        name = hashlib.sha256(json.dumps(of, sort_keys=True).encode()).hexdigest()[:16]
        self._workdir, self._file = workdir, None if workdir is None else workdir / f"{FILE}_{name}"
        self._series: dict[str, Values] = {}
        self._machine, self._machine_before, self._written = machine, machine, time.monotonic()
        with together():  # every process reads the file before process 0 writes it
            content = self._file.read_bytes() if self._file is not None and self._file.exists() else b""
        if not same_everywhere(zlib.crc32(content) >> 1):
            raise ConfigError(
                f"workdir={workdir} does not hold the same unfinished evaluation in every process: name one on a disk "
                f"that all of them share"
            )
        if content and content[:SEAL] == _seal(content[SEAL:]):
            with np.load(io.BytesIO(content[SEAL:])) as saved:
                self._machine_before = str(saved["machine"])
                for key in set(saved.files) - {"machine"}:
                    series, _, measure = key.rpartition("/")
                    self._series.setdefault(series, {})[measure] = saved[key]
        elif content and is_main():
            print(f"{self._file} is damaged: the evaluation starts afresh.", file=sys.stderr)

    def values(self, series: Series, at_most: int) -> Values:
        """Returns the values of the first tasks of a series, `at_most` of them; {} if there are none."""
        return {name: x[:, :at_most] for name, x in self._series.get(_key(series), {}).items()}

    def say(self, done: int, total: int) -> None:
        """Prints where the evaluation goes on, if it was begun before."""
        if done and is_main():
            before, now = self._machine_before, self._machine
            moved = f"; it was on {before}, and rounding differs on {now}" if before != now else ""
            print(f"Resuming the evaluation in {self._workdir} at task {done} of {total}{moved}.", file=sys.stderr)

    def add(self, series: Series, values: Values) -> None:
        """Adds the values of the next tasks of a series."""
        before = self._series.get(_key(series))
        self._series[_key(series)] = {
            name: np.concatenate([before[name], x], axis=1) if before else x for name, x in values.items()
        }

    def write(self, at_once: bool = False) -> None:
        """Writes the file if its last write was a while ago, or if `at_once`.

        Raises:
            OSError: the file cannot be written `at_once`; at another time, the evaluation goes on.
        """
        if self._file is None or not is_main() or not (at_once or time.monotonic() - self._written > SECONDS):
            return
        self._written = time.monotonic()
        buffer = io.BytesIO()
        content: dict[str, Any] = {
            f"{series}/{name}": x for series, values in self._series.items() for name, x in values.items()
        }
        np.savez(buffer, machine=self._machine, **content)
        try:
            replace_bytes(self._file, _seal(buffer.getvalue()) + buffer.getvalue())
        except OSError as error:
            if at_once:
                raise
            say(f"{self._file} cannot be written ({error.strerror}): the evaluation goes on")

    def remove(self) -> None:
        """Removes the files of all unfinished evaluations in the workdir, once there are results."""
        if self._workdir is not None and is_main():
            for file in self._workdir.glob(f"{FILE}_*"):
                file.unlink()


def _key(series: Series) -> str:
    return "/".join(map(str, series))


def _seal(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()
