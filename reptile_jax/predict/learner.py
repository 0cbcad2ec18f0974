"""A trained initialisation on classes of one's own: load it, adapt it to a few images, predict."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import random
from ml_collections import ConfigDict

from reptile_jax.config import ConfigError, seeds_of
from reptile_jax.data import DATA_SETS
from reptile_jax.meta.episodes import Examples, mini_batches
from reptile_jax.meta.inner_loop import Params, inner_loop
from reptile_jax.meta.protocols import beside_support
from reptile_jax.meta.reptile import MetaState
from reptile_jax.predict import adapted_file
from reptile_jax.predict.pictures import Pictures, pixels_of, query_files, support_files
from reptile_jax.run.pretrained import load
from reptile_jax.run.programs import inner_loop_of, network_of
from reptile_jax.tasks.images import as_numbers


class Adapted:
    """A network that has learned the classes of one support set.

    Attributes:
        classes: [k] the labels or class names that it tells apart, sorted.
    """

    def __init__(self, config: ConfigDict, phi: Params, support: np.ndarray, classes: np.ndarray) -> None:
        """Takes the weights' config, the adapted weights, what they were adapted to (pixels), and its classes."""
        self._config, self._phi, self._pixels, self.classes = config, phi, support, classes
        self._network, self._support = network_of(config), self._numbers(support)

    def predict(self, images: Pictures, transductive: bool = False) -> np.ndarray:
        """Predicts the classes of images.

        Args:
            images: an array, a file, a list of files, or a folder, as `pictures.pixels_of` takes them.
            transductive: to let batch norm see all of them together, which helps where they are of all classes alike;
                else the prediction of each depends on itself and the support set alone.

        Returns:
            [n] of `classes`, each the most probable.

        Raises:
            ValueError: an array is of another shape or range.
            DataError: a file is no image, or there is none.
        """
        return self.classes[self.predict_probabilities(images, transductive).argmax(-1)]

    def predict_probabilities(self, images: Pictures, transductive: bool = False) -> np.ndarray:
        """Returns the probability of every class for each image, float32 [n, k] in the order of `classes`.

        Arguments and errors are those of `predict`. Unless they are transductive, files are read and images classified
        one after the other, so that there may be more than memory holds at once.
        """
        sequence = images if isinstance(images, np.ndarray) else query_files(_several(images))
        if transductive or not len(sequence):
            outputs = _together(self._network, self._phi, self._numbers(pixels_of(self._config, sequence)))
        else:
            outputs = np.stack([self._alone(sequence[i : i + 1]) for i in range(len(sequence))])
        return np.asarray(jax.nn.softmax(outputs[:, : len(self.classes)]))

    def _alone(self, image: Pictures) -> np.ndarray:
        query = self._numbers(pixels_of(self._config, image))[0]
        return np.asarray(_beside(self._network, self._phi, self._support, query))

    def _numbers(self, pixels: np.ndarray) -> jax.Array:
        return as_numbers(self._config, jnp.asarray(pixels), jax.tree.leaves(self._phi)[0].dtype)

    def save(self, path: str | Path) -> None:
        """Writes everything that `load` needs into one file, *.safetensors.

        Raises:
            WeightsError: the file's name has another ending.
            OSError: it cannot be written.
        """
        adapted_file.save(path, adapted_file.Content(self._config, self._phi, self._pixels, self.classes.tolist()))

    @classmethod
    def load(cls, path: str | Path) -> "Adapted":
        """Reads what `save` wrote.

        Raises:
            WeightsError: there is no such file, it is damaged, or `save` did not write it.
        """
        config, phi, support, classes = adapted_file.load(path)
        return cls(config, phi, support, np.array(classes))


