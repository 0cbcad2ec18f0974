"""The learning curves: how well the weights at each multiple of `eval_interval` learn a task of each set."""

import math
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from reptile_jax.config import seeds_of
from reptile_jax.devices import TASKS, at_once
from reptile_jax.meta.reptile import MetaMetrics, MetaState
from reptile_jax.run import plots
from reptile_jax.run.metrics import MetricsWriter
from reptile_jax.run.programs import curve_program
from reptile_jax.tasks import Data, kind_of

AT_MOST = 10  # points that are measured together
SETS = 2  # of a point: it has one training task and one held-out task


class Point(NamedTuple):
    """A point that has not been measured.

    Attributes:
        iteration: meta-iterations done.
        states: the states of all seeds.
        metrics: of the last meta-iteration.
        rate: meta-iterations/s since the point before.
    """

    iteration: int
    states: MetaState
    metrics: MetaMetrics
    rate: float


def points_together(config: ConfigDict, mesh: Mesh) -> int:
    """Returns how many points are measured together.

    The steps of a task follow one another. A device that computes tasks together therefore needs hardly longer for
    twenty tasks than for the two of a point. Devices that compute one task after the other get as many points as give
    each device the same number of tasks.
    """
    devices = mesh.shape[TASKS]
    return AT_MOST if at_once(config) else min(AT_MOST, devices // math.gcd(devices, SETS))


class Curves:
    """Measures the points of a run's curves, several together, and writes a row of metrics for each.

    Attributes:
        together: how many points are measured together.
    """

    def __init__(self, config: ConfigDict, data: Data, mesh: Mesh, metrics: MetricsWriter) -> None:
        """Compiles nothing: the first points do."""
        self._config, self._kind, self._source, self._metrics = config, kind_of(config), data.source, metrics
        self._sets = ("train", data.held_out)
        self._pools = jax.tree.map(lambda *x: np.array(x, np.int32), *(data.pools[name] for name in self._sets))
        self._seeds = np.array(seeds_of(config), np.int32)
        self._program = curve_program(config, mesh)
        self.together = points_together(config, mesh)
        self._waiting: list[Point] = []

    def add(self, iteration: int, states: MetaState, metrics: MetaMetrics, rate: float) -> None:
        """Takes a point, see `Point`, and measures those that wait if they are as many as are measured together."""
        self._waiting.append(Point(iteration, states, metrics, rate))
        if len(self._waiting) == self.together:
            self.measure()

    def measure(self) -> None:
        """Measures the points that wait, however few they are, in the program that measures many."""
        if not self._waiting:
            return
        filled = [*self._waiting, *(self.together - len(self._waiting)) * self._waiting[-1:]]
        iterations = np.array([point.iteration for point in filled], np.int32)
        outcomes = self._program([point.states for point in filled], iterations, self._source, self._pools, self._seeds)
        measured = self._kind.measures(self._config, jax.device_get(outcomes))[self._kind.headline(self._config)]
        means = measured.mean(axis=0).reshape(len(filled), len(self._sets))
        for point, values in zip(self._waiting, means, strict=False):  # the others only fill the program
            row = {
                "loss": float(np.asarray(point.metrics.loss).mean()),
                "delta_norm": float(np.asarray(point.metrics.delta_norm).mean()),
                **{self._key(name): float(x) for name, x in zip(self._sets, values, strict=True)},
                "meta_iters_per_second": point.rate,
            }
            self._metrics.write(point.iteration, row)
        self._waiting = []

    def recent(self) -> dict[str, str]:
        """Returns the mean of the last points of each curve, as the progress bar shows it."""
        recent = {}
        for name in self._sets:
            key = self._key(name)  # which rows of an earlier part of the run may lack
            if values := [row[key] for row in self._metrics.rows[-plots.CURVE_WINDOW :] if key in row]:
                recent[name] = plots.short(self._kind, float(np.mean(values)))
        return recent

    def _key(self, name: str) -> str:
        return f"{name}_{self._kind.measured}"
