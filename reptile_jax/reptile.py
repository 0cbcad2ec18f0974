"""One meta-iteration: adapt to every task of the meta-batch, average the deltas, move the initialisation."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from reptile_jax.episodes import TrainTask
from reptile_jax.inner_loop import InnerLoop, OptState, Params, inner_loop, inner_step


class MetaState(NamedTuple):
    """All that training carries; with the seed it determines the rest of the run.

    Attributes:
        params: the initialisation theta.
        opt_state: the inner optimiser's state, carried from task to task.
        iteration: meta-iterations done, int32.
    """

    params: Params
    opt_state: OptState
    iteration: jax.Array


class MetaMetrics(NamedTuple):
    """How one meta-iteration went.

    Attributes:
        loss: mean over tasks and inner steps of the loss summed over the mini-batch, nats.
        delta_norm: L2 norm of the mean delta, before it is multiplied by eps.
    """

    loss: jax.Array
    delta_norm: jax.Array


def meta_step_size(
    iteration: jax.Array, meta_iters: int, meta_step: float, meta_step_final: float
) -> jax.Array | float:
    """The interpolation factor eps, linear over the run: f * final + (1 - f) * first, f = iteration / meta_iters."""
    fraction = iteration / meta_iters
    return fraction * meta_step_final + (1 - fraction) * meta_step


def task_delta(
    loop: InnerLoop, params: Params, opt_state: OptState, task: TrainTask, foml: bool
) -> tuple[Params, OptState, jax.Array]:
    """What one task contributes: phi - theta, or for first-order MAML the last step's part of it.

    Args:
        loop: what the inner loops share.
        params: the initialisation theta.
        opt_state: optimiser state to start from.
        task: mini-batches [inner_iters, inner_batch], or one less and a tail.
        foml: first-order MAML (released code: `FOML`); the last step's weight decay belongs to its delta.

    Returns:
        The delta, the optimiser state after the task, and the mean over the steps of the summed losses.
    """
    if not foml:
        phi, opt_state, losses = inner_loop(loop, params, opt_state, task.batches)
        return jax.tree.map(jnp.subtract, phi, params), opt_state, jnp.mean(losses)
    batches, last = task.batches, task.tail
    if last is None:
        batches, last = jax.tree.map(lambda x: x[:-1], batches), jax.tree.map(lambda x: x[-1], batches)
    before, opt_state, losses = inner_loop(loop, params, opt_state, batches)
    after, opt_state, loss = inner_step(loop, before, opt_state, last)
    return jax.tree.map(jnp.subtract, after, before), opt_state, jnp.mean(jnp.append(losses, loss))


def mean_over_tasks(opt_states: OptState) -> OptState:
    """Averages optimiser states [tasks, ...]: the mean second moment; the step count is the same in every task."""
    return jax.tree.map(
        lambda x: jnp.mean(x, axis=0) if jnp.issubdtype(x.dtype, jnp.floating) else x[0],
        opt_states,
    )


def meta_update(
    loop: InnerLoop, state: MetaState, tasks: TrainTask, step_size: jax.Array | float, *, foml: bool, inner_state: str
) -> tuple[MetaState, MetaMetrics]:
    """theta <- theta + eps * mean_i(phi_i - theta) (paper, algorithm 2).

    Args:
        loop: what the inner loops share.
        state: the state before.
        tasks: the meta-batch, every array with a leading axis [tasks].
        step_size: eps.
        foml: first-order MAML instead of Reptile.
        inner_state: how the inner optimiser's state passes on. "averaged": every task starts from the same state, and
            the mean over the tasks is carried; "sequential": each task starts where the one before ended, as released;
            "reset": every task starts from zero.

    Returns:
        The state after, and how the meta-iteration went.
    """

    def one_task(opt_state: OptState, task: TrainTask) -> tuple[OptState, tuple[Params, jax.Array]]:
        delta, opt_state, loss = task_delta(loop, state.params, opt_state, task, foml)
        return opt_state, (delta, loss)

    if inner_state == "sequential":
        opt_state, (deltas, losses) = lax.scan(one_task, state.opt_state, tasks)
    else:
        start = loop.optimizer.init(state.params) if inner_state == "reset" else state.opt_state
        opt_states, (deltas, losses) = jax.vmap(one_task, in_axes=(None, 0))(start, tasks)
        opt_state = start if inner_state == "reset" else mean_over_tasks(opt_states)
    delta = jax.tree.map(lambda d: jnp.mean(d, axis=0), deltas)
    params = jax.tree.map(lambda theta, d: theta + jnp.asarray(step_size, d.dtype) * d, state.params, delta)
    return MetaState(params, opt_state, state.iteration + 1), MetaMetrics(jnp.mean(losses), optax.tree.norm(delta))
