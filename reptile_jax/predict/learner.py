"""Loads a trained initialisation, adapts it to a few images of new classes, and predicts."""

import itertools
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax, random
from ml_collections import ConfigDict, FrozenConfigDict

from reptile_jax.config import ConfigError, seeds_of
from reptile_jax.data import DATA_SETS
from reptile_jax.meta.episodes import Examples
from reptile_jax.meta.inner_loop import OptState, Params, inner_step
from reptile_jax.networks.padded import apply_padded
from reptile_jax.predict import adapted_file
from reptile_jax.predict.pictures import Pictures, pixels_of, query_files, support_files
from reptile_jax.run.pretrained import load
from reptile_jax.run.programs import inner_loop_of, network_of
from reptile_jax.tasks.images import as_numbers

# Batches and support sets are padded to a power of two, and at least to these sizes, so that few sizes are compiled.
# The padding costs the inner loop nothing, because the inner loop reads only its mini-batches.
SMALLEST_BATCH, SMALLEST_SUPPORT = 8, 32


class Adapted:
    """A network that has learned the classes of one support set.

    Attributes:
        classes: [k] the labels or names of the classes that it has learned, sorted.
    """

    def __init__(self, config: ConfigDict, phi: Params, support: np.ndarray, classes: np.ndarray) -> None:
        """Takes the weights' config, the adapted weights, the pixels of the support set, and its classes."""
        self._config, self._phi, self._support, self.classes = FrozenConfigDict(config), phi, support, classes

    def predict(self, images: Pictures, transductive: bool = False) -> np.ndarray:
        """Predicts the classes of images.

        Args:
            images: an array as `pictures.pixels_of` takes it, a file, a list of files, or a folder.
            transductive: whether batch norm sees all images together, which helps if all classes are about equally
                frequent; otherwise the prediction for an image depends only on that image and the support set.

        Returns:
            The most probable class of each image, [n] of `classes`.

        Raises:
            ValueError: an array has another shape or range.
            DataError: a file is not an image, or there is no file.
        """
        return self.classes[self.predict_probabilities(images, transductive).argmax(-1)]

    def predict_probabilities(self, images: Pictures, transductive: bool = False) -> np.ndarray:
        """Returns the probability of every class for each image, float32 [n, k] in the order of `classes`.

        Arguments and errors are as in `predict`. Without `transductive`, files are read and classified one after the
        other, so that there can be more images than fit into memory.
        """
        sequence = images if isinstance(images, np.ndarray) else query_files(_several(images))
        if transductive or not len(sequence):
            outputs = self._together(pixels_of(self._config, sequence))
        else:
            outputs = np.stack([self._alone(sequence[i : i + 1]) for i in range(len(sequence))])
        of_classes = outputs[:, : len(self.classes)]
        powers = np.exp(of_classes - of_classes.max(-1, keepdims=True))
        return powers / powers.sum(-1, keepdims=True)

    def _alone(self, image: Pictures) -> np.ndarray:
        """Returns the outputs [outputs] for one query, in a batch with the support set."""
        return self._together(np.concatenate([pixels_of(self._config, image), self._support]))[0]

    def _together(self, pixels: np.ndarray) -> np.ndarray:
        """Returns the outputs [n, outputs] for images [n, ...] in one batch."""
        count = len(pixels)
        return np.asarray(_outputs(self._config, self._phi, _filled_up(pixels, SMALLEST_BATCH), count))[:count]

    def save(self, path: str | Path) -> None:
        """Writes everything that `load` needs into one file, *.safetensors.

        Raises:
            WeightsError: the file's name does not end in .safetensors.
            OSError: the file cannot be written.
        """
        adapted_file.save(path, adapted_file.Content(self._config, self._phi, self._support, self.classes.tolist()))

    @classmethod
    def load(cls, path: str | Path) -> "Adapted":
        """Reads a file that `save` wrote.

        Raises:
            WeightsError: there is no such file, it is damaged, or `save` did not write it.
        """
        config, phi, support, classes = adapted_file.load(path)
        return cls(config, phi, support, np.array(classes))


