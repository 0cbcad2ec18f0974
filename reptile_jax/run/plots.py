"""Pictures of a run: learning curves, and few-shot tasks with what was predicted."""

from pathlib import Path
from typing import Any

import jax
import numpy as np

from reptile_jax.meta.episodes import EvalTask
from reptile_jax.run.metrics import smoothed

CURVE_WINDOW = 50  # points of a learning curve averaged into one; each point is a single task
TRAIN_COLOUR, HELD_OUT_COLOUR, RIGHT, WRONG = "#9aa5b1", "#0b6e99", "#2a8c4a", "#c8352b"


def learning_curve(rows: list[dict[str, Any]], held_out: str, label: str, path: Path) -> None:
    """Draws training and held-out accuracy, smoothed over tasks, against meta-iterations.

    Args:
        rows: the rows of metrics.jsonl.
        held_out: "test" or "validation".
        label: name of the data set.
        path: PNG to write.
    """
    steps = np.array([row["step"] for row in rows])
    start = min(CURVE_WINDOW // 5, len(rows)) - 1  # the mean of fewer tasks says nothing
    figure = _figure(7, 4)
    axes = figure.subplots()
    for name, colour in (("train", TRAIN_COLOUR), (held_out, HELD_OUT_COLOUR)):
        values = smoothed(np.array([row[f"{name}_accuracy"] for row in rows]), CURVE_WINDOW)
        axes.plot(
            steps[start:],
            values[start:],
            color=colour,
            linewidth=1.6,
            label=f"{name} characters, last {values[-1]:.1%}",
        )
    axes.set(xlabel="meta-iterations", ylabel="accuracy", title=f"{label}: mean of the last {CURVE_WINDOW} tasks")
    axes.set_ylim(top=1)
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right", frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)


def accuracy_curves(curves: dict[str, tuple[list[float], list[float]]], title: str, path: Path) -> None:
    """Draws accuracies of several runs against meta-iterations.

    Args:
        curves: label -> meta-iterations and accuracies.
        title: what the picture shows.
        path: PNG to write.
    """
    figure = _figure(7, 4)
    axes = figure.subplots()
    for label, (steps, accuracies) in curves.items():
        axes.plot(steps, accuracies, linewidth=1.4, label=label)
    axes.set(xlabel="meta-iterations", ylabel="accuracy", title=title)
    axes.set_ylim(top=1)
    axes.grid(alpha=0.3)
    axes.legend(loc="best", frameon=False, fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)


def few_shot_tasks(
    images: np.ndarray, tasks: EvalTask, predicted: np.ndarray, count: int, title: str, path: Path
) -> None:
    """Draws few-shot tasks: a column per class, its support drawings above, its query below, framed by the verdict.

    Args:
        images: [characters * drawings, 28, 28].
        tasks: episodes, with a leading axis [tasks].
        predicted: [tasks, classes] predicted labels; query i has label i.
        count: tasks to draw, at most.
        title: what the picture shows.
        path: PNG to write.
    """
    count = min(count, len(predicted))
    classes = predicted.shape[1]
    shots = tasks.support.rows.shape[1] // classes
    across = 2 if classes <= 10 else 1  # tasks side by side
    down = -(-count // across)
    size = (across * classes * 0.62 + 0.6, down * (shots + 1.9) * 0.62 + 0.6)  # inches
    figure = _figure(*size)
    figure.suptitle(title, fontsize=11)
    panels = np.ravel(np.asarray(figure.subfigures(down, across, squeeze=False, wspace=0.06, hspace=0.04)))
    for index, panel in enumerate(panels[:count]):
        task = jax.tree.map(lambda x, i=index: np.asarray(x)[i], tasks)
        cells = panel.subplots(shots + 1, classes, squeeze=False)
        right = predicted[index] == np.arange(classes)
        panel.suptitle(f"{right.sum()} of {classes} right", fontsize=9, color=RIGHT if right.all() else WRONG)
        for label in range(classes):
            for shot, row in enumerate(task.support.rows.reshape(classes, shots)[label]):
                _drawing(cells[shot, label], images[row], "#d5dae0")
            _drawing(cells[-1, label], images[task.queries.rows[label]], RIGHT if right[label] else WRONG, 2.2)
            said = "" if right[label] else f"taken for {predicted[index, label] + 1}"
            cells[-1, label].set_xlabel(said, fontsize=6.5, color=WRONG, labelpad=2)
            cells[0, label].set_title(str(label + 1), fontsize=7, pad=2)
        cells[-1, 0].set_ylabel("query", fontsize=7)
        cells[0, 0].set_ylabel("support", fontsize=7)
    figure.savefig(path, dpi=150)


def _figure(width: float, height: float) -> Any:
    """Returns an empty figure of so many inches."""
    from matplotlib.figure import Figure  # here, for it takes long to import and a run needs it when it has ended

    return Figure(figsize=(width, height), layout="constrained")


def _drawing(axes: Any, image: np.ndarray, frame: str, width: float = 0.8) -> None:
    axes.imshow(image, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    axes.set(xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set(color=frame, linewidth=width)
