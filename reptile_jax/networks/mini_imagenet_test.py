from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax, random

from reptile_jax.networks.convolution import PRODUCTS, conv3x3
from reptile_jax.networks.layers import CONVOLUTIONS
from reptile_jax.networks.mini_imagenet import MiniImageNetClassifier
from reptile_jax.networks.pooling import batch_norm_pool_relu


def lax_convolution(x, kernel):
    return lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


def normalised(x, scale, bias, epsilon=1e-3):
    mean, variance = x.mean((0, 1, 2), keepdims=True), x.var((0, 1, 2), keepdims=True)
    return (x - mean) / jnp.sqrt(variance + epsilon) * scale[None, None, None] + bias[None, None, None]


def pooled(x, padding="SAME"):
    return lax.reduce_window(x, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), padding)


def defined_layer(x, scale, bias):
    return jax.nn.relu(pooled(normalised(x, scale, bias)))


def worst(function, reference, *inputs):
    """The largest relative difference of values and gradients."""

    @partial(jax.jit, static_argnums=0)
    def all_of(function, *inputs):
        value, pullback = jax.vjp(function, *inputs)
        return value, *pullback(random.normal(random.key(9), value.shape, value.dtype))

    pairs = zip(all_of(function, *inputs), all_of(reference, *inputs), strict=True)
    return max(float(jnp.abs(got - want).max() / jnp.abs(want).max()) for got, want in pairs)


def normals(*shapes):
    return [random.normal(random.key(i), shape, jnp.float64) for i, shape in enumerate(shapes)]


def layer_inputs(height, width, channels=6):
    """Scales of either sign and one of zero."""
    x, scale, bias = normals((3, height, width, channels), (channels,), (channels,))
    return x, scale.at[:3].set(jnp.array([-1.5, 0.5, -0.1])), bias


def test_every_choice_of_a_convolution_is_one_of_both_networks():
    assert PRODUCTS.keys() == CONVOLUTIONS.keys()


@pytest.mark.parametrize("convolution", PRODUCTS)
@pytest.mark.parametrize(("height", "width", "channels"), [(20, 20, 3), (21, 21, 4), (5, 8, 1), (1, 1, 2)])
def test_convolution_and_its_gradients_equal_those_of_lax(x64, convolution, height, width, channels):
    x, kernel = normals((3, height, width, channels), (3, 3, channels, 6))
    assert worst(lambda x, k: conv3x3(x, k, convolution), lax_convolution, x, kernel) < 1e-13


@pytest.mark.parametrize("convolution", PRODUCTS)
def test_convolution_with_a_kernel_for_every_task(x64, convolution):
    function = lambda x, k: conv3x3(x, k, convolution)  # noqa: E731
    x, kernel = normals((2, 4, 3, 9, 9, 4), (2, 4, 3, 3, 4, 6))
    assert worst(jax.vmap(function), jax.vmap(lax_convolution), x[0], kernel[0]) < 1e-13
    assert worst(jax.vmap(jax.vmap(function)), jax.vmap(jax.vmap(lax_convolution)), x, kernel) < 1e-13
    shared = lambda f: jax.vmap(f, in_axes=(0, None))  # noqa: E731
    assert worst(shared(function), shared(lax_convolution), x[0], kernel[0, 0]) < 1e-13


@pytest.mark.parametrize(("height", "width"), [(8, 8), (21, 21), (11, 6), (6, 11), (1, 1)])
def test_norm_and_pooling_and_their_gradients_equal_the_definition(x64, height, width):
    x, scale, bias = layer_inputs(height, width)
    assert worst(batch_norm_pool_relu, defined_layer, x, scale, bias) < 1e-12
    tasks = [jnp.stack([array, -array]) for array in (x, scale, bias)]
    assert worst(jax.vmap(batch_norm_pool_relu), jax.vmap(defined_layer), *tasks) < 1e-12