class Learner:
    """A trained initialisation.

    Attributes:
        config: of the run that trained it.
        classes: how many classes it can tell apart, at most.
    """

    def __init__(self, named: str | Path, seed: int | None = None) -> None:
        """Loads trained weights, of one seed, and their second moment.

        Args:
            named: a workdir, a checkpoint or a weights file, as `pretrained.load` takes it.
            seed: which one, of a run of several seeds.

        Raises:
            CheckpointError, WeightsError: there are none of this name, or they are damaged.
            ConfigError: they are not for images; or the run has several seeds and none is chosen, or not the one that
                is.
        """
        self.config, states = load(named)
        if DATA_SETS[self.config.data.name].prepare is None:
            raise ConfigError(f"{named} was trained on data.name={self.config.data.name}: name weights for images")
        seeds = seeds_of(self.config)
        if (seed is None and len(seeds) > 1) or (seed is not None and seed not in seeds):
            known = ", ".join(map(str, seeds))
            raise ConfigError(
                f"seed={seed} is none of {named}: choose one of {known}, as Learner(NAME, seed={seeds[0]})"
            )
        index = 0 if seed is None else seeds.index(seed)
        self.classes: int = self.config.classes
        self._start = jax.tree.map(lambda x: jnp.asarray(np.asarray(x)[index]), states)
        self._adapt = jax.jit(self._adapted)

    def adapt(
        self, images: Pictures, labels: np.ndarray | Sequence[int] | Sequence[str] | None = None, seed: int = 0
    ) -> Adapted:
        """Learns classes from a support set, with the steps and mini-batches of the run's evaluation.

        Args:
            images: one or a few of each class: a folder that holds a folder for each class; or a list of files, or an
                array, as `pictures.pixels_of` takes them.
            labels: [n] whole numbers or names, at least 2 and at most `classes` different ones; None: the names of the
                folders.
            seed: of the order of the mini-batches.

        Raises:
            ValueError: an array or the labels are of another shape or range.
            ConfigError: the classes are too many or too few, or learning them makes weights that are not finite.
            DataError: a folder is missing or has no images, or a file is no image.
        """
        if labels is None:
            if not isinstance(images, str | Path):
                raise ValueError("there are no labels: give one for each image, or a folder of the classes' folders")
            images, labels = support_files(images)
        given = np.asarray(labels)
        count = len(images) if isinstance(images, np.ndarray | list | tuple) else 1
        if given.shape != (count,) or given.dtype.kind not in "iuU":
            raise ValueError(f"labels are {given.dtype} {given.shape}: give a whole number or a name for each image")
        classes, targets = np.unique(given, return_inverse=True)
        self._check(classes, count)
        support = pixels_of(self.config, images)
        phi = self._adapt(self._start, _filled_up(support), self._batches(targets, seed))
        if not all(bool(jnp.isfinite(x).all()) for x in jax.tree.leaves(phi)):
            raise ConfigError("learning these classes makes weights that are not finite: train with less learning_rate")
        return Adapted(self.config, phi, support, classes)

    def _check(self, classes: np.ndarray, images: int) -> None:
        """Raises ConfigError where the weights cannot learn so many classes from so many images."""
        if len(classes) > self.classes:
            raise ConfigError(
                f"{len(classes)} classes are more than the {self.classes} that these weights tell apart: give fewer, "
                f"or weights trained with classes={len(classes)}"
            )
        if len(classes) < 2:
            raise ConfigError(f"{classes[0]} is the only class: give at least two")
        if self.config.replacement and images < self.config.eval_batch:
            raise ConfigError(f"{images} images are less than eval_batch={self.config.eval_batch}: give more")

    def _batches(self, labels: np.ndarray, seed: int) -> Examples:
        """Mini-batches of the support set, as its rows."""
        config, n = self.config, len(labels)
        examples = Examples(jnp.arange(n, dtype=jnp.int32), jnp.asarray(labels, jnp.int32))
        return mini_batches(random.key(seed), examples, config.eval_batch, config.eval_iters, config.replacement)

    def _adapted(self, start: MetaState, pixels: jax.Array, batches: Examples) -> Params:
        loop = inner_loop_of(self.config, (pixels, None))
        fresh = self.config.inner_state == "reset"
        opt_state = loop.optimizer.init(start.params) if fresh else start.opt_state
        phi, _, _ = inner_loop(loop, start.params, opt_state, batches)
        return phi


@partial(jax.jit, static_argnums=0)
def _beside(network: nn.Module, phi: Params, support: jax.Array, query: jax.Array) -> jax.Array:
    return beside_support(network.apply, phi, support, query)


@partial(jax.jit, static_argnums=0)
def _together(network: nn.Module, phi: Params, queries: jax.Array) -> jax.Array:
    return jnp.asarray(network.apply(phi, queries))


def _filled_up(pixels: np.ndarray) -> np.ndarray:
    """Fills images up with rows that no mini-batch holds, to a power of two: few sizes are compiled."""
    more = (1 << (len(pixels) - 1).bit_length()) - len(pixels)
    return np.pad(pixels, ((0, more), (0, 0), (0, 0), (0, 0)))


def _several(images: str | Path | Sequence[str | Path]) -> Sequence[str | Path]:
    return [images] if isinstance(images, str | Path) else images
