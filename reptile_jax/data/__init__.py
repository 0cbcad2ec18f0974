"""Data sets of few-shot classes: Omniglot, and `glyphs`, synthetic handwriting made on the spot.

Each has a module with `load`, which returns a `Characters` array; `load_split` is the way in.
"""

from typing import NamedTuple

from reptile_jax.data import glyphs
from reptile_jax.data.characters import Characters, DataError, Split, split
from reptile_jax.data.omniglot_archive import BACKGROUND, DRAWINGS, EVALUATION


class DataSet(NamedTuple):
    """The size of a data set, known before it is loaded."""

    characters: int
    train_characters: int
    drawings: int  # of each character


DATA_SETS = {
    "omniglot": DataSet(len(BACKGROUND.characters()) + len(EVALUATION.characters()), 1200, DRAWINGS),
    "glyphs": DataSet(glyphs.CHARACTERS, glyphs.TRAIN_CHARACTERS, glyphs.DRAWINGS),
}

__all__ = ["DATA_SETS", "Characters", "DataError", "DataSet", "Split", "load_characters", "load_split", "split"]


def load_split(name: str, data_dir: str, archives: str, seed: int, validation_classes: int) -> Split:
    """Loads a data set by its name and splits its characters into classes.

    Args:
        name: "omniglot" or "glyphs".
        data_dir: where TFDS keeps the prepared copy of Omniglot; "": TFDS_DATA_DIR or ~/tensorflow_datasets.
        archives: folder with Omniglot's two zip files; "": they are downloaded if no prepared copy exists.
        seed: seed of the split into training and test characters.
        validation_classes: number of training characters to hold out for tuning.

    Returns:
        Training classes (rotated), validation and test characters: uint8 [classes, drawings, 28, 28] each.

    Raises:
        ValueError: there is no data set of that name.
        DataError: the data is missing or damaged, or `validation_classes` leaves no training character.
    """
    return split(load_characters(name, data_dir, archives), DATA_SETS[name].train_characters, seed, validation_classes)


def load_characters(name: str, data_dir: str, archives: str) -> Characters:
    """Loads all characters of a data set; arguments and errors are those of `load_split`."""
    if name not in DATA_SETS:
        raise ValueError(f"unknown data set {name!r}: it is one of {', '.join(DATA_SETS)}")
    if name == "omniglot":
        # Imported here because TFDS takes seconds to import and the synthetic data set has no need of it.
        from reptile_jax.data import omniglot

        return omniglot.load(data_dir, archives)
    return glyphs.load()
