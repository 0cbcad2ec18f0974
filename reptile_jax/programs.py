"""The compiled programs of a run: the config's fields, unpacked into functions of arrays.

Every random choice is a function of a seed and a count: the initial weights of `seed`, the tasks of a meta-iteration of
(`seed`, meta-iteration, task), the tasks of an evaluation of (`eval_seed`, set of classes, shots, task). Nothing of it
is state, so a resumed run goes on as if it had never stopped.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax, random
from ml_collections import ConfigDict

from reptile_jax.config import train_shots
from reptile_jax.episodes import EvalTask, Pool, TrainTask, sample_eval_task, sample_train_task
from reptile_jax.evaluate import Predictions, predict_queries
from reptile_jax.inner_loop import InnerLoop, inner_optimizer
from reptile_jax.model import OmniglotClassifier
from reptile_jax.reptile import MetaMetrics, MetaState, meta_step_size, meta_update

INITIAL_WEIGHTS, TRAINING_TASKS, CURVE_TASKS = range(3)  # random streams of a run's seed


class Progress(NamedTuple):
    """What a dispatch of meta-iterations reports.

    Attributes:
        last: metrics of its last meta-iteration.
        bad_iteration: the first meta-iteration whose loss or delta was not finite, -1 where all were.
    """

    last: MetaMetrics
    bad_iteration: jax.Array


def stream(seed: int, name: int) -> jax.Array:
    """Returns the key of one of the random streams of a seed."""
    return random.fold_in(random.key(seed), name)


def inner_loop_of(config: ConfigDict, data: jax.Array) -> InnerLoop:
    """Returns what every inner loop of a run shares.

    Args:
        config: classes, learning_rate, sgd and weight_decay are used.
        data: [characters, drawings, 28, 28] uint8.
    """
    network = OmniglotClassifier(config.classes)
    optimizer = inner_optimizer(config.learning_rate, config.sgd)
    return InnerLoop(network.apply, optimizer, config.weight_decay, data.reshape(-1, *data.shape[2:]))


def initial_state(config: ConfigDict, dtype: jnp.dtype = jnp.float32) -> MetaState:
    """Returns the state at meta-iteration 0, its weights drawn from the seed."""
    network = OmniglotClassifier(config.classes)
    params = jax.jit(network.init)(stream(config.seed, INITIAL_WEIGHTS), jnp.zeros((1, 28, 28), dtype))
    opt_state = inner_optimizer(config.learning_rate, config.sgd).init(params)
    return MetaState(params, opt_state, jnp.zeros((), jnp.int32))


def sample_meta_batch(config: ConfigDict, iteration: jax.Array | int, pool: Pool, drawings: int) -> TrainTask:
    """Samples the training tasks of one meta-iteration: arrays with a leading axis [meta_batch]."""
    key = random.fold_in(stream(config.seed, TRAINING_TASKS), iteration)
    sample = partial(
        sample_train_task,
        pool=pool,
        drawings=drawings,
        classes=config.classes,
        shots=train_shots(config),
        inner_batch=config.inner_batch,
        inner_iters=config.inner_iters,
        replacement=config.replacement,
        tail_shots=config.foml_tail,
    )
    return jax.vmap(lambda task: sample(random.fold_in(key, task)))(jnp.arange(config.meta_batch))


def train_program(config: ConfigDict) -> Callable[[MetaState, jax.Array, Pool, jax.Array], tuple[MetaState, Progress]]:
    """Compiles training: (state, data [characters, drawings, 28, 28], pool, count) -> `count` meta-iterations later.

    The count is an argument of the compiled loop and not a part of it: however a run is cut into dispatches, the same
    program computes every meta-iteration, to the same bits. The state is donated.
    """

    @partial(jax.jit, donate_argnums=0)
    def advance(state: MetaState, data: jax.Array, pool: Pool, count: jax.Array) -> tuple[MetaState, Progress]:
        loop = inner_loop_of(config, data)

        def meta_iteration(_: jax.Array, carry: tuple[MetaState, Progress]) -> tuple[MetaState, Progress]:
            state, progress = carry
            tasks = sample_meta_batch(config, state.iteration, pool, data.shape[1])
            step_size = meta_step_size(state.iteration, config.meta_iters, config.meta_step, config.meta_step_final)
            after, metrics = meta_update(
                loop, state, tasks, step_size, foml=config.foml, inner_state=config.inner_state
            )
            finite = jnp.isfinite(metrics.loss) & jnp.isfinite(metrics.delta_norm)
            bad = jnp.where(finite | (progress.bad_iteration >= 0), progress.bad_iteration, state.iteration)
            return after, Progress(metrics, bad)

        zero = jnp.zeros((), jax.tree.leaves(state.params)[0].dtype)
        return lax.fori_loop(
            0, count, meta_iteration, (state, Progress(MetaMetrics(zero, zero), jnp.full((), -1, jnp.int32)))
        )

    return advance


def eval_program(
    config: ConfigDict, shots: int
) -> Callable[[MetaState, jax.Array, Pool, jax.Array], tuple[EvalTask, Predictions]]:
    """Compiles evaluation: (state, data [characters, drawings, 28, 28], pools, keys [tasks]) -> tasks and predictions.

    Every task has a pool and a key of its own; every array of the result has a leading axis [tasks].

    Args:
        config: the run's config.
        shots: support drawings per class.
    """

    @jax.jit
    def classify(state: MetaState, data: jax.Array, pools: Pool, keys: jax.Array) -> tuple[EvalTask, Predictions]:
        loop = inner_loop_of(config, data)
        start = loop.optimizer.init(state.params) if config.inner_state == "reset" else state.opt_state

        def one_task(pool: Pool, key: jax.Array) -> tuple[EvalTask, Predictions]:
            task = sample_eval_task(
                key,
                pool,
                drawings=data.shape[1],
                classes=config.classes,
                shots=shots,
                eval_batch=config.eval_batch,
                eval_iters=config.eval_iters,
                replacement=config.replacement,
            )
            return task, predict_queries(loop, state.params, start, task)

        return jax.vmap(one_task)(pools, keys)

    return classify
