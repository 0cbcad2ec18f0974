import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import reptile_jax
from reptile_jax.data import glyphs
from reptile_jax.data.characters import Characters, as_images
from reptile_jax.data.images import split


@pytest.fixture(scope="module")
def characters():
    return glyphs.load()


def nearest_neighbour_accuracy(features, tasks=2000, ways=5):
    """Returns the 5-way 1-shot accuracy of the nearest neighbour, features float32 [characters, drawings, size]."""
    rng = np.random.default_rng(0)
    correct = 0
    for _ in range(tasks):
        classes = rng.choice(len(features), ways, replace=False)
        drawings = np.array([rng.choice(features.shape[1], 2, replace=False) for _ in classes])
        support, queries = features[classes, drawings[:, 0]], features[classes, drawings[:, 1]]
        distances = ((queries[:, None] - support[None]) ** 2).sum(-1)
        correct += (distances.argmin(1) == np.arange(ways)).sum()
    return correct / (tasks * ways)


def test_shape_type_and_names(characters):
    assert isinstance(characters, Characters)
    assert characters.images.shape == (500, 20, 28, 28)
    assert characters.images.dtype == np.uint8
    assert set(np.unique(characters.images)) == {0, 1}
    assert len(set(characters.names)) == 500
    assert list(characters.names) == sorted(characters.names)


def test_the_same_bytes_on_every_run_and_machine(characters):
    digest = hashlib.sha256(characters.images.tobytes()).hexdigest()
    assert digest == "66b4b9338bdd91e04769d84f37527862e155796af443403fa5ad3d905fdfb80a"


def test_another_seed_makes_other_characters(characters):
    other = glyphs.load(seed=1)
    assert (other.images[:, 0] != characters.images[:, 0]).any((1, 2)).all()


def test_ink_on_paper_and_every_drawing_differs(characters):
    ink = (characters.images == 0).mean((2, 3))
    assert ink.min() > 0.01 and ink.max() < 0.4
    assert ink.mean() < 0.15  # ink is 0 and paper is 1, not the other way round
    for drawings in characters.images:
        assert len({drawing.tobytes() for drawing in drawings}) == 20


def test_neither_pixels_nor_the_amount_of_ink_give_the_class_away(characters):
    # Omniglot: pixels 37%, ink 41%; chance is 20%.
    inked = (characters.images == 0).reshape(500, 20, -1).astype(np.float32)
    assert 0.3 < nearest_neighbour_accuracy(inked) < 0.45
    assert nearest_neighbour_accuracy(inked.sum(2, keepdims=True)) < 0.41


def test_split():
    sets = split(as_images(glyphs.load()), glyphs.TRAIN_CHARACTERS, 20, 0)
    assert {name: len(classes) for name, classes in sets.items()} == {"train": 330, "validation": 20, "test": 150}


def test_needs_neither_jax_nor_tfds():
    code = """
import sys
from reptile_jax import data
data.DATA_SETS["glyphs"].load(None)
assert "jax" not in sys.modules and "tensorflow_datasets" not in sys.modules
"""
    root = Path(reptile_jax.__file__).parents[1]
    subprocess.run([sys.executable, "-c", code], check=True, cwd=root)
