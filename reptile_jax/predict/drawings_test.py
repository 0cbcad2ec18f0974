"""Tests shipped weights on test characters of real Omniglot, redrawn larger, smaller and with other pens."""

import io
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageOps

from reptile_jax.data import DATA_SETS
from reptile_jax.data.images import split
from reptile_jax.data.omniglot_archive import BACKGROUND, EVALUATION
from reptile_jax.predict.learner import Learner
from reptile_jax.testing.drawn import AROUND, skeleton

ARCHIVES = os.environ.get("REPTILE_OMNIGLOT", "")
CHARACTERS, DRAWINGS, TASKS = 20, 6, 30


def originals(names):
    """Returns one-bit images of 105x105, [characters][drawings]."""
    found = {}
    for archive in (BACKGROUND, EVALUATION):
        with zipfile.ZipFile(Path(ARCHIVES, archive.file_name)) as file:
            for name in names:
                files = sorted(m for m in file.namelist() if f"/{name}/" in m and m.endswith(".png"))
                if files:
                    found[name] = [Image.open(io.BytesIO(file.read(member))) for member in files[:DRAWINGS]]
    return [found[name] for name in names]


def redrawn(image, size, pen):
    """Redraws a character with another pen on another canvas."""
    lines = skeleton(~np.asarray(image))
    canvas = Image.new("L", (size, size), 255)
    brush, scale = ImageDraw.Draw(canvas), size / 105
    for y, x in np.argwhere(lines):
        here = ((x + 0.5) * scale, (y + 0.5) * scale)
        brush.circle(here, pen / 2, fill=0)
        for down, right in AROUND[1:5]:
            if lines[y + down : y + down + 1, x + right : x + right + 1].any():
                brush.line([here, (here[0] + right * scale, here[1] + down * scale)], 0, pen)
    return canvas


def accuracy(learner, drawings):
    """Returns the 5-way 1-shot accuracy in per cent, on the same tasks in each call; [characters, drawings, 28, 28]."""
    rng, right = np.random.default_rng(0), []
    for _ in range(TASKS):
        chosen = rng.choice(CHARACTERS, 5, replace=False)
        one, *others = rng.permutation(DRAWINGS)
        adapted = learner.adapt(drawings[chosen, one], np.arange(5))
        right.append(adapted.predict(drawings[chosen][:, others].reshape(-1, 28, 28)) == np.repeat(np.arange(5), 5))
    return 100 * np.mean(right)


@pytest.mark.skipif(not ARCHIVES, reason="REPTILE_OMNIGLOT=DIR, the folder of Omniglot's two archives, is not set")
def test_the_pen_and_the_size_cost_little():
    described = DATA_SETS["omniglot"].describe(None)
    order = split(described, 1200, 0, 0)["test"][:CHARACTERS]
    images = originals([described.names[i] for i in order])
    learner = Learner("omniglot_5way")

    def prepared(change, prepare=lambda image: DATA_SETS["omniglot"].prepare(image, None)[..., 0]):
        return accuracy(learner, np.array([[prepare(change(image)) for image in row] for row in images]))

    def nearest(image):
        return np.asarray(image.convert("1", dither=Image.Dither.NONE).resize((28, 28)), np.uint8)

    def on_a_page(image, share):
        """Puts the drawing somewhere on a larger page; if `share` is 1, the character fills the picture."""
        drawing = redrawn(image, 400, 20)
        if share == 1:
            return drawing.crop(ImageOps.invert(drawing).getbbox())
        room = int(400 / share) - 400
        page = Image.new("L", (400 + room,) * 2, 255)
        page.paste(drawing, tuple(rng.integers(0, room + 1, 2).tolist()))
        return page

    original = prepared(lambda image: image, nearest)
    assert original > 90
    itself = prepared(lambda image: image)
    print(f"in one size and place: {itself:.1f} %, original {original:.1f} %")
    assert itself > original
    for size, pen in ((105, 1), (105, 3), (600, 6), (1200, 4), (300, 24)):
        redrawn_ones = prepared(lambda image, size=size, pen=pen: redrawn(image, size, pen))
        print(f"pen of {pen} in {size}: {redrawn_ones:.1f} %, original {original:.1f} %")
        assert redrawn_ones > original - 3
    for share in (0.25, 0.5, 1):
        rng = np.random.default_rng(1)
        small = prepared(lambda image, share=share: on_a_page(image, share))
        print(f"{share:.0%} of the page: {small:.1f} %, original {original:.1f} %")
        assert small > original - 3
    assert prepared(lambda image: redrawn(image, 400, 4), nearest) < original - 10, "a check that cannot fail"
    assert prepared(lambda image: on_a_page(image, 0.5), nearest) < original - 10, "a check that cannot fail"
