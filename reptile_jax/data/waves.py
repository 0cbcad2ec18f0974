"""Sine waves on an interval: the points that a learner may get."""

from typing import NamedTuple

import numpy as np

from reptile_jax.data.images import Description

LOW, HIGH = -5.0, 5.0  # the interval
POINTS = 50  # evenly over it, on which errors are measured


class Waves(NamedTuple):
    """The points that a learner may get: `POINTS` evenly over the interval, or None for any point, uniformly."""

    points: np.ndarray | None  # float32 [POINTS]


def evenly() -> np.ndarray:
    """Returns points evenly over the interval, including both ends: float32 [POINTS]."""
    return np.linspace(LOW, HIGH, POINTS, dtype=np.float32)


def describe(of_a_wave: int) -> Description:
    """Describes waves as one class of `of_a_wave` points, which is in every set because each task draws a new wave."""
    return Description(("sine waves",), (of_a_wave,), {"train": (0,), "test": (0,)})
