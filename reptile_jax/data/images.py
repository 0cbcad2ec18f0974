"""Defines a data set of images, splits its classes, and makes more classes by rotation. Pure NumPy."""

import hashlib
import random
from typing import NamedTuple

import numpy as np

SETS = ("train", "validation", "test")
TURNS = (0, 90, 180, 270)  # degrees counter-clockwise


class DataError(Exception):
    """A problem with the data; the message is one line that names the file, class or field, and the cure."""


class Description(NamedTuple):
    """A data set without its pixels: enough to check a config.

    Attributes:
        names: of the classes.
        counts: images of each class.
        sets: the classes of each set, by their place in `names`; None if the data set has no sets and a seed makes
            them.
    """

    names: tuple[str, ...]
    counts: tuple[int, ...]
    sets: dict[str, tuple[int, ...]] | None = None


class Images(NamedTuple):
    """A data set in memory: images of each class in consecutive rows of one array.

    Attributes:
        pixels: uint8 [rows, height, width, channels]; it may be a memory map.
        names: of the classes.
        first: int32 [classes], the row where each class begins.
        counts: int32 [classes], the images of each class.
        sets: as in `Description`.
        fingerprint: of the names and the pixels, wherever they lie.
    """

    pixels: np.ndarray
    names: tuple[str, ...]
    first: np.ndarray
    counts: np.ndarray
    sets: dict[str, tuple[int, ...]] | None
    fingerprint: str


def fingerprint(names: tuple[str, ...], counts: np.ndarray, pixels: np.ndarray) -> str:
    """Returns a checksum of names, sizes and pixels, which distinguishes the content of data sets."""
    digest = hashlib.sha256(repr((names, [int(n) for n in counts], pixels.shape)).encode())
    digest.update(np.ascontiguousarray(pixels).data)
    return digest.hexdigest()


def of_equal_classes(pixels: np.ndarray, names: tuple[str, ...]) -> Images:
    """Returns classes with equal numbers of images, from pixels uint8 [classes, images, height, width, channels]."""
    classes, images = pixels.shape[:2]
    count = np.full(classes, images, np.int32)
    rows = pixels.reshape(-1, *pixels.shape[2:])
    return Images(
        rows, names, np.arange(classes, dtype=np.int32) * images, count, None, fingerprint(names, count, rows)
    )


def set_sizes(described: Description, num_train: int, validation_classes: int) -> dict[str, int]:
    """Returns how many classes each set has before rotation makes more; leaves out empty sets."""
    if described.sets is not None:
        return {name: len(described.sets[name]) for name in SETS if described.sets.get(name)}
    sizes = (num_train - validation_classes, validation_classes, len(described.names) - num_train)
    return {name: size for name, size in zip(SETS, sizes, strict=True) if size}


def split(images: Images, num_train: int, validation_classes: int, seed: int) -> dict[str, np.ndarray]:
    """Splits the classes into disjoint sets, as the released code does, unless the data set has sets of its own.

    The classes, sorted by the parts of their names ("Alphabet/character"), are shuffled by
    `random.Random(seed).shuffle`; the first `num_train` are for training, the rest for testing. The last
    `validation_classes` of the training classes are taken out of training.

    Args:
        images: the data set, its classes in any order.
        num_train: number of training classes, including those that are held out for validation.
        validation_classes: number of training classes to hold out; the released code holds out none.
        seed: seed of the shuffle.

    Returns:
        For each set, its classes by their place in `images.names`.

    Raises:
        DataError: there are too few classes for `num_train`, or `validation_classes` leaves no class to train on.

    Source: https://github.com/openai/supervised-reptile, `split_dataset`.
    """
    if images.sets is not None:
        return {name: np.array(classes, np.intp) for name, classes in images.sets.items()}
    classes = len(images.names)
    if not 0 < num_train < classes:
        raise DataError(f"{num_train} training classes cannot be taken out of {classes}: take 1 to {classes - 1}")
    if not 0 <= validation_classes < num_train:
        raise DataError(
            f"validation_classes={validation_classes} does not leave any of the {num_train} training classes: "
            f"take 0 to {num_train - 1}"
        )
    order = sorted(range(classes), key=lambda index: tuple(images.names[index].split("/")))
    random.Random(seed).shuffle(order)
    parts = np.split(np.array(order, np.intp), (num_train - validation_classes, num_train))
    return dict(zip(SETS, parts, strict=True))


def only(images: Images, classes: np.ndarray) -> Images:
    """Returns the classes with these places in `images.names`, [n] int; returns `images` itself for all, in order."""
    if np.array_equal(classes, np.arange(len(images.names))):
        return images
    counts = images.counts[classes]
    rows = [np.arange(first, first + count) for first, count in zip(images.first[classes], counts, strict=True)]
    return images._replace(
        pixels=images.pixels[np.concatenate(rows)],
        names=tuple(images.names[i] for i in classes),
        first=np.cumsum([0, *counts[:-1]], dtype=np.int32),
        counts=counts,
        sets=None,
    )


def turned(images: Images, classes: np.ndarray) -> np.ndarray:
    """Returns the numbers that `with_turns` gives to the four turns of each class, class by class: [4 * classes]."""
    return (len(images.names) + len(TURNS) * classes[:, None] + np.arange(len(TURNS))).reshape(-1)


def with_turns(images: Images) -> Images:
    """Appends every class turned by 0, 90, 180 and 270 degrees; each turn is a separate class.

    Source: https://github.com/openai/supervised-reptile, `augment_dataset`.
    """
    turns = np.arange(len(TURNS), dtype=np.int32)
    return images._replace(
        pixels=np.concatenate([np.rot90(images.pixels, turn, axes=(1, 2)) for turn in range(len(TURNS))]),
        names=(*images.names, *(f"{name}/rot{degrees:03d}" for name in images.names for degrees in TURNS)),
        first=np.append(images.first, images.first[:, None] + turns * np.int32(len(images.pixels))),
        counts=np.append(images.counts, np.repeat(images.counts, len(TURNS))),
    )
