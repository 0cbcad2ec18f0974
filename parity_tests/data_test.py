"""Tests that TFDS and the prepared copy of a folder give exactly the pixels that torchvision gives."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from parity_tests import bridge
from parity_tests.conftest import ARCHIVES, MINIIMAGENET, MINIIMAGENET_DIR, REAL
from reptile_jax.data import omniglot
from reptile_jax.data import prepared as of_folder
from reptile_jax.testing import small_images
from reptile_jax.testing.small_runs import small
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
    fields = {"name": "omniglot", "dir": prepared, "archives": ARCHIVES, "validation_classes": validation_classes}
    config = small(**{f"data.{name}": value for name, value in fields.items()}).data
    ours, theirs = bridge.drawings_of(config, seed), torch_data.load(config, seed)
    sizes = [4 * (1200 - validation_classes), validation_classes, 423]
    for mine, other, size in zip(ours.values(), theirs, sizes, strict=True):
        assert len(mine) == size
        np.testing.assert_array_equal(mine, other.numpy())


@pytest.mark.parametrize("seed", [0, 1])
def test_splits_and_rotations_of_glyphs(seed):
    assert bridge.load_pixels(small().data.to_json(), seed).different == 0


@pytest.fixture
def own_images(tmp_path, monkeypatch):
    """Images of every format and several sizes, grey, with alpha and on their side, in folders and a zip file."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder, formats, on_its_side = tmp_path / "images", small_images.FORMATS, Image.Exif()
    on_its_side[0x0112] = 6
    for name in ("train", "test"):
        small_images.write_folder(
            folder / name, small_images.members({name + "a": 5, name + "b": 7}, 0, formats, (20, 31))
        )
    colours = small_images.pixels(1, 40, 24)
    odd = {
        "grey.png": small_images.encoded(colours[..., 0]),
        "alpha.png": small_images.encoded(np.dstack([colours, colours[..., 0]])),
        "bits16.png": small_images.encoded(colours[..., 0].astype(np.uint16) * 200),
        "side.jpeg": small_images.encoded(colours, "jpeg", exif=on_its_side),
    }
    small_images.write_zip(folder / "val.zip", {f"odd/{name}": content for name, content in odd.items()}, "val/")
    return folder


@pytest.mark.parametrize("channels", [1, 3])
def test_images_from_folders(own_images, channels):
    assert bridge.different_images(own_images, 16, channels) == (0, 28)


def test_another_filter_is_seen(own_images, monkeypatch):
    monkeypatch.setattr(of_folder, "FILTER", Image.Resampling.BILINEAR)
    different, count = bridge.different_images(own_images, 16, 3)
    assert different > 20 and count == 28


def test_another_class_is_seen(own_images, monkeypatch):
    honest = torch_data.load_images
    renamed = lambda *folder: {name: images._replace(names=[*images.names[:-1], "other"])  # noqa: E731
                               for name, images in honest(*folder).items()}  # fmt: skip
    monkeypatch.setattr(torch_data, "load_images", renamed)
    assert bridge.different_images(own_images, 16, 3) == (28, 28)


@MINIIMAGENET
def test_images_of_mini_imagenet(tmp_path, monkeypatch):
    """Validation and test images, beside a small training set, because the real one would take minutes."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    images = tmp_path / "images"
    small_images.write_folder(images / "train", small_images.members({"a": 5}))
    for source in Path(MINIIMAGENET_DIR).iterdir():
        if source.stem in ("val", "test"):
            (images / source.name).symlink_to(source.resolve())
    different, count = bridge.different_images(images, 84, 3)
    assert different == 0 and count > 21_000


def test_one_pixel_is_a_difference():
    drawings = np.random.default_rng(0).integers(0, 2, (3, 20, 28, 28), np.uint8)
    changed = drawings.copy()
    changed[2, 19, 27, 27] ^= 1
    assert bridge.different(drawings, drawings) == 0
    assert bridge.different(drawings, changed) == 1
    assert bridge.different(drawings, drawings[:2]) == 60
