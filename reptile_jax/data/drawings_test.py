"""Tests that a person's drawing becomes like the characters that the weights were trained on."""

import io

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageOps

from reptile_jax.data import DATA_SETS
from reptile_jax.data.drawings import otsu, prepare_drawing
from reptile_jax.data.glyphs import TRAIN_CHARACTERS

HOUSE = [(0.2, 0.8), (0.2, 0.45), (0.5, 0.2), (0.8, 0.45), (0.8, 0.8), (0.2, 0.8)]


def house(size, pen, ink=0, paper=255):
    """Draws a house with one line; its corners are at fixed shares of the size."""
    image = Image.new("L", (size, size), paper)
    points = [(size * x, size * y) for x, y in HOUSE]
    ImageDraw.Draw(image).line(points, ink, pen, joint="curve")
    return image


def drawn(image):
    result = prepare_drawing(image)
    assert result.shape == (28, 28, 1) and result.dtype == np.uint8 and set(result.ravel()) == {0, 1}
    return result[..., 0]


def differing(a, b):
    """Returns the share of the ink in one drawing that is not on or next to ink in the other."""

    def near(ink):
        room = np.pad(ink, 1)
        return np.any([room[1 + y : 29 + y, 1 + x : 29 + x] for y in (-1, 0, 1) for x in (-1, 0, 1)], axis=0)

    a, b = a == 0, b == 0
    return ((a & ~near(b)).sum() + (b & ~near(a)).sum()) / (a.sum() + b.sum())


def test_a_drawing_like_omniglots_is_prepared_as_omniglot_was():
    """A one-bit drawing with Omniglot's size, place and pen: every pixel is the nearest pixel of the original."""
    character = house(105, 6).convert("1").crop((17, 17, 88, 88))  # ends where the ink ends
    ink = ~np.asarray(character)
    character = character.crop((*np.argwhere(ink).min(0)[::-1], *(np.argwhere(ink).max(0)[::-1] + 1)))
    character = character.resize((67, 67))
    canvas = Image.new("1", (105, 105), 1)
    canvas.paste(character, (19, 19))
    wanted = np.asarray(canvas.resize((28, 28), Image.NEAREST), np.uint8)
    np.testing.assert_array_equal(drawn(canvas), wanted)
    assert differing(np.roll(wanted, 4, 0), wanted) > 0.2, "a check that cannot fail"


@pytest.mark.parametrize(("size", "corner"), [(105, (0, 0)), (40, (0, 60)), (25, (70, 35)), (60, (40, 40))])
def test_size_and_place_do_not_matter(size, corner):
    page = Image.new("L", (420, 420), 255)
    page.paste(house(4 * size, max(4, size // 5)), tuple(4 * x for x in corner))
    wanted = drawn(house(105, 5))
    assert differing(drawn(page), wanted) < 0.05
    if size < 105:
        assert differing(np.asarray(page.convert("1").resize((28, 28)), np.uint8), wanted) > 0.2
    rows, columns = (np.flatnonzero((drawn(page) == 0).any(axis)) for axis in (1, 0))
    assert 16 <= max(np.ptp(rows), np.ptp(columns)) + 1 <= 19  # 67 of 105 is 17.9 of 28


def test_a_dot_is_a_drawing():
    page = Image.new("L", (50, 50), 255)
    page.putpixel((3, 40), 0)
    assert 0 < np.mean(drawn(page) == 0) < 0.5


def test_a_drawing_of_the_size_stays():
    for drawing in DATA_SETS["glyphs"].load(None).pixels[TRAIN_CHARACTERS * 20 :][::400, :, :, 0]:
        np.testing.assert_array_equal(drawn(Image.fromarray(255 * drawing)), drawing)


@pytest.mark.parametrize(("size", "pen"), [(105, 1), (105, 3), (600, 2), (600, 6), (1200, 1), (1200, 4), (300, 20)])
def test_no_line_is_lost_whatever_the_pen(size, pen):
    wanted = drawn(house(105, 5))
    result = drawn(house(size, pen))
    assert differing(result, wanted) < 0.05
    assert 0.6 < np.mean(result == 0) / np.mean(wanted == 0) < 2
    if pen < size / 100:
        nearest = np.asarray(house(size, pen).convert("1").resize((28, 28)), np.uint8)
        assert differing(nearest, wanted) > 0.05 or np.mean(nearest == 0) < 0.4 * np.mean(wanted == 0)


def test_light_on_dark_grey_ink_and_noise_are_the_same_drawing():
    wanted = drawn(house(300, 15))
    np.testing.assert_array_equal(drawn(house(300, 15, ink=255, paper=0)), wanted)
    np.testing.assert_array_equal(drawn(house(300, 15, ink=120, paper=200)), wanted)
    noise = np.random.default_rng(0).normal(0, 15, (300, 300))
    noisy = np.clip(np.asarray(house(300, 15, 60, 190)) + noise, 0, 255).astype(np.uint8)
    assert differing(drawn(Image.fromarray(noisy)), wanted) == 0
    assert differing(drawn(house(300, 15).transpose(Image.Transpose.FLIP_TOP_BOTTOM)), wanted) > 0.2


def test_transparency_turns_and_margins():
    wanted = drawn(house(300, 15))
    ink = ImageOps.invert(house(300, 15))
    transparent = Image.merge("LA", (Image.new("L", ink.size, 30), ink))
    np.testing.assert_array_equal(drawn(transparent), wanted)
    turned = house(300, 15).transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6  # must be turned clockwise to be upright
    file = io.BytesIO()
    turned.convert("RGB").save(file, "PNG", exif=exif)
    np.testing.assert_array_equal(drawn(Image.open(file)), wanted)
    narrow = house(300, 15).crop((45, 0, 255, 300))  # as wide as the house: the margins are added again
    np.testing.assert_array_equal(drawn(narrow), wanted)


def test_what_has_no_ink():
    with pytest.raises(ValueError, match="only one brightness"):
        prepare_drawing(Image.new("RGB", (50, 50), "white"))


def test_a_line_that_is_very_long():
    """The square around it would take gigabytes."""
    line = Image.new("L", (16_000, 3), 255)
    line.putpixel((0, 1), 0)
    line.putpixel((15_999, 1), 0)
    with pytest.raises(ValueError, match="the drawing in it is 16000x1 pixels large: give at most 10000"):
        prepare_drawing(line)


def test_the_threshold_parts_the_groups_most():
    """Compares with the smallest variance within the groups, tried at every brightness."""
    rng = np.random.default_rng(0)
    grey = np.concatenate([rng.normal(70, 20, 200), rng.normal(180, 25, 2000)]).clip(0, 255).astype(np.uint8)
    within = {t: sum(part.size * part.var() for part in (grey[grey <= t], grey[grey > t])) for t in range(40, 220)}
    assert otsu(grey) == min(within, key=within.get)