@pytest.mark.parametrize("size", [8, 9])
def test_of_equal_values_the_first_has_the_gradient(x64, size):
    """Three values alone, so that nearly every window has ties; the definition picks by `argmax`."""
    _, scale, bias = layer_inputs(size, size)
    x = random.randint(random.key(3), (3, size, size, 6), 0, 3).astype(jnp.float64)
    scale = scale.at[3].set(0.0)

    def first_of_windows(x, scale, bias):
        after = -(-size // 2)
        y = normalised(x, scale, bias)
        y = jnp.pad(y, ((0, 0), (0, size % 2), (0, size % 2), (0, 0)), constant_values=-jnp.inf)
        y = y.reshape(3, after, 2, after, 2, 6).transpose(0, 1, 3, 5, 2, 4).reshape(3, after, after, 6, 4)
        # Equal inputs, not equal outputs, are ties: the rounding of batch norm makes none and breaks none.
        choice = jnp.argmax(y, axis=-1, keepdims=True)
        return jax.nn.relu(jnp.take_along_axis(y, choice, axis=-1)[..., 0])

    assert worst(batch_norm_pool_relu, first_of_windows, x, scale, bias) < 1e-12


def pooled_without_regard_to_the_sign(x, scale, bias):
    """The maximum before the norm, by which the statistics stay those of all of x."""
    mean, variance = x.mean((0, 1, 2), keepdims=True), x.var((0, 1, 2), keepdims=True)
    return jax.nn.relu(
        (pooled(x) - mean) / jnp.sqrt(variance + 1e-3) * scale[None, None, None] + bias[None, None, None]
    )


def average_for_maximum(x, scale, bias):
    x = normalised(x, scale, bias)
    ones = lambda x: lax.reduce_window(x, 0.0, lax.add, (1, 2, 2, 1), (1, 2, 2, 1), "SAME")  # noqa: E731
    return jax.nn.relu(ones(x) / ones(jnp.ones_like(x)))


def padding_on_the_wrong_side(x, scale, bias):
    x = normalised(x, scale, bias)
    odd = [(0, 0), (x.shape[1] % 2, 0), (x.shape[2] % 2, 0), (0, 0)]
    return jax.nn.relu(pooled(x, odd))


def another_epsilon(x, scale, bias):
    return jax.nn.relu(pooled(normalised(x, scale, bias, 1e-5)))


@pytest.mark.parametrize(
    "mistake",
    [pooled_without_regard_to_the_sign, average_for_maximum, padding_on_the_wrong_side, another_epsilon],
)
def test_a_mistake_is_seen(x64, mistake):
    """Negative controls."""
    inputs = layer_inputs(11, 11)
    assert worst(batch_norm_pool_relu, mistake, *inputs) > 1e-4


def test_pooling_that_leaves_the_last_row_out_is_seen(x64):
    x, scale, bias = layer_inputs(11, 11)
    valid = jax.nn.relu(pooled(normalised(x, scale, bias), "VALID"))
    assert batch_norm_pool_relu(x, scale, bias).shape == (3, 6, 6, 6) and valid.shape == (3, 5, 5, 6)


@pytest.mark.parametrize("classes", [5, 20])
def test_network_has_the_released_weights_without_the_convolutions_biases(classes):
    params = MiniImageNetClassifier(classes).init(random.key(0), jnp.zeros((1, 84, 84, 3)))
    assert sum(p.size for p in jax.tree.leaves(params)) == 34_661 - 4 * 32 + (classes - 5) * 1153
    kernel = params["params"]["conv_1"]["kernel"]
    limit = np.sqrt(6 / (9 * 32 + 9 * 32))  # Glorot: fan in and fan out
    assert 0.99 * limit < float(jnp.abs(kernel).max()) <= limit
    assert params["params"]["dense"]["kernel"].shape == (1152, classes)


def test_network_uses_the_statistics_of_the_batch_at_hand():
    network = MiniImageNetClassifier(5, 8)
    images = random.uniform(random.key(1), (6, 20, 20, 3))
    params = network.init(random.key(0), images)
    assert float(jnp.abs(network.apply(params, images)[:3] - network.apply(params, images[:3])).max()) > 1e-2
