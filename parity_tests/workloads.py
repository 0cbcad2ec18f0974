"""The work that the benchmark times: each function returns a `Work`, which compiles when it is first called."""

from collections.abc import Callable
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch
from jax import lax, random
from jax.sharding import Mesh
from ml_collections import ConfigDict

from parity_tests import bridge
from reptile_jax.data import DATA_SETS
from reptile_jax.devices import TASKS, at_once, put
from reptile_jax.meta.episodes import Pool, TrainTask
from reptile_jax.meta.inner_loop import InnerLoop
from reptile_jax.meta.reptile import MetaMetrics, MetaState, Spread, meta_update
from reptile_jax.run.curves import Curves
from reptile_jax.run.metrics import MetricsWriter
from reptile_jax.run.programs import (
    eval_program,
    initial_state,
    initial_states,
    inner_loop_of,
    sample_meta_batch,
    task_keys,
    train_program,
)
from reptile_jax.tasks import Data
from reptile_jax.tasks.kind import Source
from reptile_torch_ref import reptile
from reptile_torch_ref.model import MEMORY
from reptile_torch_ref.train import inner_of

EVAL_TASKS = 10  # on each device in one dispatch
EPISODES = 8  # number of meta-iterations whose episodes are sampled beforehand and used again and again

Work = Callable[[int], None]  # does so many units of work: meta-iterations, dispatches of tasks or products


def training(config: ConfigDict, data: Data, mesh: Mesh, iteration: int = 0) -> Work:
    """Returns meta-iterations of the training program, starting at `iteration`."""
    advance, states = train_program(config, mesh), initial_states(config)
    states = put(mesh, states._replace(iteration=np.full_like(states.iteration, iteration)))
    seeds = np.array([config.seed], np.int32)

    def work(amount: int) -> None:
        nonlocal states
        states, _ = jax.block_until_ready(advance(states, seeds, data.source, data.pools["train"], amount))

    return work


def without(config: ConfigDict, data: Data, *parts: str) -> Work:
    """Returns meta-iterations without some `parts`: "sampling" (done before), "optimiser" (Adam), "backward"."""

    source = first_seed(data)

    @jax.jit
    def sample(iteration: jax.Array) -> TrainTask:
        numbers = jnp.arange(config.meta_batch, dtype=jnp.int32)
        return sample_meta_batch(config, config.seed, iteration, source, data.pools["train"], numbers)

    episodes = jax.tree.map(lambda *x: jnp.stack(x), *(sample(i) for i in range(EPISODES)))

    def loop_of(source: Source) -> InnerLoop:
        loop = inner_loop_of(config, source)
        if "optimiser" in parts:
            loop = loop._replace(optimizer=optax.sgd(1e-9))  # the gradients are still used, and therefore computed
        if "backward" in parts:  # no weight has a gradient, so JAX computes none
            honest = loop.loss
            loop = loop._replace(loss=lambda params, batch: honest(lax.stop_gradient(params), batch))
        return loop

    @jax.jit
    def advance(state: MetaState, source: Source, amount: jax.Array) -> tuple[MetaState, MetaMetrics]:
        loop = loop_of(source)
        state = state._replace(opt_state=loop.optimizer.init(state.params))

        def meta_iteration(i: jax.Array, carry: tuple[MetaState, MetaMetrics]) -> tuple[MetaState, MetaMetrics]:
            tasks = jax.tree.map(lambda x: x[i % EPISODES], episodes) if "sampling" in parts else sample(i)
            spread = Spread(at_once(config))
            fields = {name: config[name] for name in ("foml", "inner_state", "zero_head")}
            return meta_update(loop, carry[0], tasks, 1.0, **fields, spread=spread)

        return lax.fori_loop(0, amount, meta_iteration, (state, MetaMetrics(jnp.zeros(()), jnp.zeros(()))))

    state = jax.tree.map(lambda x: jnp.asarray(x[0]), initial_states(config))
    return lambda amount: jax.block_until_ready(advance(state, source, amount))


def first_seed(data: Data) -> Source:
    """Returns the source from which the first seed's tasks are sampled."""
    shared, of_seeds = jax.tree.map(lambda x: jnp.asarray(np.asarray(x)), data.source)
    return shared, jax.tree.map(lambda x: x[0], of_seeds)


