"""Runs both sides of this project on the recorded inputs, in float64, with TensorFlow's form of Adam.

TensorFlow adds epsilon to the root of the uncorrected second moment. Optax and PyTorch add it to the root of the
corrected second moment:

    theta <- theta - lr * sqrt(1 - beta2^t) * g / (sqrt(v) + epsilon)     instead of
    theta <- theta - lr * g / (sqrt(v / (1 - beta2^t)) + epsilon)

Here each side uses TensorFlow's form; nothing else is changed.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch
from flax.traverse_util import unflatten_dict

from parity_tests import bridge, compiled
from parity_tests.bridge import Setup
from parity_tests.released.record import (
    BETA2,
    EPSILON,
    Case,
    Inputs,
    Results,
    difference,
    inputs,
    load,
    recorded,
)
from reptile_jax.meta.episodes import Examples, TrainTask
from reptile_jax.meta.inner_loop import Params
from reptile_jax.meta.reptile import MetaState, meta_step_size, meta_update
from reptile_jax.networks.omniglot import OmniglotClassifier
from reptile_torch_ref import reptile
from reptile_torch_ref import weights as torch_weights


def tensorflow_adam(learning_rate: float, beta2: float, epsilon: float) -> optax.GradientTransformation:
    """Returns Adam without a first moment, with epsilon where TensorFlow adds it."""
    return optax.chain(
        optax.scale_by_rms(decay=beta2, eps=epsilon, eps_in_sqrt=False),
        optax.scale_by_schedule(lambda done: -learning_rate * jnp.sqrt(1 - beta2 ** (done + 1))),
    )


def jax_inputs(given: Inputs) -> tuple[Params, jax.Array, jax.Array]:
    """Returns weights, support set and queries as `reptile_jax` takes them."""
    params = {"params": unflatten_dict({name: jnp.asarray(w) for name, w in given.weights.items()}, sep="/")}
    support, queries = (jnp.asarray(x[..., None], jnp.float64) for x in (given.support, given.queries))
    return params, support, queries


def by_jax(case: Case, inner_state: str) -> Results:
    """Computes a case with `reptile_jax`; call it in float64."""
    given, rate, sgd = inputs(case), case["learning_rate"], case["optimiser"] == "sgd"
    pixels = jnp.asarray(given.images.reshape(-1, 28, 28, 1), jnp.uint8)
    spec = compiled.Spec(case["ways"], sgd, rate, bool(case["foml"]), inner_state)
    loop = spec.loop(case["weight_decay"], (pixels, None))
    if not sgd:
        loop = loop._replace(optimizer=tensorflow_adam(rate, BETA2, EPSILON))
    rows = np.arange(given.labels.size, dtype=np.int32).reshape(given.labels.shape)
    labels = given.labels.astype(np.int32)

    apply = OmniglotClassifier(case["ways"]).apply

    @jax.jit
    def logits(params: Params, support: jax.Array, queries: jax.Array) -> dict[str, jax.Array]:
        inductive = jax.lax.map(lambda query: apply(params, jnp.concatenate([support, query[None]]))[-1], queries)
        return {"transductive": apply(params, queries), "inductive": inductive}

    @jax.jit
    def update(state: MetaState, tasks: TrainTask) -> MetaState:
        return meta_update(loop, state, tasks, case["meta_step"], foml=spec.foml, inner_state=inner_state)[0]

    params, *sets = jax_inputs(given)
    before = {name: np.asarray(x) for name, x in logits(params, *sets).items()}
    state, updates = MetaState(params, loop.optimizer.init(params), jnp.zeros((), jnp.int32)), []
    for i in range(case["meta_iterations"]):
        after = update(state, TrainTask(Examples(rows[i], labels[i]), None))
        updates.append(bridge.minus(bridge.arrays(after.params), bridge.arrays(state.params)))
        state = after
    return Results(before, updates, {} if sgd else bridge.arrays(compiled.second_moment(state)))


def place_of_epsilon(setup: Setup, meta_iterations: int) -> list[float]:
    """Returns how much TensorFlow's place for epsilon changes each of a run's first meta-updates.

    The values are relative L2 differences of the change of the weights. Each meta-update is computed in both forms from
    the same weights, second moment and tasks; the run goes on with this project's form. Call it in float64.
    """
    c, source = setup.config, setup.pixels.jax
    own = setup.spec.loop(setup.weight_decay, source)
    theirs = own._replace(optimizer=tensorflow_adam(c.learning_rate, reptile.BETA2, reptile.EPSILON))

    @jax.jit
    def update(state: MetaState, tasks: TrainTask, step_size: float) -> tuple[MetaState, jax.Array]:
        moment, count = (optax.tree.get(state.opt_state, name) for name in ("nu", "count"))
        same = optax.tree.set(theirs.optimizer.init(state.params), nu=moment, count=count)
        after, other = (
            meta_update(loop, start, tasks, step_size, foml=c.foml, inner_state=c.inner_state)[0]
            for loop, start in ((own, state), (theirs, state._replace(opt_state=same)))
        )
        norm, minus = optax.tree.norm, optax.tree.sub
        return after, norm(minus(other.params, after.params)) / norm(minus(after.params, state.params))

    state, differences = setup.start, []
    for i in range(meta_iterations):
        step_size = meta_step_size(i, c.meta_iters, c.meta_step, c.meta_step_final)
        state, difference = update(state, compiled.sample(c, i, source[1], bridge.POOLS["train"]), step_size)
        differences.append(float(difference))
    return differences


@contextmanager
def tensorflow_adam_in_torch() -> Iterator[None]:
    """Gives the reference's Adam TensorFlow's form, by an epsilon of epsilon / sqrt(1 - beta2^t)."""
    honest = reptile.BETA2, reptile.EPSILON, reptile.inner_step

    def inner_step(state: reptile.State, *rest: Any) -> reptile.State:
        reptile.EPSILON = EPSILON / math.sqrt(1 - BETA2 ** (state.step_count + 1))
        return honest[2](state, *rest)

    reptile.BETA2, reptile.inner_step = BETA2, inner_step
    try:
        yield
    finally:
        reptile.BETA2, reptile.EPSILON, reptile.inner_step = honest


def by_torch(case: Case, inner_state: str) -> Results:
    """Computes a case with `reptile_torch_ref`."""
    given, sgd = inputs(case), case["optimiser"] == "sgd"
    inner = reptile.Inner(case["learning_rate"], sgd, case["weight_decay"], inner_state)
    params = {name: torch.from_numpy(w).permute(torch_weights.FROM_FILE[w.ndim]) for name, w in given.weights.items()}
    state = reptile.State(params, {} if sgd else {n: torch.zeros_like(w) for n, w in params.items()}, 0)
    images, labels, support, queries = map(torch.from_numpy, given[1:])
    logits = reptile.evaluate_task(state, [], support, queries, inner)
    before, updates = dict(zip(("transductive", "inductive"), map(np.asarray, logits), strict=True)), []
    with tensorflow_adam_in_torch():
        for i in range(case["meta_iterations"]):
            tasks = [list(zip(*task, strict=True)) for task in zip(images[i], labels[i], strict=True)]
            after = reptile.meta_iteration(state, tasks, case["meta_step"], inner, bool(case["foml"]))
            updates.append(bridge.minus(bridge.arrays(after.params), bridge.arrays(state.params)))
            state = after
    return Results(before, updates, bridge.arrays(state.second_moment))


def agreement(side: Callable[[Case, str], Results], name: str) -> float:
    """Returns how much a side differs from the record of a case; call it in float64.

    With Adam, the tasks run in the released order. SGD has no state to carry, so its tasks run as by default.
    """
    case = load()[name]["case"]
    results = side(case, "sequential" if case["optimiser"] == "adam" else "averaged")
    return difference(recorded(case, results), load()[name])


@cache
def worst(side: Callable[[Case, str], Results]) -> float:
    """Returns how much a side differs from the record in the worst case."""
    return max(agreement(side, name) for name in load())
