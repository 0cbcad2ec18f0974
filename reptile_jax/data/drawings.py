"""A person's own drawing as Omniglot's are prepared: 28x28 pixels of ink and paper; pen, size and place as theirs."""

import numpy as np
from PIL import Image

from reptile_jax.data.characters import SIZE
from reptile_jax.data.prepared import upright

CANVAS = 105  # pixels, height and width of Omniglot's originals, whose every 3.75th pixel is taken
PEN = 5.5  # pixels of the canvas: the width of Omniglot's pen, as `_pen` measures it
THIN, THICK = 4.0, 7.5  # pixels of the canvas: 99.7 % of Omniglot's pens are between, and left as they are
LENGTH = 67.0  # pixels of the canvas: the median of the longer side of Omniglot's characters


def prepare_drawing(image: Image.Image) -> np.ndarray:
    """Prepares one drawing, dark on light or light on dark.

    Grey, on white where it is transparent; split into ink and paper by Otsu's threshold, paper being what there is more
    of; cut to the character and filled up with paper to a square in whose middle it has the size that is usual in
    Omniglot; reduced to Omniglot's 105x105, where a pen that is too thin or too thick gets the width of Omniglot's; and
    every 3.75th pixel taken, as of Omniglot. A drawing of 28x28 stays as it is.

    Every character is given the one size and place, because that makes them easier to tell apart than they are in
    Omniglot itself: see the numbers in `predict/drawings_test.py`.

    Args:
        image: of any mode and size.

    Returns:
        uint8 [28, 28, 1]; ink is 0, paper is 1.

    Raises:
        ValueError: the image has one brightness alone.
    """
    grey = np.asarray(upright(image, "L"))
    light = grey > otsu(grey)
    paper = np.mean(light) >= 0.5
    ink = light != paper
    if ink.shape != (SIZE, SIZE):
        ink = _reduced(_placed(ink))
    drawing = Image.fromarray(~ink).resize((SIZE, SIZE))  # of one bit, as Omniglot's: the nearest pixel
    return np.asarray(drawing, np.uint8)[..., None]


def _placed(ink: np.ndarray) -> np.ndarray:
    """Puts a character, its longer side of `LENGTH`, into the middle of a square that stands for the canvas."""
    (top, bottom), (left, right) = (np.flatnonzero(ink.any(axis))[[0, -1]] + [0, 1] for axis in (1, 0))
    height, width = bottom - top, right - left
    side = round(max(height, width) * CANVAS / LENGTH)
    placed = np.zeros((side, side), bool)
    placed[(side - height) // 2 :, (side - width) // 2 :][:height, :width] = ink[top:bottom, left:right]
    return placed


def _reduced(ink: np.ndarray) -> np.ndarray:
    """Reduces a square of ink to the canvas, and gives a pen that is far thinner or thicker the width of Omniglot's."""
    if len(ink) != CANVAS:
        share = np.asarray(Image.fromarray(np.uint8(255) * ink).resize((CANVAS, CANVAS), Image.Resampling.BOX))
        # Where any ink makes ink, a line becomes a pixel wider, and none is lost.
        ink = share > 0 if _pen(ink) * CANVAS < PEN / 2 * len(ink) else share >= 128
    if _pen(ink) < THIN:
        return _thickened(ink, (PEN - _pen(ink)) / 2)
    return ~_thickened(~ink, (_pen(ink) - PEN) / 2) if _pen(ink) > THICK else ink


def _pen(ink: np.ndarray) -> float:
    """Returns the mean width of the lines in pixels: twice their area over their outline."""
    edges = np.count_nonzero(ink[1:] != ink[:-1]) + np.count_nonzero(ink[:, 1:] != ink[:, :-1])
    outline = np.pi / 4 * edges  # a staircase is longer than the line it stands for: 4 / pi over all directions
    return float(2 * np.count_nonzero(ink) / max(outline, 1))


def _thickened(ink: np.ndarray, radius: float) -> np.ndarray:
    """Draws a disk of a radius in pixels at every pixel of ink."""
    reach = int(radius + 0.5)
    height, width = ink.shape
    room = np.pad(ink, reach)
    thick = np.zeros_like(ink)
    for down in range(-reach, reach + 1):
        for right in range(-reach, reach + 1):
            if np.hypot(down, right) <= radius + 0.25:
                thick |= room[reach + down :, reach + right :][:height, :width]
    return thick


def otsu(grey: np.ndarray) -> int:
    """Returns the brightness up to which pixels are dark: that which parts the two groups most.

    Args:
        grey: uint8.

    Raises:
        ValueError: there is one brightness alone.

    Source: Otsu, "A threshold selection method from gray-level histograms", 1979.
    """
    counts = np.bincount(grey.reshape(-1), minlength=256).astype(np.float64)
    dark, sums = np.cumsum(counts), np.cumsum(counts * np.arange(256))
    light = dark[-1] - dark
    parts = (dark > 0) & (light > 0)
    if not parts.any():
        raise ValueError("it has one brightness alone, and no ink on paper")
    apart = np.divide(sums, dark, where=dark > 0, out=np.zeros(256)) - np.divide(
        sums[-1] - sums, light, where=light > 0, out=np.zeros(256)
    )
    return int(np.argmax(np.where(parts, dark * light * apart**2, -1)))
