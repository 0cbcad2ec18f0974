"""Convolution and batch norm that stay fast when every task has its own weights.

Under `vmap` over weights, `lax.conv_general_dilated` becomes a grouped convolution. XLA's CPU back end runs it about
ten times slower than the equivalent matrix product. The convolution here consists of strided slices and one (batched)
matrix product. The gradients of both layers are written by hand, because the transposes that automatic differentiation
makes of slices and of batch statistics cost more than the products themselves.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

NORM_EPSILON = 1e-3  # added to the variance (TensorFlow's default; PyTorch's and Flax's is 1e-5)


def _columns(x: jax.Array) -> jax.Array:
    """Returns the 3x3 patches at stride 2 with SAME padding: [b, h, w, c] -> [b, ceil(h/2), ceil(w/2), 9c]."""
    (top, bottom), (left, right) = _padding(x.shape[1]), _padding(x.shape[2])
    height, width = (x.shape[1] + 1) // 2, (x.shape[2] + 1) // 2
    x = jnp.pad(x, ((0, 0), (top, bottom), (left, right), (0, 0)))
    taps = [
        x[:, i : i + 2 * height - 1 : 2, j : j + 2 * width - 1 : 2] for i in range(3) for j in range(3)
    ]  # 9 x [b, h', w', c]
    return jnp.concatenate(taps, axis=-1)


def _padding(size: int) -> tuple[int, int]:
    """Returns TensorFlow's SAME padding for a window of 3 at stride 2: (0, 1) for an even size, else (1, 1)."""
    return (0, 1) if size % 2 == 0 else (1, 1)


def _interleave(taps: jax.Array, axis: int, size: int) -> jax.Array:
    """Adds the three taps of each output position to the input positions that they were read from, along one axis.

    This is the transpose of the strided slices. In the padded input, an even position 2m was read as tap 0 of output m
    and as tap 2 of output m-1, and an odd position 2m+1 was read as tap 1 of output m.

    Args:
        taps: array with 3 taps on axis 0.
        axis: the axis of the positions, counted without the taps.
        size: positions of the input, without padding.
    """
    first, second, third = taps
    zero = jnp.zeros_like(lax.slice_in_dim(first, 0, 1, axis=axis))
    even = jnp.concatenate([first, zero], axis) + jnp.concatenate([zero, third], axis)  # m = 0..outputs
    odd = jnp.concatenate([second, zero], axis)
    both = jnp.stack([even, odd], axis + 1)
    both = both.reshape(*even.shape[:axis], 2 * even.shape[axis], *even.shape[axis + 1 :])
    start = _padding(size)[0]
    return lax.slice_in_dim(both, start, start + size, axis=axis)


