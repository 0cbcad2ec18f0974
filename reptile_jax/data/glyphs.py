"""`glyphs`: synthetic handwriting, made in a moment and the same on every machine; it is no real data set.

A character is 1 to 4 pen strokes, each a spline through a few control points that wander like a hand does. A drawing
of it moves the control points, strokes, slant, proportions, scale and position, and takes another pen. Pure NumPy.

Only additions, products, quotients and comparisons make the pixels: IEEE 754 fixes their results to the last bit,
which it does not for sines, BLAS products or library rasterisers.
"""

import math

import numpy as np

from reptile_jax.data.characters import SIZE, Characters

CHARACTERS = 500
TRAIN_CHARACTERS = 350
DRAWINGS = 20  # of each character

_CONTROLS = 6  # control points of a stroke
_SAMPLES = 160  # points along a stroke at which the pen is put down: less than half a pixel apart
_STROKES = (0.2, 0.6, 0.9, 1.0)  # cumulative probability of 1, 2, 3 and 4 strokes
_BOX = 18.0  # pixels, the longer side of a character before a drawing changes it

# Unit vectors in 64 directions, rounded so that no two mathematical libraries disagree.
_HEADINGS = np.array([(round(math.cos(a * math.pi / 32), 9), round(math.sin(a * math.pi / 32), 9)) for a in range(64)])


def load(seed: int = 0) -> Characters:
    """Makes the characters of a seed.

    Args:
        seed: of the characters and of their drawings.

    Returns:
        500 characters of 20 drawings: uint8 [500, 20, 28, 28], ink 0, paper 1.
    """
    rng = np.random.Generator(np.random.PCG64(seed))
    controls, pen_down = _characters(rng)
    points = _drawings(rng, controls)
    pen = 0.45 + 0.3 * rng.random((CHARACTERS, DRAWINGS, 1, 1, 1))  # radius in pixels
    return Characters(
        images=_rasterise(_along_spline(points), pen, pen_down),
        names=tuple(f"Glyphs/character{number + 1:03d}" for number in range(CHARACTERS)),
    )


