"""Runs the inner loop: a few optimiser steps on the mini-batches of one task."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

Params = Any  # pytree of the network's weights
OptState = Any  # pytree of the inner optimiser: Adam's second moment and step count
Batch = Any  # pytree of one mini-batch, whatever the kind of task
ApplyFn = Callable[..., Any]  # (params, inputs [batch, ...]) -> outputs [batch, outputs]
LossFn = Callable[[Params, Batch], jax.Array]  # -> scalar


class InnerLoop(NamedTuple):
    """The common part of all inner loops of a run.

    Attributes:
        loss: the loss that a step reduces, a function of weights and one mini-batch.
        optimizer: the inner optimiser.
        weight_decay: the factor on every weight before each step; 1 means no decay.
    """

    loss: LossFn
    optimizer: optax.GradientTransformation
    weight_decay: float | jax.Array


def inner_optimizer(learning_rate: float, sgd: bool) -> optax.GradientTransformation:
    """Returns plain SGD, or Adam with beta1 = 0, beta2 = 0.999 and epsilon 1e-8.

    Adam without a first moment is bias-corrected RMSProp: theta <- theta - lr * g / (sqrt(v / (1 - beta2^t)) + eps),
    so the only state is the second moment v and the step count t ("momentum reduced performance across the board",
    paper, section 6.1).
    """
    if sgd:
        return optax.sgd(learning_rate)
    return optax.chain(
        optax.scale_by_rms(decay=0.999, eps=1e-8, eps_in_sqrt=False, bias_correction=True),
        optax.scale_by_learning_rate(learning_rate),
    )


def summed_loss(apply: ApplyFn, params: Params, images: jax.Array, labels: jax.Array) -> jax.Array:
    """Returns the cross entropy summed, not averaged, over the mini-batch, as in the released code.

    Args:
        apply: the network.
        params: its weights.
        images: [batch, height, width, channels].
        labels: [batch] int32.

    Returns:
        Scalar, in nats.
    """
    return jnp.sum(optax.softmax_cross_entropy_with_integer_labels(apply(params, images), labels))


def inner_step(
    loop: InnerLoop, params: Params, opt_state: OptState, batch: Batch
) -> tuple[Params, OptState, jax.Array]:
    """Multiplies the weights by `weight_decay` and takes one optimiser step on one mini-batch.

    Args:
        loop: the common part of all inner loops.
        params: the task's weights.
        opt_state: the inner optimiser's state.
        batch: one mini-batch, arrays [batch, ...].

    Returns:
        Weights, optimiser state, and the loss before the step.
    """
    params = jax.tree.map(lambda p: p * loop.weight_decay, params)
    loss, grads = jax.value_and_grad(lambda p: loop.loss(p, batch))(params)
    with jax.numpy_dtype_promotion("standard"):  # Optax raises a float to an integer power
        updates, opt_state = loop.optimizer.update(grads, opt_state, params)
    return optax.apply_updates(params, updates), opt_state, loss


def inner_loop(
    loop: InnerLoop,
    params: Params,
    opt_state: OptState,
    batches: Batch,
    observe: Callable[[Params, jax.Array], Any] = lambda params, loss: loss,
) -> tuple[Params, OptState, Any]:
    """Runs one step for each mini-batch (paper, algorithm 1: U^k).

    Args:
        loop: the common part of all inner loops.
        params: weights to start from, theta.
        opt_state: optimiser state to start from.
        batches: mini-batches, arrays [steps, batch, ...].
        observe: (weights after a step, loss before it) -> a pytree to keep of that step.

    Returns:
        Adapted weights phi, optimiser state, and the pytrees that `observe` returned, as arrays [steps, ...]; by
        default these are the losses.
    """

    def step(carry: tuple[Params, OptState], batch: Batch) -> tuple[tuple[Params, OptState], jax.Array]:
        params, opt_state, loss = inner_step(loop, *carry, batch)
        return (params, opt_state), observe(params, loss)

    (params, opt_state), kept = lax.scan(step, (params, opt_state), batches)
    return params, opt_state, kept
