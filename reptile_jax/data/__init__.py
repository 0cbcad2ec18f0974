"""Data sets: `DATA_SETS` names them, and a config's `data.name` picks one.

A data set is described without its pixels, to check a config, and loaded as `Images`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict
from PIL import Image

from reptile_jax.data import folders, glyphs, prepared, waves
from reptile_jax.data.characters import SIZE, as_images
from reptile_jax.data.drawings import prepare_drawing
from reptile_jax.data.images import DataError, Description, Images, only, set_sizes, split, turned, with_turns
from reptile_jax.data.omniglot_archive import BACKGROUND, DRAWINGS, EVALUATION


class DataSet(NamedTuple):
    """The properties of a data set; every function takes a config's `data`.

    Attributes:
        kind: the kind of its tasks, a key of `tasks.KINDS`.
        label: its name in results; the label of synthetic data says so.
        values: field -> the values that it may have with this data set; other fields may have any value.
        scale: the divisor that makes numbers from 0 to 1 of the pixels.
        train_classes: the number of training classes if the config's `data.train_classes` is 0; 0 means four fifths.
        describe: returns the data set without its pixels.
        load: reads the data set, images as `Images`; raises DataError if it is missing or damaged.
        prepare: makes an image of another source like the images of this data set: uint8 [size, size, channels];
            raises ValueError if it cannot. None means that the data set has no images.
        preparation: what `prepare` does, in a few words; {size} and {channels} stand for those of the config.
    """

    kind: str
    label: str
    values: dict[str, tuple[Any, ...]]
    scale: int
    train_classes: int
    describe: Callable[[ConfigDict], Description]
    load: Callable[[ConfigDict], Any]
    prepare: Callable[[Image.Image, ConfigDict], np.ndarray] | None = None
    preparation: str = ""


def _omniglot(data: ConfigDict) -> Images:
    from reptile_jax.data import omniglot  # here, because TFDS takes seconds to import and other data does not need it

    return as_images(omniglot.load(data.dir, data.archives))


def _omniglot_described(_: ConfigDict) -> Description:
    names = [*BACKGROUND.characters(), *EVALUATION.characters()]
    return Description(tuple("/".join(name) for name in names), (DRAWINGS,) * len(names))


def _glyphs_described(_: ConfigDict) -> Description:
    return Description(glyphs.names(), (glyphs.DRAWINGS,) * glyphs.CHARACTERS)


def _drawing(image: Image.Image, _: ConfigDict) -> np.ndarray:
    return prepare_drawing(image)


def _image(image: Image.Image, data: ConfigDict) -> np.ndarray:
    return prepared.prepare(image, data.size, data.channels)


_AS_DRAWINGS = "as drawings: grey, split into ink (dark) and paper by Otsu's threshold, to 28x28"
_AS_IMAGES = "as photographs: to {size}x{size}x{channels}, bicubic"

_CHARACTERS = {"data.size": (SIZE,), "data.channels": (1,)}
_WAVES = {  # a point is one number, and a wave has no labels
    "data.size": (1,), "data.channels": (1,), "data.rotations": (False,), "data.train_classes": (0,), "classes": (1,),
    "data.validation_classes": (0,), "eval_set": ("auto", "test"), "transductive": (False,), "balanced": (False,),
    "zero_head": (False,),
    "model.name": ("perceptron", "perceptron_relu"),  # as text, because their module would import JAX
}  # fmt: skip

DATA_SETS = {
    "omniglot": DataSet(
        "images", "Omniglot", _CHARACTERS, 1, 1200, _omniglot_described, _omniglot, _drawing, _AS_DRAWINGS
    ),
    "glyphs": DataSet(
        "images", "glyphs (synthetic)", _CHARACTERS, 1, glyphs.TRAIN_CHARACTERS, _glyphs_described,
        lambda data: as_images(glyphs.load()), _drawing, _AS_DRAWINGS,
    ),
    "images": DataSet("images", "images", {}, 255, 0, folders.describe, prepared.load, _image, _AS_IMAGES),
    "sinusoid": DataSet(
        "sine", "sine waves", _WAVES, 1, 0, lambda _: waves.describe(waves.POINTS),
        lambda _: waves.Waves(waves.evenly()),
    ),
    "sinusoid_uniform": DataSet(
        "sine", "sine waves", _WAVES, 1, 0, lambda _: waves.describe(2**31 - 1), lambda _: waves.Waves(None),
    ),
}  # fmt: skip

__all__ = [
    "DATA_SETS",
    "DataError",
    "DataSet",
    "Description",
    "Images",
    "num_train",
    "only",
    "set_sizes",
    "split",
    "turned",
    "with_turns",
]


def num_train(data: ConfigDict, classes: int) -> int:
    """Returns how many of the classes are for training, including those that are held out for validation."""
    return data.train_classes or DATA_SETS[data.name].train_classes or round(0.8 * classes)
