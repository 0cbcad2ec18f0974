"""Pins of what may not change while files move: the lowered programs of the runs, and the rows of golden episodes.

The text of a lowered program is another with another JAX, so its pins hold for one version; episodes hold for all.
"""

import hashlib

import jax
import numpy as np
import pytest

from configs import omniglot_1shot_5way, omniglot_1shot_20way, omniglot_foml_5way
from reptile_jax.devices import mesh_of
from reptile_jax.meta.episodes import Pool
from reptile_jax.run.programs import eval_program, initial_states, sample_meta_batch, train_program

RUNS = {
    "5way": (omniglot_1shot_5way, {}),
    "20way": (omniglot_1shot_20way, {}),
    "foml": (omniglot_foml_5way, {}),
    "sequential": (omniglot_1shot_5way, {"inner_state": "sequential"}),
    "three seeds": (omniglot_1shot_5way, {"num_seeds": 3}),
}
PINNED = {  # by run: training's and evaluation's
    "5way": ("8296d4315a40ea16", "3865e4996e7ab55f"),
    "20way": ("3d8389a67b88f202", "5f7051a3fa3b4a44"),
    "foml": ("e1fda4f4ab5abf08", "3865e4996e7ab55f"),
    "sequential": ("b6d58744d32e345d", "3865e4996e7ab55f"),
    "three seeds": ("c988e3b3fb16ce06", "3c701cb8b817bdf6"),
}


def digest(x):
    return hashlib.sha256(x).hexdigest()[:16]


def config_of(name):
    module, fields = RUNS[name]
    config = module.get_config()
    config.update(fields)
    return config


@pytest.mark.skipif(jax.__version__ != "0.10.2", reason="the pins are of JAX 0.10.2")
@pytest.mark.parametrize("name", RUNS)
def test_lowered_programs(name):
    config = config_of(name)
    mesh, states, seeds = mesh_of(config), initial_states(config), config.num_seeds
    images = jax.ShapeDtypeStruct((seeds * 5223, 20, 28, 28), np.uint8)
    train = train_program(config, mesh).lower(states, np.zeros(seeds, np.int32), images, Pool(0, 4800), 10)
    pools = Pool(np.zeros(50, np.int32), np.full(50, 423, np.int32))
    evaluate = eval_program(config, mesh, 1).lower(states, images, pools, np.zeros((seeds, 50, 2), np.uint32))
    assert (digest(train.as_text().encode()), digest(evaluate.as_text().encode())) == PINNED[name]


def test_golden_episodes():
    config = config_of("5way")
    first, later = (sample_meta_batch(config, 0, i, Pool(0, 4800), 20, np.arange(5)).batches for i in (0, 12_345))
    assert digest(np.asarray(first.rows).tobytes()) == "8d2f7188785fdd10"
    assert digest(np.asarray(later.rows).tobytes()) == "5170a9c1ea238748"
    assert np.asarray(first.rows)[0, 0].tolist() == [77288, 45116, 61828, 2054, 77290, 2059, 16618, 61824, 16601, 2040]
