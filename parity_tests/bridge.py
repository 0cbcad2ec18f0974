"""Exchanges data between the frameworks: a state as a weights file, and episodes as indices of images."""

import json
import tempfile
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax.traverse_util import flatten_dict
from ml_collections import ConfigDict
from torch import Tensor

from parity_tests import compiled
from reptile_jax.config import ConfigError, validate
from reptile_jax.data import DATA_SETS, num_train, prepared, split, turned, with_turns
from reptile_jax.meta.episodes import Classes, EvalTask, Examples, Pool, TrainTask
from reptile_jax.meta.reptile import MetaState
from reptile_jax.run import weights_file as jax_weights
from reptile_jax.run.programs import initial_state
from reptile_torch_ref import data as torch_data
from reptile_torch_ref import model, reptile
from reptile_torch_ref import weights as torch_weights
from reptile_torch_ref.train import inner_of

# All of glyphs and as many of Omniglot, so that both have one shape and compile once.
TRAIN_CLASSES, HELD_OUT_CLASSES = 1400, 150
PHOTOGRAPHS = 6  # of each class, unless a task needs more
POOLS = {"train": Pool(0, TRAIN_CLASSES), "held_out": Pool(TRAIN_CLASSES, HELD_OUT_CLASSES)}

Arrays = dict[str, np.ndarray]  # by name, "conv_0/kernel", in the layouts of the weights file


class Pixels(NamedTuple):
    """The same classes, the first for training and the first for testing, which each side reads with its own code."""

    jax: tuple[jax.Array, Classes]  # [1550 * drawings, 28, 28, 1] uint8 and where the classes are
    torch: Tensor  # [1550 * drawings, 28, 28] uint8; of photographs [..., channels] float64, 0 to 1
    different: int  # number of drawings in all splits that differ between the sides


class Setup(NamedTuple):
    """One configuration as both sides see it.

    Attributes:
        config: fields of the run.
        pixels: the pixels on each side.
        start: the initial state; its dtype is the dtype to compute in.
    """

    config: ConfigDict
    pixels: Pixels
    start: MetaState

    @property
    def inner(self) -> reptile.Inner:
        """The reference's inner optimiser."""
        return inner_of(self.config)

    @property
    def spec(self) -> compiled.Spec:
        """The fields that the compiled functions depend on."""
        c = self.config
        return compiled.Spec(
            c.classes,
            c.sgd,
            c.learning_rate,
            c.foml,
            c.inner_state,
            c.data.name,
            c.model.name,
            c.model.filters,
            c.zero_head,
        )

    @property
    def dtype(self) -> jnp.dtype:
        """The dtype to compute in."""
        return jax.tree.leaves(self.start.params)[0].dtype

    @property
    def weight_decay(self) -> np.ndarray:
        """The weight decay factor in the dtype to compute in; compiled functions take it as an argument."""
        return np.asarray(self.config.weight_decay, self.dtype)


def check(config: ConfigDict) -> None:
    """Checks that both sides can do what a config says.

    Raises:
        ConfigError: the config is impossible, or its data or network is not one that both sides have.
        DataError: the data is missing or damaged.
    """
    validate(config)
    if DATA_SETS[config.data.name].kind != "images":
        raise ConfigError(f"data.name={config.data.name} is not possible: give a config of images, such as quickstart")
    if config.model.name not in model.BLOCKS:
        networks = " or ".join(model.BLOCKS)
        raise ConfigError(f"model.name={config.model.name}: the PyTorch implementation has only {networks}")


def setup(config: ConfigDict, dtype: jnp.dtype, start: MetaState | None = None) -> Setup:
    """Returns a configuration's data and its initial state, or `start` as the initial state."""
    data = config.data
    images = max(PHOTOGRAPHS, config.train_shots, config.shots + 1)
    pixels = load_pixels(data.to_json(), config.seed, images)
    return Setup(config, pixels, initial_state(config, config.seed, dtype) if start is None else start)


