"""Folders of small images in several formats, for tests."""

import io
import zipfile

import numpy as np
from PIL import Image

FORMATS = ("png", "jpeg", "bmp", "webp", "gif")


def pixels(seed, height=8, width=8):
    """Returns random colours: uint8 [height, width, 3]."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def encoded(array, file_format="png", **options):
    """Returns the bytes of an image file."""
    file = io.BytesIO()
    Image.fromarray(array).save(file, file_format, **options)
    return file.getvalue()


def members(classes, seed=0, formats=("png",), size=(8, 8)):
    """Returns "CLASS/image" -> bytes, from class -> number of images; the formats take turns."""
    return {
        f"{name}/{number:03d}.{formats[number % len(formats)]}": encoded(
            pixels((seed, *name.encode(), number), *size), formats[number % len(formats)]
        )
        for name, count in classes.items()
        for number in range(count)
    }


def write_folder(folder, contents):
    """Writes files into a folder."""
    for name, data in contents.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder


def write_zip(path, contents, top=""):
    """Writes members into a zip file, below the folder `top` in it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, data in contents.items():
            file.writestr(f"{top}{name}", data)
    return path
