"""Prepares a person's drawing like Omniglot's: 28x28 pixels of ink and paper, with a similar pen, size and place."""

import numpy as np
from PIL import Image

from reptile_jax.data.characters import SIZE
from reptile_jax.data.prepared import upright

CANVAS = 105  # pixels: height and width of Omniglot's originals, of which every 3.75th pixel is used
PEN = 5.5  # pixels of the canvas: the width of Omniglot's pen, as `_pen` measures it
THIN, THICK = 4.0, 7.5  # pixels of the canvas: 99.7 % of Omniglot's pens are in between; such pens are not changed
LONGEST = 10_000  # pixels of the longer side of a character; the square around it takes a byte for each of its pixels
LENGTH = 67.0  # pixels of the canvas: the median of the longer side of Omniglot's characters


def prepare_drawing(image: Image.Image) -> np.ndarray:
    """Prepares one drawing, dark on light or light on dark.

    The steps are:

    1. The image becomes grey; where it is transparent, the paper is white.
    2. Otsu's threshold splits the pixels into ink and paper; the larger group is paper.
    3. The character is cut out and put into the middle of a square of paper, in the size that is usual in Omniglot.
    4. The square is reduced to Omniglot's 105x105. A pen that is too thin or too thick gets the usual width.
    5. Every 3.75th pixel is used, as for Omniglot.

    A drawing of 28x28 is only split into ink and paper.

    All characters get the same size and place, because this makes them easier to tell apart than they are in Omniglot
    itself; `predict/drawings_test.py` measures it.

    Args:
        image: an image of any mode and size.

    Returns:
        uint8 [28, 28, 1]; ink is 0, paper is 1.

    Raises:
        ValueError: the image has only one brightness, or the character in it is too large.
    """
    grey = np.asarray(upright(image, "L"))
    light = grey > otsu(grey)
    paper = np.mean(light) >= 0.5
    ink = light != paper
    if ink.shape != (SIZE, SIZE):
        ink = _reduced(_placed(ink))
    drawing = Image.fromarray(~ink).resize((SIZE, SIZE))  # one bit, as in Omniglot, so the nearest pixel is used
    return np.asarray(drawing, np.uint8)[..., None]


def _placed(ink: np.ndarray) -> np.ndarray:
    """Puts a character into the middle of a square so large that its longer side will be `LENGTH` on the canvas."""
    (top, bottom), (left, right) = (np.flatnonzero(ink.any(axis))[[0, -1]] + [0, 1] for axis in (1, 0))
    height, width = bottom - top, right - left
    if max(height, width) > LONGEST:
        raise ValueError(f"the drawing in it is {width}x{height} pixels large: give at most {LONGEST} on each side")
    side = round(max(height, width) * CANVAS / LENGTH)
    placed = np.zeros((side, side), bool)
    placed[(side - height) // 2 :, (side - width) // 2 :][:height, :width] = ink[top:bottom, left:right]
    return placed


def _reduced(ink: np.ndarray) -> np.ndarray:
    """Reduces a square of ink to the canvas; a pen that is too thin or too thick gets the width of Omniglot's pen."""
    if len(ink) != CANVAS:
        share = np.asarray(Image.fromarray(np.uint8(255) * ink).resize((CANVAS, CANVAS), Image.Resampling.BOX))
        # For a thin pen, any ink makes a pixel ink: lines become a pixel wider, and no line is lost.
        ink = share > 0 if _pen(ink) * CANVAS < PEN / 2 * len(ink) else share >= 128
    if _pen(ink) < THIN:
        return _thickened(ink, (PEN - _pen(ink)) / 2)
    return ~_thickened(~ink, (_pen(ink) - PEN) / 2) if _pen(ink) > THICK else ink


def _pen(ink: np.ndarray) -> float:
    """Returns the mean width of the lines in pixels: twice their area, divided by their outline."""
    edges = np.count_nonzero(ink[1:] != ink[:-1]) + np.count_nonzero(ink[:, 1:] != ink[:, :-1])
    outline = np.pi / 4 * edges  # on average over all directions, pixel edges are 4 / pi times as long as the line
    return float(2 * np.count_nonzero(ink) / max(outline, 1))


def _thickened(ink: np.ndarray, radius: float) -> np.ndarray:
    """Draws a disk at every pixel of ink; `radius` is in pixels."""
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
    """Returns the brightness up to which pixels count as dark, chosen to separate the two groups best.

    Args:
        grey: the image, uint8.

    Raises:
        ValueError: the image has only one brightness.

    Source: Otsu, "A threshold selection method from gray-level histograms", 1979.
    """
    counts = np.bincount(grey.reshape(-1), minlength=256).astype(np.float64)
    dark, sums = np.cumsum(counts), np.cumsum(counts * np.arange(256))
    light = dark[-1] - dark
    parts = (dark > 0) & (light > 0)
    if not parts.any():
        raise ValueError("it has only one brightness, so there is no ink on paper")
    apart = np.divide(sums, dark, where=dark > 0, out=np.zeros(256)) - np.divide(
        sums[-1] - sums, light, where=light > 0, out=np.zeros(256)
    )
    return int(np.argmax(np.where(parts, dark * light * apart**2, -1)))