@cache
def load_pixels(data: str, seed: int, images: int = PHOTOGRAPHS) -> Pixels:
    """Reads a data set on each side, or makes photographs, `images` of each class; `data` is the field as JSON."""
    config = ConfigDict(json.loads(data))
    if config.name == "images":
        return photographs(config.size, config.channels, images)
    held_out = config.validation_classes
    ours = drawings_of(config, seed)
    theirs = torch_data.load(config, seed)
    count = sum(different(ours[part], getattr(theirs, part).numpy()) for part in ours)
    sizes = {"train": TRAIN_CLASSES, "validation" if held_out else "test": HELD_OUT_CLASSES}
    pixels = np.concatenate([ours[part][:size] for part, size in sizes.items()])
    classes, images = pixels.shape[:2]
    table = Classes(jnp.arange(classes, dtype=jnp.int32) * images, jnp.full(classes, images, jnp.int32))
    return Pixels(
        (jnp.asarray(pixels.reshape(-1, *pixels.shape[2:], 1)), table),
        torch.cat([getattr(theirs, part)[:size] for part, size in sizes.items()]).flatten(0, 1),
        count,
    )


def different_images(folder: Path, size: int, channels: int) -> tuple[int, int]:
    """Compares what each side reads from a folder of images.

    Returns:
        How many images differ, and how many there are. If the classes of a set or their sizes differ, all its images
        count as different.
    """
    copy = prepared.prepared(folder, size, channels)
    ours, theirs = prepared.pixels(copy), torch_data.load_images(folder, size, channels)
    named = {"train": "train", "validation": "val", "test": "test", "": ""}
    counts = {named[name]: classes for name, classes in copy.sets.items()}
    if counts.keys() != theirs.keys():
        return len(ours), len(ours)
    count, start = 0, 0
    for name, classes in counts.items():
        of_set = ours[start : start + sum(classes.values())]
        alike = classes == dict(zip(theirs[name].names, np.bincount(theirs[name].targets).tolist(), strict=True))
        count += different_rows(of_set, theirs[name].pixels.numpy()) if alike else len(of_set)
        start += len(of_set)
    return count, len(ours)


def different_rows(ours: np.ndarray, theirs: np.ndarray) -> int:
    """Counts the images that differ: [images, height, width, channels] of each side."""
    return int(np.sum(np.any(ours != theirs, axis=(1, 2, 3))))


def photographs(size: int, channels: int, count: int) -> Pixels:
    """Makes smooth images with noise for both sides, `count` of each of 20 classes; further classes repeat these.

    `different_images` compares what each side reads from files.
    """
    rng = np.random.default_rng(0)
    coarse = rng.random((20, 1, 5, 5, channels)) + 0.5 * rng.random((20, count, 5, 5, channels))
    rows = np.arange(size) * 4 / max(size - 1, 1)
    weights = np.maximum(0, 1 - np.abs(rows[:, None] - np.arange(5)))  # [size, 5], linear interpolation of five values
    smooth = np.einsum("kiabc,ya,xb->kiyxc", coarse, weights, weights) / 1.5
    pixels = np.clip(255 * smooth + rng.normal(scale=8, size=smooth.shape), 0, 255).astype(np.uint8)
    classes = jnp.arange(TRAIN_CLASSES + HELD_OUT_CLASSES, dtype=jnp.int32)
    table = Classes(classes % 20 * count, jnp.full_like(classes, count))
    pixels = pixels.reshape(-1, size, size, channels)
    return Pixels((jnp.asarray(pixels), table), torch.from_numpy(pixels / torch_data.SCALE["images"]), 0)


def drawings_of(data: ConfigDict, seed: int) -> dict[str, np.ndarray]:
    """Reads the drawings of each set on the JAX side, with training classes rotated: [classes, drawings, 28, 28]."""
    upright = DATA_SETS[data.name].load(data)
    sets = split(upright, num_train(data, len(upright.names)), data.validation_classes, seed)
    images, sets["train"] = with_turns(upright), turned(upright, sets["train"])
    rows = {name: images.first[classes][:, None] + np.arange(images.counts[0]) for name, classes in sets.items()}
    return {name: images.pixels[of_set][..., 0] for name, of_set in rows.items()}


