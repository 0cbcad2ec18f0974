"""Turns a person's files, folders and arrays into pixels like those that the weights were trained on."""

import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict
from PIL import Image

from reptile_jax.data import DATA_SETS, DataError, folders
from reptile_jax.data.prepared import read_image
from reptile_jax.files import expanded

Pictures = np.ndarray | str | Path | Sequence[str | Path]


def support_files(folder: str | Path) -> tuple[list[Path], list[str]]:
    """Returns the files of a folder CLASS/*, and the class of each.

    Raises:
        DataError: there is no such folder, it names no classes, or a class has no images.
    """
    place = expanded(folder)
    if not place.is_dir():
        raise DataError(f"support={folder} is not a folder: give the folder that holds the classes' folders")
    classes = folders.part_of(place).classes
    for name, files in classes.items():
        if not files:
            raise DataError(f"the class {place / name} has no images: put some there, or remove it")
    return (
        [place / file for files in classes.values() for file in files],
        [name for name, files in classes.items() for _ in files],
    )


def query_files(named: Iterable[str | Path]) -> list[Path]:
    """Returns the files that are named, and the files in folders that are named, except hidden files.

    Raises:
        DataError: there is no file or folder of a name, or a folder holds no files or cannot be read.
    """
    found: list[Path] = []
    for name in named:
        path = expanded(name)
        if path.is_dir():
            inside = sorted(folders.files_below(path))
            if not inside:
                raise DataError(f"queries={name} holds no images: put some there, or name another folder")
            found += inside
        elif path.is_file():
            found.append(path)
        else:
            raise DataError(f"queries={name} is neither a file nor a folder: name image files, or a folder of them")
    return found


def pixels_of(config: ConfigDict, pictures: Pictures) -> np.ndarray:
    """Returns pictures as pixels like those of the training data, in the same units (0 to 1, or 0 to 255).

    Args:
        config: the config of the weights.
        pictures: files, which are prepared like the images of the training data; or an array [n, height, width,
            channels]. With one channel, the last axis may be missing. The numbers go from 0 to 1; in drawings, ink is
            0. For photographs, uint8 from 0 to 255 is possible, too.

    Returns:
        uint8 or float32 [n, size, size, channels].

    Raises:
        DataError: a file is not an image, or has one colour everywhere.
        ValueError: an array has another shape or range, an image in it has one colour everywhere, or there are none.
    """
    if isinstance(pictures, np.ndarray):
        return _checked(config, pictures)
    files = [pictures] if isinstance(pictures, str | Path) else list(pictures)
    if not files:
        raise ValueError("there are no images: give at least one")
    return np.stack([_read(config, Path(file)) for file in files])


def _read(config: ConfigDict, file: Path) -> np.ndarray:
    prepare = DATA_SETS[config.data.name].prepare
    assert prepare is not None

    def prepared(image: Image.Image) -> np.ndarray:
        pixels = prepare(image, config.data)
        if _plain(pixels):
            raise ValueError("it has one colour everywhere")
        return pixels

    with warnings.catch_warnings(action="ignore"):  # about large images and damaged EXIF
        return read_image(file, str(file), prepared)


def _checked(config: ConfigDict, array: np.ndarray) -> np.ndarray:
    data, scale = config.data, DATA_SETS[config.data.name].scale
    shape = (data.size, data.size, data.channels)
    images = array[..., None] if data.channels == 1 and array.ndim == 3 else array
    if images.ndim != 4 or images.shape[1:] != shape or not len(images):
        wanted = str(["n", *shape[: 2 if data.channels == 1 else 3]]).replace("'", "")
        raise ValueError(f"images have the shape {array.shape}: give {wanted}")
    to_scale = scale == 1 or images.dtype != np.uint8
    if to_scale:
        images = images.astype(np.float32)
        if not (images.min() >= 0 and images.max() <= 1):
            wanted = "ink as 0 and paper as 1" if scale == 1 else "numbers from 0 to 1, or uint8 from 0 to 255"
            raise ValueError(f"images go from {images.min():g} to {images.max():g}: give {wanted}")
    for i, image in enumerate(images):
        if _plain(image):
            raise ValueError(f"images[{i}] has one colour everywhere: give an image with something on it")
    return images * np.float32(scale) if to_scale else images


def _plain(image: np.ndarray) -> bool:
    """Returns whether all pixels of an image [height, width, channels] are the same."""
    return bool(np.all(image == image[0, 0]))
