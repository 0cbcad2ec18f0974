"""Convolution, batch norm, 2x2 max pooling and ReLU as one layer, with a gradient written by hand.

If its scale is positive, batch norm is an increasing function of its input. Pooling can therefore come first, which
gives the same outputs and leaves a quarter of the values to normalise. A negative scale equals a positive scale after a
kernel with the opposite sign.

If values of a window are equal, the first one in reading order gets the gradient, as in PyTorch and TensorFlow. (If a
scale is zero, all values of a window are equal after the norm. Only then does the largest value before the norm get the
gradient.)
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from reptile_jax.networks.convolution import CONVOLUTIONS
from reptile_jax.networks.layers import NORM_EPSILON, statistics_of


def sign_of(scale: jax.Array) -> jax.Array:
    """Returns 1, or -1 where the scale is negative."""
    return jnp.where(scale < 0, -1, 1).astype(scale.dtype)


def largest(first: jax.Array, second: jax.Array, third: jax.Array, fourth: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns the largest of four values and its number, 0 to 3; the first one if several are equal.

    This uses comparisons and selections, because XLA's maximum is slower: it has rules for values that are not numbers.
    """
    above, below = first >= second, third >= fourth
    upper, lower = jnp.where(above, first, second), jnp.where(below, third, fourth)
    top = upper >= lower
    which = jnp.where(top, jnp.where(above, 0, 1), jnp.where(below, 2, 3))
    return jnp.where(top, upper, lower), which


class Norm(NamedTuple):
    """Batch norm of pooled values, with a positive scale.

    Attributes:
        normal: the pooled values, normalised, [..., channels].
        inverse: 1 / sqrt(variance + 1e-3), [channels].
        scale: [channels].
        bias: [channels].
    """

    normal: jax.Array
    inverse: jax.Array
    scale: jax.Array
    bias: jax.Array

    @property
    def before_relu(self) -> jax.Array:
        """Returns the norm's output."""
        return self.normal * along(self.scale, self.normal) + along(self.bias, self.normal)


def along(channels: jax.Array, x: jax.Array) -> jax.Array:
    """Returns an array [channels] with as many axes as x [..., channels] has."""
    return channels.reshape((1,) * (x.ndim - 1) + (-1,))


def normalised(pooled: jax.Array, mean: jax.Array, variance: jax.Array, scale: jax.Array, bias: jax.Array) -> Norm:
    """Normalises pooled values by the mean and the variance [channels] of all values."""
    inverse = lax.rsqrt(variance + NORM_EPSILON)
    return Norm((pooled - along(mean, pooled)) * along(inverse, pooled), inverse, scale, bias)


def norm_gradients(norm: Norm, grad: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns the output's gradient where ReLU is on, and the gradients of scale and bias."""
    grad = jnp.where(norm.before_relu > 0, grad, 0)
    axes = tuple(range(grad.ndim - 1))
    return grad, jnp.sum(grad * norm.normal, axis=axes), jnp.sum(grad, axis=axes)


def _quarters(x: jax.Array) -> list[jax.Array]:
    """Returns the positions of each 2x2 window in reading order: [b, h, w, c] -> 4 x [b, ceil(h/2), ceil(w/2), c].

    An odd size is padded on the right and at the bottom (TensorFlow's SAME) with a value that is never the maximum.
    """
    height, width = x.shape[1:3]
    x = jnp.pad(x, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), constant_values=-jnp.inf)
    return [x[:, i::2, j::2] for i in range(2) for j in range(2)]


def _from_quarters(quarters: list[jax.Array], height: int, width: int) -> jax.Array:
    """Puts the four positions back; this is the transpose of `_quarters`."""
    rows = [jnp.stack(quarters[i : i + 2], axis=3) for i in (0, 2)]  # 2 x [b, h', w', 2, c]
    x = jnp.stack(rows, axis=2)  # [b, h', 2, w', 2, c]
    batch, outputs_high, _, outputs_wide, _, channels = x.shape
    return x.reshape(batch, 2 * outputs_high, 2 * outputs_wide, channels)[:, :height, :width]


@partial(jax.custom_vjp, nondiff_argnums=(4,))
def conv_norm_pool_relu(
    x: jax.Array, kernel: jax.Array, scale: jax.Array, bias: jax.Array, convolution: str = "auto"
) -> jax.Array:
    """Convolves, normalises every channel by the batch's own mean and variance, scales, shifts, pools, applies ReLU.

    The result is relu(max over 2x2 windows of scale * (y - mean) / sqrt(var + 1e-3) + bias), where y is the convolution
    at stride 1 with SAME padding, and mean and (biased) variance are taken over batch, height and width. If a size is
    odd, the last windows are smaller.

    Args:
        x: [batch, height, width, in].
        kernel: [3, 3, in, out] (HWIO).
        scale: [out].
        bias: [out].
        convolution: how it is computed, a key of `CONVOLUTIONS`.

    Returns:
        [batch, ceil(height/2), ceil(width/2), out].
    """
    return _forward(x, kernel, scale, bias, convolution)[0]


def _forward(
    x: jax.Array, kernel: jax.Array, scale: jax.Array, bias: jax.Array, convolution: str
) -> tuple[jax.Array, Any]:
    sign = sign_of(scale)
    kernel = kernel * along(sign, kernel)
    y = CONVOLUTIONS[convolution].convolve(x, kernel)
    mean = jnp.mean(y, axis=(0, 1, 2))
    variance = jnp.mean(jnp.square(y - along(mean, y)), axis=(0, 1, 2))
    norm = normalised(largest(*_quarters(y))[0], mean, variance, scale * sign, bias)
    return jax.nn.relu(norm.before_relu), (x, kernel, sign, y, mean, norm)


def _backward(convolution: str, residuals: Any, grad: jax.Array) -> tuple[jax.Array, ...]:
    x, kernel, sign, y, mean, norm = residuals
    grad, grad_scale, grad_bias = norm_gradients(norm, grad)
    factor, count = norm.scale * norm.inverse, y.size // y.shape[-1]
    which = largest(*_quarters(y))[1]
    won = [jnp.where(which == quarter, along(factor, grad) * grad, 0) for quarter in range(4)]
    grad_y = (
        _from_quarters(won, *y.shape[1:3])
        - along(factor * grad_bias / count, y)
        - (y - along(mean, y)) * along(factor * norm.inverse * grad_scale / count, y)
    )
    convolve, kernel_gradient = CONVOLUTIONS[convolution]
    turned = kernel[::-1, ::-1].transpose(0, 1, 3, 2)  # half a turn, and inputs for outputs
    grad_kernel = kernel_gradient(x, grad_y)
    return convolve(grad_y, turned), grad_kernel * along(sign, kernel), grad_scale * sign, grad_bias


conv_norm_pool_relu.defvjp(_forward, _backward)


def padded_norm_pool_relu(
    x: jax.Array, kernel: jax.Array, scale: jax.Array, bias: jax.Array, convolution: str, real: jax.Array
) -> jax.Array:
    """Computes `conv_norm_pool_relu` with the statistics of those images whose `real`, bool [batch], is true."""
    sign = sign_of(scale)
    y = CONVOLUTIONS[convolution].convolve(x, kernel * along(sign, kernel))
    return jax.nn.relu(normalised(largest(*_quarters(y))[0], *statistics_of(y, real), scale * sign, bias).before_relu)
