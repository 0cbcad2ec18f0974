"""Sine waves on an interval: which of its points a learner is given."""

from typing import NamedTuple

import numpy as np

from reptile_jax.data.images import Description

LOW, HIGH = -5.0, 5.0  # the interval
POINTS = 50  # evenly over it, on which errors are measured


class Waves(NamedTuple):
    """The learner's points: `POINTS` evenly over the interval, or None: anywhere in it, uniformly."""

    points: np.ndarray | None  # float32 [POINTS]


def evenly() -> np.ndarray:
    """Returns points evenly over the interval, both its ends among them: float32 [POINTS]."""
    return np.linspace(LOW, HIGH, POINTS, dtype=np.float32)


def describe(of_a_wave: int) -> Description:
    """Describes waves as one class, which every set has: a new wave is drawn for every task. Of it there are so many
    points to draw."""
    return Description(("sine waves",), (of_a_wave,), {"train": (0,), "test": (0,)})
