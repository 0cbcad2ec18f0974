"""What was wrong with a meta-iteration that was not finite."""

import jax
import numpy as np
from jax import numpy as jnp
from ml_collections import ConfigDict

from reptile_jax.config import seeds_of
from reptile_jax.meta.reptile import MetaState, task_delta
from reptile_jax.run.pools import Data
from reptile_jax.run.programs import inner_loop_of, sample_meta_batch


def classes_of_bad_tasks(config: ConfigDict, data: Data, states: MetaState, index: int) -> list[list[str]] | None:
    """Names the classes of the tasks that make a meta-iteration not finite.

    Args:
        config: the run's config.
        data: its classes.
        states: the states before that meta-iteration, with a leading axis [seeds].
        index: of the seed.

    Returns:
        The classes of each such task: none where only the meta-update is not finite. None: this process cannot tell.
    """
    if not (data.images.is_fully_addressable or data.images.is_fully_replicated):
        return None  # it has not all of the seeds' images
    state = jax.tree.map(lambda x: jnp.asarray(x[index]), jax.device_get(states))
    classes = len(data.names) // config.num_seeds
    drawings = data.images.shape[1]
    numbers = jnp.arange(config.meta_batch, dtype=jnp.int32)
    seed = seeds_of(config)[index]
    tasks = sample_meta_batch(config, seed, state.iteration, data.pools["train"], drawings, numbers)
    loop = inner_loop_of(config, jnp.asarray(np.asarray(data.images)), index * classes)
    adapt = jax.jit(lambda params, opt_state, task: task_delta(loop, params, opt_state, task, config.foml))
    opt_state, bad = state.opt_state, []
    for number in range(config.meta_batch):
        task = jax.tree.map(lambda x, number=number: x[number], tasks)
        delta, after, loss = adapt(state.params, opt_state, task)
        if config.inner_state == "sequential":
            opt_state = after
        if not all(bool(jnp.all(jnp.isfinite(x))) for x in jax.tree.leaves((delta, after, loss))):
            rows = np.concatenate([np.ravel(examples.rows) for examples in task if examples is not None])
            bad.append([data.names[index * classes + int(i)] for i in np.unique(rows // drawings)])
    return bad
