from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax, random

from reptile_jax.networks import layers
from reptile_jax.networks.convolution import CONVOLUTIONS
from reptile_jax.networks.mini_imagenet import MiniImageNetClassifier
from reptile_jax.networks.pooled import conv_norm_pool_relu
from reptile_jax.networks.pooled_images import images_norm_pool_relu


def convolved(x, kernel):
    return lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


def normalised(x, scale, bias, epsilon=1e-3):
    mean, variance = x.mean((0, 1, 2), keepdims=True), x.var((0, 1, 2), keepdims=True)
    return (x - mean) / jnp.sqrt(variance + epsilon) * scale[None, None, None] + bias[None, None, None]


def pooled(x, padding="SAME"):
    return lax.reduce_window(x, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), padding)


def defined(x, kernel, scale, bias):
    return jax.nn.relu(pooled(normalised(convolved(x, kernel), scale, bias)))


def worst(function, reference, *inputs):
    """Returns the largest relative difference of values and gradients."""

    @partial(jax.jit, static_argnums=0)
    def all_of(function, *inputs):
        value, pullback = jax.vjp(function, *inputs)
        return value, *pullback(random.normal(random.key(9), value.shape, value.dtype))

    pairs = zip(all_of(function, *inputs), all_of(reference, *inputs), strict=True)
    return max(float(jnp.abs(got - want).max() / jnp.abs(want).max()) for got, want in pairs)


def normals(*shapes):
    return [random.normal(random.key(i), shape, jnp.float64) for i, shape in enumerate(shapes)]


def layer_inputs(height, width, channels=3, outputs=6):
    """Returns inputs with scales of both signs, and with images that are far from zero."""
    x, kernel, scale, bias = normals((3, height, width, channels), (3, 3, channels, outputs), (outputs,), (outputs,))
    return x + 2, kernel, scale.at[:3].set(jnp.array([-1.5, 0.5, -0.1])), bias


def implementation(name):
    if name == "images":
        return images_norm_pool_relu
    return lambda *inputs: conv_norm_pool_relu(*inputs, name)


SIZES = [(8, 6, 3), (20, 20, 1), (2, 2, 3), (21, 21, 4), (11, 6, 3), (6, 11, 2), (1, 1, 3)]
CASES = [(name, *size) for name in CONVOLUTIONS for size in SIZES] + [("images", *size) for size in SIZES[:3]]


def test_every_choice_of_a_convolution_is_one_of_both_networks():
    assert CONVOLUTIONS.keys() == layers.CONVOLUTIONS.keys()


@pytest.mark.parametrize(("name", "height", "width", "channels"), CASES)
def test_layer_and_its_gradients_equal_the_definition(x64, name, height, width, channels):
    assert worst(implementation(name), defined, *layer_inputs(height, width, channels)) < 1e-11


@pytest.mark.parametrize("name", [*CONVOLUTIONS, "images"])
def test_layer_with_weights_for_every_task(x64, name):
    """The layer is vmapped over weights and images, once or twice, and over weights only."""
    inputs = layer_inputs(4, 6)
    tasks = [jnp.stack([array, -array, array[::-1]]) for array in inputs]
    function = implementation(name)
    if name != "auto":
        assert worst(jax.vmap(function), jax.vmap(defined), *tasks) < 1e-11
    else:
        seeds = [jnp.stack([array, 2 * array]) for array in tasks]
        assert worst(jax.vmap(jax.vmap(function)), jax.vmap(jax.vmap(defined)), *seeds) < 1e-11
    shared = lambda f: jax.vmap(f, in_axes=(None, 0, 0, 0))  # noqa: E731
    assert worst(shared(function), shared(defined), inputs[0], *tasks[1:]) < 1e-11


