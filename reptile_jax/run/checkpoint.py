"""Checkpoints of a run: the only file that knows Orbax.

A checkpoint holds the whole `MetaState`, with a leading axis [seeds], and the config that it was trained with. Orbax
writes it beside its final place and renames it. Then it gets a seal, which is a file with the checksums of all other
files and of itself. A checkpoint is damaged if its seal is missing or does not fit. A damaged checkpoint is never
restored, and the previous one is used. A note beside the checkpoints says which one is being written: if the program is
killed before that one has its seal, it counts as missing and not as damaged.
"""

import hashlib
import itertools
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from ml_collections import ConfigDict

from reptile_jax.devices import ElsewhereError, is_main, together
from reptile_jax.files import replace_text
from reptile_jax.meta.reptile import MetaState

FOLDER = "checkpoints"  # inside a workdir
SET_ASIDE = "set_aside_checkpoints"  # inside a workdir: the folder for checkpoints that a run could not go on from
WRITING = ".writing"  # among the checkpoints: which one is being written
SEAL = "seal.json"  # inside a checkpoint
KEPT = 3  # newest checkpoints that stay


class CheckpointError(Exception):
    """A checkpoint is missing, is damaged, does not fit or cannot be written; the message is one line."""


class Checkpoints:
    """The checkpoints of one workdir, numbered by meta-iteration."""

    def __init__(self, workdir: Path, write: bool = False) -> None:
        """Opens the workdir's checkpoints.

        Args:
            workdir: the workdir.
            write: whether to write checkpoints, too; makes the folder if necessary, and removes unfinished checkpoints.
        """
        self._folder = (workdir / FOLDER).absolute()
        if write:
            options = ocp.CheckpointManagerOptions(
                max_to_keep=KEPT, enable_async_checkpointing=False, cleanup_tmp_directories=True
            )
            self._manager = ocp.CheckpointManager(self._folder, options=options)

    def save(self, states: MetaState, config: ConfigDict, rows: int, fingerprint: str = "", machine: str = "") -> None:
        """Writes a checkpoint, unless this meta-iteration has one, and removes the oldest beyond `KEPT`.

        Every process has to call this method, and one of them writes.

        Args:
            states: the state of every seed.
            config: the run's config.
            rows: number of rows of metrics.jsonl on the disk.
            fingerprint: the fingerprint of the training data.
            machine: the machine that computed the states, as `devices.machine` describes it.

        Raises:
            CheckpointError: the checkpoint could not be written; earlier checkpoints stay.
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
                    replace_text(self._folder / WRITING, str(iteration))
            self._manager.save(iteration, args=items)
            with together():  # no process reads the checkpoint before it is sealed
                if is_main():
                    of_run = {"rows": rows, "fingerprint": fingerprint, "machine": machine}
                    _seal(self.path(iteration), states, of_run)
                    (self._folder / WRITING).unlink()
        except ElsewhereError:
            raise
        except Exception as error:  # its class depends on the layer of Orbax in which the disk's error occurs
            raise CheckpointError(
                f"{self.path(iteration)} cannot be written ({_one_line(error)}); earlier checkpoints are "
                f"unchanged: make room and write access there, and the same command goes on from the newest"
            ) from error

    def _find_room(self, size: int) -> None:
        """Raises OSError if the disk has no room for so many bytes; Orbax would raise it in many threads at once."""
        room = self._folder / ".room"
        try:
            room.write_bytes(bytes(size))  # this also notices quotas and limits
        finally:
            room.unlink(missing_ok=True)

    def path(self, iteration: int) -> Path:
        """Returns the folder of a checkpoint."""
        return self._folder / str(iteration)

    def config(self, iteration: int) -> ConfigDict:
        """Reads the config that a checkpoint was trained with."""
        return ConfigDict(self._read(iteration, config=ocp.args.JsonRestore()))

    def fingerprint(self, iteration: int) -> str:
        """Reads the fingerprint of a checkpoint's training data; "" if it is not known."""
        return _read_seal(self.path(iteration)).get("fingerprint", "")

    def machine(self, iteration: int) -> str:
        """Reads which machine computed a checkpoint; "" if it is not known."""
        return _read_seal(self.path(iteration)).get("machine", "")

    def restore(self, iteration: int, like: MetaState) -> MetaState:
        """Reads a checkpoint into a state with the structure, shapes, dtypes and devices of `like`.

        Raises:
            CheckpointError: the checkpoint holds other arrays.
        """
        path = self.path(iteration)
        saved, wanted = _read_seal(path)["arrays"], _arrays(like)
        for name in sorted(saved.keys() | wanted.keys()):
            if saved.get(name) != wanted.get(name):
                raise CheckpointError(
                    f"{path} is for another network, inner optimiser or version: {name} is {saved.get(name)} there and "
                    f"{wanted.get(name)} here: use the config and version that wrote it, or another workdir"
                )
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        return self._read(iteration, state=ocp.args.StandardRestore(abstract))

    def _read(self, iteration: int, **item: ocp.args.CheckpointArgs) -> Any:
        """Reads one item of a checkpoint; it uses no manager, because a manager that only reads prints a warning."""
        with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as reader:
            (content,) = reader.restore(self.path(iteration), args=ocp.args.Composite(**item)).values()
        return content


