"""Checkpoints of a run: the only file that knows Orbax.

A checkpoint holds the whole `MetaState`, with a leading axis [seeds], and the config it was trained with. Orbax writes
it beside its final place and renames it, so that a checkpoint is whole or is not there.
"""

import json
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
from ml_collections import ConfigDict

from reptile_jax.reptile import MetaState

FOLDER = "checkpoints"  # inside a workdir
KEPT = 3  # newest checkpoints that stay


class CheckpointError(Exception):
    """A checkpoint that is not there or does not fit; the message is one line."""


class Checkpoints:
    """The checkpoints of one workdir, numbered by meta-iteration."""

    def __init__(self, workdir: Path) -> None:
        """Opens the workdir's checkpoints; makes the folder if it is not there."""
        self._manager = ocp.CheckpointManager(
            (workdir / FOLDER).absolute(),
            options=ocp.CheckpointManagerOptions(max_to_keep=KEPT, enable_async_checkpointing=False),
        )

    def save(self, states: MetaState, config: ConfigDict) -> None:
        """Writes a checkpoint, unless this meta-iteration has one, and removes the oldest beyond `KEPT`.

        Of several processes each has to call it, and one writes.
        """
        iteration = int(np.asarray(states.iteration)[0])
        if iteration not in self._manager.all_steps():
            saved_config = ocp.args.JsonSave(json.loads(config.to_json()))
            items = ocp.args.Composite(state=ocp.args.StandardSave(states), config=saved_config)
            self._manager.save(iteration, args=items)

    def config(self, iteration: int) -> ConfigDict:
        """Reads the config that a checkpoint was trained with."""
        items = ocp.args.Composite(config=ocp.args.JsonRestore())
        return ConfigDict(self._manager.restore(iteration, args=items)["config"])

    def restore(self, iteration: int, like: MetaState) -> MetaState:
        """Reads a checkpoint into a state with the structure, shapes and dtypes of `like`."""
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        items = ocp.args.Composite(state=ocp.args.StandardRestore(abstract))
        return self._manager.restore(iteration, args=items)["state"]


def find(path: Path) -> tuple[Checkpoints, int]:
    """Finds the checkpoint that a path names.

    Args:
        path: a workdir, for its newest checkpoint, or one checkpoint, `WORKDIR/checkpoints/ITERATION`.

    Returns:
        The workdir's checkpoints and the meta-iteration of the one named.

    Raises:
        CheckpointError: there is none.
    """
    if path.parent.name == FOLDER and path.name.isdecimal() and path.is_dir():
        return Checkpoints(path.parent.parent), int(path.name)
    if (latest := newest(path)) is not None:
        return Checkpoints(path), latest
    raise CheckpointError(f"{path} holds no checkpoint: name a workdir that was trained in, or one of its {FOLDER}/*")


def newest(workdir: Path) -> int | None:
    """Returns the newest checkpoint's meta-iteration, None where there is no checkpoint; writes nothing."""
    return max((int(path.name) for path in (workdir / FOLDER).glob("*") if path.name.isdecimal()), default=None)