class Learner:
    """A trained initialisation.

    Attributes:
        config: the config of the run that trained it.
        classes: the largest number of classes that it can learn.
    """

    def __init__(self, named: str | Path, seed: int | None = None) -> None:
        """Loads the trained weights of one seed, and their second moment.

        Args:
            named: a workdir, a checkpoint, a weights file or shipped weights, as `pretrained.load` takes it.
            seed: the seed to load, for a run of several seeds.

        Raises:
            CheckpointError, WeightsError: there are no weights of this name, or they are damaged.
            ConfigError: the weights are not for images, or the run has several seeds and `seed` is not one of them.
        """
        self.config, states = load(named)
        if DATA_SETS[self.config.data.name].prepare is None:
            raise ConfigError(f"{named} was trained on data.name={self.config.data.name}: name weights for images")
        seeds = seeds_of(self.config)
        if (seed is None and len(seeds) > 1) or (seed is not None and seed not in seeds):
            known = ", ".join(map(str, seeds))
            wrong = f"{named} has several seeds" if seed is None else f"seed={seed} is not a seed of {named}"
            raise ConfigError(
                f"{wrong}: give one of {known} to Learner(NAME, seed=SEED), or write the weights of one to a file, by "
                f"python -m reptile_jax.run.pretrained {named} FILE.safetensors SEED"
            )
        index = 0 if seed is None else seeds.index(seed)
        self.classes: int = self.config.classes
        self._start = jax.tree.map(lambda x: jnp.asarray(np.asarray(x)[index]), states)
        self._frozen = FrozenConfigDict(self.config)  # can be a key of a compiled program

    def adapt(
        self, images: Pictures, labels: np.ndarray | Sequence[int] | Sequence[str] | None = None, seed: int = 0
    ) -> Adapted:
        """Learns classes from a support set, with the steps and mini-batches of the run's evaluation.

        Args:
            images: one or a few images of each class: a folder that holds a folder for each class; or a list of files,
                or an array, as `pictures.pixels_of` takes them.
            labels: [n] whole numbers or names, of at least 2 and at most `classes` classes; None: the names of the
                folders.
            seed: the seed of the order of the mini-batches.

        Raises:
            ValueError: an array has another shape or range, or the labels do not fit the images.
            ConfigError: there are too many or too few classes, or learning them makes weights that are not finite.
            DataError: a folder is missing or has no images, or a file is not an image.
        """
        return self.trace(images, labels, [self.config.eval_iters], seed)[0]

    def trace(
        self,
        images: Pictures,
        labels: np.ndarray | Sequence[int] | Sequence[str] | None,
        steps: Sequence[int],
        seed: int = 0,
    ) -> list[Adapted]:
        """Learns classes as `adapt` does, and returns the network after each of `steps`, which must rise.

        The other arguments and errors are as in `adapt`; step 0 is the initialisation.

        Raises:
            ValueError: the steps do not rise from 0 to at most `eval_iters`.
        """
        if not steps or list(steps) != sorted({*steps}) or not 0 <= steps[0] <= steps[-1] <= self.config.eval_iters:
            raise ValueError(
                f"steps={[*steps]} are not possible: give rising numbers from 0 to {self.config.eval_iters}"
            )
        if labels is None:
            if not isinstance(images, str | Path):
                raise ValueError("there are no labels: give one for each image, or a folder of the classes' folders")
            images, labels = support_files(images)
        given = np.asarray(labels)
        count = len(images) if isinstance(images, np.ndarray | list | tuple) else 1
        if given.shape != (count,) or given.dtype.kind not in "iuU":
            raise ValueError(f"labels are {given.dtype} {given.shape}: give a whole number or a name for each image")
        classes, targets = np.unique(given, return_inverse=True)
        self._check(classes, np.bincount(targets))
        support = pixels_of(self.config, images)
        rows = _batch_rows(self.config, targets, seed)
        batches = Examples(jnp.asarray(rows), jnp.asarray(targets.astype(np.int32)[rows]))
        phi, opt_state = self._start.params, self._start.opt_state
        if self.config.inner_state == "reset":
            opt_state = jax.tree.map(jnp.zeros_like, opt_state)
        filled, found = _filled_up(support, SMALLEST_SUPPORT), []
        for first, last in itertools.pairwise((0, *steps)):
            phi, opt_state = _advanced(self._frozen, phi, opt_state, filled, batches, first, last)
            found.append(Adapted(self.config, phi, support, classes))
        if not all(np.isfinite(x).all() for x in jax.tree.leaves(phi)):
            raise ConfigError("learning these classes makes weights that are not finite: lower the run's learning_rate")
        return found

    def _check(self, classes: np.ndarray, counts: np.ndarray) -> None:
        """Raises ConfigError if the weights cannot learn these classes from so many images of each."""
        if len(classes) > self.classes:
            raise ConfigError(
                f"{len(classes)} classes are more than the {self.classes} that these weights tell apart: give fewer, "
                f"or weights trained with classes={len(classes)}"
            )
        if len(classes) < 2:
            raise ConfigError(f"{classes[0]} is the only class: give at least two")
        if not self.config.replacement:
            return
        share = self.config.eval_batch // self.config.classes
        if self.config.balanced and counts.min() < share:
            raise ConfigError(
                f"class {classes[counts.argmin()]} has {counts.min()} of the {share} images that a mini-batch needs of "
                f"each class (balanced, eval_batch={self.config.eval_batch}): give more"
            )
        if not self.config.balanced and counts.sum() < self.config.eval_batch:
            raise ConfigError(f"{counts.sum()} images are fewer than eval_batch={self.config.eval_batch}: give more")


