"""A trained initialisation on classes of one's own: load it, adapt it to a few drawings, predict."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax import random

from reptile_jax.config import seeds_of
from reptile_jax.meta.episodes import Examples, mini_batches
from reptile_jax.meta.inner_loop import ApplyFn, Params, inner_loop
from reptile_jax.meta.protocols import Predictions, classify
from reptile_jax.run.pretrained import load
from reptile_jax.run.programs import inner_loop_of, network_of


class Adapted:
    """A network that has learned the classes of one support set."""

    def __init__(self, learner: "Learner", phi: Params, support: jax.Array, taught: jax.Array) -> None:
        """Takes the learner, the adapted weights, what they were adapted to, and which labels were among it."""
        self._learner, self._phi, self._support, self._taught = learner, phi, support, taught

    def predict(self, images: np.ndarray, transductive: bool = False) -> np.ndarray:
        """Predicts the labels of drawings.

        Args:
            images: [n, 28, 28], ink 0 and paper 1.
            transductive: to let batch norm see all of them together, which helps where they are of all classes alike;
                else the prediction of each depends on itself and the support set alone.

        Returns:
            Labels, int32 [n], of those that the support set has.

        Raises:
            ValueError: the images are of another shape or range.
        """
        predictions = self._learner._classify(self._phi, self._support, _drawings(images), self._taught)
        return np.asarray(predictions.transductive if transductive else predictions.inductive)


class Learner:
    """A trained initialisation.

    Attributes:
        classes: how many classes it can tell apart, at most.
    """

    def __init__(self, named: str | Path, seed: int | None = None) -> None:
        """Loads trained weights, of one seed, and their second moment.

        Args:
            named: a workdir, a checkpoint or a weights file, as `pretrained.load` takes it.
            seed: which one, of a run of several seeds.

        Raises:
            CheckpointError, WeightsError: there are none of this name, or they are damaged.
            ValueError: the run has several seeds and none is chosen, or not the one that is.
        """
        self._config, states = load(named)
        seeds = seeds_of(self._config)
        if (seed is None and len(seeds) > 1) or (seed is not None and seed not in seeds):
            raise ValueError(f"seed={seed} is none of {named}: give one of {', '.join(map(str, seeds))}")
        index = 0 if seed is None else seeds.index(seed)
        self.classes: int = self._config.classes
        self._start = jax.tree.map(lambda x: jnp.asarray(np.asarray(x)[index]), states)
        self._adapt = jax.jit(self._adapted)
        self._classify = jax.jit(self._classified)

    def adapt(self, images: np.ndarray, labels: np.ndarray, seed: int = 0) -> Adapted:
        """Learns classes from a support set, with the steps and mini-batches of the run's evaluation.

        Args:
            images: [n, 28, 28], ink 0 and paper 1: a drawing or a few of each class.
            labels: [n] whole numbers from 0 to at most `classes` - 1.
            seed: of the order of the mini-batches.

        Raises:
            ValueError: the images or labels are of another shape or range.
        """
        support, targets = _drawings(images), np.asarray(labels)
        if targets.shape != support.shape[:1] or targets.dtype.kind not in "iu":
            raise ValueError(f"labels are {targets.dtype} {targets.shape}: give one whole number for each image")
        if targets.min() < 0 or targets.max() >= self.classes:
            raise ValueError(f"labels go from {targets.min()} to {targets.max()}: give 0 to {self.classes - 1}")
        phi = self._adapt(support, jnp.asarray(targets, jnp.int32), random.key(seed))
        taught = jnp.zeros(self.classes, bool).at[targets].set(True)
        return Adapted(self, phi, support, taught)

    def _adapted(self, support: jax.Array, labels: jax.Array, key: jax.Array) -> Params:
        config = self._config
        examples = Examples(jnp.arange(len(support), dtype=jnp.int32), labels)
        batches = mini_batches(key, examples, config.eval_batch, config.eval_iters, config.replacement)
        loop = inner_loop_of(config, (support, None))
        fresh = config.inner_state == "reset"
        opt_state = loop.optimizer.init(self._start.params) if fresh else self._start.opt_state
        phi, _, _ = inner_loop(loop, self._start.params, opt_state, batches)
        return phi

    def _classified(self, phi: Params, support: jax.Array, images: jax.Array, taught: jax.Array) -> Predictions:
        network: ApplyFn = network_of(self._config).apply

        def apply(phi: Params, images: jax.Array) -> jax.Array:
            return jnp.where(taught, network(phi, images), -jnp.inf)

        return classify(apply, phi, support, images)


def _drawings(images: np.ndarray) -> jax.Array:
    """Checks drawings [n, 28, 28] and returns them as images: [n, 28, 28, 1] float32.

    Raises:
        ValueError: they are of another shape or range.
    """
    checked = np.asarray(images, np.float32)
    if checked.ndim != 3 or checked.shape[1:] != (28, 28) or not len(checked):
        raise ValueError(f"images are of the shape {checked.shape}: give [n, 28, 28]")
    if not (checked.min() >= 0 and checked.max() <= 1):
        raise ValueError(f"images go from {checked.min():g} to {checked.max():g}: give ink as 0 and paper as 1")
    for i, image in enumerate(checked):
        if image.min() == image.max():
            raise ValueError(f"images[{i}] is {image.min():g} everywhere: give a drawing, ink as 0 and paper as 1")
    return jnp.asarray(checked[..., None])
