"""Tests the prepared copy of a folder of images: its contents, when it is made again, and its completeness."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

import reptile_jax
from reptile_jax.data import prepared as module
from reptile_jax.data.folders import describe
from reptile_jax.data.images import DataError
from reptile_jax.data.prepared import load, pixels, prepare, prepared
from reptile_jax.testing.small_images import FORMATS, encoded, members, write_folder, write_zip
from reptile_jax.testing.small_images import pixels as random_pixels
from reptile_jax.testing.small_runs import limit, wait_for

ANIMALS = {"cat": 3, "ant": 2, "bee": 70}  # the last in more than one chunk


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "reptile_jax" / "images"


@pytest.fixture
def folder(tmp_path):
    return write_folder(tmp_path / "animals", members(ANIMALS, formats=FORMATS, size=(9, 12)))


def split_of(folder, classes_of_sets, **options):
    for name, classes in classes_of_sets.items():
        write_folder(folder / name, members(classes, **options))
    return folder


def copies(cache):
    return sorted(path.parent for path in cache.glob("*/*/about.json"))


def refused(folder, *words, size=8):
    with pytest.raises(DataError) as error:
        prepared(folder, size, 3)
    assert "\n" not in str(error.value)
    for word in words:
        assert word in str(error.value), error.value


# Contents.


@pytest.mark.parametrize(("size", "channels"), [(8, 3), (10, 1)])
def test_all_images_in_the_order_of_their_names(folder, size, channels):
    copy = prepared(folder, size, channels)
    assert copy.sets == {"": ANIMALS} and list(copy.sets[""]) == sorted(ANIMALS)
    files = sorted(folder.glob("*/*"))
    expected = np.stack([prepare(Image.open(file), size, channels) for file in files])
    images = pixels(copy)
    assert isinstance(images, np.memmap) and not images.flags.writeable
    np.testing.assert_array_equal(images, expected)


def test_a_set_after_the_other(tmp_path):
    sets = {"val": {"x": 2}, "train": {"z": 1, "y": 3}, "test": {"a": 2}}
    copy = prepared(split_of(tmp_path / "images", sets), 8, 3)
    assert json.dumps(copy.sets) == '{"train": {"y": 3, "z": 1}, "validation": {"x": 2}, "test": {"a": 2}}'
    paths = [tmp_path / "images" / part for part in ("train/y", "train/z", "val/x", "test/a")]
    files = [file for path in paths for file in sorted(path.iterdir())]
    np.testing.assert_array_equal(pixels(copy), np.stack([np.asarray(Image.open(file)) for file in files]))


def test_zip_files_hold_the_same(tmp_path):
    contents = {name: members({name: 3, name + "2": 70}) for name in ("train", "test")}
    folder = tmp_path / "zips"
    write_zip(folder / "train.zip", contents["train"], "train/")
    write_zip(folder / "test.zip", contents["test"])
    write_folder(tmp_path / "folders" / "train", contents["train"])
    write_folder(tmp_path / "folders" / "test", contents["test"])
    zipped, plain = prepared(folder, 8, 3), prepared(tmp_path / "folders", 8, 3)
    np.testing.assert_array_equal(pixels(zipped), pixels(plain))
    assert (zipped.sets, zipped.fingerprint) == (plain.sets, plain.fingerprint)


def config_of(folder, size=8, channels=3):
    return ConfigDict({"dir": str(folder), "size": size, "channels": channels})


@pytest.mark.parametrize("sets", [{"train": {"b": 1, "c": 3}, "val": {"a": 2}, "test": {"d": 70}}, {"": ANIMALS}])
def test_loaded_as_described(tmp_path, sets):
    data = config_of(split_of(tmp_path / "images", sets))
    described, images = describe(data), load(data)
    assert (images.names, images.sets, tuple(images.counts)) == (described.names, described.sets, described.counts)
    named = {} if "" in sets else {"train": ("b", "c"), "validation": ("a",), "test": ("d",)}
    assert {name: tuple(images.names[i] for i in places) for name, places in (images.sets or {}).items()} == named
    assert images.first.dtype == images.counts.dtype == np.int32 and images.pixels.shape[1:] == (8, 8, 3)
    assert images.counts.sum() == len(images.pixels)
    paths = {path.name: path for path in (tmp_path / "images").rglob("*") if path.is_dir()}
    for name, first, count in zip(images.names, images.first, images.counts, strict=True):
        expected = [np.asarray(Image.open(file)) for file in sorted(paths[name].iterdir())]
        np.testing.assert_array_equal(images.pixels[first : first + count], expected)
    assert images.fingerprint == prepared(tmp_path / "images", 8, 3).fingerprint


# When it is made.


def test_made_once_and_found_again(folder, cache, capsys):
    first = prepared(folder, 8, 3)
    shown = capsys.readouterr().err
    assert f"Preparing the images of {folder} in {first.path}, once\n" in shown and "75/75" in shown
    times = [path.stat().st_mtime_ns for path in sorted(first.path.iterdir())]
    assert prepared(folder, 8, 3) == first
    assert capsys.readouterr().err == ""
    assert [path.stat().st_mtime_ns for path in sorted(first.path.iterdir())] == times
    assert copies(cache) == [first.path]


def test_a_copy_for_each_size_and_number_of_channels(folder, cache):
    made = {prepared(folder, size, channels).path for size, channels in ((8, 3), (8, 1), (9, 3))}
    assert set(copies(cache)) == made and len(made) == 3


def test_a_changed_folder_is_prepared_anew_in_place_of_the_old(folder, cache):
    before = prepared(folder, 8, 3)
    mapped = pixels(before)
    image = folder / "cat" / "000.png"
    image.write_bytes(encoded(random_pixels(1)))
    after = prepared(folder, 8, 3)
    assert copies(cache) == [after.path] and after.path != before.path
    assert after.fingerprint != before.fingerprint
    np.testing.assert_array_equal(pixels(after)[72], np.asarray(Image.open(image)))
    assert mapped[72].shape == (8, 8, 3)  # a run that reads the old copy goes on
    image.unlink()
    assert prepared(folder, 8, 3).sets[""]["cat"] == 2


def test_the_cache_is_below_the_home_where_nothing_else_is_said(folder, tmp_path, monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert prepared(folder, 8, 3).path.is_relative_to(tmp_path / "home" / ".cache" / "reptile_jax" / "images")
    monkeypatch.chdir(tmp_path)
    assert prepared(Path("animals"), 8, 3) == prepared(folder, 8, 3)  # from any current folder


def test_a_copy_that_others_made_needs_no_right_to_write(folder, cache, monkeypatch):
    first = prepared(folder, 8, 3)
    monkeypatch.setattr(module, "lock", None)
    assert prepared(folder, 8, 3) == first


# The fingerprint.


def fingerprint(folder, contents, size=8, channels=3):
    return prepared(write_folder(folder, contents), size, channels).fingerprint


def test_the_fingerprint_is_of_names_and_pixels_alone(tmp_path):
    contents = members({"a": 3, "b": 2})
    first = fingerprint(tmp_path / "one", contents)
    assert fingerprint(tmp_path / "two" / "three", contents) == first  # in another place, at another time
    as_bmp = {}
    for name, content in contents.items():
        write_folder(tmp_path, {"image.png": content})
        as_bmp[name.replace(".png", ".bmp")] = encoded(np.asarray(Image.open(tmp_path / "image.png")), "bmp")
    assert fingerprint(tmp_path / "bmp", as_bmp) == first


def test_every_change_of_names_and_pixels_changes_the_fingerprint(tmp_path):
    contents = members({"a": 3, "b": 2})
    image = np.array(Image.open(write_folder(tmp_path, {"image.png": contents["a/001.png"]}) / "image.png"))
    image[7, 7, 2] ^= 1
    other_split = {f"{'train' if name[0] == 'a' else 'test'}/{name}": data for name, data in contents.items()}
    swapped = {"train/": "test/", "test/": "train/"}
    variants = [
        contents,
        contents | {"a/001.png": encoded(image)},  # one bit
        {name.replace("b/", "c/"): content for name, content in contents.items()},
        contents | {"a/000.png": contents["a/001.png"], "a/001.png": contents["a/000.png"]},
        {name: content for name, content in contents.items() if name != "b/001.png"},
        {name.replace("a/002.png", "b/-.png"): content for name, content in contents.items()},  # the same rows
        other_split,
        {swapped.get(name[:-9], name[:-9]) + name[-9:]: data for name, data in other_split.items()},
    ]
    prints = [fingerprint(tmp_path / str(number), variant) for number, variant in enumerate(variants)]
    prints += [fingerprint(tmp_path / "0", {}, 9, 3), fingerprint(tmp_path / "0", {}, 8, 1)]
    assert len(set(prints)) == len(prints)


# Errors.


def test_no_folder_is_named():
    for function in (describe, load):
        with pytest.raises(DataError, match=r"--config\.data\.dir=DIR"):
            function(config_of(""))


def test_a_folder_that_changes_after_it_was_described(folder):
    data = config_of(folder)
    load(data)
    describe(data)
    (folder / "cat" / "000.png").unlink()
    with pytest.raises(DataError, match=f"{folder} changed after"):
        load(data)
    describe(data)
    assert load(data).counts.tolist() == [2, 70, 2]


@pytest.mark.parametrize("content", [b"no image", encoded(random_pixels(0, 64, 64), "jpeg")[:1500]])
def test_a_bad_image_is_named_and_nothing_is_left(folder, cache, content):
    (folder / "bee" / "033.png").write_bytes(content)
    refused(folder, f"{folder}/bee/033.png")
    assert [path.name for path in cache.glob("*/*")] == ["lock"]
    (folder / "bee" / "033.png").unlink()
    assert prepared(folder, 8, 3).sets[""]["bee"] == 70


def test_a_bad_image_in_a_zip_file_is_named(tmp_path):
    write_zip(tmp_path / "images" / "train.zip", members({"a": 2}) | {"a/x.png": b"no image"})
    write_folder(tmp_path / "images" / "test", members({"b": 2}))
    refused(tmp_path / "images", f"{tmp_path}/images/train.zip/a/x.png is not a PNG")


def test_a_damaged_member_of_a_zip_file_is_named(tmp_path):
    path = write_zip(tmp_path / "images" / "train.zip", members({"a": 2}))
    write_folder(tmp_path / "images" / "test", members({"b": 2}))
    content = bytearray(path.read_bytes())
    content[100] ^= 64  # in the first image
    path.write_bytes(content)
    refused(tmp_path / "images", f"{path}/a/000.png cannot be read")


@pytest.mark.skipif(os.geteuid() == 0, reason="the administrator may read everything")
def test_a_file_that_may_not_be_read(folder):
    (folder / "cat" / "000.png").chmod(0)
    refused(folder, f"{folder}/cat/000.png cannot be read (Permission denied)")


def test_a_folder_that_changes_meanwhile(folder, cache, monkeypatch):
    write = module._write

    def slow(*arguments):
        about = write(*arguments)
        (folder / "cat" / "new.png").write_bytes(b"?")
        return about

    monkeypatch.setattr(module, "_write", slow)
    refused(folder, f"{folder} changed while it was being prepared")
    assert copies(cache) == []


def test_a_cache_that_cannot_be_written(folder, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    refused(folder, "cannot be written", "Not a directory", "XDG_CACHE_HOME")


@pytest.mark.parametrize("name", ["pixels.npy", "about.json"])
@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_bytes(path.read_bytes()[:100])])
def test_a_damaged_copy_names_the_folder_to_delete(folder, name, damage):
    copy = prepared(folder, 8, 3)
    damage(copy.path / name)
    with pytest.raises(DataError, match=f"{copy.path} is damaged: delete it") as error:
        pixels(prepared(folder, 8, 3))
    assert "\n" not in str(error.value)
    shutil.rmtree(copy.path)
    assert len(pixels(prepared(folder, 8, 3))) == 75


# Interruptions, and several runs at once.

RUN = """
import os, sys, time
from pathlib import Path
from reptile_jax.data import prepared as module
from reptile_jax.data.folders import describe
from reptile_jax.data.images import DataError
write_text = module.replace_text
def gate(*arguments):  # all images are written, but the copy is not marked as complete
    if folder := os.environ.get("TEST_GATE"):
        Path(folder, "inside").touch()
        while not Path(folder, "go").exists():
            time.sleep(0.01)
    write_text(*arguments)
