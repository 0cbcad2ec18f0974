"""Tests the archive reader on small archives with every kind of damage; `omniglot_test.py` reads the real ones."""

import io
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from reptile_jax.data.images import DataError
from reptile_jax.data.omniglot_archive import BACKGROUND, EVALUATION, read_archive
from reptile_jax.testing.small_omniglot import SMALL, members, png, write_zip

CURE = "get it again"


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    return write_zip(tmp_path_factory.mktemp("sound") / "images_small.zip", members())


def problem(path, archive=SMALL):
    """Returns the line of the error that reading `path` raises."""
    with pytest.raises(DataError) as error:
        read_archive(path, archive, CURE)
    text = str(error.value)
    assert "\n" not in text and str(path) in text and text.endswith(f": {CURE}")
    return text


def test_reads_as_the_released_code_does(sound):
    contents = members()
    drawings = read_archive(sound, SMALL, CURE)
    assert list(drawings) == ["Alpha/character01", "Beta/character01", "Beta/character02"]
    for label, name in enumerate(drawings):
        assert drawings[name].shape == (20, 28, 28)
        assert drawings[name].dtype == np.uint8
        for number in range(1, 21):
            data = contents[f"images_small/{name}/{label:04d}_{number:02d}.png"]
            expected = np.array(Image.open(io.BytesIO(data)).resize((28, 28))).astype("float32")
            np.testing.assert_array_equal(drawings[name][number - 1], expected)
    assert set(np.unique(drawings["Alpha/character01"])) == {0, 1}


def test_ink_is_0_and_paper_1(tmp_path):
    blank = io.BytesIO()
    Image.new("1", (105, 105), 1).save(blank, "PNG")
    contents = members()
    contents["images_small/Alpha/character01/0000_01.png"] = blank.getvalue()
    drawings = read_archive(write_zip(tmp_path / "a.zip", contents), SMALL, CURE)
    assert drawings["Alpha/character01"][0].min() == 1


def test_the_order_of_members_does_not_matter(sound, tmp_path):
    contents = list(members().items())
    np.random.default_rng(0).shuffle(contents)
    shuffled = read_archive(write_zip(tmp_path / "a.zip", dict(contents)), SMALL, CURE)
    for (name, images), (other_name, other_images) in zip(
        read_archive(sound, SMALL, CURE).items(), shuffled.items(), strict=True
    ):
        assert name == other_name
        np.testing.assert_array_equal(images, other_images)


def test_what_an_operating_system_adds_is_passed_over(tmp_path):
    contents = {
        "images_small/": b"",
        "images_small/.DS_Store": b"x",
        "__MACOSX/images_small/._Alpha": b"x",
        **members(),
    }
    assert len(read_archive(write_zip(tmp_path / "a.zip", contents), SMALL, CURE)) == 3


def test_published_numbers():
    assert (len(BACKGROUND.alphabets), len(BACKGROUND.characters())) == (30, 964)
    assert (len(EVALUATION.alphabets), len(EVALUATION.characters())) == (20, 659)
    assert len({*BACKGROUND.alphabets, *EVALUATION.alphabets}) == 50


def test_missing_archive(tmp_path):
    assert "there is no " in problem(tmp_path / "images_small.zip")


def test_a_folder_in_its_place(tmp_path):
    assert "cannot be read (Is a directory)" in problem(tmp_path)


@pytest.mark.parametrize("content", [b"", b"<html>404 Not Found</html>", b"PK\x03\x04 and no more"])
def test_no_zip_file(tmp_path, content):
    path = tmp_path / "images_small.zip"
    path.write_bytes(content)
    assert "is not a zip file" in problem(path)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.999])
def test_cut_short(sound, tmp_path, share):
    data = sound.read_bytes()
    path = tmp_path / "images_small.zip"
    path.write_bytes(data[: int(share * len(data))])
    assert "cut short" in problem(path)


