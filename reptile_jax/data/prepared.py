"""Prepares images for a network: one image, or a copy of a whole folder of images.

The copy is one memory-mapped file with an array, and a JSON file. It is made once for the content of the folder.
"""

import contextlib
import hashlib
import io
import json
import os
import shutil
import sys
import warnings
import zipfile
from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict
from PIL import Image, ImageOps

from reptile_jax.cores import usable_cores
from reptile_jax.data.folders import Listing, Part, counted, description, folder_of, listed_again, listing
from reptile_jax.data.images import DataError, Images
from reptile_jax.files import lock, replace_text
from reptile_jax.progress import progress_bar

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF")
FILTER = Image.Resampling.BICUBIC  # Pillow's own default, with antialiasing
VERSION = 1  # version of the preparation; with another number, every folder is prepared again
_CHUNK = 64  # images that a thread prepares at a time


class Prepared(NamedTuple):
    """The prepared copy of a folder of images.

    Attributes:
        path: of the copy.
        sets: the number of images by set ("train", "validation" if there is one, "test", or only "") and class. Rows
            are in this order.
        fingerprint: SHA-256 of sets, class names and pixels, independent of the place and format of the images.
    """

    path: Path
    sets: dict[str, dict[str, int]]
    fingerprint: str


def prepare(image: Image.Image, size: int, channels: int) -> np.ndarray:
    """Prepares one image: turns it as its EXIF says, lays it on white, and resizes it to a square (bicubic).

    Args:
        image: of any mode that image files have; if it has several frames, the current one is taken.
        size: height and width of the result in pixels; an image of that size keeps its pixels.
        channels: 1 (grey) or 3 (RGB).

    Returns:
        uint8 [size, size, channels].
    """
    image = upright(image, "L" if channels == 1 else "RGB")
    return np.asarray(image.resize((size, size), FILTER)).reshape(size, size, channels)


def upright(image: Image.Image, mode: str) -> Image.Image:
    """Turns an image as its EXIF says, lays it on white, and converts it to grey ("L") or "RGB"."""
    image = _eight_bits(ImageOps.exif_transpose(image))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert(mode)


def _eight_bits(image: Image.Image) -> Image.Image:
    """Takes the higher 8 of a grey image's 16 bits, as Pillow does for colours; returns other images unchanged."""
    if not image.mode.startswith("I"):
        return image
    values = np.asarray(image)
    grey = Image.fromarray((values >> 8).astype(np.uint8))
    if "transparency" in image.info:
        grey.putalpha(Image.fromarray(np.where(values == image.info["transparency"], 0, 255).astype(np.uint8)))
    return grey


def read_image(file: Path | IO[bytes], name: str, prepare: Callable[[Image.Image], np.ndarray]) -> np.ndarray:
    """Reads and prepares one image file.

    Args:
        file: the file to read.
        name: the name of the file for the message.
        prepare: prepares the image.

    Returns:
        The result of `prepare`.

    Raises:
        DataError: the file cannot be read, or is not a whole image in one of the formats.
    """
    try:
        with Image.open(file, formats=FORMATS) as image:
            return prepare(image)
    except Image.UnidentifiedImageError as error:
        raise DataError(f"{name} is not a PNG, JPEG, WebP, BMP or GIF image: replace or remove it") from error
    except Exception as error:  # Pillow raises anything for a damaged file
        reason = " ".join((getattr(error, "strerror", None) or str(error) or type(error).__name__).split())
        raise DataError(f"the image {name} cannot be read ({reason}): replace or remove it") from error


def load(data: ConfigDict) -> Images:
    """Returns the images of the folder `data.dir`, a memory map of their prepared copy.

    Args:
        data: the config's `data`; `dir`, `size` and `channels` count.

    Raises:
        DataError: what `folders.folder_of`, `prepared` and `pixels` raise.
    """
    copy = prepared(folder_of(data), data.size, data.channels)
    names, counts, sets = description(copy.sets)
    first = np.cumsum([0, *counts[:-1]], dtype=np.int32)
    return Images(pixels(copy), names, first, np.array(counts, np.int32), sets, copy.fingerprint)


