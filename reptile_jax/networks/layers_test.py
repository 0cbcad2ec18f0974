import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax, random

from reptile_jax.networks.layers import batch_norm_relu, conv3x3_stride2
from reptile_jax.networks.omniglot import OmniglotClassifier


def lax_convolution(x, kernel, padding="SAME"):
    return lax.conv_general_dilated(x, kernel, (2, 2), padding, dimension_numbers=("NHWC", "HWIO", "NHWC"))


def defined_norm(x, scale, bias, epsilon=1e-3):
    mean, variance = x.mean((0, 1, 2), keepdims=True), x.var((0, 1, 2), keepdims=True)
    return jax.nn.relu((x - mean) / jnp.sqrt(variance + epsilon) * scale[None, None, None] + bias[None, None, None])


def worst(function, reference, *inputs):
    """Returns the largest relative difference of values and gradients."""
    value, pullback = jax.vjp(function, *inputs)
    wanted, reference_pullback = jax.vjp(reference, *inputs)
    cotangent = random.normal(random.key(9), wanted.shape, wanted.dtype)
    pairs = [(value, wanted), *zip(pullback(cotangent), reference_pullback(cotangent), strict=True)]
    return max(float(jnp.abs(got - want).max() / jnp.abs(want).max()) for got, want in pairs)


def normals(*shapes):
    return [random.normal(random.key(i), shape, jnp.float64) for i, shape in enumerate(shapes)]


@pytest.mark.parametrize("outputs", [6, 40])  # fewer and more than the 36 values of a patch
@pytest.mark.parametrize("size", [28, 14, 7, 4, 5, 1])
def test_convolution_and_its_gradients_equal_those_of_lax(x64, size, outputs):
    x, kernel = normals((3, size, size, 4), (3, 3, 4, outputs))
    assert worst(conv3x3_stride2, lax_convolution, x, kernel) < 1e-13


def test_convolution_with_a_kernel_for_every_task(x64):
    x, kernel = normals((2, 3, 14, 14, 4), (2, 3, 3, 4, 6))
    assert worst(jax.vmap(conv3x3_stride2), jax.vmap(lax_convolution), x, kernel) < 1e-13


@pytest.mark.parametrize(("size", "symmetric"), [(28, True), (7, False)])
def test_padding_is_tensorflows(x64, size, symmetric):
    """Negative control: PyTorch's padding=1 differs for an even size, and is the same for an odd size."""
    x, kernel = normals((1, size, size, 1), (3, 3, 1, 2))
    difference = jnp.abs(conv3x3_stride2(x, kernel) - lax_convolution(x, kernel, [(1, 1), (1, 1)])).max()
    assert (difference > 0.1) == symmetric


def test_norm_and_its_gradients_equal_the_definition(x64):
    x, scale, bias = normals((5, 7, 7, 8), (8,), (8,))
    assert worst(batch_norm_relu, defined_norm, x, scale, bias) < 1e-13
    tasks = [array[None].repeat(2, 0) for array in (x, scale, bias)]
    assert worst(jax.vmap(batch_norm_relu), jax.vmap(defined_norm), *tasks) < 1e-13


def test_another_epsilon_is_seen(x64):
    x, scale, bias = normals((5, 7, 7, 8), (8,), (8,))
    assert worst(batch_norm_relu, lambda *a: defined_norm(*a, epsilon=1e-5), x, scale, bias) > 1e-4


@pytest.mark.parametrize(("classes", "count"), [(5, 112_965), (20, 116_820)])
def test_network_has_the_released_weights_without_the_convolutions_biases(classes, count):
    params = OmniglotClassifier(classes).init(random.key(0), jnp.zeros((1, 28, 28, 1)))
    assert sum(p.size for p in jax.tree.leaves(params)) == count  # 113,221 with 256 biases, for five classes
    kernel = params["params"]["conv_1"]["kernel"]
    limit = np.sqrt(6 / (9 * 64 + 9 * 64))  # Glorot: fan in and fan out
    assert 0.99 * limit < float(jnp.abs(kernel).max()) <= limit
    assert params["params"]["dense"]["kernel"].shape == (256, classes)


def test_network_uses_the_statistics_of_the_batch_at_hand():
    network = OmniglotClassifier(5)
    images = random.uniform(random.key(1), (6, 28, 28, 1))
    params = network.init(random.key(0), images)
    assert float(jnp.abs(network.apply(params, images)[:3] - network.apply(params, images[:3])).max()) > 1e-2