@partial(jax.jit, static_argnums=0)
def _advanced(
    config: FrozenConfigDict,
    phi: Params,
    opt_state: OptState,
    pixels: jax.Array,
    batches: Examples,
    first: jax.Array,
    last: jax.Array,
) -> tuple[Params, OptState]:
    """Takes the inner steps first, first + 1, ... last - 1; `batches` holds the mini-batches of all inner steps."""
    loop = inner_loop_of(config, (pixels, None))

    def step(i: jax.Array, state: tuple[Params, OptState]) -> tuple[Params, OptState]:
        return inner_step(loop, *state, jax.tree.map(lambda x: x[i], batches))[:2]

    return lax.fori_loop(first, last, step, (phi, opt_state))


@partial(jax.jit, static_argnums=0)
def _outputs(config: FrozenConfigDict, phi: Params, pixels: jax.Array, count: jax.Array) -> jax.Array:
    """Returns the outputs [batch, outputs] for the first `count` images, as if there were no other images."""
    images = as_numbers(config, pixels, jax.tree.leaves(phi)[0].dtype)
    return apply_padded(network_of(config), phi, images, jnp.arange(len(pixels)) < count)


@partial(jax.jit, static_argnums=1)
def _bits(key: jax.Array, count: int) -> jax.Array:
    return random.bits(key, (count,), jnp.uint32)


def _batch_rows(config: ConfigDict, targets: np.ndarray, seed: int) -> np.ndarray:
    """Returns the rows of every mini-batch, int32 [eval_iters, batch], for examples of the classes `targets`.

    They are what `episodes.class_batches` gives. If mini-batches are balanced, classes may have unequal numbers of
    examples, and `batch` is smaller than `eval_batch` if there are fewer classes than the weights can learn.
    """
    key = random.key(seed)
    if not config.balanced:
        return _orders(config, key, len(targets), config.eval_batch)
    classes, share = targets.max() + 1, config.eval_batch // config.classes
    of_classes = [np.flatnonzero(targets == i) for i in range(classes)]
    rows = [
        members[_orders(config, each, len(members), share)]
        for each, members in zip(random.split(key, classes), of_classes, strict=True)
    ]
    return np.concatenate(rows, axis=1).astype(np.int32)


def _orders(config: ConfigDict, key: jax.Array, examples: int, batch: int) -> np.ndarray:
    """Returns the rows that `episodes.mini_batches` gives for so many examples, int32 [eval_iters, batch].

    One program makes the random bits for the padded size, and a smaller size uses the first of them. The bits are
    sorted on the host.
    """
    steps, most = config.eval_iters, _size(examples, SMALLEST_SUPPORT)
    shuffles = steps if config.replacement else -(-steps * batch // examples)
    bits = np.asarray(_bits(key, steps * most if config.replacement else steps * batch + most))
    order = np.argsort(bits[: shuffles * examples].reshape(shuffles, examples), axis=-1, kind="stable")
    rows = order[:, :batch] if config.replacement else order.reshape(-1)[: steps * batch].reshape(steps, batch)
    return rows.astype(np.int32)


def _size(images: int, smallest: int) -> int:
    """Returns the number of rows to which so many images are padded."""
    return max(smallest, 1 << (images - 1).bit_length())


def _filled_up(pixels: np.ndarray, smallest: int) -> np.ndarray:
    return np.pad(pixels, ((0, _size(len(pixels), smallest) - len(pixels)), (0, 0), (0, 0), (0, 0)))


def _several(images: str | Path | Sequence[str | Path]) -> Sequence[str | Path]:
    return [images] if isinstance(images, str | Path) else images