def prepared(folder: Path, size: int, channels: int) -> Prepared:
    """Returns the prepared copy of a folder of images; makes it if there is none of the folder's current content.

    Copies are in $XDG_CACHE_HOME/reptile_jax/images, or ~/.cache/reptile_jax/images.

    Args:
        folder: as `folders.listing` describes.
        size: height and width of the prepared images in pixels.
        channels: 1 (grey) or 3 (RGB).

    Raises:
        DataError: what `folders.listed_again` and `read_image` raise; the copy cannot be written or is damaged; or the
            folder changes meanwhile.
    """
    found = listed_again(folder)
    try:
        home = _home(folder, size, channels)
        copy = home / found.state[:16]
        if not copy.exists():
            _make(copy, folder, found, size, channels)
    except (OSError, RuntimeError) as error:  # the latter: there is no home
        raise DataError(
            f"a prepared copy of {folder} cannot be written ({getattr(error, 'strerror', None) or error}): make room "
            "and write access in ~/.cache, or name another folder with XDG_CACHE_HOME"
        ) from error
    try:
        about = json.loads((copy / "about.json").read_text())
        return Prepared(copy, about["sets"], about["fingerprint"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _damaged(copy) from error


def pixels(copy: Prepared) -> np.ndarray:
    """Returns a memory map of all images of a prepared copy, uint8 [images, size, size, channels].

    Raises:
        DataError: the copy is damaged.
    """
    try:
        mapped = np.load(copy.path / "pixels.npy", mmap_mode="r")
    except (OSError, ValueError) as error:
        raise _damaged(copy.path) from error
    if len(mapped) != sum(sum(classes.values()) for classes in copy.sets.values()):
        raise _damaged(copy.path)
    return mapped


def _damaged(copy: Path) -> DataError:
    return DataError(f"the prepared copy {copy} is damaged: delete it and start again")


def _home(folder: Path, size: int, channels: int) -> Path:
    """Returns the folder for the copies of a folder of images."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    place = hashlib.sha256(json.dumps([str(folder.resolve()), VERSION]).encode()).hexdigest()[:12]
    return cache / "reptile_jax" / "images" / f"{folder.resolve().name}-{size}x{size}x{channels}-{place}"


def _make(copy: Path, folder: Path, found: Listing, size: int, channels: int) -> None:
    """Makes a copy beside its final place and renames it, one run at a time; removes older copies of the folder."""

    def waiting(holder: str) -> None:
        print(f"Another run is preparing {folder} ({holder}): waiting for it", file=sys.stderr)

    copy.parent.mkdir(parents=True, exist_ok=True)
    with lock(copy.parent / "lock", waiting):
        if copy.exists():
            return
        print(f"Preparing the images of {folder} in {copy}, once", file=sys.stderr)
        unfinished = copy.parent / "unfinished"
        shutil.rmtree(unfinished, ignore_errors=True)  # of a run that was killed
        unfinished.mkdir()
        try:
            about = _write(unfinished / "pixels.npy", found.parts, size, channels)
            replace_text(unfinished / "about.json", json.dumps(about))
            if listing(folder).state != found.state:
                raise DataError(f"{folder} changed while it was being prepared: start again when it stays as it is")
            for older in copy.parent.glob("*/about.json"):
                if older.parent != unfinished:
                    shutil.rmtree(older.parent, ignore_errors=True)
            unfinished.rename(copy)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)


def _write(path: Path, parts: dict[str, Part], size: int, channels: int) -> dict[str, Any]:
    """Writes the array of all images, and returns the content of its JSON file."""
    sets = counted(parts)
    files = [(part, file) for part in parts.values() for files in part.classes.values() for file in files]
    shape = (len(files), size, size, channels)
    # These are lists, because the order matters.
    known = [(name, list(classes.items())) for name, classes in sets.items()]
    content = hashlib.sha256(json.dumps([known, shape]).encode())
    with path.open("wb") as output, contextlib.ExitStack() as stack:
        np.lib.format.write_array_header_1_0(output, {"descr": "|u1", "fortran_order": False, "shape": shape})
        bar = stack.enter_context(progress_bar("prepare", len(files), "image"))
        for images in stack.enter_context(contextlib.closing(_in_order(files, size, channels))):
            output.write(images.data)
            content.update(images.data)
            bar.update(len(images))
        output.flush()
        os.fsync(output.fileno())
    return {"sets": sets, "fingerprint": content.hexdigest()}


def _in_order(files: list[tuple[Part, str]], size: int, channels: int) -> Generator[np.ndarray, None, None]:
    """Prepares images in threads, which Pillow lets run in parallel, and yields them in order, some at a time."""
    with contextlib.ExitStack() as stack:
        archives = {}
        for part, _ in files:
            if part.place not in archives and not part.place.is_dir():
                archives[part.place] = stack.enter_context(zipfile.ZipFile(part.place))

        whole = partial(prepare, size=size, channels=channels)

        def read(part: Part, file: str) -> np.ndarray:
            name = f"{part.place}/{file}"
            if part.place not in archives:
                return read_image(part.place / file, name, whole)
            try:
                content = io.BytesIO(archives[part.place].read(file))
            except Exception as error:  # zipfile raises anything for a damaged file
                raise DataError(f"{name} cannot be read ({error}): replace it by an undamaged zip file") from error
            return read_image(content, name, whole)

        def chunk(start: int) -> np.ndarray:
            return np.stack([read(part, file) for part, file in files[start : start + _CHUNK]])

        stack.enter_context(warnings.catch_warnings(action="ignore"))  # about large images and broken EXIF data
        executor = ThreadPoolExecutor(usable_cores())
        stack.callback(executor.shutdown, cancel_futures=True)
        chunks = deque(executor.submit(chunk, start) for start in range(0, len(files), _CHUNK))
        while chunks:
            yield chunks.popleft().result()
