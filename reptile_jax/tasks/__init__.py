"""Kinds of task: `kind_of` gives that of a config, which its data set decides."""

from ml_collections import ConfigDict

from reptile_jax.data import DATA_SETS
from reptile_jax.tasks import images, sine
from reptile_jax.tasks.kind import Data, Source, TaskKind

KINDS: dict[str, TaskKind] = {"images": images.KIND, "sine": sine.KIND}

__all__ = ["KINDS", "Data", "Source", "TaskKind", "kind_of"]


def kind_of(config: ConfigDict) -> TaskKind:
    """Returns the kind of task that a config's data set holds."""
    return KINDS[DATA_SETS[config.data.name].kind]
