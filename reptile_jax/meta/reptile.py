"""One meta-iteration: adapt to every task of the meta-batch, average the deltas, move the initialisation."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from reptile_jax.meta.episodes import TrainTask
from reptile_jax.meta.inner_loop import InnerLoop, OptState, Params, inner_loop, inner_step


class MetaState(NamedTuple):
    """What training carries from one meta-iteration to the next; with the seed, it determines the rest of the run.

    Attributes:
        params: the initialisation theta.
        opt_state: the inner optimiser's state, carried from task to task.
        iteration: meta-iterations done, int32.
    """

    params: Params
    opt_state: OptState
    iteration: jax.Array


class Spread(NamedTuple):
    """How the tasks of a meta-batch are computed; by default on one device, one after the other.

    Attributes:
        at_once: whether a device computes its tasks together, by vmap.
        real: [tasks] bool, which of this device's tasks count; the others come last. None: all count.
        axis: name of the mapped axis over which the meta-batch is spread; None: it is not spread.
    """

    at_once: bool = False
    real: jax.Array | None = None
    axis: str | None = None


ONE_DEVICE = Spread()


class MetaMetrics(NamedTuple):
    """How one meta-iteration went.

    Attributes:
        loss: mean over tasks and inner steps of the mini-batch's loss; in classification, this is a sum in nats.
        delta_norm: L2 norm of the mean delta, before it is multiplied by eps. With `zero_head`, it includes the dense
            layer's part, which is not applied.
    """

    loss: jax.Array
    delta_norm: jax.Array


def meta_step_size(
    iteration: jax.Array, meta_iters: int, meta_step: float, meta_step_final: float
) -> jax.Array | float:
    """Returns eps, which is linear over the run: f * final + (1 - f) * first, with f = iteration / meta_iters."""
    fraction = iteration / meta_iters
    return fraction * meta_step_final + (1 - fraction) * meta_step


def task_delta(
    loop: InnerLoop, params: Params, opt_state: OptState, task: TrainTask, foml: bool
) -> tuple[Params, OptState, jax.Array]:
    """Returns what one task contributes: phi - theta, or for first-order MAML only what the last step changed.

    Args:
        loop: what the inner loops share.
        params: the initialisation theta.
        opt_state: optimiser state to start from.
        task: mini-batches [inner_iters, inner_batch], or one less and a tail.
        foml: first-order MAML (released code: `FOML`); its delta includes the last step's weight decay.

    Returns:
        The delta, the optimiser state after the task, and the mean of the steps' losses.
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


def mean_over_tasks(f: Callable[[TrainTask], Any], tasks: TrainTask, spread: Spread = ONE_DEVICE) -> Any:
    """Returns the mean of f(task) over the tasks. Only floats are averaged; whole numbers are the same in every task.

    Args:
        f: task -> pytree.
        tasks: the tasks of this device; every array has a leading axis [tasks].
        spread: how the tasks are computed, and where the other tasks of the meta-batch are.
    """
    tasks = jax.tree.map(jnp.asarray, tasks)  # NumPy arrays take no traced index
    real = jnp.ones(jax.tree.leaves(tasks)[0].shape[0], bool) if spread.real is None else spread.real

    def counted(task: TrainTask, counts: jax.Array) -> Any:
        return _floats(lambda x: jnp.where(counts, x, 0), f(task))

    if spread.at_once:
        total = jax.tree.map(lambda x: jnp.sum(x, 0) if _is_float(x) else x[0], jax.vmap(counted)(tasks, real))
    else:  # each result is added to the sum, so that no task's result has to be kept
        zero = jax.tree.map(jnp.zeros_like, jax.eval_shape(counted, *jax.tree.map(lambda x: x[0], (tasks, real))))

        def add(i: jax.Array, total: Any) -> Any:
            task = counted(*jax.tree.map(lambda x: x[i], (tasks, real)))
            return jax.tree.map(lambda t, x: t + x if _is_float(x) else x, total, task)

        # Tasks that do not count come last and are left out; a device with no others computes one all the same.
        computed = len(real) if spread.real is None else jnp.maximum(1, jnp.sum(real))
        total = lax.fori_loop(0, computed, add, zero)
    count = jnp.sum(real)
    if spread.axis is not None:
        total, count = _floats(lambda x: lax.psum(x, spread.axis), total), lax.psum(count, spread.axis)
    return _floats(lambda x: x / count.astype(x.dtype), total)


def _is_float(x: jax.Array) -> bool:
    return jnp.issubdtype(x.dtype, jnp.floating)


def _floats(f: Callable[[jax.Array], jax.Array], tree: Any) -> Any:
    """Applies f to the floats of a tree."""
    return jax.tree.map(lambda x: f(x) if _is_float(x) else x, tree)


def with_zero_head(params: Params) -> Params:
    """Returns the weights with a dense layer of zeros, with which the initial outputs are equal for all classes.

    The numbering of a task's classes is arbitrary, so differences between the initial outputs are noise. What the
    outputs have in common changes no probability. Adam's second moment, where it is carried, still depends on the
    numbering. (Kao et al. 2021, arXiv 2106.15367, the zeroing trick; Ye and Chao 2022, arXiv 2106.16245, UNICORN-MAML;
    both for MAML.)
    """
    layers = params["params"]
    return {"params": layers | {"dense": jax.tree.map(jnp.zeros_like, layers["dense"])}}


def meta_update(
    loop: InnerLoop,
    state: MetaState,
    tasks: TrainTask,
    step_size: jax.Array | float,
    *,
    foml: bool,
    inner_state: str,
    zero_head: bool = False,
    spread: Spread = ONE_DEVICE,
) -> tuple[MetaState, MetaMetrics]:
    """theta <- theta + eps * mean_i(phi_i - theta) (paper, algorithm 2).

    Args:
        loop: what the inner loops share.
        state: the state before the meta-iteration.
        tasks: the meta-batch; every array has a leading axis [tasks]. On several devices, the tasks of this device.
        step_size: eps.
        foml: first-order MAML instead of Reptile.
        inner_state: how the inner optimiser's state is carried. "averaged": every task starts from the same state, and
            the mean over the tasks is carried on. "sequential": each task starts from the state at the end of the
            previous task, as in the released code; all tasks are on one device. "reset": every task starts from zero.
        zero_head: the dense layer, which is zero in `state`, stays zero.
        spread: how the tasks are computed; "sequential" tasks are computed one after the other.

    Returns:
        The state after the meta-iteration, and its metrics.
    """

    def one_task(opt_state: OptState, task: TrainTask) -> tuple[OptState, tuple[Params, jax.Array]]:
        delta, opt_state, loss = task_delta(loop, state.params, opt_state, task, foml)
        return opt_state, (delta, loss)

    if inner_state == "sequential":
        opt_state, results = lax.scan(one_task, state.opt_state, tasks)
        delta, loss = jax.tree.map(lambda x: jnp.mean(x, axis=0), results)
    else:
        start = loop.optimizer.init(state.params) if inner_state == "reset" else state.opt_state
        opt_state, (delta, loss) = mean_over_tasks(lambda task: one_task(start, task), tasks, spread)
        opt_state = start if inner_state == "reset" else opt_state
    params = jax.tree.map(lambda theta, d: theta + jnp.asarray(step_size, d.dtype) * d, state.params, delta)
    params = with_zero_head(params) if zero_head else params
    return MetaState(params, opt_state, state.iteration + 1), MetaMetrics(loss, optax.tree.norm(delta))
