"""Measures a training process by itself: python -m parity_tests.footprint CONFIG_AS_JSON MEASUREMENTS STEP.

The program prints its resident memory in MB as soon as the first meta-iteration is done. If MEASUREMENTS is not 0, it
then trains and evaluates a run, and prints the memory after every STEP meta-iterations. The last line is the peak. The
numbers are "nan" where the system is not Linux.
"""

import contextlib
import json
import sys
import tempfile
from pathlib import Path
from unittest import mock

import jax
import numpy as np
from ml_collections import ConfigDict

from reptile_jax.config import seeds_of
from reptile_jax.devices import divide_cpu, keep_compiled, mesh_of, put
from reptile_jax.run import train
from reptile_jax.run.metrics import MetricsWriter
from reptile_jax.run.programs import initial_states, train_program
from reptile_jax.tasks import kind_of


class Reporter(MetricsWriter):
    """Prints the resident memory at every point of the curves."""

    def write(self, step: int, values: dict[str, float]) -> None:
        """Writes the point, and prints the memory."""
        super().write(step, values)
        print(megabytes("VmRSS"), file=sys.__stdout__, flush=True)


def megabytes(field: str) -> float:
    """Returns a field of Linux's /proc/self/status: "VmRSS" is the resident memory, "VmHWM" its peak."""
    if sys.platform != "linux":
        return float("nan")
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(fields[field].split()[0]) / 1024


def first_meta_iteration(config: ConfigDict) -> None:
    """Does what a run does up to the end of its first meta-iteration."""
    mesh = mesh_of(config)
    data, states = kind_of(config).load(config, mesh), put(mesh, initial_states(config))
    seeds = np.array(seeds_of(config), np.int32)
    jax.block_until_ready(train_program(config, mesh)(states, seeds, data.source, data.pools["train"], 1))


def whole_run(config: ConfigDict, measurements: int, step: int) -> None:
    """Trains a run with curves and checkpoints, and evaluates it."""
    config.unlock()
    config.update(meta_iters=measurements * step, eval_interval=step, checkpoint_interval=step, eval_samples=50)
    patched, quiet = mock.patch.object(train, "MetricsWriter", Reporter), contextlib.redirect_stdout(sys.stderr)
    with tempfile.TemporaryDirectory() as folder, patched, quiet:
        train.train_and_evaluate(config, Path(folder))


if __name__ == "__main__":
    keep_compiled()
    try:
        config, measurements, step = ConfigDict(json.loads(sys.argv[1])), int(sys.argv[2]), int(sys.argv[3])
    except (IndexError, ValueError):
        sys.exit("usage: python -m parity_tests.footprint CONFIG_AS_JSON MEASUREMENTS STEP")
    divide_cpu(config)
    first_meta_iteration(config)
    print(megabytes("VmRSS"), flush=True)
    if measurements:
        whole_run(config, measurements, step)
    print(megabytes("VmHWM"))
    assert "torch" not in sys.modules
