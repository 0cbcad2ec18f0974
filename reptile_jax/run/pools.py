"""The classes of a run, on its devices."""

from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from reptile_jax.config import seeds_of
from reptile_jax.data import DATA_SETS, Characters, load_characters, split
from reptile_jax.devices import SEEDS, put
from reptile_jax.meta.episodes import Pool


class Data(NamedTuple):
    """All classes of a run on the devices, and where each set of them begins.

    Attributes:
        images: uint8 [seeds * classes, drawings, 28, 28], the classes of one seed's split after those of the other.
        names: [seeds * classes], "ALPHABET/CHARACTER", and "/rotDEGREES" where it is turned.
        pools: for each set evaluated, its classes, counted within a seed; "train" is also what training draws from.
        held_out: "test", or "validation" while tuning; the other one is not loaded at all.
    """

    images: jax.Array
    names: tuple[str, ...]
    pools: dict[str, Pool]
    held_out: str


def load_data(config: ConfigDict, mesh: Mesh) -> Data:
    """Loads the data set of a config onto the devices, split by each seed.

    Raises:
        DataError: the data is missing or damaged.
    """
    data = config.data
    characters = load_characters(data.name, data.dir, data.archives)
    held_out = "validation" if data.validation_classes else "test"
    parts: list[Characters] = []
    for seed in seeds_of(config):
        of_seed = split(characters, DATA_SETS[data.name].train_characters, seed, data.validation_classes)
        parts += [of_seed.train, getattr(of_seed, held_out)]
    train, held = (len(part.names) for part in parts[:2])
    images = put(mesh, np.concatenate([part.images for part in parts]), SEEDS)
    names = tuple(name for part in parts for name in part.names)
    return Data(images, names, {"train": Pool(0, train), held_out: Pool(train, held)}, held_out)


def data_label(config: ConfigDict) -> str:
    """Names the data set where its results are shown; synthetic data is called that."""
    return "glyphs (synthetic)" if config.data.name == "glyphs" else "Omniglot"
