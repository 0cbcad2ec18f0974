"""Metrics of a run: one JSON object a line, the same as TensorBoard events, and smoothing for bars and plots."""

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
    """Reads a `metrics.jsonl`, to its end or to a line that is none; no file is no rows."""
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
    """Appends rows to `metrics.jsonl` and to TensorBoard event files in a workdir; of several processes one does.

    Attributes:
        rows: every row of the run so far, those of earlier parts included.
    """

    def __init__(self, workdir: Path, iteration: int) -> None:
        """Opens the files for a run that stands at `iteration`, and drops what an interrupted run wrote beyond it."""
        self.rows: list[dict[str, Any]] = []
        if not is_main():
            return
        path = workdir / "metrics.jsonl"
        self.rows = [row for row in read_rows(path) if row["step"] <= iteration]
        replace_text(path, "".join(json.dumps(row) + "\n" for row in self.rows))
        self._file = path.open("a")
        self._events = EventFileWriter(str(workdir))
        # TensorBoard drops what earlier event files hold from this step on.
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
        """Brings everything written so far to the disk."""
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
    """Means of the last `window` values (fewer at the beginning): [n] -> [n]."""
    sums = np.cumsum(np.concatenate([[0.0], values]))
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(ends - window, 0)
    return (sums[ends] - sums[starts]) / (ends - starts)