@jax.custom_vjp
def conv3x3_stride2(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Convolves with 3x3 kernels at stride 2 and TensorFlow's SAME padding, as one matrix product.

    Args:
        x: [batch, height, width, in].
        kernel: [3, 3, in, out] (HWIO).

    Returns:
        [batch, ceil(height/2), ceil(width/2), out].
    """
    return _conv_forward(x, kernel)[0]


def _conv_forward(x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, Any]:
    columns = _columns(x)
    batch, height, width, taps = columns.shape
    columns = columns.reshape(-1, taps)  # flat: products of matrices with more axes than two are slower
    y = columns @ kernel.reshape(taps, -1)
    return y.reshape(batch, height, width, -1), (columns, kernel, x.shape)


def _conv_backward(residuals: Any, grad: jax.Array) -> tuple[jax.Array, jax.Array]:
    columns, kernel, (_, height, width, channels) = residuals
    flat_grad = grad.reshape(-1, grad.shape[-1])  # [b * h' * w', out]
    # On a CPU, XLA is slow at transposing the first factor, so the first factor is the narrower matrix: the columns of
    # the images, but the gradient in the other layers. The barrier keeps XLA from swapping the factors back.
    if columns.shape[-1] < flat_grad.shape[-1]:
        grad_kernel = columns.T @ flat_grad  # [9c, out]
    else:
        grad_kernel = lax.optimization_barrier(flat_grad.T @ columns).T
    grad_kernel = grad_kernel.reshape(kernel.shape)
    grad_columns = flat_grad @ kernel.reshape(-1, kernel.shape[-1]).T  # [b * h' * w', 9c]
    taps = grad_columns.reshape(*grad.shape[:3], 3, 3, channels).transpose(3, 4, 0, 1, 2, 5)  # [3, 3, b, h', w', c]
    rows = jax.vmap(lambda t: _interleave(t, 1, height), in_axes=1)(taps)  # [3, b, h, w', c]
    return _interleave(rows, 2, width), grad_kernel


conv3x3_stride2.defvjp(_conv_forward, _conv_backward)


def lax_conv3x3_stride2(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Computes the same as `conv3x3_stride2` with XLA's own convolution."""
    return lax.conv_general_dilated(x, kernel, (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


CONVOLUTIONS: dict[str, Callable[[jax.Array, jax.Array], jax.Array]] = {
    "matmul": conv3x3_stride2,
    "lax": lax_conv3x3_stride2,
    "auto": conv3x3_stride2,
}


@jax.custom_vjp
def batch_norm_relu(x: jax.Array, scale: jax.Array, bias: jax.Array) -> jax.Array:
    """Normalises every channel by the batch's own mean and variance, scales, shifts, and applies ReLU.

    The result is relu(scale * (x - mean) / sqrt(var + 1e-3) + bias), where mean and (biased) variance are taken over
    batch, height and width. There are no running averages: training, adaptation and evaluation all use the statistics
    of the current batch, as in the released code.

    Args:
        x: [batch, height, width, channels].
        scale: [channels].
        bias: [channels].
    """
    return _norm_forward(x, scale, bias)[0]


def _norm_forward(x: jax.Array, scale: jax.Array, bias: jax.Array) -> tuple[jax.Array, Any]:
    scale, bias = scale.reshape(1, 1, 1, -1), bias.reshape(1, 1, 1, -1)
    centred = x - jnp.mean(x, axis=(0, 1, 2), keepdims=True)
    variance = jnp.mean(jnp.square(centred), axis=(0, 1, 2), keepdims=True)
    inverse = lax.rsqrt(variance + NORM_EPSILON)
    normal = centred * inverse
    return jax.nn.relu(normal * scale + bias), (normal, inverse, scale, bias)


def _norm_backward(residuals: Any, grad: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    normal, inverse, scale, bias = residuals
    grad = jnp.where(normal * scale + bias > 0, grad, 0)
    grad_bias = jnp.sum(grad, axis=(0, 1, 2), keepdims=True)
    grad_scale = jnp.sum(grad * normal, axis=(0, 1, 2), keepdims=True)
    count = normal.size // normal.shape[-1]
    grad_x = (scale * inverse) * (grad - grad_bias / count - normal * (grad_scale / count))
    return grad_x, grad_scale.reshape(-1), grad_bias.reshape(-1)


batch_norm_relu.defvjp(_norm_forward, _norm_backward)


def statistics_of(x: jax.Array, real: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns the mean and the (biased) variance [channels] of some images of a batch.

    Args:
        x: [batch, height, width, channels].
        real: bool [batch], the images that count; at least one does.
    """
    shares = real.astype(x.dtype) / jnp.sum(real).astype(x.dtype) / (x.shape[1] * x.shape[2])
    shares = shares.reshape(-1, 1, 1, 1)
    mean = jnp.sum(x * shares, axis=(0, 1, 2))
    return mean, jnp.sum(jnp.square(x - mean.reshape(1, 1, 1, -1)) * shares, axis=(0, 1, 2))


class Conv3x3Stride2(nn.Module):
    """Convolution as `conv3x3_stride2`, with a trained Glorot-uniform kernel and no bias.

    The released network has a bias, but a bias before batch norm changes no output, and its gradient is zero.

    Attributes:
        features: output channels.
        convolution: how it is computed, a key of `CONVOLUTIONS`.
    """

    features: int
    convolution: str = "matmul"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[batch, height, width, channels] -> [batch, ceil(height/2), ceil(width/2), features]."""
        shape = (3, 3, x.shape[-1], self.features)
        kernel = self.param("kernel", nn.initializers.glorot_uniform(), shape, x.dtype)
        return CONVOLUTIONS[self.convolution](x, kernel)


class BatchNormRelu(nn.Module):
    """`batch_norm_relu` with a trained scale (initially 1) and bias (initially 0) per channel."""

    @nn.compact
    def __call__(self, x: jax.Array, real: jax.Array | None = None) -> jax.Array:
        """[batch, height, width, channels] -> the same shape; `real` is what `padded.apply_padded` gives."""
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],), x.dtype)
        bias = self.param("bias", nn.initializers.zeros, (x.shape[-1],), x.dtype)
        if real is None:
            return batch_norm_relu(x, scale, bias)
        mean, variance = statistics_of(x, real)
        factor = scale * lax.rsqrt(variance + NORM_EPSILON)
        return jax.nn.relu((x - mean.reshape(1, 1, 1, -1)) * factor.reshape(1, 1, 1, -1) + bias.reshape(1, 1, 1, -1))
