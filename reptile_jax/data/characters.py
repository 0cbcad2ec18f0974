"""What every data set of this package is, characters and their drawings, and how they are split into classes.

Owns the array type, the split by seed, the four rotations and the error type. Pure NumPy.
"""

import random
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

SIZE = 28  # pixels, height and width of a drawing
ROTATIONS = (0, 90, 180, 270)  # degrees counter-clockwise; each makes a class of its own of a training character


class DataError(Exception):
    """A problem with the data, said in one line that names the file, character or field, and the cure."""


class Characters(NamedTuple):
    """Handwritten characters, each with the same number of drawings.

    Attributes:
        images: uint8 [characters, drawings, 28, 28]; ink is 0, paper is 1.
        names: one name per character, "Alphabet/character01", sorted by (alphabet, character).
    """

    images: np.ndarray
    names: tuple[str, ...]


class Split(NamedTuple):
    """Disjoint classes for training, validation and test.

    Attributes:
        train: 4 classes per training character, character-major: "Alphabet/character01/rot000", …/rot090, ….
        validation: training characters held out for tuning, unrotated; empty unless asked for.
        test: test characters, unrotated.
    """

    train: Characters
    validation: Characters
    test: Characters


def split(characters: Characters, num_train: int, seed: int, validation_classes: int) -> Split:
    """Splits characters as the released code does, and rotates the training characters.

    The characters, sorted by (alphabet, character), are shuffled by `random.Random(seed).shuffle`; the first
    `num_train` are for training, the rest for testing. The last `validation_classes` of the training characters are
    taken out of training.

    Args:
        characters: all characters of a data set, in any order.
        num_train: number of training characters, those held out for validation included.
        seed: seed of the shuffle.
        validation_classes: number of training characters to hold out; the released code holds out none.

    Returns:
        The three disjoint sets of classes.

    Raises:
        DataError: the characters are too few for `num_train`, or `validation_classes` leaves none to train on.

    Source: https://github.com/openai/supervised-reptile, `split_dataset` and `augment_dataset`.
    """
    count = len(characters.names)
    if not 0 < num_train < count:
        raise DataError(f"{num_train} training characters cannot be taken out of {count}: take 1 to {count - 1}")
    if not 0 <= validation_classes < num_train:
        raise DataError(
            f"validation_classes={validation_classes} does not leave any of the {num_train} training characters: "
            f"take 0 to {num_train - 1}"
        )
    order = sorted(range(count), key=lambda index: tuple(characters.names[index].split("/")))
    random.Random(seed).shuffle(order)
    train_end = num_train - validation_classes
    return Split(
        train=_rotated(characters, order[:train_end]),
        validation=_taken(characters, order[train_end:num_train]),
        test=_taken(characters, order[num_train:]),
    )


def _taken(characters: Characters, indices: Sequence[int]) -> Characters:
    """Returns the characters at `indices`, in that order."""
    return Characters(
        images=characters.images[np.asarray(indices, np.intp)],
        names=tuple(characters.names[index] for index in indices),
    )


def _rotated(characters: Characters, indices: Sequence[int]) -> Characters:
    """Returns the characters at `indices`, each as four classes: turned by 0, 90, 180 and 270 degrees."""
    upright = _taken(characters, indices)
    chars, drawings, height, width = upright.images.shape
    images = np.empty((chars, len(ROTATIONS), drawings, height, width), np.uint8)
    for turns in range(len(ROTATIONS)):
        images[:, turns] = np.rot90(upright.images, turns, axes=(2, 3))
    return Characters(
        images=images.reshape(-1, drawings, height, width),
        names=tuple(f"{name}/rot{degrees:03d}" for name in upright.names for degrees in ROTATIONS),
    )
