"""Loads trained weights: from a workdir, from one of its checkpoints, from a weights file, or shipped with the package.

    python -m reptile_jax.run.pretrained WORKDIR FILE [SEED]

writes the weights file of a run, or of one seed of a run of several.
"""

import difflib
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from reptile_jax.config import ConfigError, completed, get_field, seeds_of, unknown_fields
from reptile_jax.data import DATA_SETS
from reptile_jax.devices import mesh_of, put, together
from reptile_jax.files import expanded
from reptile_jax.meta.reptile import MetaState
from reptile_jax.run import checkpoint, weights_file
from reptile_jax.run.checkpoint import CheckpointError
from reptile_jax.run.programs import initial_state, state_shapes, with_head_of

SHIPPED = {file.parent.name: file for file in Path(__file__).parents[1].glob("results/*/weights.safetensors")}


class Pretrained(NamedTuple):
    """Trained states, and the config that trained them.

    Attributes:
        config: every field of the run.
        states: with a leading axis [seeds].
    """

    config: ConfigDict
    states: MetaState


class Found(NamedTuple):
    """Trained weights that are known to be there and undamaged, but are not read yet.

    Attributes:
        named: the name under which they were requested.
        path: the weights file or the checkpoint.
        config: every field of their run.
        fingerprint: the fingerprint of the training data; "" if it is not known.
        restore: reads the states onto a mesh.
    """

    named: str | Path
    path: Path
    config: ConfigDict
    fingerprint: str
    restore: Callable[[Mesh], MetaState]


def load(named: str | Path, mesh: Mesh | None = None) -> Pretrained:
    """Reads trained weights and the inner optimiser's state.

    Args:
        named: a workdir, a checkpoint of one, a weights file (*.safetensors), or (not as a Path) a name in `SHIPPED`.
        mesh: the devices to place the states on; None means all devices.

    Raises:
        CheckpointError: there is nothing of this name, or it is damaged.
        WeightsError: the weights file cannot be read, or it does not say which run it comes from.
    """
    found = find(named)
    return Pretrained(found.config, _read(found, mesh or mesh_of(found.config)))


def find(named: str | Path, quiet: bool = False) -> Found:
    """Finds trained weights, named as in `load`; `quiet` is whether not to print which checkpoints are not usable.

    Raises:
        CheckpointError, WeightsError: as `load`.
    """
    if path := _file(named):
        trained = weights_file.metadata(path)
        config = _completed(json.loads(trained["config"]), named)

        def of_file(mesh: Mesh) -> MetaState:
            shapes = jax.eval_shape(lambda: initial_state(config, config.seed))
            state = weights_file.load(path, jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes))
            state = state._replace(iteration=jnp.int32(int(trained["meta_iters"])))
            return put(mesh, jax.tree.map(lambda x: np.asarray(x)[None], state))

        return Found(named, path, config, trained.get("fingerprint", ""), of_file)
    with together():
        checkpoints, iteration = checkpoint.find(_existing(named), quiet)
    config = _completed(checkpoints.config(iteration).to_dict(), named)

    def of_checkpoint(mesh: Mesh) -> MetaState:
        return checkpoints.restore(iteration, state_shapes(config, mesh))

    return Found(named, checkpoints.path(iteration), config, checkpoints.fingerprint(iteration), of_checkpoint)


def _completed(saved: dict[str, Any], named: str | Path) -> ConfigDict:
    """Returns the config of trained weights with every field of this version.

    Raises:
        CheckpointError: the config has other fields.
    """
    config = completed(ConfigDict(saved))
    if other := unknown_fields(config):
        raise CheckpointError(
            f"{named} was written by another version, whose config differs in {', '.join(other)}: use that version, or "
            f"another workdir"
        )
    return config


def name_of(named: str | Path) -> str:
    """Returns the name of a run: its workdir's, with `_at_ITERATION` for a checkpoint, or its weights file's."""
    path = expanded(named).absolute()
    workdir = _workdir(path)
    return workdir.name.removesuffix(".safetensors") + (f"_at_{path.name}" if workdir != path else "")


