"""Tests what a run puts on the devices: the images of the sets that it needs, and the places of each seed's classes."""

import numpy as np
import pytest
from PIL import Image

from configs import images as config_file
from reptile_jax.config import validate
from reptile_jax.data import DataError
from reptile_jax.devices import mesh_of
from reptile_jax.tasks import images
from reptile_jax.testing.small_images import members, write_folder

SETS = {"train": {"a": 3, "b": 5}, "val": {"c": 4, "d": 2}, "test": {"e": 6, "f": 3}}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "images"


def config_of(folder, **fields):
    config = config_file.get_config()
    config.update_from_flattened_dict({"data.dir": str(folder), "data.size": 8, **fields})
    return config


def check(folder, config, sets):
    """Checks names and pixels of every class of every seed against the files; returns the loaded data."""
    data = images.load(config, mesh_of(config))
    pixels, classes = data.source
    assert list(data.pools) == sets
    for seed, names in enumerate(data.names):
        for name, first, count in zip(names, classes.first[seed], classes.counts[seed], strict=True):
            label, turn = name.split("/rot") if "/" in name else (name, "0")
            (place,) = folder.rglob(label)
            expected = [np.rot90(np.asarray(Image.open(file)), int(turn) // 90) for file in sorted(place.iterdir())]
            np.testing.assert_array_equal(pixels[first : first + count], expected)
    return data


@pytest.mark.parametrize(
    ("eval_set", "sets", "rows"),
    [("auto", ["train", "validation"], 14), ("test", ["train", "test", "validation"], 23)],
)
def test_only_the_sets_that_a_run_needs_are_loaded(folder, eval_set, sets, rows):
    for name, classes in SETS.items():
        write_folder(folder / name, members(classes))
    data = check(folder, config_of(folder, eval_set=eval_set), sets)
    assert len(data.source[0]) == rows
    assert data.names[0][:4] == ("a", "b", *(("c", "d") if eval_set == "auto" else ("e", "f")))


def test_images_that_are_gone_after_the_config_was_checked(folder):
    """Otherwise a task would ask for more images of a class than it has."""
    for name, letters in (("train", "abcde"), ("test", "fghij")):
        write_folder(folder / name, members(dict.fromkeys(letters, 11)))
    config = config_of(folder)
    validate(config)
    for i in range(9):
        (folder / "train" / "a" / f"{i:03d}.png").unlink()
    with pytest.raises(DataError, match="changed after its classes were counted"):
        images.load(config, mesh_of(config))


def test_each_seed_has_a_split_of_its_own(folder):
    write_folder(folder, members({name: count for classes in SETS.values() for name, count in classes.items()}))
    config = config_of(folder, num_seeds=3, **{"data.train_classes": 4})
    data = check(folder, config, ["train", "test"])
    assert len(data.source[0]) == 23 and len(set(data.names)) > 1
    assert all(sorted(names) == list("abcdef") for names in data.names)


def test_training_classes_are_turned_where_that_is_asked_for(folder):
    for name, classes in SETS.items():
        write_folder(folder / name, members(classes))
    data = check(folder, config_of(folder, **{"data.rotations": True}), ["train", "validation"])
    assert data.names[0] == (*(f"{name}/rot{turn:03d}" for name in "ab" for turn in (0, 90, 180, 270)), "c", "d")
