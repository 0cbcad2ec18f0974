"""Checks that a picture shows the images of its tasks, and does not copy the whole data set."""

import tracemalloc
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from PIL import Image

from configs import images, quickstart
from reptile_jax.data import DATA_SETS
from reptile_jax.meta.episodes import EvalTask, Examples
from reptile_jax.meta.protocols import Predictions
from reptile_jax.tasks.images import KIND

COLOURS = [(250, 20, 30), (20, 240, 60), (40, 60, 230), (10, 200, 210), (200, 10, 220), (220, 210, 20)]


@pytest.mark.parametrize(("config", "dtype"), [(images, np.uint8), (quickstart, np.float32)])
def test_a_picture_shows_the_images_of_its_tasks_alone(tmp_path, config, dtype):
    config = config.get_config()
    scale = DATA_SETS[config.data.name].scale
    pixels = np.zeros((30_000, 32, 32, 3), dtype)
    rows = [7, 29_999, 100, 20_000, 5, 6]
    pixels[rows] = (np.array(COLOURS)[:, None, None] * (scale / 255)).astype(dtype)
    support, queries, labels = np.array([[rows[:2]]]), np.array([[rows[2:4]]]), np.array([[[0, 1]]])
    tasks = EvalTask(None, Examples(support, labels), Examples(queries, labels))
    data = SimpleNamespace(source=(jax.numpy.asarray(pixels), None))
    tracemalloc.start()
    KIND.picture(config, data, tasks, {"trained": Predictions(labels, labels)}, "title", tmp_path / "tasks.png")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < pixels.nbytes / 2
    drawn = np.asarray(Image.open(tmp_path / "tasks.png").convert("RGB")).reshape(-1, 3).astype(int)
    shown = [(np.abs(drawn - colour).max(axis=1) <= 1).sum() > 500 for colour in COLOURS]
    assert shown == [True] * 4 + [False] * 2
