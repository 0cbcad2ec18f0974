"""Reads and writes weights files (safetensors), which other frameworks can read and people can share.

Keys: `params/LAYER/NAME` and, with Adam, the same under `second_moment/`, and Adam's step `count` (int32; 0 under SGD).
Layouts are those of the network: convolution kernels [3, 3, in, out], the dense kernel [inputs, outputs].
Metadata, if known: `config` has every field of the run as JSON; `meta_iters` is the number of meta-iterations done;
`fingerprint` is the fingerprint of the training data.
"""

import json
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import optax
from flax.traverse_util import flatten_dict, unflatten_dict
from ml_collections import ConfigDict
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file
from safetensors.numpy import save as to_bytes

from reptile_jax.files import replace_bytes
from reptile_jax.meta.reptile import MetaState


class WeightsError(Exception):
    """A weights file is missing, damaged or does not fit; the message is one line."""


def save(path: str | Path, state: MetaState, config: ConfigDict | None = None, fingerprint: str = "") -> None:
    """Writes the weights of a state and its inner optimiser's state in place of an earlier file; dtypes stay.

    A new run can start from a weights file, but a run cannot resume from it. The meta-iteration is only metadata.

    Args:
        path: the file to write.
        state: a state, its inner optimiser SGD or Adam.
        config: the run's config, for later readers; None if it is not known.
        fingerprint: the fingerprint of the training data; "" if it is not known.

    Raises:
        WeightsError: the file cannot be written.
    """
    tensors = {key: np.asarray(tensor, order="C") for key, tensor in _tensors(state).items()}
    if not Path(path).parent.is_dir():
        raise WeightsError(f"{path} cannot be written: there is no folder {Path(path).parent}: make it")
    known = {"fingerprint": fingerprint} if fingerprint else {}
    if config:
        known |= {"config": config.to_json(), "meta_iters": str(int(state.iteration))}
    try:
        replace_bytes(Path(path), to_bytes(tensors, known or None))
    except OSError as error:
        raise WeightsError(f"{path} cannot be written ({error.strerror}): make room and write access there") from error


def metadata(path: str | Path) -> dict[str, str]:
    """Reads the metadata of a weights file.

    Raises:
        WeightsError: the file cannot be read, or has no metadata.
    """
    try:
        with safe_open(path, "numpy") as file:
            found = file.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise WeightsError(f"{path} cannot be read as a safetensors file: {error}") from error
    try:
        known = isinstance(json.loads(found["config"]), dict) and found["meta_iters"].isdecimal()
    except (KeyError, ValueError):
        known = False
    if not known:
        raise WeightsError(f"{path} does not say which run it comes from: write it by reptile_jax.run.pretrained")
    return found


def load(path: str | Path, like: MetaState) -> MetaState:
    """Reads a weights file into a state of the structure and shapes of `like`, in the dtype of the file.

    Args:
        path: the file to read.
        like: a state of the run that will use the weights, such as its initial state. Of its values, only the
            meta-iteration is used; the returned state has the same.

    Returns:
        The state.

    Raises:
        WeightsError: there is no such file, it is not a safetensors file, or its keys, shapes or dtypes do not fit.
    """
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise WeightsError(f"{path} cannot be read as a safetensors file: {error}") from error
    wanted = _tensors(like)
    for key in sorted(wanted.keys() | tensors.keys()):
        if key not in tensors:
            raise WeightsError(f"{path} has no {key}: it was written for another network or another inner optimiser")
        if key not in wanted:
            raise WeightsError(f"{path} has {key}: it was written for another network or another inner optimiser")
        found, shape = tensors[key], wanted[key].shape
        if found.shape != shape:
            raise WeightsError(f"{path}: {key} has the shape {found.shape}, and this run needs {shape}")
        kinds = ("int32",) if key == "count" else ("float32", "float64")
        if found.dtype.name not in kinds:
            raise WeightsError(f"{path}: {key} is {found.dtype}, and must be {' or '.join(kinds)}")
        if jnp.asarray(found).dtype != found.dtype:
            raise WeightsError(f"{path}: {key} is {found.dtype}, which JAX computes in only with JAX_ENABLE_X64=1")
    opt_state = like.opt_state
    if optax.tree.get(opt_state, "nu") is not None:
        moment = _variables(tensors, "second_moment")
        opt_state = optax.tree.set(opt_state, nu=moment, count=jnp.asarray(tensors["count"]))
    return like._replace(params=_variables(tensors, "params"), opt_state=opt_state)


def _tensors(state: MetaState) -> dict[str, np.ndarray]:
    """Returns the file's tensors by key."""
    count = optax.tree.get(state.opt_state, "count")
    parts = {"params": state.params, "second_moment": optax.tree.get(state.opt_state, "nu")}
    tensors = {"count": np.asarray(0 if count is None else count, np.int32)}
    for part, variables in parts.items():
        if variables is not None:
            named = flatten_dict(variables["params"], sep="/")
            tensors |= {f"{part}/{name}": np.asarray(value) for name, value in named.items()}
    return tensors


def _variables(tensors: dict[str, np.ndarray], part: str) -> dict[str, Any]:
    """Returns Flax's variables from one part of the file."""
    named = {k.removeprefix(f"{part}/"): jnp.asarray(x) for k, x in tensors.items() if k.startswith(f"{part}/")}
    return {"params": unflatten_dict(named, sep="/")}
