"""Tests that a weights file carries a state exactly between both sides, and the errors for a file that does not fit."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from safetensors.numpy import load_file, save_file

from parity_tests import bridge
from parity_tests.cases import BASE, config_of
from parity_tests.measures import precision
from reptile_jax.run import weights_file
from reptile_jax.run.programs import initial_state


def random_state(dtype, sgd=False):
    """Returns a state of random numbers, so that two arrays cannot be confused."""
    config = config_of(BASE._replace(optimizer="sgd" if sgd else "adam"))
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(lambda: initial_state(config, config.seed, jnp.dtype(dtype)))
    state = jax.tree.map(lambda x: jnp.asarray(rng.random(x.shape), x.dtype), shapes)
    return state if sgd else state._replace(opt_state=optax.tree.set(state.opt_state, count=jnp.int32(1234)))


def assert_equal(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert x.dtype == y.dtype
        np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("sgd", [False, True], ids=["adam", "sgd"])
def test_there_and_back_is_exact(dtype, sgd):
    with precision(dtype):
        state = random_state(dtype, sgd)
        reference = bridge.to_torch(state)
        assert reference.step_count == (0 if sgd else 1234)
        assert bool(reference.second_moment) == (not sgd)
        # JAX's kernel is [height, width, in, out], PyTorch's [out, in, height, width]; the dense kernel is transposed.
        layers, theirs = state.params["params"], reference.params
        assert float(layers["conv_1"]["kernel"][2, 1, 3, 5]) == float(theirs["conv_1/kernel"][5, 3, 2, 1])
        assert float(layers["dense"]["kernel"][200, 4]) == float(theirs["dense/kernel"][4, 200])
        assert_equal(bridge.to_jax(reference, state), state)


def written(tmp_path, change):
    """Writes a weights file with a change, and returns the error message when it is read."""
    path, state = tmp_path / "weights.safetensors", random_state("float32")
    weights_file.save(path, state)
    tensors = load_file(path)
    assert tensors["count"].shape == () and tensors["count"].dtype == np.int32
    change(tensors)
    save_file(tensors, path)
    with pytest.raises(weights_file.WeightsError) as error:
        weights_file.load(path, state)
    message = str(error.value)
    assert "\n" not in message and str(path) in message
    return message


def test_a_file_that_does_not_fit_is_one_line(tmp_path):
    assert "has no count" in written(tmp_path, lambda t: t.pop("count"))
    assert "has params/conv_4/kernel" in written(
        tmp_path, lambda t: t.update({"params/conv_4/kernel": np.zeros(3, np.float32)})
    )
    dense = np.zeros((256, 20), np.float32)
    assert "(256, 20)" in written(tmp_path, lambda t: t.update({"params/dense/kernel": dense}))
    assert "count is float32" in written(tmp_path, lambda t: t.update(count=np.zeros((), np.float32)))
    scale = np.zeros(64, np.float64)
    assert "JAX_ENABLE_X64" in written(tmp_path, lambda t: t.update({"params/norm_0/scale": scale}))


def test_no_file_and_no_safetensors_file_are_one_line(tmp_path):
    state = random_state("float32")
    for path in (tmp_path / "absent", tmp_path / "text"):
        (tmp_path / "text").write_text("no tensors")
        with pytest.raises(weights_file.WeightsError, match="cannot be read"):
            weights_file.load(path, state)
