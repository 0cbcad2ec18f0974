"""Few-shot accuracy: adapt to a task's support set, classify its queries, under both protocols."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from reptile_jax.meta.episodes import EvalTask
from reptile_jax.meta.inner_loop import ApplyFn, InnerLoop, OptState, Params, inner_loop


class Predictions(NamedTuple):
    """Predicted labels of queries, int32; of a task's, [classes], query i has label i."""

    transductive: jax.Array
    inductive: jax.Array


def predict_queries(
    loop: InnerLoop,
    apply: ApplyFn,
    images_of: Callable[[jax.Array], jax.Array],
    params: Params,
    opt_state: OptState,
    task: EvalTask,
) -> Predictions:
    """Adapts to the support set and classifies the queries (released code: `Reptile.evaluate`).

    Args:
        loop: what the inner loops share.
        apply: the network.
        images_of: rows of the data [...] -> images [..., height, width, channels].
        params: the initialisation theta.
        opt_state: the inner optimiser's state as training left it; the caller's copy is untouched.
        task: the episode.

    Returns:
        The predictions under both protocols, from the one adapted copy of the weights.
    """
    phi, _, _ = inner_loop(loop, params, opt_state, task.batches)
    return classify(apply, phi, images_of(task.support.rows), images_of(task.queries.rows))


def classify(apply: ApplyFn, phi: Params, support: jax.Array, queries: jax.Array) -> Predictions:
    """Classifies queries under both protocols.

    Transductive: the queries go through the network as one batch, whose statistics batch norm uses. Inductive: each
    query goes through in a batch of its own, beside the whole support set.

    Args:
        apply: the network.
        phi: adapted weights.
        support: [support, height, width, channels], what they were adapted to.
        queries: [queries, height, width, channels].

    Returns:
        Predicted labels, [queries] each.
    """
    # One query after the other: all at once would need the support set's activations for each of them.
    inductive = lax.map(lambda query: beside_support(apply, phi, support, query), queries)
    return Predictions(
        jnp.argmax(apply(phi, queries), axis=-1).astype(jnp.int32),
        jnp.argmax(inductive, axis=-1).astype(jnp.int32),
    )


def beside_support(apply: ApplyFn, phi: Params, support: jax.Array, query: jax.Array) -> jax.Array:
    """The network's outputs [outputs] for one query [height, width, channels], in one batch with the support set."""
    return apply(phi, jnp.concatenate([support, query[None]]))[-1]
