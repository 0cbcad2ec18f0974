"""Tests that a padded batch gives the same outputs as its real images alone, with every network for images."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import random

from reptile_jax.networks import NETWORKS
from reptile_jax.networks.padded import apply_padded


@pytest.mark.parametrize("convolution", ["matmul", "lax", "auto"])
@pytest.mark.parametrize(
    ("name", "shape"), [("omniglot", (28, 28, 1)), ("miniimagenet", (21, 21, 3)), ("miniimagenet", (20, 20, 3))]
)
def test_what_fills_a_batch_up_changes_nothing(name, shape, convolution):
    network = NETWORKS[name](5, 8, convolution)
    images = random.uniform(random.key(0), (6, *shape))
    params = jax.jit(network.init)(random.key(1), images)
    noise = iter(random.split(random.key(2), 99))
    params = jax.tree.map(lambda x: x + random.normal(next(noise), x.shape), params)  # some scales are negative
    batch = jnp.concatenate([images, 9 * random.normal(random.key(3), (4, *shape))])
    with jax.default_matmul_precision("highest"):
        alone = jax.jit(network.apply)(params, images)
        padded = jax.jit(partial(apply_padded, network))(params, batch, jnp.arange(10) < 6)[:6]
        as_it_is = jax.jit(network.apply)(params, batch)[:6]
    scale = np.abs(alone).max()
    np.testing.assert_allclose(padded / scale, alone / scale, atol=1e-5)
    assert np.abs(as_it_is - alone).max() / scale > 0.05, "a check that cannot fail"
