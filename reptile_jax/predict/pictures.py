"""What a person gives a learner to see, as pixels of the data that its weights know: files, folders and arrays."""

import os
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from reptile_jax.data import DATA_SETS, DataError, folders
from reptile_jax.data.prepared import read_image

Pictures = np.ndarray | str | Path | Sequence[str | Path]


def support_files(folder: str | Path) -> tuple[list[Path], list[str]]:
    """Returns the files of a folder CLASS/*, and the class of each.

    Raises:
        DataError: there is no such folder, it names no classes, or a class has no images.
    """
    place = Path(folder).expanduser()
    if not place.is_dir():
        raise DataError(f"support={folder} is no folder: give the folder that holds the classes' folders")
    classes = folders.part_of(place).classes
    for name, files in classes.items():
        if not files:
            raise DataError(f"the class {place / name} has no images: put some there, or remove it")
    return (
        [place / file for files in classes.values() for file in files],
        [name for name, files in classes.items() for _ in files],
    )


def query_files(named: Iterable[str | Path]) -> list[Path]:
    """Returns the files that are named, and those in the folders that are named and in folders inside; hidden ones not.

    Raises:
        DataError: there is nothing of a name, or nothing in a folder.
    """
    found: list[Path] = []
    for name in named:
        path = Path(name).expanduser()
        if path.is_dir():
            inside = sorted(
                Path(folder, file)
                for folder, _, files in os.walk(path)
                for file in files
                if not folders.passed_over(Path(folder, file).relative_to(path).parts)
            )
            if not inside:
                raise DataError(f"queries={name} holds no images: put some there, or name another folder")
            found += inside
        elif path.is_file():
            found.append(path)
        else:
            raise DataError(f"queries={name} is no file and no folder: name image files, or a folder of them")
    return found


def pixels_of(config: ConfigDict, pictures: Pictures) -> np.ndarray:
    """Returns pictures as pixels of the data that trained the weights, in its units (0 to 1, or 0 to 255).

    Args:
        config: of the weights.
        pictures: files, each prepared as the data's own images; or an array [n, height, width, channels], without
            channels where there is one, of numbers from 0 to 1 (of drawings, ink is 0), or uint8 from 0 to 255 where
            the data is photographs.

    Returns:
        uint8 or float32 [n, size, size, channels].

    Raises:
        DataError: a file is no image.
        ValueError: an array is of another shape or range, or there are none.
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
    with warnings.catch_warnings(action="ignore"):  # large images, and EXIF that is no EXIF
        return read_image(file, str(file), lambda image: prepare(image, config.data))


def _checked(config: ConfigDict, array: np.ndarray) -> np.ndarray:
    data, scale = config.data, DATA_SETS[config.data.name].scale
    shape = (data.size, data.size, data.channels)
    images = array[..., None] if data.channels == 1 and array.ndim == 3 else array
    if images.ndim != 4 or images.shape[1:] != shape or not len(images):
        wanted = str(["n", *shape[: 2 if data.channels == 1 else 3]]).replace("'", "")
        raise ValueError(f"images are of the shape {array.shape}: give {wanted}")
    if scale != 1 and images.dtype == np.uint8:
        return images
    images = images.astype(np.float32)
    if not (images.min() >= 0 and images.max() <= 1):
        wanted = "ink as 0 and paper as 1" if scale == 1 else "numbers from 0 to 1, or uint8 from 0 to 255"
        raise ValueError(f"images go from {images.min():g} to {images.max():g}: give {wanted}")
    for i, image in enumerate(images):
        if image.min() == image.max():
            raise ValueError(f"images[{i}] is {image.min():g} everywhere: give an image with something on it")
    return images * np.float32(scale)
