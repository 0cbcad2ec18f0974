"""Checkpoints of a run: the only file that knows Orbax.

A checkpoint holds the whole `MetaState`, with a leading axis [seeds], and the config it was trained with. Orbax writes
it beside its final place and renames it; then it gets a seal, a file with the checksums of all others. A checkpoint
without its seal, or that its seal does not fit, is damaged: it is never restored, and the one before is taken.
"""

import hashlib
import json
import os
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from ml_collections import ConfigDict

from reptile_jax.devices import ElsewhereError, is_main, together
from reptile_jax.reptile import MetaState

FOLDER = "checkpoints"  # inside a workdir
DAMAGED = "damaged_checkpoints"  # inside a workdir: where damaged ones are put aside
SEAL = "seal.json"  # inside a checkpoint
KEPT = 3  # newest checkpoints that stay


class CheckpointError(Exception):
    """A checkpoint that is not there, is damaged, does not fit or cannot be written; the message is one line."""


class Checkpoints:
    """The checkpoints of one workdir, numbered by meta-iteration."""

    def __init__(self, workdir: Path, write: bool = False) -> None:
        """Opens the workdir's checkpoints.

        Args:
            workdir: the workdir.
            write: to write more, too: makes the folder if it is not there, and clears away what was not finished.
        """
        self._folder = (workdir / FOLDER).absolute()
        if write:
            options = ocp.CheckpointManagerOptions(
                max_to_keep=KEPT, enable_async_checkpointing=False, cleanup_tmp_directories=True
            )
        else:
            options = ocp.CheckpointManagerOptions(read_only=True)
        self._manager = ocp.CheckpointManager(self._folder, options=options)

    def save(self, states: MetaState, config: ConfigDict) -> None:
        """Writes a checkpoint, unless this meta-iteration has one, and removes the oldest beyond `KEPT`.

        Of several processes each has to call it, and one writes.

        Raises:
            CheckpointError: it could not be written; those before stay.
        """
        iteration = int(np.asarray(states.iteration)[0])
        if iteration in self._manager.all_steps():
            return
        saved_config = ocp.args.JsonSave(json.loads(config.to_json()))
        items = ocp.args.Composite(state=ocp.args.StandardSave(states), config=saved_config)
        try:
            with together():
                if is_main():
                    self._find_room(2 * sum(x.nbytes for x in jax.tree.leaves(states)))
            self._manager.save(iteration, args=items)
            if is_main():
                _seal(self._folder / str(iteration), states)
        except ElsewhereError:
            raise
        except Exception as error:  # of what kind depends on which of Orbax's layers the disk's error meets
            raise CheckpointError(
                f"{self._folder / str(iteration)} cannot be written ({_one_line(error)}); the checkpoints before are "
                f"whole: make room, and the same command goes on from the newest"
            ) from error

    def _find_room(self, size: int) -> None:
        """Raises OSError where the disk has no room for so many bytes: Orbax finds out in many threads at once."""
        room = self._folder / ".room"
        try:
            with room.open("wb") as file:
                os.posix_fallocate(file.fileno(), 0, size)
        finally:
            room.unlink(missing_ok=True)

    def config(self, iteration: int) -> ConfigDict:
        """Reads the config that a checkpoint was trained with."""
        items = ocp.args.Composite(config=ocp.args.JsonRestore())
        return ConfigDict(self._manager.restore(iteration, args=items)["config"])

    def restore(self, iteration: int, like: MetaState) -> MetaState:
        """Reads a checkpoint into a state with the structure, shapes, dtypes and devices of `like`.

        Raises:
            CheckpointError: the checkpoint holds other arrays.
        """
        path = self._folder / str(iteration)
        saved, wanted = json.loads((path / SEAL).read_text())["arrays"], _arrays(like)
        for name in sorted(saved.keys() | wanted.keys()):
            if saved.get(name) != wanted.get(name):
                raise CheckpointError(
                    f"{path} is of another network, inner optimiser or version: {name} is {saved.get(name)} there and "
                    f"{wanted.get(name)} here: use what wrote it, or another workdir"
                )
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
        CheckpointError: there is none, or it is damaged.
    """
    if path.parent.name == FOLDER and path.name.isdecimal() and path.is_dir():
        if problem := damage(path):
            raise CheckpointError(f"{path} is damaged, {problem}: name another one")
        return Checkpoints(path.parent.parent), int(path.name)
    if (latest := newest(path)) is not None:
        return Checkpoints(path), latest
    raise CheckpointError(f"{path} holds no checkpoint: name a workdir that was trained in, or one of its {FOLDER}/*")


def newest(workdir: Path, quiet: bool = False) -> int | None:
    """Returns the newest undamaged checkpoint's meta-iteration, None where there is no checkpoint; writes nothing.

    Args:
        workdir: the workdir.
        quiet: not to say which ones are damaged.

    Raises:
        CheckpointError: all that there are are damaged.
    """
    iterations = _iterations(workdir)
    for iteration in iterations:
        path = workdir / FOLDER / str(iteration)
        problem = damage(path)
        if not problem:
            return iteration
        if is_main() and not quiet:
            print(f"{path} is damaged, {problem}: the one before it is looked for", file=sys.stderr)
    if iterations:
        raise CheckpointError(
            f"{workdir / FOLDER}: all {len(iterations)} checkpoints are damaged: restore one from a backup, or name "
            f"another workdir to begin anew"
        )
    return None


def set_aside_damaged(workdir: Path) -> None:
    """Moves the damaged checkpoints after the newest undamaged one out of the way of those to come."""
    for iteration in _iterations(workdir):
        path = workdir / FOLDER / str(iteration)
        if not damage(path):
            break
        aside = workdir / DAMAGED
        aside.mkdir(exist_ok=True)
        path.rename(aside / f"{iteration}.{len(list(aside.iterdir()))}")


def damage(path: Path) -> str:
    """Says what is wrong with the files of a checkpoint, "" where nothing is."""
    try:
        files = json.loads((path / SEAL).read_text())["files"]
    except FileNotFoundError:
        return f"it has no {SEAL}"
    except (ValueError, KeyError, TypeError):
        return f"its {SEAL} cannot be read"
    for name, checksum in files.items():
        if not (path / name).is_file():
            return f"it has no {name}"
        if _checksum(path / name) != checksum:
            return f"{name} has another checksum than it was written with"
    return ""


def _iterations(workdir: Path) -> list[int]:
    """The meta-iterations of a workdir's checkpoints, damaged or not, the newest first."""
    return sorted((int(path.name) for path in (workdir / FOLDER).glob("*") if path.name.isdecimal()), reverse=True)


def _seal(path: Path, states: MetaState) -> None:
    """Writes the seal of a checkpoint."""
    files = {str(file.relative_to(path)): _checksum(file) for file in sorted(path.rglob("*")) if file.is_file()}
    unfinished = path / (SEAL + ".tmp")
    with unfinished.open("w") as seal:
        json.dump({"arrays": _arrays(states), "files": files}, seal)
        seal.flush()
        os.fsync(seal.fileno())
    unfinished.replace(path / SEAL)


def _checksum(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _arrays(states: Any) -> dict[str, str]:
    """Names every array of a state with its dtype and shape."""
    named, _ = jax.tree_util.tree_flatten_with_path(states)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): f"{x.dtype}{list(x.shape)}" for path, x in named}


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
