"""Reads and writes the file (safetensors) of a network that has learned the classes of a support set.

Keys: `params/LAYER/NAME` has the adapted weights, and `support` has the pixels that they were adapted to.
Metadata, in JSON: `config` has every field of the run that trained the initialisation, and `classes` has the labels.
"""

import json
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jax import random
from ml_collections import ConfigDict
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as to_bytes

from reptile_jax.config import completed
from reptile_jax.files import expanded, replace_bytes
from reptile_jax.meta.inner_loop import Params
from reptile_jax.run.programs import network_of
from reptile_jax.run.weights_file import WeightsError
from reptile_jax.tasks import kind_of


class Content(NamedTuple):
    """The contents of the file: the weights' config, adapted weights, pixels of the support set, and sorted labels."""

    config: ConfigDict
    phi: Params
    support: np.ndarray
    classes: list[int] | list[str]


def save(path: str | Path, content: Content) -> None:
    """Writes the file, and replaces an existing one only when the new file is complete.

    Raises:
        WeightsError: the name does not end in .safetensors.
        OSError: the file cannot be written.
    """
    file = expanded(path)
    if file.suffix != ".safetensors":
        raise WeightsError(f"{file} would not be recognised as a weights file: name it {file}.safetensors")
    tensors = {f"params/{name}": np.asarray(x, order="C") for name, x in _flat(content.phi).items()}
    known = {"config": content.config.to_json(), "classes": json.dumps(content.classes)}
    replace_bytes(file, to_bytes(tensors | {"support": np.ascontiguousarray(content.support)}, known))


def load(path: str | Path) -> Content:
    """Reads the file.

    Raises:
        WeightsError: there is no such file, it is damaged, or it holds something else.
    """
    try:
        with safe_open(expanded(path), "numpy") as file:
            known, tensors = file.metadata() or {}, {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise WeightsError(f"{path} cannot be read as a safetensors file: {error}") from error
    if not ({"config", "classes"} <= known.keys() and "support" in tensors):
        raise WeightsError(f"{path} holds no adapted network: write it by Adapted.save")
    try:
        config, classes = completed(ConfigDict(json.loads(known["config"]))), json.loads(known["classes"])
        support = tensors.pop("support")
        images = jnp.zeros((1, *kind_of(config).input_shape(config)), jnp.float32)
        wanted = _flat(jax.eval_shape(network_of(config).init, random.key(0), images))
        shapes = {f"params/{name}": x.shape for name, x in wanted.items()}
        whole = shapes == {name: x.shape for name, x in tensors.items()} and support.shape[1:] == images.shape[1:]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise WeightsError(f"{path} is damaged ({error}): adapt and save it again") from error
    if not whole:
        raise WeightsError(f"{path} holds the weights of another network than its config says: adapt and save it again")
    phi = {name.removeprefix("params/"): jnp.asarray(x) for name, x in tensors.items()}
    return Content(config, {"params": unflatten_dict(phi, sep="/")}, support, classes)


def _flat(phi: Params) -> dict[str, jax.Array]:
    return flatten_dict(phi["params"], sep="/")
