"""Draws tasks with their predictions."""

from pathlib import Path
from typing import Any

import jax
import numpy as np

from reptile_jax.figures import figure_of
from reptile_jax.meta.episodes import EvalTask

RIGHT, WRONG = "#2a8c4a", "#c8352b"
SHADES = ("#c9b458", "#59a5bd", "#0b4f6c")  # of predictions, before the first step, on the way and after the last


def few_shot_tasks(
    pixels: np.ndarray, scale: int, tasks: EvalTask, predicted: np.ndarray, count: int, title: str, path: Path
) -> None:
    """Draws few-shot tasks: each column is a class, with support drawings above and the framed query below.

    Args:
        pixels: [rows, height, width, channels] of the whole data set; one channel is grey, three are colours.
        scale: the brightest pixel, 1 or 255.
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
                _drawing(cells[shot, label], pixels[row] / scale, "#d5dae0")
            frame = RIGHT if right[label] else WRONG
            _drawing(cells[-1, label], pixels[task.queries.rows[label]] / scale, frame, 2.2)
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


def waves_and_predictions(
    whole: Any, support: Any, predictions: dict[str, np.ndarray], labels: list[str], title: str, path: Path
) -> None:
    """Draws waves side by side, with one row of panels per start and the error of the last prediction in each panel.

    Args:
        whole: `sine.Points` [waves, 50], the waves.
        support: `sine.Points` [waves, shots], the points that the network adapted to.
        predictions: by the name of the start, [waves, shown, 50], at the inputs of `whole`.
        labels: [shown], the number of steps in words.
        title: what the picture shows.
        path: PNG to write.
    """
    count = len(whole.inputs)
    figure = figure_of(2.6 * count, 2.2 * len(predictions) + 0.8)
    figure.suptitle(title, fontsize=11)
    cells = figure.subplots(len(predictions), count, squeeze=False, sharex=True, sharey=True)
    for row, (start, of_start) in zip(cells, predictions.items(), strict=True):
        row[0].set_ylabel(f"{start} weights")
        for i, axes in enumerate(row):
            axes.plot(whole.inputs[i], whole.targets[i], color="#9aa5b1", linestyle=":", linewidth=1.6, label="wave")
            for curve, label, colour in zip(of_start[i], labels, SHADES, strict=False):
                axes.plot(whole.inputs[i], curve, color=colour, linewidth=1.4, label=label)
            axes.plot(support.inputs[i], support.targets[i], "o", color=WRONG, markersize=3.5, label="points given")
            error = np.mean(np.square(of_start[i][-1] - whole.targets[i]))
            axes.set_title(f"squared error {error:.3f}", fontsize=9)
            axes.spines[["top", "right"]].set_visible(False)
    handles, names = cells[0, 0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=len(names), frameon=False, fontsize=8)
    figure.savefig(path, dpi=110)
