"""Tests that the shipped weights are the same initialisation in both frameworks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from parity_tests import bridge
from parity_tests.conftest import ARCHIVES
from parity_tests.measures import precision, predictions_from
from reptile_jax.run import pretrained
from reptile_torch_ref import weights as torch_weights


def in_both(name, fields):
    """Returns a setup with shipped weights, and the state that PyTorch reads from the same file; both in float64."""
    with jax.enable_x64(False):
        config, states = pretrained.load(name)
    config.shots, config.eval_iters = 1, 4
    if config.data.name != "images":  # in place of which both sides get photographs that `bridge` makes
        config.data.name, config.data.archives, config.data.dir = (
            fields.get(field, "") for field in ("data", "archives", "data_dir")
        )
    start = jax.tree.map(lambda x: jnp.asarray(x[0], "float64" if x.dtype == np.float32 else x.dtype), states)
    theirs = torch_weights.load(str(pretrained.SHIPPED[name]))
    params, moment = ({key: w.double() for key, w in part.items()} for part in (theirs.params, theirs.second_moment))
    theirs = theirs._replace(params=params, second_moment=moment)
    return bridge.setup(config, jnp.dtype("float64"), start), theirs


@pytest.mark.parametrize("data_fields", ["omniglot" if ARCHIVES else "glyphs"], indirect=True)
@pytest.mark.parametrize("name", sorted(pretrained.SHIPPED))
def test_both_frameworks_predict_alike_from_shipped_weights(name, data_fields):
    with precision("float64"):
        setup, theirs = in_both(name, data_fields)
        assert predictions_from(setup, theirs) == 0
        forgotten = {key: torch.zeros_like(moment) for key, moment in theirs.second_moment.items()}
        assert predictions_from(setup, theirs._replace(second_moment=forgotten)) > 0
