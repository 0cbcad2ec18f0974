"""Finds the tasks that make a meta-iteration not finite."""

import jax
import numpy as np
from jax import numpy as jnp
from ml_collections import ConfigDict

from reptile_jax.config import seeds_of
from reptile_jax.meta.reptile import MetaState, task_delta
from reptile_jax.run.programs import inner_loop_of, sample_meta_batch
from reptile_jax.tasks import Data, kind_of


def bad_tasks(config: ConfigDict, data: Data, states: MetaState, index: int) -> list[list[str]] | None:
    """Names the content of the tasks that make a meta-iteration not finite.

    Args:
        config: the run's config.
        data: the data that its tasks are sampled from.
        states: the states before that meta-iteration, with a leading axis [seeds].
        index: the place of the seed.

    Returns:
        The classes of each such task; no task if only the meta-update is not finite; None if this process cannot tell.
    """
    if not all(x.is_fully_addressable or x.is_fully_replicated for x in jax.tree.leaves(data.source)):
        return None  # this process does not have the data of all seeds
    state = jax.tree.map(lambda x: jnp.asarray(x[index]), jax.device_get(states))
    shared, of_seeds = jax.tree.map(np.asarray, data.source)
    source = jax.tree.map(jnp.asarray, (shared, jax.tree.map(lambda x: x[index], of_seeds)))
    numbers, seed = jnp.arange(config.meta_batch, dtype=jnp.int32), seeds_of(config)[index]
    tasks = sample_meta_batch(config, seed, state.iteration, source, data.pools["train"], numbers)
    loop = inner_loop_of(config, source)
    adapt = jax.jit(lambda params, opt_state, task: task_delta(loop, params, opt_state, task, config.foml))
    opt_state, bad = state.opt_state, []
    for number in range(config.meta_batch):
        task = jax.tree.map(lambda x, number=number: x[number], tasks)
        delta, after, loss = adapt(state.params, opt_state, task)
        if config.inner_state == "sequential":
            opt_state = after
        if not all(bool(jnp.all(jnp.isfinite(x))) for x in jax.tree.leaves((delta, after, loss))):
            bad.append(kind_of(config).describe(data, index, task))
    return bad
