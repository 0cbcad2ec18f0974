"""Test characters for the page: Omniglot's if the weights are for them and they are on this disk, otherwise glyphs."""

from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from reptile_jax.data import DATA_SETS, Images, num_train, split

DRAWINGS = 10  # of each character that the page gets: five examples and five queries


class TestCharacters(NamedTuple):
    """Characters that no weights were trained on.

    Attributes:
        label: the name of the data set, for people.
        images: the data.
        classes: the positions of the test characters in the data, int [characters].
    """

    label: str
    images: Images
    classes: np.ndarray

    def some(self, count: int, seed: int) -> list[dict[str, Any]]:
        """Draws different characters at random; each has a `name` and uint8 `drawings` [10, 28, 28, 1]."""
        rng = np.random.default_rng(seed)
        found = []
        for index in rng.choice(self.classes, count, replace=False):
            rows = self.images.first[index] + rng.permutation(self.images.counts[index])[:DRAWINGS]
            found.append({"name": self.images.names[index], "drawings": self.images.pixels[rows]})
        return found


def load(config: ConfigDict) -> TestCharacters | None:
    """Loads test characters, and downloads nothing.

    Args:
        config: the config of the weights.

    Returns:
        The test characters; None if the weights are for photographs.

    Raises:
        DataError: the prepared copy of Omniglot is damaged.
    """
    data = config.data
    if DATA_SETS[data.name].scale != 1:
        return None
    if data.name != "glyphs" and not (data.name == "omniglot" and _omniglot_is_there(data)):
        return _of_glyphs()
    images = DATA_SETS[data.name].load(data)
    tested = split(images, num_train(data, len(images.names)), data.validation_classes, config.seed)["test"]
    return TestCharacters(DATA_SETS[data.name].label, images, tested)


def _omniglot_is_there(data: ConfigDict) -> bool:
    from reptile_jax.data import omniglot  # imported here, because TFDS takes seconds to import

    return omniglot.is_prepared(data.dir)


def _of_glyphs() -> TestCharacters:
    glyphs = DATA_SETS["glyphs"]
    images = glyphs.load(ConfigDict())
    return TestCharacters(glyphs.label, images, split(images, glyphs.train_classes, 0, 0)["test"])
