import json
import time

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from reptile_jax.run.metrics import MetricsWriter, read_rows, smoothed


def test_rows_reach_both_files(tmp_path):
    writer = MetricsWriter(tmp_path, 0)
    for step in (10, 20):
        writer.write(step, {"loss": step / 7})
    writer.close()
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert rows == [{"step": 10, "loss": 10 / 7}, {"step": 20, "loss": 20 / 7}]
    events = EventAccumulator(str(tmp_path)).Reload().Scalars("loss")
    assert [(event.step, event.value) for event in events] == [(10, np.float32(10 / 7)), (20, np.float32(20 / 7))]


def test_resuming_drops_what_was_written_beyond_the_checkpoint(tmp_path):
    writer = MetricsWriter(tmp_path, 0)
    for step in (10, 20, 30):
        writer.write(step, {"loss": 1.0})
    writer.close()
    time.sleep(1.1)  # TensorBoard orders the files by their names, which have seconds
    writer = MetricsWriter(tmp_path, 20)
    writer.write(30, {"loss": 2.0})
    writer.close()
    assert [(row["step"], row["loss"]) for row in read_rows(tmp_path / "metrics.jsonl")] == [(10, 1), (20, 1), (30, 2)]
    events = EventAccumulator(str(tmp_path)).Reload().Scalars("loss")
    assert [(event.step, event.value) for event in events] == [(10, 1), (20, 1), (30, 2)]


def test_smoothing_equals_a_plain_loop():
    values = np.random.default_rng(0).random(17)
    wanted = [values[max(0, i - 4) : i + 1].mean() for i in range(17)]
    assert smoothed(values, 5) == pytest.approx(wanted)
