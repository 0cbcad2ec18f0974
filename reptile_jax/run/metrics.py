"""Writes metrics of a run as lines of JSON and as TensorBoard events, and smooths them for bars and plots."""

import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from reptile_jax.devices import is_main
from reptile_jax.files import replace_text


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Reads a `metrics.jsonl` up to its end or to the first invalid line; returns no rows if there is no file."""
    rows: list[dict[str, Any]] = []
    if path.exists():
        for line in path.read_bytes().splitlines():
            try:
                row = json.loads(line)
            except ValueError:
                break
            if not _is_row(row) or (rows and row["step"] <= rows[-1]["step"]):
                break
            rows.append(row)
    return rows


def _is_row(row: Any) -> bool:
    return isinstance(row, dict) and "step" in row and all(type(value) in (int, float) for value in row.values())


class MetricsWriter:
    """Appends rows to `metrics.jsonl` and to TensorBoard event files in a workdir; only one of several processes does.

    Attributes:
        rows: every row of the run so far, including earlier parts of the run.
    """

    def __init__(self, workdir: Path, iteration: int) -> None:
        """Opens the files for a run at `iteration`, and drops rows that an interrupted run wrote after it."""
        self.rows: list[dict[str, Any]] = []
        if not is_main():
            return
        path = workdir / "metrics.jsonl"
        self.rows = [row for row in read_rows(path) if row["step"] <= iteration]
        replace_text(path, "".join(json.dumps(row) + "\n" for row in self.rows))
        self._file = path.open("a")
        self._events = EventFileWriter(str(workdir))
        # TensorBoard drops the events of earlier files from this step on.
        start = SessionLog(status=SessionLog.START)
        self._events.add_event(Event(wall_time=time.time(), step=iteration + 1, session_log=start))

    def write(self, step: int, values: dict[str, float]) -> None:
        """Appends one row: `step` and the values."""
        row = {"step": step, **values}
        self.rows.append(row)
        if not is_main():
            return
        self._file.write(json.dumps(row) + "\n")
        summary = Summary(value=[Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()])
        self._events.add_event(Event(wall_time=time.time(), step=step, summary=summary))

    def flush(self) -> None:
        """Writes everything so far to the disk."""
        if is_main():
            self._file.flush()
            os.fsync(self._file.fileno())
            self._events.flush()

    def close(self) -> None:
        """Flushes and closes the files."""
        if is_main():
            self._file.close()
            self._events.close()


def smoothed(values: np.ndarray, window: int) -> np.ndarray:
    """Returns the means of the last `window` values (fewer at the beginning): [n] -> [n]."""
    sums = np.cumsum(np.concatenate([[0.0], values]))
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(ends - window, 0)
    return (sums[ends] - sums[starts]) / (ends - starts)
