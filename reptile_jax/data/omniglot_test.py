"""Tests preparing and reading Omniglot, with small archives for all errors, and with the real ones if available."""

import io
import os
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

import reptile_jax
from reptile_jax.data import omniglot
from reptile_jax.data.characters import as_images
from reptile_jax.data.images import DataError, split
from reptile_jax.data.omniglot_archive import BACKGROUND, EVALUATION
from reptile_jax.testing.small_omniglot import (
    ARCHIVES,
    URL,
    SmallOmniglot,
    copy_in,
    digest,
    half_done,
    load,
    members,
    refused,
    write_archives,
)
from reptile_jax.testing.small_runs import limit, wait_for


@pytest.fixture(scope="module")
def archives(tmp_path_factory):
    return write_archives(tmp_path_factory.mktemp("archives"))


RUN = """
import sys, hashlib
from reptile_jax.data import DataError
from reptile_jax.testing.small_omniglot import load
try:
    characters = load(*sys.argv[1:])
except DataError as error:
    sys.exit(f"error: {error}")
print(hashlib.sha256(characters.images.tobytes()).hexdigest())
"""


def start(data_dir, archives="", code=RUN, **env):
    """Starts loading in a separate process."""
    env = {**os.environ, "PYTHONPATH": str(Path(reptile_jax.__file__).parents[1]), **env}
    return subprocess.Popen(
        [sys.executable, "-c", code, str(data_dir), str(archives)],
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_prepared_from_archives_and_read_again_without_them(archives, tmp_path):
    prepared = load(tmp_path, archives)
    assert prepared.names == (
        *("Alpha/character01", "Alpha/character02", "Alpha/character03"),
        *("Beta/character01", "Beta/character02", "Gamma/character01"),
    )
    assert prepared.images.shape == (6, 20, 28, 28)
    assert prepared.images.dtype == np.uint8
    again = load(tmp_path)
    assert again.names == prepared.names
    np.testing.assert_array_equal(again.images, prepared.images)
    assert half_done(tmp_path) == [copy_in(tmp_path)]


def test_pictures_belong_to_their_names(archives, tmp_path):
    characters = load(tmp_path, archives)
    for archive_number, archive in enumerate(ARCHIVES.values()):
        for label, name in enumerate(archive.characters()):
            files = members(archive, archive_number)
            for number in range(1, 21):
                file = files[f"{archive.folder}/{'/'.join(name)}/{label:04d}_{number:02d}.png"]
                image = characters.images[characters.names.index("/".join(name)), number - 1]
                np.testing.assert_array_equal(image, np.asarray(Image.open(io.BytesIO(file)).resize((28, 28))))


def test_the_folder_is_tfdss(archives, tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))
    load("", archives)
    assert copy_in(tmp_path / "tfds").exists()
    load(tmp_path / "other", archives)
    assert copy_in(tmp_path / "other").exists()


def test_info_is_complete():
    info = omniglot.OmniglotCharacters(data_dir="/nowhere").info
    assert "Science" in info.citation and "1,623" in info.description
    assert info.homepage == "https://github.com/brendenlake/omniglot"
    assert info._info_proto.redistribution_info.license == "MIT"


def test_splits_are_recorded(archives, tmp_path):
    load(tmp_path, archives)
    splits = SmallOmniglot(data_dir=tmp_path).info.splits
    assert {name: split.num_examples for name, split in splits.items()} == {"background": 5, "evaluation": 1}


def test_the_checksums_are_the_published_ones():
    own = omniglot.OmniglotCharacters.url_infos
    assert set(own) == {BACKGROUND.url, EVALUATION.url}
    published = tfds.core.utils.tfds_path() / "url_checksums" / "omniglot.txt"
    lines = [line.split("\t") for line in published.read_text().splitlines()]
    theirs = {url: (int(size), checksum) for url, size, checksum, *_ in lines}
    for url, info in own.items():
        assert (info.size, info.checksum) == theirs[url]


def test_reading_is_silent_and_needs_neither_tensorflow_nor_network(archives, tmp_path):
    load(tmp_path, archives)
    offline = """
import socket
def refuse(*args): raise AssertionError("a connection was tried")
socket.socket.connect = socket.getaddrinfo = refuse
"""
    process = start(
        tmp_path, code=offline + RUN + 'assert "tensorflow" not in sys.modules and "jax" not in sys.modules'
    )
    out, err = process.communicate()
    assert (process.returncode, err) == (0, "")
    assert out.split() == [digest(load(tmp_path))]


def test_preparing_says_so_once_and_nothing_else(archives, tmp_path):
    out, err = start(tmp_path, archives).communicate()
    assert err == f"Preparing Omniglot in {copy_in(tmp_path)}, once\n"
    assert out.split() == [digest(load(tmp_path))]


# Archives.


def test_a_missing_archive_names_it_and_the_cure(tmp_path, archives):
    text = refused(tmp_path / "data", tmp_path)
    assert f"there is no {tmp_path}/images_background.zip" in text
    assert URL in text and "--config.data.archives" in text
    load(tmp_path / "data", archives)


@pytest.mark.parametrize("split", ["background", "evaluation"])
def test_a_bad_archive_leaves_nothing_and_the_next_start_works(split, archives, tmp_path):
    folder = tmp_path / "archives"
    folder.mkdir()
    for archive in ARCHIVES.values():
        whole = (archives / archive.file_name).read_bytes()
        (folder / archive.file_name).write_bytes(whole[:-100] if archive is ARCHIVES[split] else whole)
    assert ARCHIVES[split].file_name in refused(tmp_path / "data", folder)
    assert digest(load(tmp_path / "data", archives)) == digest(load(tmp_path / "other", archives))


# The prepared copy.


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 3])