def _bell(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Returns noise of mean 0, standard deviation 1 and at most 3 (Irwin-Hall), float64 of `shape`."""
    return 2.0 * (rng.random(shape) + rng.random(shape) + rng.random(shape) - 1.5)


def _characters(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Invents the characters.

    Returns:
        Control points, float64 [characters, strokes, controls, 2], centred, in pixels; and which strokes there are,
        bool [characters, strokes].
    """
    strokes = len(_STROKES)
    shape = (CHARACTERS, strokes)
    number = 1 + np.searchsorted(_STROKES, rng.random(CHARACTERS), side="right")
    present = np.arange(strokes) < number[:, None]

    # A stroke sets out in one of 16 directions and bends steadily, or hardly, or the other way half-way through.
    heading = 4 * rng.integers(0, 16, shape)
    bend = rng.integers(-12, 13, shape)
    bend = np.where(rng.random(shape) < 0.35, 0, bend)
    swing = np.where(rng.random(shape) < 0.25, -1, 1)
    length = 0.12 + 0.22 * rng.random((*shape, 1))
    controls = np.zeros((*shape, _CONTROLS, 2))
    for step in range(1, _CONTROLS):
        controls[:, :, step] = controls[:, :, step - 1] + length * _HEADINGS[heading % 64]
        heading = heading + bend * (swing if step > _CONTROLS // 2 else 1) + rng.integers(-3, 4, shape)

    # Later strokes set out anywhere, or from a control point of the stroke before.
    anywhere = rng.random((*shape, 2)) * 1.2 - 0.6
    touching = rng.random(shape) < 0.5
    joint = rng.integers(0, _CONTROLS, shape)
    rows = np.arange(CHARACTERS)
    for stroke in range(strokes):
        start = anywhere[:, stroke]
        if stroke:
            start = np.where(touching[:, stroke, None], controls[rows, stroke - 1, joint[:, stroke]], start)
        centre = (controls[:, stroke].min(1) + controls[:, stroke].max(1)) / 2
        offset = np.where(touching[:, stroke, None] & (stroke > 0), start, start - centre)
        controls[:, stroke] += offset[:, None]

    # Fill the frame alike, so that neither size nor place tells characters apart.
    low = np.where(present[:, :, None, None], controls, np.inf).min((1, 2), keepdims=True)
    high = np.where(present[:, :, None, None], controls, -np.inf).max((1, 2), keepdims=True)
    extent = (high - low).max(3, keepdims=True)
    return (controls - (low + high) / 2) * (_BOX / extent), present


def _drawings(rng: np.random.Generator, controls: np.ndarray) -> np.ndarray:
    """Draws every character anew, 20 times.

    Args:
        controls: float64 [characters, strokes, controls, 2], centred, in pixels.

    Returns:
        Control points, float64 [characters, drawings, strokes, controls, 2], in pixels from the upper left corner.
    """
    chars, strokes, controls_per_stroke, _ = controls.shape
    shape = (chars, DRAWINGS)
    points = controls[:, None] + 0.9 * _bell(rng, (*shape, strokes, controls_per_stroke, 2))
    middle = points.mean(3, keepdims=True)
    points = middle + (points - middle) * (1 + 0.1 * _bell(rng, (*shape, strokes, 1, 2)))
    points = points + 1.2 * _bell(rng, (*shape, strokes, 1, 2))
    slant = 0.15 * _bell(rng, (*shape, 2, 1, 1))
    x, y = points[..., 0], points[..., 1]
    points = np.stack((x + slant[:, :, 0] * y, y + slant[:, :, 1] * x), -1)
    points = points * (1 + 0.1 * _bell(rng, (*shape, 1, 1, 2)))
    return points + 1.2 * _bell(rng, (*shape, 1, 1, 2)) + SIZE / 2


def _along_spline(points: np.ndarray) -> np.ndarray:
    """Follows the Catmull-Rom spline through the control points.

    Args:
        points: float64 [..., controls, 2].

    Returns:
        float64 [..., samples, 2], evenly spaced in the spline's parameter, both ends included.
    """
    first = 2 * points[..., :1, :] - points[..., 1:2, :]
    last = 2 * points[..., -1:, :] - points[..., -2:-1, :]
    p = np.concatenate((first, points, last), -2)
    segments = points.shape[-2] - 1
    per_segment = _SAMPLES // segments
    t = (np.arange(per_segment) / (per_segment - 1))[:, None]
    weights = (
        ((2 - t) * t - 1) * t / 2,
        ((3 * t - 5) * t * t + 2) / 2,
        ((4 - 3 * t) * t + 1) * t / 2,
        (t - 1) * t * t / 2,
    )
    pieces = [
        sum(weight * p[..., segment + k, None, :] for k, weight in enumerate(weights)) for segment in range(segments)
    ]
    return np.concatenate(pieces, -2)


def _rasterise(points: np.ndarray, pen: np.ndarray, present: np.ndarray) -> np.ndarray:
    """Inks the pixels whose centre is within the pen's radius of a point.

    Args:
        points: float64 [characters, drawings, strokes, samples, 2], (x, y) in pixels from the upper left corner.
        pen: radius in pixels, below 1, float64 [characters, drawings, 1, 1, 1].
        present: which strokes there are, bool [characters, strokes].

    Returns:
        uint8 [characters, drawings, 28, 28]; ink is 0, paper is 1.
    """
    chars, drawings = points.shape[:2]
    images = np.ones(chars * drawings * SIZE * SIZE, np.uint8)
    where = np.arange(chars * drawings, dtype=np.int32).reshape(chars, drawings, 1, 1)
    corner = np.floor(points - 0.5)
    within = points - 0.5 - corner  # 0 to 1, from the pixel centre up and to the left
    column, row = corner[..., 0].astype(np.int32), corner[..., 1].astype(np.int32)
    radius = (pen * pen)[..., 0]
    # The pen is smaller than a pixel's spacing: no centre but the four around a point can be under it.
    for dy in (0, 1):
        for dx in (0, 1):
            gap = (within[..., 0] - dx) * (within[..., 0] - dx) + (within[..., 1] - dy) * (within[..., 1] - dy)
            x, y = column + dx, row + dy
            inked = (gap <= radius) & (x >= 0) & (x < SIZE) & (y >= 0) & (y < SIZE) & present[:, None, :, None]
            images[((where * SIZE + y) * SIZE + x)[inked]] = 0
    return images.reshape(chars, drawings, SIZE, SIZE)