def _workdir(path: Path) -> Path:
    """Returns the workdir of a path, which may be the workdir or one of its checkpoints."""
    return path.parent.parent if path.parent.name == checkpoint.FOLDER else path


def config_text(named: str | Path) -> str:
    """Reads the config, as JSON, of trained weights, named as in `load`, or of an evaluation in a separate folder.

    Raises:
        CheckpointError, WeightsError: as `load`.
        OSError: the workdir has no config.
        ValueError, KeyError: the folder has only a results.json, and this file does not name the weights.
    """
    if file := _file(named):
        return weights_file.metadata(file)["config"]
    workdir = _workdir(_existing(named))
    if not (workdir / "config.json").exists() and (workdir / "results.json").exists():
        return json.dumps(json.loads((workdir / "results.json").read_text())["config"])
    return (workdir / "config.json").read_text()


def source_of(found: Found, workdir: Path) -> str:
    """Says where trained weights are: a shipped name, or their path from a workdir."""
    shipped = isinstance(found.named, str) and found.path == SHIPPED.get(found.named)
    return str(found.named) if shipped else os.path.relpath(found.path, workdir)


def evaluated(workdir: Path) -> str | Path:
    """Returns the weights, as `load` takes them, that a separate evaluation used; for a run, returns its folder."""
    source = (evaluated_weights(workdir) or {}).get("source")
    if source is None:
        return workdir
    return source if source in SHIPPED else (workdir / source).resolve()


def evaluated_weights(workdir: Path) -> dict[str, str] | None:
    """Returns what the results of a separate evaluation say of its weights, `source` and `sha256`.

    It is empty if they do not say so, and None if the folder holds no separate evaluation.
    """
    results = workdir / "results.json"
    if is_run(workdir) or not results.exists():
        return None
    try:
        weights = json.loads(results.read_text())["weights"]
        return {key: str(weights[key]) for key in ("source", "sha256")}
    except (ValueError, KeyError, TypeError):
        return {}


def is_run(workdir: Path) -> bool:
    """Returns whether a folder holds a run, and not only an evaluation or nothing."""
    return (workdir / "config.json").exists() or (workdir / checkpoint.FOLDER).exists()


def _file(named: str | Path) -> Path | None:
    """Returns the weights file of this name; None for a workdir or a checkpoint, which come first."""
    path = expanded(named)
    if path.suffix == ".safetensors":
        return path
    return SHIPPED.get(named) if isinstance(named, str) and not (path / checkpoint.FOLDER).exists() else None


def _existing(named: str | Path) -> Path:
    """Returns a workdir or a checkpoint.

    Raises:
        CheckpointError: there is no folder of this name, or it is the folder of all checkpoints.
    """
    if (path := expanded(named)).is_dir() and (path.name != checkpoint.FOLDER or is_run(path)):
        return path
    near = [name for name in difflib.get_close_matches(str(named), SHIPPED, n=1) if name != str(named)]
    raise CheckpointError(
        f"{named} holds no checkpoint: name a workdir that was trained in, one of its {checkpoint.FOLDER}/*, a weights "
        f"file, or what is shipped ({', '.join(sorted(SHIPPED))}){f'; did you mean {near[0]}?' if near else ''}"
    )


