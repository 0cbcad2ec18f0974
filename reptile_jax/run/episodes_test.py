"""Pins the episodes of runs and published evaluations, because other episodes would change published results."""

import hashlib

import jax
import jax.numpy as jnp
import numpy as np
from jax import random

from configs import omniglot_1shot_5way
from reptile_jax.meta.episodes import Classes, Pool
from reptile_jax.run.evaluate import SET_STREAMS
from reptile_jax.run.programs import TRAINING_TASKS, sample_meta_batch, stream, task_keys
from reptile_jax.tasks import kind_of

TABLE = Classes(jnp.arange(5223, dtype=jnp.int32) * 20, jnp.full(5223, 20, jnp.int32))


# Of the support sets of the first 50 1-shot tasks of each set.
PINNED = {
    "train": "32c4f2277f2092fa",
    "validation": "2ce69a21c9e42597",
    "test": "ddce5846dd2fe419",
}


def digest(x):
    return hashlib.sha256(np.asarray(x).tobytes()).hexdigest()[:16]


def test_training_and_evaluation_share_no_stream():
    """Otherwise a run whose seed is `eval_seed` would be evaluated on tasks with the keys of its training."""
    of_training = random.fold_in(stream(1, TRAINING_TASKS), 5)
    of_sets = [random.fold_in(random.fold_in(random.key(1), number), 5) for number in (*SET_STREAMS.values(), 1)]
    equal = [bool(jnp.all(random.key_data(key) == random.key_data(of_training))) for key in of_sets]
    assert equal == [False, False, False, True]  # the last is the number of the training tasks


def test_training_episodes():
    config = omniglot_1shot_5way.get_config()
    first, later = (
        sample_meta_batch(config, 0, i, (None, TABLE), Pool(0, 4800), np.arange(5)).batches for i in (0, 12_345)
    )
    assert digest(first.rows) == "8d2f7188785fdd10"
    assert digest(later.rows) == "5170a9c1ea238748"
    assert np.asarray(first.rows)[0, 0].tolist() == [77288, 45116, 61828, 2054, 77290, 2059, 16618, 61824, 16601, 2040]


def test_episodes_of_published_evaluations():
    """The stream depends on the number of the set, and not on its position in a list."""
    config = omniglot_1shot_5way.get_config()
    rows = {}
    for name in reversed(SET_STREAMS):
        key = random.fold_in(random.fold_in(random.key(config.eval_seed), SET_STREAMS[name]), 1)
        sample = lambda key: kind_of(config).sample_eval(config, 1, key, (None, TABLE), Pool(4800, 423))  # noqa: E731
        rows[name] = jax.vmap(sample)(task_keys(key, 0, 50)).support.rows
    assert {name: digest(of_set) for name, of_set in rows.items()} == PINNED