def different(ours: np.ndarray, theirs: np.ndarray) -> int:
    """Counts the drawings [classes, drawings, 28, 28] that are not equal; if the shapes differ, counts all."""
    if ours.shape != theirs.shape:
        return max(len(ours), len(theirs)) * ours.shape[1]
    return int(np.sum(np.any(ours != theirs, axis=(2, 3))))


def to_torch(state: MetaState) -> reptile.State:
    """Converts a state for PyTorch by a weights file."""
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder, "state.safetensors"))
        jax_weights.save(path, state)
        return torch_weights.load(path)


def to_jax(state: reptile.State, like: MetaState) -> MetaState:
    """Converts a state for JAX by a weights file; the result has the structure and meta-iteration of `like`."""
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder, "state.safetensors"))
        torch_weights.save(path, state)
        return jax_weights.load(path, like)


def batch(examples: Examples, drawings: Tensor) -> reptile.Batch:
    """Makes a PyTorch mini-batch from indices [batch] and PyTorch's own pixels."""
    rows, labels = (torch.from_numpy(np.array(x)).long() for x in examples)
    return drawings[rows], labels


def batches(examples: Examples, drawings: Tensor) -> reptile.Task:
    """Makes PyTorch mini-batches from indices [steps, batch]."""
    return [batch(Examples(*pair), drawings) for pair in zip(*map(np.asarray, examples), strict=True)]


def train_tasks(tasks: TrainTask, drawings: Tensor) -> list[reptile.Task]:
    """Makes PyTorch's tasks from a meta-batch [tasks, ...]; a tail becomes the last mini-batch."""
    made = []
    for i in range(tasks.batches.rows.shape[0]):
        task = jax.tree.map(lambda x, i=i: np.asarray(x)[i], tasks)
        made.append(batches(task.batches, drawings) + ([batch(task.tail, drawings)] if task.tail else []))
    return made


def eval_tasks(tasks: EvalTask, drawings: Tensor) -> list[tuple[reptile.Task, Tensor, Tensor]]:
    """Makes PyTorch's few-shot tasks from indices [tasks, ...]: mini-batches, support set, queries."""
    made = []
    for i in range(tasks.queries.rows.shape[0]):
        task = jax.tree.map(lambda x, i=i: np.asarray(x)[i], tasks)
        support, queries = (batch(x, drawings)[0] for x in (task.support, task.queries))
        made.append((batches(task.batches, drawings), support, queries))
    return made


def arrays(weights: Any) -> Arrays:
    """Returns the weights (or gradients or moments) of either side, by name and in the same layout."""
    if "params" in weights:
        return {name: np.asarray(x) for name, x in flatten_dict(weights["params"], sep="/").items()}
    return {name: w.detach().permute(torch_weights.TO_FILE[w.ndim]).numpy() for name, w in weights.items()}


def relative(ours: Arrays, theirs: Arrays) -> float:
    """Returns the relative L2 difference over all arrays, |ours - theirs| / |theirs|; infinite if it is not finite."""
    assert ours.keys() == theirs.keys()
    difference = sum(np.sum(np.square(ours[n].astype(np.float64) - theirs[n])) for n in theirs)
    size = sum(np.sum(np.square(theirs[n].astype(np.float64))) for n in theirs)
    if size == 0:
        return 0.0 if difference == 0 else float("inf")
    ratio = float(np.sqrt(difference / size))
    return ratio if np.isfinite(ratio) else float("inf")  # max(0.0, nan) would be 0.0


def minus(after: Arrays, before: Arrays) -> Arrays:
    """Subtracts the arrays of each name."""
    return {name: after[name] - before[name] for name in before}
