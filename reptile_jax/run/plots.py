"""Draws learning curves."""

from pathlib import Path
from typing import Any

import numpy as np

from reptile_jax.figures import figure_of
from reptile_jax.run.metrics import smoothed
from reptile_jax.tasks import TaskKind

CURVE_WINDOW = 50  # points that each point of a drawn curve averages; each of them is a single task
TRAIN_COLOUR, HELD_OUT_COLOUR = "#9aa5b1", "#0b6e99"


def learning_curve(rows: list[dict[str, Any]], kind: TaskKind, held_out: str, label: str, path: Path) -> None:
    """Draws training and held-out accuracy (or another measure), smoothed over tasks, against meta-iterations.

    If there is no row of that held-out set, an existing picture stays as it is.

    Args:
        rows: the rows of metrics.jsonl.
        kind: what the tasks are.
        held_out: "test" or "validation".
        label: name of the data set.
        path: PNG to write.
    """
    measured = kind.measured
    rows = [row for row in rows if f"{held_out}_{measured}" in row]  # an earlier part may have another held-out set
    if not rows:
        return
    steps = np.array([row["step"] for row in rows])
    start = min(CURVE_WINDOW // 5, len(rows)) - 1  # the mean of fewer tasks is not informative
    figure = figure_of(7, 4)
    axes = figure.subplots()
    for name, colour in (("train", TRAIN_COLOUR), (held_out, HELD_OUT_COLOUR)):
        values = smoothed(np.array([row[f"{name}_{measured}"] for row in rows]), CURVE_WINDOW)
        axes.plot(
            steps[start:],
            values[start:],
            color=colour,
            linewidth=1.6,
            label=f"{name} {kind.made_of}, last {short(kind, values[-1])}",
        )
    title = f"{label}: mean of the last {CURVE_WINDOW} tasks"
    axes.set(xlabel="meta-iterations", ylabel=measured.replace("_", " "), title=title, **kind.axis)
    axes.grid(alpha=0.3)
    axes.legend(loc="best", frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)


def short(kind: TaskKind, mean: float) -> str:
    """Returns a mean in the format of the report, without its spread."""
    return kind.shown(mean, 0.0).partition(" ")[0]


def accuracy_curves(
    curves: dict[str, tuple[list[float], list[float]]], title: str, path: Path, xlabel: str = "meta-iterations"
) -> None:
    """Draws accuracies of several runs against meta-iterations or time.

    Args:
        curves: label -> positions on the horizontal axis, and accuracies.
        title: what the picture shows.
        path: PNG to write.
        xlabel: name of the horizontal axis.
    """
    figure = figure_of(7, 4)
    axes = figure.subplots()
    for label, (steps, accuracies) in curves.items():
        axes.plot(steps, accuracies, linewidth=1.4, label=label)
    axes.set(xlabel=xlabel, ylabel="accuracy", title=title)
    axes.set_ylim(top=1)
    axes.grid(alpha=0.3)
    axes.legend(loc="best", frameon=False, fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)
