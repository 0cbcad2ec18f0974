"""The learning curves: how well the weights at each multiple of `eval_interval` learn a task of each set.

The two tasks of a point take as many steps, one after the other, as several meta-iterations. On a CPU, the points
are measured while the training goes on, in whatever time it leaves of the cores. A device that computes tasks together
needs hardly longer for twenty of them than for two, so there ten points are measured together.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, NamedTuple, Self

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from reptile_jax.config import seeds_of
from reptile_jax.devices import SEEDS, TASKS, at_once, background_device, put
from reptile_jax.meta.reptile import MetaMetrics, MetaState
from reptile_jax.run import plots
from reptile_jax.run.metrics import MetricsWriter
from reptile_jax.run.programs import curve_program
from reptile_jax.tasks import Data, kind_of

TOGETHER = 10  # points that are measured together, where tasks are computed together
BESIDE = 2  # the most points that may wait for the device in the background; training waits if there are more


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


class Curves:
    """Measures the points of a run's curves, and writes a row of metrics for each of them, in order.

    Its context ends the thread that measures.
    """

    def __init__(self, config: ConfigDict, data: Data, mesh: Mesh, metrics: MetricsWriter) -> None:
        """Compiles nothing: the first point does."""
        self._config, self._kind, self._metrics = config, kind_of(config), metrics
        self._sets = ("train", data.held_out)
        self._pools = jax.tree.map(lambda *x: np.array(x, np.int32), *(data.pools[name] for name in self._sets))
        self._seeds = np.array(seeds_of(config), np.int32)
        self._together = TOGETHER if at_once(config) else 1
        self._source, self._mesh, self._thread = data.source, mesh, None
        if self._together == 1 and (device := background_device()) is not None:
            self._mesh = Mesh([[device]], (SEEDS, TASKS))
            self._source = put(self._mesh, jax.tree.map(np.asarray, data.source))  # it shares the images' memory
            self._thread = ThreadPoolExecutor(1)
        self._program: Callable[..., Any] | None = None
        self._waiting: list[Point] = []
        self._started: list[tuple[list[Point], Callable[[], Any]]] = []  # with functions that wait for the outcomes

    def __enter__(self) -> Self:
        """Returns itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Ends the thread, after the point that it measures."""
        if self._thread is not None:
            self._thread.shutdown(cancel_futures=True)

    def add(self, iteration: int, states: MetaState, metrics: MetaMetrics, rate: float) -> None:
        """Takes a point, see `Point`, to measure it now or later."""
        self._waiting.append(Point(iteration, states, metrics, rate))
        if len(self._waiting) == self._together:
            self._start()
        while len(self._started) > (BESIDE if self._thread is not None else 0):
            self._write()

    def measure(self) -> None:
        """Measures all points so far."""
        if self._waiting:
            self._start()
        while self._started:
            self._write()

    def recent(self) -> dict[str, str]:
        """Returns the mean of the last points of each curve, as the progress bar shows it."""
        recent = {}
        for name in self._sets:
            key = self._key(name)  # which rows of an earlier part of the run may lack
            if values := [row[key] for row in self._metrics.rows[-plots.CURVE_WINDOW :] if key in row]:
                recent[name] = plots.short(self._kind, float(np.mean(values)))
        return recent

    def _start(self) -> None:
        """Starts to measure the points that wait, however few they are, with the program that measures many."""
        points, self._waiting = self._waiting, []
        filled = [*points, *(self._together - len(points)) * points[-1:]]
        iterations = np.array([point.iteration for point in filled], np.int32)
        states = [point.states for point in filled]
        if self._thread is not None:
            states = put(self._mesh, jax.tree.map(np.asarray, states))
        arguments = states, iterations, self._source, self._pools, self._seeds
        if self._program is None:  # settings of JAX, such as its precision, are those of this thread
            self._program = curve_program(self._config, self._mesh).lower(*arguments).compile()
        measure = partial(_outcomes, self._program, *arguments)
        self._started.append((points, measure if self._thread is None else self._thread.submit(measure).result))

    def _write(self) -> None:
        """Waits for the points that were started first, and writes their rows."""
        points, outcomes = self._started.pop(0)
        measured = self._kind.measures(self._config, outcomes())[self._kind.headline(self._config)]
        means = measured.mean(axis=0).reshape(self._together, len(self._sets))
        for point, values in zip(points, means, strict=False):  # the other values only fill the program
            row = {
                "loss": float(np.asarray(point.metrics.loss).mean()),
                "delta_norm": float(np.asarray(point.metrics.delta_norm).mean()),
                **{self._key(name): float(x) for name, x in zip(self._sets, values, strict=True)},
                "meta_iters_per_second": point.rate,
            }
            self._metrics.write(point.iteration, row)

    def _key(self, name: str) -> str:
        return f"{name}_{self._kind.measured}"


def _outcomes(program: Callable[..., Any], *arguments: Any) -> Any:
    return jax.device_get(program(*arguments))
