"""Adapts to the support set of a task and classifies its queries under both protocols."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from reptile_jax.meta.episodes import EvalTask
from reptile_jax.meta.inner_loop import ApplyFn, InnerLoop, OptState, Params, inner_loop


class Predictions(NamedTuple):
    """Predicted labels of queries, int32. For the queries of a task, [classes], the right label of query i is i."""

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
        loop: the common part of all inner loops.
        apply: the network.
        images_of: rows of the data [...] -> images [..., height, width, channels].
        params: the initialisation theta.
        opt_state: the inner optimiser's state after training; the caller's copy does not change.
        task: the episode.

    Returns:
        The predictions under both protocols, from one adapted copy of the weights.
    """
    phi, _, _ = inner_loop(loop, params, opt_state, task.batches)
    return classify(apply, phi, images_of(task.support.rows), images_of(task.queries.rows))


def classify(apply: ApplyFn, phi: Params, support: jax.Array, queries: jax.Array) -> Predictions:
    """Classifies queries under both protocols.

    In the transductive protocol, the queries pass through the network as one batch, and batch norm uses its statistics.
    In the inductive protocol, each query passes through in a separate batch, beside the whole support set.

    Args:
        apply: the network.
        phi: adapted weights.
        support: [support, height, width, channels], the images that the weights were adapted to.
        queries: [queries, height, width, channels].

    Returns:
        Predicted labels, [queries] each.
    """
    # The queries run one after the other, because all at once would need a copy of the support set's activations each.
    inductive = lax.map(lambda query: beside_support(apply, phi, support, query), queries)
    return Predictions(
        jnp.argmax(apply(phi, queries), axis=-1).astype(jnp.int32),
        jnp.argmax(inductive, axis=-1).astype(jnp.int32),
    )


def beside_support(apply: ApplyFn, phi: Params, support: jax.Array, query: jax.Array) -> jax.Array:
    """Returns the outputs [outputs] for one query [height, width, channels], in one batch with the support set."""
    return apply(phi, jnp.concatenate([support, query[None]]))[-1]
