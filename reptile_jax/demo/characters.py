"""Test characters for the page to load: of the data that trained the weights if it is on this disk, else of glyphs."""

from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from reptile_jax.data import DATA_SETS, DataError, Images, num_train, split

DRAWINGS = 10  # of each character that is handed out: five examples and five queries


class TestCharacters(NamedTuple):
    """Characters that no weights were trained on.

    Attributes:
        label: what data they are of, as people call it.
        images: the data.
        classes: the test characters, by their place in the data, int [characters].
    """

    label: str
    images: Images
    classes: np.ndarray

    def some(self, count: int, seed: int) -> list[dict[str, Any]]:
        """Draws distinct characters at random: the `name` of each, and uint8 `drawings` [10, 28, 28, 1]."""
        rng = np.random.default_rng(seed)
        found = []
        for index in rng.choice(self.classes, count, replace=False):
            rows = self.images.first[index] + rng.permutation(self.images.counts[index])[:DRAWINGS]
            found.append({"name": self.images.names[index], "drawings": self.images.pixels[rows]})
        return found


def load(config: ConfigDict) -> TestCharacters | None:
    """Loads test characters; downloads nothing.

    Args:
        config: of the weights.

    Returns:
        None where the weights are for photographs.
    """
    data = config.data
    if DATA_SETS[data.name].scale != 1:
        return None
    if data.name == "omniglot" and not _omniglot_is_there(data):
        return _of_glyphs()
    try:
        images = DATA_SETS[data.name].load(data)
    except (DataError, OSError):
        return _of_glyphs()
    tested = split(images, num_train(data, len(images.names)), data.validation_classes, config.seed)["test"]
    return TestCharacters(DATA_SETS[data.name].label, images, tested)


def _omniglot_is_there(data: ConfigDict) -> bool:
    from reptile_jax.data import omniglot  # here, because TFDS takes seconds to import

    return omniglot.is_prepared(data.dir)


def _of_glyphs() -> TestCharacters:
    glyphs = DATA_SETS["glyphs"]
    images = glyphs.load(ConfigDict())
    return TestCharacters(glyphs.label, images, split(images, glyphs.train_classes, 0, 0)["test"])