def load_for(config: ConfigDict, found: Found, mesh: Mesh) -> MetaState:
    """Reads trained weights for a run, and checks that they fit and were not trained on its test classes.

    Raises:
        CheckpointError, WeightsError: the weights cannot be read, or are not finite.
        ConfigError: the weights have another number of classes or another inner optimiser, or were trained on another
            split of the same data.
    """
    saved, named = found.config, found.named
    for field in ("model.name", "model.filters", "classes", "sgd", "num_seeds", "data.size", "data.channels"):
        before, now = get_field(saved, field), get_field(config, field)
        if before != now:
            raise ConfigError(
                f"{field}={now} does not fit {named}, trained with {field}={before}: give that, or name other weights"
            )
    same_set = saved.data.name == config.data.name
    if same_set and saved.data.train_classes != config.data.train_classes:
        raise ConfigError(
            f"data.train_classes={config.data.train_classes} splits the classes differently from "
            f"data.train_classes={saved.data.train_classes} of {named}, so test classes were trained on: give that"
        )
    # Data that has no sets of its own is split by the seed.
    if same_set and saved.seed != config.seed and DATA_SETS[config.data.name].describe(config.data).sets is None:
        raise ConfigError(
            f"seed={config.seed} splits the classes differently from seed={saved.seed} of {named}, so that test "
            f"classes were trained on: give seed={saved.seed}"
        )
    held_out = saved.data.validation_classes
    if same_set and config.data.validation_classes > held_out:
        raise ConfigError(
            f"data.validation_classes={config.data.validation_classes} are more than the {held_out} held out of the "
            f"training of {named}, so that some were trained on: give at most {held_out}"
        )
    states = _read(found, mesh)
    return states._replace(params=with_head_of(config, states.params))


def _read(found: Found, mesh: Mesh) -> MetaState:
    """Returns the states.

    Raises:
        CheckpointError: not all of their numbers are finite.
    """
    states = found.restore(mesh)
    for path, x in jax.tree_util.tree_flatten_with_path(states)[0]:
        if not bool(jnp.all(jnp.isfinite(x))):
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            raise CheckpointError(f"{found.named} holds numbers that are not finite, in {name}: name other weights")
    return states


def same_data(config: ConfigDict, found: Found, fingerprint: str) -> None:
    """Checks that trained weights were trained on the current data, if the data set is the same.

    Raises:
        ConfigError: the data set now has other images.
    """
    if found.config.data.name == config.data.name and found.fingerprint not in ("", fingerprint):
        raise ConfigError(
            f"data.dir={config.data.dir} holds other images than {found.named} was trained on: give the folder that it "
            f"was trained on, or another workdir without --pretrained"
        )


def export(workdir: str | Path, file: str | Path, seed: int | None = None) -> None:
    """Writes the weights file of a run's newest checkpoint, which holds its config, too.

    Args:
        workdir: the run.
        file: the file to write.
        seed: the seed whose weights to write; None for a run of one seed.

    Raises:
        CheckpointError: the workdir holds no checkpoint.
        ConfigError: the run has several seeds, and `seed` is not one of them.
        WeightsError: the name is not the name of a weights file.
    """
    file = expanded(file)
    if file.suffix != ".safetensors":
        raise weights_file.WeightsError(f"{file} would not be recognised as a weights file: name it {file}.safetensors")
    found = find(workdir)
    try:  # the config of the last evaluation; a checkpoint has an earlier one
        config = _completed(json.loads(config_text(workdir)), workdir)
    except (ValueError, TypeError) as error:
        raise CheckpointError(
            f"{workdir} has a damaged config.json: give the command that trained the run again, which writes a new one"
        ) from error
    seeds = seeds_of(config)
    seed = seeds[0] if seed is None and len(seeds) == 1 else seed
    if seed is None or seed not in seeds:
        wrong = f"{workdir} has several seeds" if seed is None else f"seed={seed} is not a seed of {workdir}"
        raise ConfigError(f"{wrong}: give one of {', '.join(map(str, seeds))} after FILE")
    index, config.seed, config.num_seeds = seeds.index(seed), seed, 1
    states = _read(found, mesh_of(found.config))
    weights_file.save(file, jax.tree.map(lambda x: x[index], states), config, found.fingerprint)


if __name__ == "__main__":
    if len(sys.argv) not in (3, 4) or not all(seed.isdecimal() for seed in sys.argv[3:]):
        sys.exit("usage: python -m reptile_jax.run.pretrained WORKDIR FILE [SEED]")
    try:
        export(sys.argv[1], sys.argv[2], *map(int, sys.argv[3:]))
    except (CheckpointError, ConfigError, weights_file.WeightsError, OSError) as error:
        sys.exit(f"error: {error}")
