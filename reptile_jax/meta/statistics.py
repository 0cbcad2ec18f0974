"""Means over tasks, and how far they can be trusted."""

from typing import NamedTuple

import numpy as np


class Mean(NamedTuple):
    """A mean over tasks, and the half-width of its 95% confidence interval."""

    mean: float
    ci95: float
    tasks: int


def mean_and_interval(values: np.ndarray) -> Mean:
    """Returns the mean and the 95% interval: 1.96 standard errors of the values of the tasks (normal approximation).

    Args:
        values: [tasks], such as the share of each task's queries that were classified right.
    """
    tasks = len(values)
    error = values.std(ddof=1) / np.sqrt(tasks) if tasks > 1 else float("nan")
    return Mean(float(values.mean()), float(1.96 * error), tasks)
