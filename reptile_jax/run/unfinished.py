"""Keeps what an evaluation has measured so far, so that the same command continues it after an interruption."""

import io
import json
import sys
import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from reptile_jax.files import replace_bytes

FILE = "unfinished_evaluation.npz"  # inside a workdir
SECONDS = 30.0  # between two writes of the file

Values = dict[str, np.ndarray]  # by the measure's name: [seeds, tasks]


class Unfinished:
    """The values that an evaluation has measured so far, one series of tasks for each set, number of shots and start.

    The value of a task depends only on the weights, the config, the data and the task's number. An evaluation in
    several parts therefore has the same result as one without an interruption.
    """

    def __init__(self, workdir: Path | None, of: dict[str, Any]) -> None:
        """Reads what an earlier evaluation left in the workdir, if it evaluated the same.

        Args:
            workdir: the folder of the file; None means that nothing is kept.
            of: what the values depend on, as JSON can hold it.
        """
        self._file = None if workdir is None else workdir / FILE
        self._of = json.dumps(of, sort_keys=True)
        self._series: dict[str, Values] = {}
        self._written = time.monotonic()
        if self._file is not None and self._file.exists():
            try:
                with np.load(self._file) as saved:
                    if str(saved["of"]) == self._of:
                        for name in saved.files:
                            series, _, measure = name.rpartition("/")
                            if series:
                                self._series.setdefault(series, {})[measure] = saved[name]
            except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
                self._series = {}
                print(f"{self._file} is damaged: the evaluation starts afresh.", file=sys.stderr)

    def values(self, series: str) -> Values:
        """Returns the values of a series so far; {} if there are none."""
        return self._series.get(series, {})

    def tasks(self) -> int:
        """Returns how many tasks have been evaluated, in all series."""
        return sum(next(iter(values.values())).shape[1] for values in self._series.values())

    def add(self, series: str, values: Values) -> None:
        """Adds the values of the next tasks of a series."""
        before = self.values(series)
        self._series[series] = {
            name: np.concatenate([before[name], x], axis=1) if before else x for name, x in values.items()
        }

    def write(self, at_once: bool = False) -> None:
        """Writes the file, if its last write was a while ago or the values shall be there `at_once`."""
        if self._file is None or not (at_once or time.monotonic() - self._written > SECONDS):
            return
        content: dict[str, Any] = {
            f"{series}/{name}": x for series, values in self._series.items() for name, x in values.items()
        }
        buffer = io.BytesIO()
        np.savez(buffer, of=self._of, **content)
        replace_bytes(self._file, buffer.getvalue())
        self._written = time.monotonic()

    def remove(self) -> None:
        """Removes the file, once the results are written."""
        if self._file is not None:
            self._file.unlink(missing_ok=True)
