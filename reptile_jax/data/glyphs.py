"""`glyphs`: synthetic handwriting, made in a second and identical on every machine. It is not a real data set.

A character has 1 to 4 pen strokes. Each stroke is a spline through a few control points that wander as a hand does.
Each drawing of a character moves control points and strokes, changes slant, proportions, scale and position, and uses
another pen width. This is pure NumPy.

Only additions, products, quotients and comparisons make the pixels, because IEEE 754 fixes their results to the last
bit. It does not do so for sines, BLAS products or library rasterisers.
"""

import math
from typing import NamedTuple

import numpy as np

from reptile_jax.data.characters import SIZE, Characters

CHARACTERS = 500
TRAIN_CHARACTERS = 350
DRAWINGS = 20  # of each character

_MORE_STROKES = (0.15, 0.55, 0.85)  # one stroke, and one more for each of these that a uniform number exceeds
_CONTROLS = 6  # control points of a stroke
_BOX = 16.5  # pixels, the longer side of a character before a drawing changes it
_AT_ONCE = 16  # strokes whose points are computed together: the caches hold so many
_SAMPLES = 24  # points between two control points at which the pen is put down: about a quarter of a pixel apart

# Unit vectors in 64 directions, rounded so that no two mathematical libraries disagree.
_TURN = 64
_HEADINGS = np.array(
    [(round(math.cos(a * math.tau / _TURN), 9), round(math.sin(a * math.tau / _TURN), 9)) for a in range(_TURN)]
)


class _Strokes(NamedTuple):
    """The strokes of all characters, one after the other.

    Attributes:
        controls: float64 [strokes, controls, 2], (x, y) in pixels from the character's centre.
        character: int64 [strokes], index of the character that a stroke belongs to.
    """

    controls: np.ndarray
    character: np.ndarray


def load(seed: int = 0) -> Characters:
    """Makes the characters of a seed.

    Args:
        seed: of the characters and of their drawings.

    Returns:
        500 characters of 20 drawings: uint8 [500, 20, 28, 28], ink 0, paper 1.
    """
    rng = np.random.Generator(np.random.PCG64(seed))
    strokes = _invent(rng)
    points = _draw(rng, strokes)
    pen = 0.5 + 0.4 * rng.random((CHARACTERS, DRAWINGS))  # radius in pixels
    images = np.ones((CHARACTERS, DRAWINGS, SIZE, SIZE), np.uint8)
    for first in range(0, len(points), _AT_ONCE):
        part = slice(first, first + _AT_ONCE)
        _rasterise(images, _along_spline(points[part]), strokes.character[part], pen)
    return Characters(images, names())


def names() -> tuple[str, ...]:
    """Returns the names of the characters."""
    return tuple(f"Glyphs/character{number + 1:03d}" for number in range(CHARACTERS))


def _bell(rng: np.random.Generator, *shape: int) -> np.ndarray:
    """Returns noise of mean 0, standard deviation 1 and at most 3 (Irwin-Hall), float64 of `shape`."""
    return 2.0 * (rng.random(shape) + rng.random(shape) + rng.random(shape) - 1.5)


def _invent(rng: np.random.Generator) -> _Strokes:
    """Invents the characters."""
    most = len(_MORE_STROKES) + 1
    shape = (CHARACTERS, most)

    # A stroke starts in one of 16 directions and bends steadily, or not at all; some strokes have a sharp corner.
    heading = 4 * rng.integers(0, 16, shape)
    bend = np.where(rng.random(shape) < 0.4, 0, rng.integers(-11, 12, shape))
    corner_at = np.where(rng.random(shape) < 0.4, rng.integers(2, _CONTROLS, shape), 0)
    corner = rng.integers(12, 27, shape) * rng.choice((-1, 1), shape)
    length = 0.12 + 0.2 * rng.random((*shape, 1))
    controls = np.zeros((*shape, _CONTROLS, 2))
    for step in range(1, _CONTROLS):
        heading = heading + bend + rng.integers(-2, 3, shape) + np.where(corner_at == step, corner, 0)
        controls[:, :, step] = controls[:, :, step - 1] + length * _HEADINGS[heading % _TURN]

    # The first stroke is centred. A later stroke starts from the previous one, or lies anywhere.
    controls -= (controls.min(2, keepdims=True) + controls.max(2, keepdims=True)) / 2
    anywhere = 0.9 * rng.random((*shape, 2)) - 0.45
    touching = rng.random(shape) < 0.5
    joint = rng.integers(0, _CONTROLS, shape)
    everyone = np.arange(CHARACTERS)
    for stroke in range(1, most):
        joined = controls[everyone, stroke - 1, joint[:, stroke]] - controls[:, stroke, 0]
        offset = np.where(touching[:, stroke, None], joined, anywhere[:, stroke])
        controls[:, stroke] += offset[:, None]

    # All characters are centred and have one size, so that neither distinguishes them.
    count = 1 + (rng.random((CHARACTERS, 1)) > _MORE_STROKES).sum(1)
    present = (np.arange(most) < count[:, None])[:, :, None, None]
    low = np.where(present, controls, np.inf).min((1, 2), keepdims=True)
    high = np.where(present, controls, -np.inf).max((1, 2), keepdims=True)
    controls = (controls - (low + high) / 2) * (_BOX / (high - low).max(3, keepdims=True))
    character, number = np.nonzero(present[:, :, 0, 0])
    return _Strokes(controls[character, number], character)