def test_flipped_byte_in_a_drawing_names_it(sound, tmp_path):
    with zipfile.ZipFile(sound) as file:
        member = file.getinfo("images_small/Beta/character02/0002_07.png")
    data = bytearray(sound.read_bytes())
    data[member.header_offset + 30 + len(member.filename) + member.compress_size // 2] ^= 1
    path = tmp_path / "images_small.zip"
    path.write_bytes(data)
    text = problem(path)
    assert "Beta/character02/0002_07.png is damaged" in text


def test_a_flipped_byte_anywhere_is_an_error_or_without_effect(sound, tmp_path):
    expected = read_archive(sound, SMALL, CURE)
    original = sound.read_bytes()
    path = tmp_path / "images_small.zip"
    rng = np.random.default_rng(0)
    directory = zipfile.ZipFile(sound).start_dir
    # Every kind of field: the first local header, drawings, the end of the directory and its first entry.
    places = [*range(60), *rng.integers(0, directory, 40), *range(directory, directory + 90), *range(-22, 0)]
    errors = 0
    for place in places:
        data = bytearray(original)
        data[place] ^= 1 << rng.integers(8)
        path.write_bytes(data)
        try:
            drawings = read_archive(path, SMALL, CURE)
        except DataError as error:
            assert "\n" not in str(error)
            errors += 1
        else:
            assert list(drawings) == list(expected)
            assert all(np.array_equal(drawings[name], expected[name]) for name in expected)
    assert errors > len(places) / 2  # damage to time stamps, for example, has no effect


@pytest.mark.parametrize("name", ["../evil.png", "/etc/evil.png", "images_small/../../evil.png", "..\\evil.png"])
def test_a_path_that_climbs_out(tmp_path, name):
    text = problem(write_zip(tmp_path / "images_small.zip", {**members(), name: b"x"}))
    assert "leads out" in text and repr(name) in text
    assert [path.name for path in tmp_path.parent.rglob("evil*")] == []


def changed(tmp_path, change):
    contents = members()
    change(contents)
    return write_zip(tmp_path / "images_small.zip", contents)


SOME_DRAWING = "images_small/Beta/character01/0001_05.png"


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"not a picture", "is not a PNG image"),
        (b"", "is not a PNG image"),
        (png(0)[:60], "is not a PNG image"),
        (png(0, file_format="GIF", mode="L"), "is not a PNG image"),
        (png(0, size=(28, 28)), "one-bit 28x28, not one-bit 105x105"),
        (png(0, size=(105, 104)), "one-bit 105x104, not one-bit 105x105"),
        (png(0, mode="L"), "mode L 105x105, not one-bit 105x105"),
        (png(0, mode="RGB"), "mode RGB 105x105, not one-bit 105x105"),
    ],
)
def test_a_drawing_that_is_none(tmp_path, data, words):
    text = problem(changed(tmp_path, lambda contents: contents.update({SOME_DRAWING: data})))
    assert f"{SOME_DRAWING} is" in text and words in text


def test_a_png_with_a_damaged_body(tmp_path):
    data = png(0)
    header = data.index(b"IDAT") + 4
    length = struct.unpack(">I", data[header - 8 : header - 4])[0]
    body = zlib.compress(b"short")
    broken = data[: header - 8] + struct.pack(">I", len(body)) + b"IDAT" + body
    broken += struct.pack(">I", zlib.crc32(b"IDAT" + body)) + data[header + length + 4 :]
    text = problem(changed(tmp_path, lambda contents: contents.update({SOME_DRAWING: broken})))
    assert f"{SOME_DRAWING} is not a PNG image" in text


def test_a_missing_drawing(tmp_path):
    assert "drawing 05 of Beta/character01 is missing" in problem(
        changed(tmp_path, lambda contents: contents.pop(SOME_DRAWING))
    )


def test_a_missing_character(tmp_path):
    def remove(contents):
        for name in [name for name in contents if "Beta/character01" in name]:
            del contents[name]

    assert ": Beta/character01 is missing" in problem(changed(tmp_path, remove))


def test_a_missing_alphabet(tmp_path):
    def remove(contents):
        for name in [name for name in contents if "Alpha" in name]:
            del contents[name]

    assert ": Alpha/character01 is missing" in problem(changed(tmp_path, remove))


@pytest.mark.parametrize("name", ["Gamma/character01", "Beta/character03"])
def test_a_character_too_many(tmp_path, name):
    path = changed(tmp_path, lambda contents: contents.update({f"images_small/{name}/0003_01.png": png(0)}))
    assert f"{name} is not a character of this archive" in problem(path)


@pytest.mark.parametrize("name", ["0001_21.png", "0001_00.png", "0099_05.png"])
def test_a_drawing_too_many(tmp_path, name):
    path = changed(tmp_path, lambda contents: contents.update({f"images_small/Beta/character01/{name}": png(0)}))
    text = problem(path)
    assert "Beta/character01 has a drawing" in text and name in text


def test_the_two_archives_swapped(tmp_path, sound):
    text = problem(Path(sound), EVALUATION)
    assert ": Angelic/character01 is missing" in text
