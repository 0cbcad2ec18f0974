"""Few-shot accuracy: adapt to a task's support set, classify its queries, under both protocols."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from reptile_jax.meta.episodes import EvalTask
from reptile_jax.meta.inner_loop import ApplyFn, InnerLoop, OptState, Params, images_of, inner_loop


class Predictions(NamedTuple):
    """Predicted labels of queries, int32; of a task's, [classes], query i has label i."""

    transductive: jax.Array
    inductive: jax.Array


def predict_queries(loop: InnerLoop, params: Params, opt_state: OptState, task: EvalTask) -> Predictions:
    """Adapts to the support set and classifies the queries (released code: `Reptile.evaluate`).

    Args:
        loop: what the inner loops share.
        params: the initialisation theta.
        opt_state: the inner optimiser's state as training left it; the caller's copy is untouched.
        task: the episode.

    Returns:
        The predictions under both protocols, from the one adapted copy of the weights.
    """
    phi, _, _ = inner_loop(loop, params, opt_state, task.batches)
    dtype = jax.tree.leaves(params)[0].dtype
    support, queries = (images_of(loop, examples.rows, dtype) for examples in (task.support, task.queries))
    return classify(loop.apply, phi, support, queries)


def classify(apply: ApplyFn, phi: Params, support: jax.Array, queries: jax.Array) -> Predictions:
    """Classifies queries under both protocols.

    Transductive: the queries go through the network as one batch, whose statistics batch norm uses. Inductive: each
    query goes through in a batch of its own, beside the whole support set.

    Args:
        apply: the network.
        phi: adapted weights.
        support: [support, 28, 28], what they were adapted to.
        queries: [queries, 28, 28].

    Returns:
        Predicted labels, [queries] each.
    """

    def beside_support(query: jax.Array) -> jax.Array:
        return apply(phi, jnp.concatenate([support, query[None]]))[-1]

    # One query after the other: all at once would need the support set's activations for each of them.
    inductive = lax.map(beside_support, queries)
    return Predictions(
        jnp.argmax(apply(phi, queries), axis=-1).astype(jnp.int32),
        jnp.argmax(inductive, axis=-1).astype(jnp.int32),
    )


class Accuracy(NamedTuple):
    """Accuracy over tasks, and the half-width of its 95% confidence interval; both between 0 and 1."""

    accuracy: float
    ci95: float
    tasks: int

    def __str__(self) -> str:
        """In per cent, as "97.02 ± 0.31 %"."""
        return f"{100 * self.accuracy:.2f} ± {100 * self.ci95:.2f} %"


def accuracy(correct: np.ndarray) -> Accuracy:
    """Mean and 95% interval over tasks: 1.96 standard errors of the per-task accuracies (normal approximation).

    Args:
        correct: [tasks, classes] bool, which queries were classified right.
    """
    per_task = correct.mean(axis=1)
    tasks = len(per_task)
    error = per_task.std(ddof=1) / np.sqrt(tasks) if tasks > 1 else float("nan")
    return Accuracy(float(per_task.mean()), float(1.96 * error), tasks)
