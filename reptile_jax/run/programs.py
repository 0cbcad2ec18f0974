"""The compiled programs of a run: the config's fields, unpacked into functions of arrays.

Every random choice is a function of a seed and of counts. The initial weights depend on `seed`, a training task depends
on (`seed`, meta-iteration, task), and an evaluation task depends on (`eval_seed`, set of classes, shots, task). None of
this is state, so a resumed run continues as if it had never stopped.

A run of several seeds is several runs in one program: every array has a leading axis [seeds], also if there is only one
seed. On a mesh of devices [seeds, tasks], each row of devices has its share of the seeds, and each device of a row has
its share of their tasks. If the tasks cannot be divided equally, other tasks fill the gaps and do not count.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache, partial, wraps
from typing import Any, NamedTuple, TypeVar, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax, random
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jax.typing import DTypeLike
from ml_collections import ConfigDict, FrozenConfigDict

from reptile_jax.config import ConfigError, seeds_of
from reptile_jax.devices import SEEDS, TASKS, at_once, each
from reptile_jax.meta.episodes import Pool, TrainTask
from reptile_jax.meta.inner_loop import InnerLoop, Params, inner_optimizer
from reptile_jax.meta.reptile import MetaMetrics, MetaState, Spread, meta_step_size, meta_update, with_zero_head
from reptile_jax.networks import NETWORKS
from reptile_jax.tasks import Source, kind_of

Array = jax.Array | np.ndarray
Make = TypeVar("Make", bound=Callable[..., Any])

INITIAL_WEIGHTS, TRAINING_TASKS, CURVE_TASKS = range(3)  # random streams of a run's seed


class Progress(NamedTuple):
    """What a dispatch of meta-iterations reports for each seed.

    Attributes:
        last: metrics of its last meta-iteration.
        bad_iteration: the first meta-iteration whose loss, delta or state was not finite; -1 if all were finite.
    """

    last: MetaMetrics
    bad_iteration: jax.Array


def kept(make: Make) -> Make:
    """Keeps the programs that a function makes of a config, so that another run in this process compiles none again."""

    @lru_cache(maxsize=16)
    def made(config: ConfigDict, _: type[nn.Module], *arguments: Any) -> Any:
        return make(config, *arguments)

    @wraps(make)
    def program(config: ConfigDict, *arguments: Any) -> Any:
        # A frozen config can be a key. A network that a person changes and defines again is another class.
        return made(FrozenConfigDict(config), NETWORKS[config.model.name], *arguments)

    return cast(Make, program)


def stream(seed: jax.Array | int, name: int) -> jax.Array:
    """Returns the key of one of the random streams of a seed."""
    return random.fold_in(random.key(seed), name)


@partial(jax.jit, static_argnums=2)  # key by key, the keys would take a millisecond
def task_keys(key: jax.Array, first: jax.Array | int, count: int) -> jax.Array:
    """Returns the keys of tasks first..first+count-1 of a stream: [count]."""
    return jax.vmap(lambda task: random.fold_in(key, task))(first + np.arange(count, dtype=np.int32))


def network_of(config: ConfigDict) -> nn.Module:
    """Returns the network of a run."""
    return NETWORKS[config.model.name](kind_of(config).outputs(config), config.model.filters, config.convolution)


def inner_loop_of(config: ConfigDict, source: Source) -> InnerLoop:
    """Returns what all inner loops of a seed share, whose tasks are sampled from `source`."""
    loss = kind_of(config).loss(config, network_of(config).apply, source)
    return InnerLoop(loss, inner_optimizer(config.learning_rate, config.sgd), config.weight_decay)


def initial_state(config: ConfigDict, seed: int, dtype: DTypeLike = jnp.float32) -> MetaState:
    """Returns one seed's state at meta-iteration 0, with weights drawn from the seed."""
    return _initial_state(config, seed, dtype, jax.jit(network_of(config).init))


def _initial_state(config: ConfigDict, seed: int, dtype: DTypeLike, init: Callable[..., Params]) -> MetaState:
    params = init(stream(seed, INITIAL_WEIGHTS), jnp.zeros((1, *kind_of(config).input_shape(config)), dtype))
    params = with_head_of(config, params)
    opt_state = inner_optimizer(config.learning_rate, config.sgd).init(params)
    return MetaState(params, opt_state, jnp.zeros((), jnp.int32))


def with_head_of(config: ConfigDict, params: Params) -> Params:
    """Returns the weights from which the tasks of a run start: with `zero_head`, their dense layer is zero.

    Raises:
        ConfigError: `zero_head`, but the network has no layer named dense.
    """
    if config.zero_head and "dense" not in params["params"]:
        name = config.model.name
        raise ConfigError(f"zero_head=True needs a layer named dense, which the network {name} lacks: give False")
    return with_zero_head(params) if config.zero_head else params