def _draw(rng: np.random.Generator, strokes: _Strokes) -> np.ndarray:
    """Makes 20 different drawings of every character.

    Returns:
        Control points, float64 [strokes, drawings, controls, 2], (x, y) in pixels from the upper left corner.
    """
    shape = (len(strokes.controls), DRAWINGS)
    points = strokes.controls[:, None] + 0.45 * _bell(rng, *shape, _CONTROLS, 2)
    start = points[:, :, :1]
    points = start + (points - start) * (1 + 0.12 * _bell(rng, *shape, 1, 2)) + 0.9 * _bell(rng, *shape, 1, 2)

    # The following changes are the same for all strokes of a drawing.
    whole = (CHARACTERS, DRAWINGS, 1, 2)
    shear = 0.15 * _bell(rng, *whole)[strokes.character]
    size = ((1 + 0.1 * _bell(rng, *whole)) * (1 + 0.13 * _bell(rng, CHARACTERS, DRAWINGS, 1, 1)))[strokes.character]
    shift = 1.1 * _bell(rng, *whole)[strokes.character]
    return (points + shear * points[..., ::-1]) * size + shift + SIZE / 2


def _along_spline(points: np.ndarray) -> np.ndarray:
    """Follows the Catmull-Rom spline through control points.

    Args:
        points: float64 [..., controls, 2].

    Returns:
        float64 [..., samples, 2].
    """
    first = 2 * points[..., :1, :] - points[..., 1:2, :]
    last = 2 * points[..., -1:, :] - points[..., -2:-1, :]
    p = np.concatenate((first, points, last), -2)[..., None, :, :]
    t = (np.arange(_SAMPLES) / (_SAMPLES - 1))[:, None, None]
    curve = (
        (((2 - t) * t - 1) * t) * p[..., :-3, :]
        + ((3 * t - 5) * t * t + 2) * p[..., 1:-2, :]
        + (((4 - 3 * t) * t + 1) * t) * p[..., 2:-1, :]
        + ((t - 1) * t * t) * p[..., 3:, :]
    ) / 2  # [..., samples, segments, 2]
    return curve.reshape(*points.shape[:-2], -1, 2)


def _rasterise(images: np.ndarray, points: np.ndarray, character: np.ndarray, pen: np.ndarray) -> None:
    """Inks the pixels whose centre is within the pen's radius of a point.

    Args:
        images: uint8 [characters, drawings, 28, 28], in which ink becomes 0.
        points: float64 [strokes, drawings, samples, 2], (x, y) in pixels from the upper left corner.
        character: int64 [strokes], index of the character that a stroke belongs to.
        pen: radius in pixels, below 1, float64 [characters, drawings].
    """
    flat = images.reshape(-1)
    first_pixel = (character[:, None] * DRAWINGS + np.arange(DRAWINGS)) * SIZE * SIZE
    reach = (pen * pen)[character][:, :, None]
    # Units are distances between pixel centres. The pen is smaller than that, so it can reach only the four nearest.
    points = points - 0.5
    corner = np.floor(points)
    x, y = (points - corner)[..., 0], (points - corner)[..., 1]
    column, row = corner[..., 0].astype(np.int64), corner[..., 1].astype(np.int64)
    for right, x2 in enumerate((x * x, (1 - x) * (1 - x))):
        for down, y2 in enumerate((y * y, (1 - y) * (1 - y))):
            c, r = column + right, row + down
            inked = (x2 + y2 <= reach) & (c >= 0) & (c < SIZE) & (r >= 0) & (r < SIZE)
            flat[(first_pixel[:, :, None] + r * SIZE + c)[inked]] = 0
