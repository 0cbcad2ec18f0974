"""Batch norm, 2x2 max pooling and ReLU as one layer, with its gradient written out.

Batch norm is a rising function of its input where its scale is positive, and a falling one where the scale is negative.
Pooling first, by maximum or minimum, therefore leaves the same outputs and a quarter of them to normalise.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from reptile_jax.networks.layers import NORM_EPSILON


def _quarters(x: jax.Array, padding: float) -> list[jax.Array]:
    """The four positions of every 2x2 window, in reading order: [b, h, w, c] -> 4 x [b, ceil(h/2), ceil(w/2), c].

    An odd size has `padding` on the right and at the bottom (TensorFlow's SAME).
    """
    height, width = x.shape[1:3]
    x = jnp.pad(x, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), constant_values=padding)
    return [x[:, i::2, j::2] for i in range(2) for j in range(2)]


def _from_quarters(quarters: list[jax.Array], height: int, width: int) -> jax.Array:
    """Puts the four positions back: the transpose of `_quarters`."""
    rows = [jnp.stack(quarters[i : i + 2], axis=3) for i in (0, 2)]  # 2 x [b, h', w', 2, c]
    x = jnp.stack(rows, axis=2)  # [b, h', 2, w', 2, c]
    batch, outputs_high, _, outputs_wide, _, channels = x.shape
    return x.reshape(batch, 2 * outputs_high, 2 * outputs_wide, channels)[:, :height, :width]


def _winners(x: jax.Array, sign: jax.Array) -> tuple[jax.Array, list[jax.Array]]:
    """The largest of sign * x in every window, and for each of the four positions whether it is the first to have it.

    A sign of zero makes all positions equal, as batch norm with a scale of zero does.
    """
    quarters = _quarters(x * sign, -jnp.inf)
    best = jnp.maximum(jnp.maximum(*quarters[:2]), jnp.maximum(*quarters[2:]))
    first, second, third, _ = (quarter == best for quarter in quarters)
    return best, [first, second & ~first, third & ~(first | second), ~(first | second | third)]


@jax.custom_vjp
def batch_norm_pool_relu(x: jax.Array, scale: jax.Array, bias: jax.Array) -> jax.Array:
    """Normalises every channel by the batch's own mean and variance, scales, shifts, pools, and applies ReLU.

    relu(max over 2x2 windows of scale * (x - mean) / sqrt(var + 1e-3) + bias), mean and (biased) variance over batch,
    height and width. Padding never wins the maximum. Of equal values the first in reading order has the gradient.

    Args:
        x: [batch, height, width, channels].
        scale: [channels].
        bias: [channels].

    Returns:
        [batch, ceil(height/2), ceil(width/2), channels].
    """
    return _forward(x, scale, bias)[0]


def _forward(x: jax.Array, scale: jax.Array, bias: jax.Array) -> tuple[jax.Array, Any]:
    scale, bias = scale.reshape(1, 1, 1, -1), bias.reshape(1, 1, 1, -1)
    mean = jnp.mean(x, axis=(0, 1, 2), keepdims=True)
    variance = jnp.mean(jnp.square(x - mean), axis=(0, 1, 2), keepdims=True)
    inverse = lax.rsqrt(variance + NORM_EPSILON)
    sign = jnp.sign(scale)
    best, _ = _winners(x, sign)
    pooled = jnp.where(scale == 0, x[:, ::2, ::2], best * sign)
    normal = (pooled - mean) * inverse  # [b, h', w', c]
    return jax.nn.relu(normal * scale + bias), (x, normal, mean, inverse, scale, bias)


def _backward(residuals: Any, grad: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    x, normal, mean, inverse, scale, bias = residuals
    grad = jnp.where(normal * scale + bias > 0, grad, 0)
    grad_bias = jnp.sum(grad, axis=(0, 1, 2), keepdims=True)
    grad_scale = jnp.sum(grad * normal, axis=(0, 1, 2), keepdims=True)
    count = x.size // x.shape[-1]
    factor = scale * inverse
    _, winners = _winners(x, jnp.sign(scale))
    won = _from_quarters([jnp.where(winner, factor * grad, 0) for winner in winners], *x.shape[1:3])
    grad_x = won - factor * (grad_bias / count) - (x - mean) * (factor * inverse * (grad_scale / count))
    return grad_x, grad_scale.reshape(-1), grad_bias.reshape(-1)


batch_norm_pool_relu.defvjp(_forward, _backward)


class BatchNormPoolRelu(nn.Module):
    """`batch_norm_pool_relu` with a trained scale (initially 1) and bias (initially 0) per channel."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[batch, height, width, channels] -> [batch, ceil(height/2), ceil(width/2), channels]."""
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],), x.dtype)
        bias = self.param("bias", nn.initializers.zeros, (x.shape[-1],), x.dtype)
        return batch_norm_pool_relu(x, scale, bias)
