"""Turns test drawings into lines: skeletons of their ink, and strokes along the lines."""

import itertools

import numpy as np

AROUND = [(-1, 0), (-1, 1), (0, 1), (1, 1), (1, 0), (1, -1), (0, -1), (-1, -1)]


def skeleton(ink):
    """Returns lines that are one pixel wide (Zhang and Suen, 1984): bool [height, width]."""
    lines, before = np.pad(ink, 1).astype(int), None
    while before is None or (lines != before).any():
        before = lines.copy()
        for step in (0, 1):
            n, ne, e, se, s, sw, w, nw = (np.roll(lines, (-y, -x), (0, 1)) for y, x in AROUND)
            ring = [n, ne, e, se, s, sw, w, nw, n]
            count = sum(ring[:8])
            starts = sum((a == 0) & (b == 1) for a, b in itertools.pairwise(ring))
            open_sides = (n * e * s, e * s * w) if step == 0 else (n * e * w, n * s * w)
            lines[(count >= 2) & (count <= 6) & (starts == 1) & (open_sides[0] == 0) & (open_sides[1] == 0)] = 0
    return lines[1:-1, 1:-1].astype(bool)


def strokes(ink):
    """Returns strokes along the lines of a drawing, bool [size, size]: lists of points (x, y) as shares of the size."""
    lines = skeleton(ink)
    left, found = {tuple(x) for x in np.argwhere(lines).tolist()}, []

    def near(point, among):
        return [(point[0] + y, point[1] + x) for y, x in AROUND if (point[0] + y, point[1] + x) in among]

    every = set(left)
    while left:
        at = min(left, key=lambda point: (len(near(point, left)), point))  # an end, if there is one
        stroke = [*[x for x in near(at, every) if x not in left][:1], at]  # from where a line was drawn before
        left.discard(at)
        while ahead := near(at, left):
            at = min(ahead, key=lambda x: abs(x[0] - at[0]) + abs(x[1] - at[1]))
            left.discard(at)
            stroke.append(at)
        stroke = [*stroke[:-1:2], stroke[-1]]  # a hand's pointer does not report every pixel, either
        found.append([((x + 0.5) / len(ink), (y + 0.5) / len(ink)) for y, x in stroke])
    return found