def initial_states(config: ConfigDict, dtype: DTypeLike = jnp.float32) -> MetaState:
    """Returns the state of every seed at meta-iteration 0, as host arrays with a leading axis [seeds]."""
    init = jax.jit(network_of(config).init)  # compiled once for all seeds
    states = [_initial_state(config, seed, dtype, init) for seed in seeds_of(config)]
    return jax.tree.map(lambda *x: np.stack(x), *states)


def state_shapes(config: ConfigDict, mesh: Mesh) -> MetaState:
    """Returns the shapes of what `initial_states` puts on a mesh, for reading a saved state; it computes nothing."""
    one, everywhere = jax.eval_shape(lambda: initial_state(config, config.seed)), NamedSharding(mesh, P())
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct((config.num_seeds, *x.shape), x.dtype, sharding=everywhere), one)


def sample_meta_batch(
    config: ConfigDict,
    seed: jax.Array | int,
    iteration: jax.Array | int,
    source: Source,
    pool: Pool,
    tasks: jax.Array,
) -> TrainTask:
    """Samples the tasks of one meta-iteration whose numbers, 0..meta_batch-1, are `tasks`: arrays [len(tasks), ...]."""
    key = random.fold_in(stream(seed, TRAINING_TASKS), iteration)
    sample = kind_of(config).sample_train
    return jax.vmap(lambda task: sample(config, random.fold_in(key, task), source, pool))(tasks)


