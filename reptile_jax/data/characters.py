"""Handwritten characters, one-bit drawings of 28x28 pixels: the array that Omniglot and glyphs are read into."""

from typing import NamedTuple

import numpy as np

from reptile_jax.data.images import Images, of_equal_classes

SIZE = 28  # pixels, height and width of a drawing


class Characters(NamedTuple):
    """Handwritten characters, each with the same number of drawings.

    Attributes:
        images: uint8 [characters, drawings, 28, 28]; ink is 0, paper is 1.
        names: one name per character, "Alphabet/character01", sorted by (alphabet, character).
    """

    images: np.ndarray
    names: tuple[str, ...]


def as_images(characters: Characters) -> Images:
    """Returns characters as classes of images with one channel."""
    return of_equal_classes(characters.images[..., None], characters.names)
