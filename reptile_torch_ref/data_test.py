"""Tests the split and the rotations; with REPTILE_OMNIGLOT=DIR, also compares drawings with the archives' images."""

import io
import os
import random
import shutil
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from reptile_torch_ref import data

ARCHIVES = os.environ.get("REPTILE_OMNIGLOT", "")


def some_images(characters: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 2, (characters, 20, 28, 28), dtype=np.uint8)


def test_split_shuffles_by_seed_and_holds_out_from_the_end_of_the_training_characters() -> None:
    images = some_images(9)
    order = list(range(9))
    random.Random(7).shuffle(order)
    split = data.split(images, 6, seed=7, validation_classes=2)
    np.testing.assert_array_equal(split.train.numpy()[::4], images[order[:4]])
    np.testing.assert_array_equal(split.validation.numpy(), images[order[4:6]])
    np.testing.assert_array_equal(split.test.numpy(), images[order[6:]])


def test_without_validation_all_training_characters_train() -> None:
    split = data.split(some_images(9), 6, seed=0)
    assert [len(part) for part in split] == [24, 0, 3]


@pytest.mark.parametrize("held_out", [-1, 6])
def test_a_split_that_leaves_nothing_or_mixes_is_an_error(held_out: int) -> None:
    with pytest.raises(ValueError, match=f"validation_classes={held_out}"):
        data.split(some_images(9), 6, seed=0, validation_classes=held_out)


def test_rotations_are_exact_counter_clockwise_and_character_major() -> None:
    train = data.split(some_images(4), 3, seed=0).train.numpy()
    for character in range(3):
        upright = train[4 * character]
        for quarter in range(4):
            np.testing.assert_array_equal(train[4 * character + quarter], np.rot90(upright, quarter, axes=(1, 2)))


def test_ink_at_the_top_right_goes_to_the_top_left() -> None:
    images = np.ones((1, 20, 28, 28), np.uint8)
    images[:, :, 0, 27] = 0
    turned = data.split(images, 1, seed=0).train[1, 0].numpy()
    assert np.argwhere(turned == 0).tolist() == [[0, 0]]


def test_an_archive_is_judged_by_its_content(tmp_path: Path) -> None:
    for half in ("images_background", "images_evaluation"):
        with zipfile.ZipFile(tmp_path / f"{half}.zip", "w") as archive:
            archive.writestr(f"{half}/Greek/character01/0001_01.png", b"")
    with pytest.raises(ValueError, match="images_background is damaged"):
        data.load_omniglot(str(tmp_path))


def test_a_missing_archive_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"images_background\.zip"):
        data.load_omniglot(str(tmp_path))


@pytest.mark.parametrize("zipped", [False, True])
def test_images_of_folders_and_zip_files(tmp_path: Path, zipped: bool) -> None:
    colours = {"train/red/1.png": (255, 0, 0), "train/blue/1.gif": (0, 0, 255), "test/grey/.hidden": (0, 0, 0)}
    colours |= {"test/grey/1.png": (9, 9, 9), "test/grey/2.bmp": (7, 7, 7)}
    for name, colour in colours.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (30, 20), colour).save(tmp_path / name, (tmp_path / name).suffix[1:] or "png")
    if zipped:
        shutil.make_archive(str(tmp_path / "zips" / "train"), "zip", tmp_path, "train")
        shutil.make_archive(str(tmp_path / "zips" / "test"), "zip", tmp_path / "test")
        tmp_path = tmp_path / "zips"
    found = data.load_images(tmp_path, 6, 3)
    assert list(found) == ["train", "test"]
    assert (found["train"].names, found["train"].targets.tolist()) == (["blue", "red"], [0, 1])
    assert (found["test"].names, found["test"].targets.tolist()) == (["grey"], [0, 0])
    assert found["train"].pixels.shape == (2, 6, 6, 3)
    assert (found["train"].pixels[0].numpy() == [0, 0, 255]).all()
    assert found["test"].pixels[:, 0, 0, 0].tolist() == [9, 7]
    assert (data.load_images(tmp_path, 6, 1)["train"].pixels[1] == 76).all()  # 0.299 of 255


def test_images_to_be_split_by_seed(tmp_path: Path) -> None:
    for name in ("b", "a"):
        (tmp_path / name).mkdir()
        Image.new("L", (6, 6), 200).save(tmp_path / name / "1.png")
    found = data.load_images(tmp_path, 6, 3)
    assert list(found) == [""] and found[""].names == ["a", "b"]
    assert (found[""].pixels == 200).all()


def test_classes_of_images_are_those_of_the_folders_or_split_by_seed() -> None:
    counts, names = [3, 1, 4, 2, 5], list("abcde")
    targets = torch.tensor([i for i, count in enumerate(counts) for _ in range(count)])
    images = data.Images(targets[:, None, None, None].to(torch.uint8).expand(-1, 2, 2, 3), names, targets)
    given = data.split_images({"train": images, "test": images}, 0, 0)
    assert [len(x) for x in given.train] == counts and given.validation == [] and len(given.test) == 5
    order = list(range(5))
    random.Random(1).shuffle(order)
    by_seed = data.split_images({"": images}, 0, 1, validation_classes=1)
    assert [[int(x[0, 0, 0, 0]) for x in classes] for classes in by_seed] == [order[:3], order[3:4], order[4:]]
    assert all(len(x) == counts[i] for i, x in zip(order[:3], by_seed.train, strict=True))
    assert [len(classes) for classes in data.split_images({"": images}, 2, 1)] == [2, 0, 3]


def test_an_unknown_data_set_is_an_error() -> None:
    with pytest.raises(ValueError, match="omniglott"):
        data.load(SimpleNamespace(name="omniglott"), 0)


def test_the_number_of_training_characters_counts_and_characters_are_turned() -> None:
    fields = {"name": "glyphs", "train_classes": 30, "validation_classes": 10}
    sizes = [len(classes) for classes in data.load(SimpleNamespace(**fields, rotations=True), 0)]
    assert sizes == [4 * 20, 10, 470]
    with pytest.raises(ValueError, match=r"data\.rotations=False: this implementation turns characters"):
        data.load(SimpleNamespace(**fields, rotations=False), 0)


@pytest.mark.skipif(not ARCHIVES, reason="REPTILE_OMNIGLOT does not name a folder with Omniglot's two archives")
def test_real_omniglot_is_what_pillow_reads_from_the_archives() -> None:
    images, names = data.load_omniglot(ARCHIVES)
    assert images.shape == (1623, 20, 28, 28)
    assert images.dtype == np.uint8
    members: dict[tuple[str, str], list[tuple[str, zipfile.ZipFile]]] = {}
    for half in ("images_background", "images_evaluation"):
        archive = zipfile.ZipFile(Path(ARCHIVES, f"{half}.zip"))
        for member in sorted(name for name in archive.namelist() if name.endswith(".png")):
            _, alphabet, character, _ = member.split("/")
            members.setdefault((alphabet, character), []).append((member, archive))
    assert names == ["/".join(key) for key in sorted(members)]
    for row in range(0, 1623, 50):
        for column in (0, 7, 19):
            member, archive = members[tuple(names[row].split("/"))][column]  # type: ignore[index]
            drawing = Image.open(io.BytesIO(archive.read(member)))
            assert drawing.mode == "1"
            np.testing.assert_array_equal(images[row, column], np.asarray(drawing.resize((28, 28))))
    # Far more paper than ink, and paper is 1.
    assert 0.85 < images.mean() < 0.97
