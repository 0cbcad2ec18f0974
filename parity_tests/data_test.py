"""The data: what TFDS gives is what torchvision gives, to the pixel."""

import numpy as np
import pytest

from parity_tests import bridge
from parity_tests.conftest import ARCHIVES, REAL
from reptile_jax.data import load_split, omniglot
from reptile_torch_ref import data as torch_data


@REAL
def test_all_drawings_of_omniglot(prepared):
    ours = omniglot.load(prepared, ARCHIVES)
    images, names = torch_data.load_omniglot(ARCHIVES)
    assert ours.images.shape == images.shape == (1623, 20, 28, 28)  # 32,460 drawings
    np.testing.assert_array_equal(ours.images, images)
    assert [name.lower() for name in ours.names] == [name.lower() for name in names]


@REAL
@pytest.mark.parametrize(("seed", "validation_classes"), [(0, 0), (1, 0), (2, 100)])
def test_splits_and_rotations_of_omniglot(prepared, seed, validation_classes):
    ours = load_split("omniglot", prepared, ARCHIVES, seed, validation_classes)
    theirs = torch_data.load("omniglot", ARCHIVES, seed, validation_classes)
    sizes = [4 * (1200 - validation_classes), validation_classes, 423]
    for mine, other, size in zip(ours, theirs, sizes, strict=True):
        assert len(mine.images) == size
        np.testing.assert_array_equal(mine.images, other.numpy())


@pytest.mark.parametrize("seed", [0, 1])
def test_splits_and_rotations_of_glyphs(seed):
    assert bridge.load_pixels("glyphs", "", "", seed, 0).different == 0


def test_one_pixel_is_a_difference():
    drawings = np.random.default_rng(0).integers(0, 2, (3, 20, 28, 28), np.uint8)
    changed = drawings.copy()
    changed[2, 19, 27, 27] ^= 1
    assert bridge.different(drawings, drawings) == 0
    assert bridge.different(drawings, changed) == 1
    assert bridge.different(drawings, drawings[:2]) == 60
