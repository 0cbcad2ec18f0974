"""Pictures of tasks, with what was predicted."""

from pathlib import Path
from typing import Any

import jax
import numpy as np

from reptile_jax.figures import figure_of
from reptile_jax.meta.episodes import EvalTask

RIGHT, WRONG = "#2a8c4a", "#c8352b"


def few_shot_tasks(
    images: np.ndarray, tasks: EvalTask, predicted: np.ndarray, count: int, title: str, path: Path
) -> None:
    """Draws few-shot tasks: a column per class, its support drawings above, its query below, framed by the verdict.

    Args:
        images: [rows, height, width, channels], from 0 to 1; one channel is grey, three are colours.
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
    figure = figure_of(*size)
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


def _drawing(axes: Any, image: np.ndarray, frame: str, width: float = 0.8) -> None:
    axes.imshow(image[..., 0] if image.shape[-1] == 1 else image, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    axes.set(xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set(color=frame, linewidth=width)