def flip(path):
    content = bytearray(path.read_bytes())
    content[content.index(b"\n") if path.suffix == ".json" else 200] ^= 64
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [cut, flip, Path.unlink, lambda path: path.write_bytes(b"")])
@pytest.mark.parametrize("pattern", ["*background.array_record*", "*evaluation.array_record*", "dataset_info.json"])
def test_a_damaged_copy_names_the_folder_to_delete(damage, pattern, archives, tmp_path):
    load(tmp_path, archives)
    (file,) = copy_in(tmp_path).glob(pattern)
    damage(file)
    with pytest.raises(DataError, match=f"delete {copy_in(tmp_path)} and start again") as error:
        load(tmp_path, archives)
    assert "\n" not in str(error.value)


def test_a_copy_of_other_characters_is_refused(archives, tmp_path, monkeypatch):
    load(tmp_path, archives)
    background = ARCHIVES["background"]
    for alphabets in ({"Beta": 2, "Alpha": 4}, {"Beta": 3, "Alpha": 2}):  # with another number, and with another name
        changed = {**ARCHIVES, "background": background._replace(alphabets=alphabets)}
        monkeypatch.setattr(SmallOmniglot, "ARCHIVES", changed)
        with pytest.raises(DataError, match="background does not hold its"):
            load(tmp_path, archives)


# Interruptions, and several runs at once.


def test_killed_in_the_middle_the_next_start_prepares_afresh(archives, tmp_path):
    process = start(tmp_path, archives, TEST_GATE=str(tmp_path))
    wait_for((tmp_path / "inside").exists, process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    (leftover,) = half_done(tmp_path)
    assert leftover.name.startswith("incomplete.")  # otherwise this test would show nothing
    load(tmp_path, archives)
    assert half_done(tmp_path) == [copy_in(tmp_path)]


def test_a_killed_download_is_swept_away(archives, tmp_path):
    leftover = tmp_path / "downloads" / "small_omniglot" / "images_background.zip.tmp.0123"  # as TFDS names it
    leftover.mkdir(parents=True)
    (leftover / "images_background.zip").write_bytes(b"half of it")
    load(tmp_path, archives)
    assert half_done(tmp_path) == [copy_in(tmp_path)]


def test_two_runs_at_once_prepare_once_and_both_end_well(archives, tmp_path):
    first = start(tmp_path, archives, TEST_GATE=str(tmp_path))
    wait_for((tmp_path / "inside").exists, first)
    second = start(tmp_path, archives)
    assert "waiting for it" in second.stderr.readline()
    assert second.poll() is None
    (tmp_path / "go").touch()
    outputs = [first.communicate(), second.communicate()]
    assert [process.returncode for process in (first, second)] == [0, 0], outputs
    assert "Preparing" not in outputs[1][1]
    assert outputs[0][0] == outputs[1][0] == digest(load(tmp_path)) + "\n"


def test_many_runs_at_the_same_moment(archives, tmp_path):
    processes = [start(tmp_path, archives) for _ in range(3)]
    outputs = [process.communicate() for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], outputs
    assert sum("Preparing" in err for _, err in outputs) == 1
    assert len({out for out, _ in outputs}) == 1


def test_no_space(archives, tmp_path):
    process = start(tmp_path, archives, code=limit(1000) + RUN)
    _, err = process.communicate()
    assert process.returncode == 1
    assert f"error: Omniglot cannot be prepared in {tmp_path}" in err.splitlines()[-1]
    assert "File too large" in err and "--config.data.dir" in err and "Traceback" not in err
    assert half_done(tmp_path) == []
    load(tmp_path, archives)


def test_a_folder_that_cannot_be_written(archives, tmp_path):
    (tmp_path / "file").touch()
    text = refused(tmp_path / "file" / "data", archives)
    assert f"{tmp_path}/file/data (Not a directory)" in text and "--config.data.dir" in text


# The real archives.

REAL = os.environ.get("REPTILE_OMNIGLOT")
real = pytest.mark.skipif(not REAL, reason="REPTILE_OMNIGLOT=DIR, the folder of Omniglot's two archives, is not set")


@pytest.fixture(scope="session")
def prepared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("omniglot")
    omniglot.load(str(folder), REAL)
    return folder


@real
def test_real_omniglot_is_complete(prepared):
    characters = omniglot.load(str(prepared))
    assert characters.images.shape == (1623, 20, 28, 28)
    assert len({name.split("/")[0] for name in characters.names}) == 50
    assert list(characters.names) == sorted(characters.names, key=lambda name: name.split("/"))
    # No drawing is blank or black, and hardly any two are the same.
    ink = (characters.images == 0).mean((2, 3))
    assert ink.min() > 0 and ink.max() < 0.5
    assert len({image.tobytes() for image in characters.images.reshape(-1, 784)}) > 32000


@real
@pytest.mark.parametrize("archive", [BACKGROUND, EVALUATION])
def test_real_drawings_are_those_of_the_released_code(archive, prepared):
    characters = omniglot.load(str(prepared))
    with zipfile.ZipFile(Path(REAL, archive.file_name)) as file:
        for name in ("/".join(name) for name in archive.characters()[::100]):
            files = sorted(m for m in file.namelist() if f"/{name}/" in m and m.endswith(".png"))
            images = [np.array(Image.open(file.open(m)).resize((28, 28))).astype("float32") for m in files]
            np.testing.assert_array_equal(characters.images[characters.names.index(name)], np.stack(images))


@real
def test_real_split(prepared):
    images = as_images(omniglot.load(str(prepared)))
    sets = split(images, 1200, 100, 0)
    assert {name: len(classes) for name, classes in sets.items()} == {"train": 1100, "validation": 100, "test": 423}
    assert len(set(np.concatenate(list(sets.values())))) == len(images.names) == 1623