def find(path: Path, quiet: bool = False) -> tuple[Checkpoints, int]:
    """Finds the checkpoint that a path names.

    Args:
        path: a workdir, for its newest checkpoint, or one checkpoint, `WORKDIR/checkpoints/ITERATION`.
        quiet: as for `newest`.

    Returns:
        The workdir's checkpoints and the meta-iteration of the one named.

    Raises:
        CheckpointError: there is no such checkpoint, or it is damaged.
    """
    if path.parent.name == FOLDER and path.name.isdecimal() and path.is_dir():
        if problem := damage(path):
            raise CheckpointError(f"{path} is damaged, {problem}: name another one")
        return Checkpoints(path.parent.parent), int(path.name)
    if (latest := newest(path, quiet=quiet)) is not None:
        return Checkpoints(path), latest
    raise CheckpointError(f"{path} holds no checkpoint: name a workdir that was trained in, or one of its {FOLDER}/*")


def newest(workdir: Path, steps: list[int] | None = None, quiet: bool = False) -> int | None:
    """Returns the meta-iteration of the newest usable checkpoint, or None if there is no checkpoint; writes nothing.

    Args:
        workdir: the workdir.
        steps: the steps of the rows in its metrics.jsonl. A checkpoint is usable if no row before it is missing. None
            means that the rows do not matter.
        quiet: whether not to print why other checkpoints are not usable.

    Raises:
        CheckpointError: there are checkpoints, but none is usable.
    """
    iterations, whole = _iterations(workdir), []
    for iteration in iterations:
        path = workdir / FOLDER / str(iteration)
        if problem := damage(path):
            problem = f"is damaged, {problem}"
        else:
            whole.append(path)
            problem = _lost(path, iteration, steps)
        if not problem:
            return iteration
        if is_main() and not quiet:
            print(f"{path} {problem}: looking for an earlier one", file=sys.stderr)
    if whole:
        raise CheckpointError(
            f"{workdir / 'metrics.jsonl'} lacks rows from before every intact checkpoint: restore it from a "
            f"backup, or start another run from the newest: --pretrained={whole[0]} --workdir=ANOTHER"
        )
    if iterations:
        raise CheckpointError(
            f"{workdir / FOLDER}: all {len(iterations)} checkpoints are damaged: restore one from a backup, or name "
            f"another workdir to start again"
        )
    return None


def set_aside_after(workdir: Path, iteration: int | None) -> None:
    """Moves later checkpoints away, so that new ones can be written, and removes an unfinished one."""
    for other in _iterations(workdir):
        if iteration is not None and other > iteration:
            aside = workdir / SET_ASIDE
            aside.mkdir(exist_ok=True)
            free = next(n for n in itertools.count() if not (aside / f"{other}.{n}").exists())
            (workdir / FOLDER / str(other)).rename(aside / f"{other}.{free}")
    if unfinished := _unfinished(workdir):
        shutil.rmtree(workdir / FOLDER / unfinished, ignore_errors=True)
    (workdir / FOLDER / WRITING).unlink(missing_ok=True)


def damage(path: Path) -> str:
    """Returns what is wrong with the files of a checkpoint; "" if nothing is wrong."""
    try:
        for name, checksum in _read_seal(path)["files"].items():
            if not (path / name).is_file():
                return f"it has no {name}"
            if _checksum((path / name).read_bytes()) != checksum:
                return f"{name} has another checksum than it was written with"
    except FileNotFoundError:
        return f"it has no {SEAL}"
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        return f"it cannot be read ({_one_line(error)})"
    return ""


def _lost(path: Path, iteration: int, steps: list[int] | None) -> str:
    """Returns, in words, how many rows are missing before an undamaged checkpoint; "" if none is missing."""
    if steps is None:
        return ""
    there, written = sum(step <= iteration for step in steps), _read_seal(path)["rows"]
    return f"is intact, but metrics.jsonl has {there} of the {written} rows before it" if there < written else ""


def _iterations(workdir: Path) -> list[int]:
    """Returns the meta-iterations of a workdir's checkpoints, damaged or not, the newest first."""
    names = {path.name for path in (workdir / FOLDER).glob("*") if path.name.isdecimal()} - {_unfinished(workdir)}
    return sorted(map(int, names), reverse=True)


def _unfinished(workdir: Path) -> str:
    """Returns the name of the checkpoint that was not finished when the program ended; "" if there is none."""
    note = workdir / FOLDER / WRITING
    name = note.read_text(errors="replace") if note.exists() else ""
    return name if name.isdecimal() and not (workdir / FOLDER / name / SEAL).exists() else ""


def _seal(path: Path, states: MetaState, of_run: dict[str, Any]) -> None:
    """Writes the seal of a checkpoint."""
    files = [file for file in sorted(path.rglob("*")) if file.is_file()]
    sums = {str(file.relative_to(path)): _checksum(file.read_bytes()) for file in files}
    content = {"arrays": _arrays(states), "files": sums} | of_run
    replace_text(path / SEAL, json.dumps(content | {"checksum": _checksum(json.dumps(content).encode())}))


def _read_seal(path: Path) -> dict[str, Any]:
    """Reads the seal of a checkpoint.

    Raises:
        OSError: the seal cannot be read.
        ValueError, LookupError, TypeError, AttributeError: the seal is damaged.
    """
    content = json.loads((path / SEAL).read_text())
    if content.pop("checksum") != _checksum(json.dumps(content).encode()):
        raise ValueError(f"{SEAL} is damaged")
    return content


def _checksum(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _arrays(states: Any) -> dict[str, str]:
    """Names every array of a state with its dtype and shape."""
    named, _ = jax.tree_util.tree_flatten_with_path(states)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): f"{x.dtype}{list(x.shape)}" for path, x in named}


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
