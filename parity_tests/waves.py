"""Compares sine waves on both sides: each comparison returns the worst difference of JAX from PyTorch for a config.

The waves and the weights come from JAX. PyTorch gets a mini-batch as its points and a state as a weights file. JAX's
side consists of the programs of a run.
"""

from collections.abc import Callable
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import torch
from jax import random
from ml_collections import ConfigDict

from configs import sinusoid, sinusoid_relu
from parity_tests import bridge
from parity_tests.bridge import Arrays, arrays, minus, relative
from reptile_jax.devices import mesh_of, put
from reptile_jax.meta.reptile import MetaState
from reptile_jax.run.programs import (
    eval_program,
    initial_state,
    inner_loop_of,
    network_of,
    sample_meta_batch,
    task_keys,
    train_program,
)
from reptile_jax.tasks.sine import EvalTask, Fit, Points, Pool, predict, steps_shown
from reptile_torch_ref import reptile, sine

SOURCE, POOL = ((), ()), Pool(0, 1)
META_ITERATIONS = 20
EVAL_TASKS = 10


def cases() -> list[ConfigDict]:
    """Returns the two configs, and first-order MAML with Adam, weight decay and separate points for the last step."""
    script, paper, foml = sinusoid.get_config(), sinusoid_relu.get_config(), sinusoid.get_config()
    foml.update(foml=True, foml_tail=10, sgd=False, learning_rate=1e-3, weight_decay=0.97)
    for config in (script, paper, foml):
        # 64 is a power of two: each step size is exact in float32, in which the JAX program computes it.
        config.update(num_seeds=1, meta_batch=2, meta_iters=64, meta_step=1.0)
    return [script, paper, foml]


def tasks_of(config: ConfigDict, iteration: int) -> list[reptile.Task]:
    """Returns the tasks that JAX samples for a meta-iteration, as the reference takes them."""
    numbers = jnp.arange(config.meta_batch, dtype=jnp.int32)
    sampled = sample_meta_batch(config, config.seed, iteration, SOURCE, POOL, numbers)
    made = []
    for i in range(config.meta_batch):
        task = jax.tree.map(lambda x, i=i: np.asarray(x)[i], sampled)
        made.append(batches_of(task.batches) + ([batch_of(task.tail)] if task.tail else []))
    return made


def batch_of(points: Points) -> reptile.Batch:
    """Returns a mini-batch (x, y) as the reference takes it."""
    return tuple(torch.from_numpy(np.array(x)) for x in points)


def batches_of(points: Points) -> reptile.Task:
    """Returns mini-batches as the reference takes them, from points [steps, batch]."""
    return [batch_of(Points(*pair)) for pair in zip(*map(np.asarray, points), strict=True)]


def start_of(config: ConfigDict) -> MetaState:
    """Returns JAX's initial state, in float64."""
    return initial_state(config, config.seed, jnp.float64)


def predictions(config: ConfigDict) -> float:
    """Compares the network's outputs for the first mini-batch."""
    x, _ = tasks_of(config, 0)[0][0]
    start = start_of(config)
    ours = predict(network_of(config).apply, start.params, jnp.asarray(x.numpy()))
    theirs = sine.predict(bridge.to_torch(start).params, x, config.model.name)
    return relative({"": np.asarray(ours)}, {"": theirs.numpy()})


def gradients(config: ConfigDict) -> float:
    """Compares the loss of the first mini-batch, and its gradient."""
    (x, y), start, inner = tasks_of(config, 0)[0][0], start_of(config), sine.inner_of(config)
    loss = inner_loop_of(config, SOURCE).loss
    points = Points(jnp.asarray(x.numpy()), jnp.asarray(y.numpy()))
    ours, ours_gradient = jax.value_and_grad(loss)(start.params, points)
    leaves = {name: w.requires_grad_() for name, w in bridge.to_torch(start).params.items()}
    theirs = inner.loss(leaves, x, y, inner.network)
    named = dict(zip(leaves, torch.autograd.grad(theirs, list(leaves.values())), strict=True))
    of_loss = relative({"": np.asarray(ours)}, {"": theirs.detach().numpy()})
    return max(of_loss, relative(arrays(ours_gradient), arrays(named)))


def meta_delta(config: ConfigDict) -> float:
    """Compares the change of the weights, and Adam's state, after the first meta-iteration."""
    return _after(config, 1)


def meta_iterations(config: ConfigDict) -> float:
    """Compares the same after 20 meta-iterations; neither side is reset to the other's state in between."""
    return _after(config, META_ITERATIONS)


def _after(config: ConfigDict, count: int) -> float:
    mesh, start = mesh_of(config), start_of(config)
    states = put(mesh, jax.tree.map(lambda x: np.asarray(x)[None], start))
    ours, _ = train_program(config, mesh)(states, np.array([config.seed], np.int32), SOURCE, POOL, count)
    ours = jax.tree.map(lambda x: np.asarray(x)[0], ours)
    theirs, inner = bridge.to_torch(start), sine.inner_of(config)
    for i in range(count):
        size = reptile.meta_step_at(i, config.meta_iters, config.meta_step, config.meta_step_final)
        theirs = reptile.meta_iteration(theirs, tasks_of(config, i), size, inner, config.foml)
    before = arrays(start.params)
    worst = relative(minus(arrays(ours.params), before), minus(arrays(theirs.params), before))
    moments = bridge.to_torch(ours)
    assert moments.step_count == theirs.step_count
    if theirs.second_moment:
        worst = max(worst, relative(arrays(moments.second_moment), arrays(theirs.second_moment)))
    return worst


def errors(config: ConfigDict) -> float:
    """Compares the errors of waves before, during and after adaptation of the initial weights."""
    mesh, start = mesh_of(config), start_of(config)
    states = put(mesh, jax.tree.map(lambda x: np.asarray(x)[None], start))
    keys = np.asarray(random.key_data(task_keys(random.key(config.eval_seed), 0, EVAL_TASKS)))[None]
    pools = jax.tree.map(lambda x: np.full(EVAL_TASKS, x, np.int32), POOL)
    evaluated: tuple[EvalTask, Fit] = eval_program(config, mesh, config.shots)(states, SOURCE, pools, keys)
    theirs = []
    for i in range(EVAL_TASKS):
        task = jax.tree.map(lambda x, i=i: np.asarray(x)[0, i], evaluated[0])
        of_steps = sine.errors_of_task(
            bridge.to_torch(start), batches_of(task.batches), batch_of(task.whole), sine.inner_of(config)
        )
        theirs.append([of_steps[step] for step in steps_shown(config)])
    return relative(of_array(evaluated[1].errors[0]), of_array(theirs))


def of_array(x: jax.Array | list[list[float]]) -> Arrays:
    """Returns an array as `relative` takes it."""
    return {"": np.asarray(x)}


@cache
def worst(measure: Callable[[ConfigDict], float]) -> float:
    """Returns the worst difference of a comparison over all cases, computed once; call it in float64."""
    return max(measure(config) for config in cases())


MEASURES = {
    "predictions": predictions,
    "gradients": gradients,
    "meta-delta": meta_delta,
    "20 meta-iterations": meta_iterations,
    "errors": errors,
}