@pytest.mark.parametrize(("name", "size"), [("auto", 8), ("auto", 9), ("images", 8)])
def test_of_equal_values_the_first_has_the_gradient(x64, name, size):
    """The images have flat areas, so that windows have ties, and the definition uses `argmax`."""
    _, kernel, scale, bias = layer_inputs(size, size)
    x = random.randint(random.key(3), (3, 3, 3, 3), 0, 2).astype(jnp.float64)
    x = x.repeat(4, axis=1).repeat(4, axis=2)[:, 1 : 1 + size, 1 : 1 + size]
    after = -(-size // 2)

    def windows(y):
        y = jnp.pad(y, ((0, 0), (0, size % 2), (0, size % 2), (0, 0)), constant_values=-jnp.inf)
        return y.reshape(3, after, 2, after, 2, 6).transpose(0, 1, 3, 5, 2, 4).reshape(3, after, after, 6, 4)

    def by_argmax(x, kernel, scale, bias):
        y = convolved(x, kernel)
        rounded = jnp.round(y * jnp.sign(scale)[None, None, None], 9)  # values that differ only by rounding are equal
        choice = jnp.argmax(windows(rounded), axis=-1, keepdims=True)
        return jax.nn.relu(jnp.take_along_axis(windows(normalised(y, scale, bias)), choice, axis=-1)[..., 0])

    values = jnp.sort(windows(jnp.round(convolved(x, kernel), 9)), axis=-1)
    assert float((values[..., -1] == values[..., -2]).mean()) > 0.1
    assert worst(implementation(name), by_argmax, x, kernel, scale, bias) < 1e-11


def maximum_without_regard_to_the_sign(x, kernel, scale, bias):
    """Pools before the norm, with the statistics of all values, but by the maximum even if the scale is negative."""
    y = convolved(x, kernel)
    mean, variance = y.mean((0, 1, 2), keepdims=True), y.var((0, 1, 2), keepdims=True)
    z = (pooled(y) - mean) / jnp.sqrt(variance + 1e-3)
    return jax.nn.relu(z * scale[None, None, None] + bias[None, None, None])


def norm_of_pooled_values(x, kernel, scale, bias):
    return jax.nn.relu(normalised(pooled(convolved(x, kernel)), scale, bias))


def average_for_maximum(x, kernel, scale, bias):
    sums = lambda x: lax.reduce_window(x, 0.0, lax.add, (1, 2, 2, 1), (1, 2, 2, 1), "SAME")  # noqa: E731
    x = normalised(convolved(x, kernel), scale, bias)
    return jax.nn.relu(sums(x) / sums(jnp.ones_like(x)))


def padding_on_the_wrong_side(x, kernel, scale, bias):
    x = normalised(convolved(x, kernel), scale, bias)
    return jax.nn.relu(pooled(x, [(0, 0), (x.shape[1] % 2, 0), (x.shape[2] % 2, 0), (0, 0)]))


def another_epsilon(x, kernel, scale, bias):
    return jax.nn.relu(pooled(normalised(convolved(x, kernel), scale, bias, 1e-5)))


MISTAKES = [maximum_without_regard_to_the_sign, norm_of_pooled_values, average_for_maximum, another_epsilon]


@pytest.mark.parametrize(
    ("name", "mistake", "size"),
    [(name, mistake, 8) for name in ("auto", "images") for mistake in MISTAKES]
    + [("auto", padding_on_the_wrong_side, 11)],
)
def test_a_mistake_is_seen(x64, name, mistake, size):
    """Negative controls: every mistake makes a difference. Only "auto" takes odd sizes."""
    assert worst(implementation(name), mistake, *layer_inputs(size, size)) > 1e-5


def test_pooling_that_leaves_the_last_row_out_is_seen(x64):
    x, kernel, scale, bias = layer_inputs(11, 11)
    valid = jax.nn.relu(pooled(normalised(convolved(x, kernel), scale, bias), "VALID"))
    assert conv_norm_pool_relu(x, kernel, scale, bias).shape == (3, 6, 6, 6) and valid.shape == (3, 5, 5, 6)


@pytest.mark.parametrize("name", ["auto", "images"])
def test_single_precision_is_that_of_the_plain_layer(name):
    """The images are bright with little contrast, so that a variance could be a small difference of large numbers."""
    x, kernel, scale, bias = (np.asarray(array) for array in layer_inputs_of_little_contrast())
    single = [array.astype(np.float32) for array in (x, kernel, scale, bias)]
    with jax.enable_x64(True):
        wanted = np.asarray(defined(x, kernel, scale, bias))
    plain, ours = (np.abs(np.asarray(f(*single)) - wanted).max() for f in (defined, implementation(name)))
    assert ours < 5 * plain + 1e-6


def layer_inputs_of_little_contrast():
    rng = np.random.default_rng(0)
    x = 0.9 + 0.002 * rng.normal(size=(10, 20, 20, 3))
    return x, rng.normal(size=(3, 3, 3, 6)) / 5, rng.normal(size=6), rng.normal(size=6)


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
