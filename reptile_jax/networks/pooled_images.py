"""The layer of `pooled` for images. Images have few channels, so the matrix products are thin and the output is large.

Each 2x2 window of outputs depends on a 4x4 patch of the images. One product of these patches with the kernel at its
four positions gives the four outputs side by side, and only the pooling reads them. Their mean and variance follow
from the products of the patches with themselves. So does the kernel's gradient, except for the part of the maxima.

Let P be the 3x3 patches, with one row for each of n outputs, p the mean row, and C = P'P/n - pp' their covariance. A
channel of outputs is y = P k; then mean(y) = p'k, var(y) = k'C k, and P'(y - mean(y)) / n = C k.
"""

from typing import Any

import jax
import jax.numpy as jnp

from reptile_jax.networks.pooled import along, conv_norm_pool_relu, largest, norm_gradients, normalised, sign_of


def _patches(x: jax.Array) -> jax.Array:
    """Returns the 4x4 patches at stride 2, with a padding of one pixel: [b, h, w, c] -> [b * h/2 * w/2, 16c].

    The mean of a few pixels is subtracted from each channel. This changes the outputs by a constant, which batch norm
    removes, and it keeps the variance from being a small difference of large numbers.
    """
    batch, height, width, channels = x.shape
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0))) - jnp.mean(x[:, ::8, ::8], axis=(0, 1, 2), keepdims=True)
    high, wide = height // 2, width // 2
    blocks = padded.reshape(batch, high + 1, 2, wide + 1, 2, channels).transpose(0, 1, 3, 2, 4, 5)
    blocks = blocks.reshape(batch, high + 1, wide + 1, 4 * channels)  # of 2x2 pixels
    corners = [blocks[:, i : i + high, j : j + wide] for i in range(2) for j in range(2)]
    return jnp.concatenate(corners, axis=-1).reshape(-1, 16 * channels)


def _four_positions(kernel: jax.Array) -> jax.Array:
    """Returns the kernel at its four positions in a 4x4 patch, ordered as `_patches`: -> [16 * in, 4 * out]."""
    channels, outputs = kernel.shape[2:]
    moved = [jnp.pad(kernel, ((i, 1 - i), (j, 1 - j), (0, 0), (0, 0))) for i in range(2) for j in range(2)]
    # The first four axes are the row of a block and the row in it, then the columns alike.
    blocks = jnp.stack(moved, axis=-2).reshape(2, 2, 2, 2, channels, 4 * outputs)
    return blocks.transpose(0, 2, 1, 3, 4, 5).reshape(16 * channels, 4 * outputs)


def _summed(products: jax.Array, kernel: jax.Array) -> jax.Array:
    """Returns the transpose of `_four_positions`: [16 * in, 4 * out] -> [3, 3, in, out]."""
    return jax.linear_transpose(_four_positions, kernel)(products)[0]


@jax.custom_vjp
def images_norm_pool_relu(x: jax.Array, kernel: jax.Array, scale: jax.Array, bias: jax.Array) -> jax.Array:
    """Computes the same as `pooled.conv_norm_pool_relu`, for even height and width."""
    return _forward(x, kernel, scale, bias)[0]


def _forward(x: jax.Array, kernel: jax.Array, scale: jax.Array, bias: jax.Array) -> tuple[jax.Array, Any]:
    batch, height, width, _ = x.shape
    outputs, count = kernel.shape[-1], batch * height * width
    positive = kernel * along(sign_of(scale), kernel)
    patches, kernels = _patches(x), _four_positions(positive)
    products = _summed(patches.T @ patches @ kernels, kernel) / count  # P'P k / n
    # This is a product, because XLA would compute the patches again for a sum.
    sums = jnp.broadcast_to(patches.T @ jnp.ones((len(patches), 1), x.dtype), kernels.shape)
    mean_patch = _summed(sums, kernel) / count  # p, for every channel
    mean = jnp.sum(mean_patch * positive, axis=(0, 1, 2))
    covariances = products - mean_patch * along(mean, kernel)  # C k
    variance = jnp.sum(covariances * positive, axis=(0, 1, 2))
    y = (patches @ kernels).reshape(-1, 4, outputs)
    most, which = largest(*_quarters(y))
    norm = normalised(most, mean, variance, jnp.abs(scale), bias)
    z = jax.nn.relu(norm.before_relu).reshape(batch, height // 2, width // 2, outputs)
    return z, (x, kernel, scale, bias, patches, which.astype(jnp.int8), norm, mean_patch, covariances)


def _quarters(y: jax.Array) -> list[jax.Array]:
    return [y[:, quarter] for quarter in range(4)]


def _backward(residuals: Any, grad: jax.Array) -> tuple[jax.Array, ...]:
    x, kernel, scale, bias, patches, which, norm, mean_patch, covariances = residuals
    # Training does not use the gradient of the images, so the compiler leaves it out.
    _, pull = jax.vjp(lambda x: conv_norm_pool_relu(x, kernel, scale, bias), x)
    (grad_x,) = pull(grad)
    grad, grad_scale, grad_bias = norm_gradients(norm, grad.reshape(norm.normal.shape))
    won = jnp.concatenate([jnp.where(which == quarter, grad, 0) for quarter in range(4)], axis=1)
    from_winners = _summed(patches.T @ won, kernel)
    from_mean = mean_patch * along(grad_bias, kernel)
    from_variance = covariances * along(norm.inverse * grad_scale, kernel)
    grad_kernel = (from_winners - from_mean - from_variance) * along(scale * norm.inverse, kernel)
    return grad_x, grad_kernel, grad_scale * sign_of(scale), grad_bias


images_norm_pool_relu.defvjp(_forward, _backward)