def training_torch(config: ConfigDict, data: Data, memory: torch.memory_format | None = None) -> Work:
    """Returns meta-iterations of the PyTorch implementation, on the first episodes of the training program.

    Args:
        config: the run's config.
        data: what the tasks are sampled from.
        memory: how images lie in memory; None means as the reference has them.
    """
    tasks, pixels, scale = [], torch.from_numpy(np.array(data.source[0])), DATA_SETS[config.data.name].scale
    for i in range(EPISODES):
        numbers = jnp.arange(config.meta_batch)
        sampled = sample_meta_batch(config, config.seed, i, first_seed(data), data.pools["train"], numbers)
        made = bridge.train_tasks(sampled, pixels)
        tasks.append([[(images / scale, labels) for images, labels in batches] for batches in made])
    state, inner, network = torch_state(config), inner_of(config), config.model.name

    def work(amount: int) -> None:
        nonlocal state
        with mock.patch.dict(MEMORY, {network: memory or MEMORY[network]}):
            for i in range(amount):
                step = reptile.meta_step_at(i, config.meta_iters, config.meta_step, config.meta_step_final)
                state = reptile.meta_iteration(state, tasks[i % EPISODES], step, inner, config.foml)

    return work


def evaluation(config: ConfigDict, data: Data, mesh: Mesh) -> Work:
    """Returns dispatches of the evaluation program, with `EVAL_TASKS` tasks for each device, under both protocols."""
    program, states = eval_program(config, mesh, config.shots), put(mesh, initial_states(config))
    arguments = eval_arguments(config, data, EVAL_TASKS * mesh.shape[TASKS])

    def work(amount: int) -> None:
        for _ in range(amount):
            jax.block_until_ready(program(states, data.source, *arguments))

    return work


def training_with_curves(config: ConfigDict, data: Data, mesh: Mesh) -> Work:
    """Returns meta-iterations with points of the learning curves, in units of `eval_interval` of them and a point.

    At its end, it waits for the last points, as a run does before a checkpoint.
    """
    advance, states = train_program(config, mesh), put(mesh, initial_states(config))
    curves = Curves(config, data, mesh, mock.Mock(spec=MetricsWriter, rows=[]))
    seeds = np.array([config.seed], np.int32)

    def work(amount: int) -> None:
        nonlocal states
        for i in range(amount):
            states, progress = advance(states, seeds, data.source, data.pools["train"], config.eval_interval)
            curves.add(i, jax.block_until_ready(states), progress.last, 1.0)
        curves.measure()

    return work


def evaluation_torch(config: ConfigDict, data: Data) -> Work:
    """Returns the evaluation of `EVAL_TASKS` of the same tasks on the PyTorch implementation."""
    pixels, scale = torch.from_numpy(np.array(data.source[0])), DATA_SETS[config.data.name].scale
    mesh = data.source[0].sharding.mesh
    program, states = eval_program(config, mesh, config.shots), put(mesh, initial_states(config))
    sampled, _ = program(states, data.source, *eval_arguments(config, data, EVAL_TASKS))
    tasks = [
        ([(images / scale, labels) for images, labels in batches], support / scale, queries / scale)
        for batches, support, queries in bridge.eval_tasks(jax.tree.map(lambda x: x[0], sampled), pixels)
    ]
    state, inner = torch_state(config), inner_of(config)

    def work(amount: int) -> None:
        for _ in range(amount):
            for task in tasks:
                reptile.evaluate_task(state, *task, inner)

    return work


def eval_arguments(config: ConfigDict, data: Data, tasks: int) -> tuple[Pool, np.ndarray]:
    """Returns the pools and keys of so many tasks on the held-out classes."""
    keys = random.key_data(task_keys(random.key(config.eval_seed), 0, tasks))[None]
    return jax.tree.map(lambda x: np.full(tasks, x, np.int32), data.pools[data.held_out]), np.asarray(keys)


def torch_state(config: ConfigDict) -> reptile.State:
    """Returns JAX's initial state, converted for PyTorch."""
    return bridge.to_torch(initial_state(config, config.seed))


def products(size: int) -> Work:
    """Returns products of two float32 matrices [size, size]."""
    multiply, a = jax.jit(jnp.matmul), random.normal(random.key(0), (size, size))

    def work(amount: int) -> None:
        for _ in range(amount):
            multiply(a, a).block_until_ready()

    return work