@kept
def train_program(
    config: ConfigDict, mesh: Mesh
) -> Callable[[MetaState, Array, Source, Pool, Array | int], tuple[MetaState, Progress]]:
    """Compiles training: (states, seeds [seeds], source, pool, count) -> `count` meta-iterations later.

    The source is that of `tasks.Data`. The count is an argument of the compiled loop and not a part of it. However a
    run is cut into dispatches, the same program therefore computes every meta-iteration, to the same bits.
    """
    together = at_once(config)
    share = -(-config.meta_batch // mesh.shape[TASKS])  # tasks of a device

    @partial(jax.jit, out_shardings=NamedSharding(mesh, P()))
    @partial(
        jax.shard_map,
        mesh=mesh,
        in_specs=(P(SEEDS), P(SEEDS), (P(), P(SEEDS)), P(), P()),
        out_specs=P(SEEDS),
        check_vma=False,
    )
    def advance(
        states: MetaState, seeds: jax.Array, source: Source, pool: Pool, count: jax.Array
    ) -> tuple[MetaState, Progress]:
        numbers = lax.axis_index(TASKS) * share + jnp.arange(share, dtype=jnp.int32)
        tasks, real = jnp.minimum(numbers, config.meta_batch - 1), numbers < config.meta_batch
        spread = Spread(together, None if share * mesh.shape[TASKS] == config.meta_batch else real, TASKS)

        shared, of_seeds = source

        def one_seed(state: MetaState, seed: jax.Array, of_seed: Any) -> tuple[MetaState, Progress]:
            loop = inner_loop_of(config, (shared, of_seed))

            def meta_iteration(_: jax.Array, carry: tuple[MetaState, Progress]) -> tuple[MetaState, Progress]:
                state, progress = carry
                sampled = sample_meta_batch(config, seed, state.iteration, (shared, of_seed), pool, tasks)
                step_size = meta_step_size(state.iteration, config.meta_iters, config.meta_step, config.meta_step_final)
                after, metrics = meta_update(
                    loop,
                    state,
                    sampled,
                    step_size,
                    foml=config.foml,
                    inner_state=config.inner_state,
                    zero_head=config.zero_head,
                    spread=spread,
                )
                finite = jnp.isfinite(metrics.loss) & jnp.isfinite(metrics.delta_norm)
                for x in jax.tree.leaves((after.params, after.opt_state)):
                    finite &= jnp.all(jnp.isfinite(x))
                bad = jnp.where(finite | (progress.bad_iteration >= 0), progress.bad_iteration, state.iteration)
                return after, Progress(metrics, bad)

            zero = jnp.zeros((), jax.tree.leaves(state.params)[0].dtype)
            nothing = Progress(MetaMetrics(zero, zero), jnp.full((), -1, jnp.int32))
            return lax.fori_loop(0, count, meta_iteration, (state, nothing))

        return each(one_seed, states, seeds, of_seeds, at_once=together)

    def train(
        states: MetaState, seeds: Array, source: Source, pool: Pool, count: Array | int
    ) -> tuple[MetaState, Progress]:
        # For an int after an np.int32, JAX would compile the program again.
        return advance(states, seeds, source, pool, np.int32(count) if isinstance(count, int) else count)

    return train


@kept
def eval_program(
    config: ConfigDict, mesh: Mesh, shots: int
) -> Callable[[MetaState, Source, Pool, Array], tuple[Any, Any]]:
    """Compiles evaluation: (states, source, pools [tasks], keys) -> the tasks and their outcomes [seeds, tasks].

    Every task has its own pool and key; the keys [seeds, tasks, 2] are what `jax.random.key_data` returns. States and
    source are those of `train_program`.

    Args:
        config: the run's config.
        mesh: the devices.
        shots: support examples per class.
    """
    spread = _spread_evaluation(config, mesh, shots)

    @partial(jax.jit, out_shardings=NamedSharding(mesh, P()))
    def evaluate(states: MetaState, source: Source, pools: Pool, keys: jax.Array) -> tuple[Any, Any]:
        return spread(
            jax.tree.map(lambda x: x[:, None], states), source, pools, keys, jnp.zeros(keys.shape[1], jnp.int32)
        )

    return evaluate


@kept
def curve_program(config: ConfigDict, mesh: Mesh) -> jax.stages.Wrapped:
    """Compiles points of the learning curves: (states, iterations, source, pools [sets], seeds) -> outcomes.

    A point has the states of all seeds after a meta-iteration, and one task of each set. The outcomes are
    [seeds, points * sets], point by point.
    """
    spread = _spread_evaluation(config, mesh, config.shots)

    @partial(jax.jit, out_shardings=NamedSharding(mesh, P()))
    def evaluate(
        points: Sequence[MetaState], iterations: jax.Array, source: Source, pools: Pool, seeds: jax.Array
    ) -> Any:
        sets = len(jax.tree.leaves(pools)[0])

        def keys_of(seed: jax.Array, iteration: jax.Array) -> jax.Array:
            return random.key_data(task_keys(random.fold_in(stream(seed, CURVE_TASKS), iteration), 0, sets))

        keys = jax.vmap(lambda seed: jax.vmap(lambda iteration: keys_of(seed, iteration))(iterations))(seeds)
        states = jax.tree.map(lambda *x: jnp.stack(x, axis=1), *points)
        pools = jax.tree.map(lambda x: jnp.tile(x, len(points)), pools)
        numbers = jnp.repeat(jnp.arange(len(points), dtype=jnp.int32), sets)
        return spread(states, source, pools, keys.reshape(len(seeds), -1, 2), numbers)[1]

    return evaluate


def _spread_evaluation(config: ConfigDict, mesh: Mesh, shots: int) -> Callable[..., tuple[Any, Any]]:
    """Returns `eval_program` without `jit`, in which each task has weights of its own.

    It takes (states [seeds, weights], source, pools [tasks], keys [seeds, tasks, 2], numbers [tasks]); the numbers say
    which weights each task starts from.
    """
    together, kind = at_once(config), kind_of(config)

    @partial(
        jax.shard_map,
        mesh=mesh,
        in_specs=(P(SEEDS), (P(), P(SEEDS)), P(TASKS), P(SEEDS, TASKS), P(TASKS)),
        out_specs=P(SEEDS, TASKS),
        check_vma=False,
    )
    def spread(states: MetaState, source: Source, pools: Pool, keys: jax.Array, numbers: jax.Array) -> tuple[Any, Any]:
        shared, of_seeds = source

        def one_seed(states: MetaState, keys: jax.Array, of_seed: Any) -> tuple[Any, Any]:
            of_one = (shared, of_seed)
            loop = inner_loop_of(config, of_one)

            def one_task(pool: Pool, key: jax.Array, number: jax.Array) -> tuple[Any, Any]:
                params, opt_state, _ = jax.tree.map(lambda x: x[number], states)
                start = loop.optimizer.init(params) if config.inner_state == "reset" else opt_state
                task = kind.sample_eval(config, shots, key, of_one, pool)
                return task, kind.evaluate(config, network_of(config).apply, loop, of_one, params, start, task)

            return each(one_task, pools, keys, numbers, at_once=together)

        return each(one_seed, states, keys, of_seeds, at_once=together)

    def evaluate(
        states: MetaState, source: Source, pools: Pool, keys: jax.Array, numbers: jax.Array
    ) -> tuple[Any, Any]:
        tasks = keys.shape[1]
        filled = -tasks % mesh.shape[TASKS]
        pools, numbers = jax.tree.map(lambda x: jnp.pad(x, (0, filled), mode="edge"), (pools, numbers))
        keys = random.wrap_key_data(jnp.pad(keys, ((0, 0), (0, filled), (0, 0)), mode="edge"))
        return jax.tree.map(lambda x: x[:, :tasks], spread(states, source, pools, keys, numbers))

    return evaluate