module.replace_text = gate
try:
    print(module.prepared(Path(sys.argv[1]), 8, 3).fingerprint)
except DataError as error:
    sys.exit(f"error: {error}")
"""


def start(folder, code=RUN, **env):
    env = {**os.environ, "PYTHONPATH": str(Path(reptile_jax.__file__).parents[1]), **env}
    command = [sys.executable, "-c", code, str(folder)]
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_killed_in_the_middle_the_next_start_prepares_afresh(folder, cache, tmp_path):
    process = start(folder, TEST_GATE=str(tmp_path))
    wait_for((tmp_path / "inside").exists, process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    (leftover,) = cache.glob("*/unfinished/pixels.npy")
    assert leftover.stat().st_size > 75 * 8 * 8 * 3  # otherwise this test would show nothing
    copy = prepared(folder, 8, 3)
    assert copies(cache) == [copy.path] and not leftover.exists()


def test_two_runs_at_once_prepare_once_and_both_end_well(folder, tmp_path):
    first = start(folder, TEST_GATE=str(tmp_path))
    wait_for((tmp_path / "inside").exists, first)
    second = start(folder)
    assert "waiting for it" in second.stderr.readline()
    assert second.poll() is None
    (tmp_path / "go").touch()
    outputs = [first.communicate(), second.communicate()]
    assert [process.returncode for process in (first, second)] == [0, 0], outputs
    assert "Preparing" not in outputs[1][1]
    assert outputs[0][0] == outputs[1][0] == prepared(folder, 8, 3).fingerprint + "\n"


def test_no_space(folder, cache):
    process = start(folder, code=limit(1000) + RUN)
    _, err = process.communicate()
    assert process.returncode == 1
    last = err.splitlines()[-1]
    assert f"error: a prepared copy of {folder} cannot be written (File too large)" in last, err
    assert "Traceback" not in err and copies(cache) == [] and not list(cache.glob("*/unfinished"))


def test_preparing_needs_neither_jax_nor_tensorflow(folder):
    process = start(folder, code=RUN + 'assert "tensorflow" not in sys.modules and "jax" not in sys.modules')
    _, err = process.communicate()
    assert process.returncode == 0, err


# Mini-ImageNet.

REAL = os.environ.get("REPTILE_MINIIMAGENET", "")


@pytest.mark.skipif(not REAL, reason="REPTILE_MINIIMAGENET=DIR, a folder with train/, val/ and test/, is not set")
def test_real_mini_imagenet_is_complete():
    copy = prepared(Path(REAL), 84, 3)
    assert {name: len(classes) for name, classes in copy.sets.items()} == {"train": 64, "validation": 16, "test": 20}
    counts = [count for classes in copy.sets.values() for count in classes.values()]
    assert min(counts) >= 597 and max(counts) <= 600  # those of the released code's copy, and all
    images = pixels(copy)
    assert images.shape == (sum(counts), 84, 84, 3)
    assert len({image.tobytes() for image in images}) > 0.99 * len(images)
    assert 0.4 < images[::10].mean() / 255 < 0.5  # as photographs are
