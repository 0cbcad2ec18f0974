"""The 3x3 convolution at stride 1, fast with weights of one task and with weights of many.

With one task's weights XLA's own convolution is the fastest, provided that its gradients are written out as ordinary
convolutions: inside a loop XLA's CPU back end runs the weight gradient of automatic differentiation hundreds of times
slower. With weights of every task's own (`vmap`) XLA's convolution would become a grouped one, which is slow on every
device, so that patches and one batched matrix product take its place.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_batching import custom_vmap

Product = Callable[[jax.Array, jax.Array], jax.Array]


def lax_conv3x3(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Convolves by XLA's own convolution: [b, h, w, in] and [3, 3, in, out] -> [b, h, w, out]."""
    return lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


def lax_kernel_gradient(x: jax.Array, grad: jax.Array) -> jax.Array:
    """The kernel's gradient as a convolution of the images, channels as batch, with the output's gradient as kernel."""
    images, kernel = x.transpose(3, 1, 2, 0), grad.transpose(1, 2, 0, 3)  # [in, h, w, b] and [h, w, b, out]
    pads = ((1, 1), (1, 1))
    y = lax.conv_general_dilated(images, kernel, (1, 1), pads, dimension_numbers=("NHWC", "HWIO", "NHWC"))
    return y.transpose(1, 2, 0, 3)  # [in, 3, 3, out] -> [3, 3, in, out]


def _columns(x: jax.Array) -> jax.Array:
    """The 3x3 patches: [b, h, w, c] -> [b * h * w, 9c]."""
    height, width = x.shape[1:3]
    x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    taps = [x[:, i : i + height, j : j + width] for i in range(3) for j in range(3)]
    return jnp.concatenate(taps, axis=-1).reshape(-1, 9 * x.shape[-1])


def matmul_conv3x3(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Convolves by one matrix product of the patches."""
    return (_columns(x) @ kernel.reshape(-1, kernel.shape[-1])).reshape(*x.shape[:-1], kernel.shape[-1])


def matmul_kernel_gradient(x: jax.Array, grad: jax.Array) -> jax.Array:
    """The kernel's gradient by one matrix product of the patches with the output's gradient."""
    product = _columns(x).T @ grad.reshape(-1, grad.shape[-1])
    return product.reshape(3, 3, x.shape[-1], grad.shape[-1])


def _one_task_or_many(one: Product, many: Product) -> Product:
    """Returns a function that computes as `one`, and under `vmap`, over weights or images or both, as `many`."""
    function = custom_vmap(one)

    @function.def_vmap
    def rule(size: int, batched: list[bool], *arguments: jax.Array) -> tuple[jax.Array, bool]:
        axes = [0 if b else None for b in batched]
        return jax.vmap(many, in_axes=axes, axis_size=size)(*arguments), True

    return function


PRODUCTS: dict[str, tuple[Product, Product]] = {  # by name: the convolution, and its kernel's gradient
    "matmul": (matmul_conv3x3, matmul_kernel_gradient),
    "lax": (lax_conv3x3, lax_kernel_gradient),
    "auto": (
        _one_task_or_many(lax_conv3x3, matmul_conv3x3),
        _one_task_or_many(lax_kernel_gradient, matmul_kernel_gradient),
    ),
}


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def conv3x3(x: jax.Array, kernel: jax.Array, convolution: str = "auto") -> jax.Array:
    """Convolves with 3x3 kernels at stride 1, SAME padding (one pixel of zeros on every side).

    Args:
        x: [batch, height, width, in].
        kernel: [3, 3, in, out] (HWIO).
        convolution: how it is computed, a key of `PRODUCTS`.

    Returns:
        [batch, height, width, out].
    """
    return PRODUCTS[convolution][0](x, kernel)


def _forward(x: jax.Array, kernel: jax.Array, convolution: str) -> tuple[jax.Array, Any]:
    return conv3x3(x, kernel, convolution), (x, kernel)


def _backward(convolution: str, residuals: Any, grad: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, kernel = residuals
    convolve, kernel_gradient = PRODUCTS[convolution]
    turned = kernel[::-1, ::-1].transpose(0, 1, 3, 2)  # half a turn, and inputs for outputs
    return convolve(grad, turned), kernel_gradient(x, grad)


conv3x3.defvjp(_forward, _backward)


class Conv3x3(nn.Module):
    """Convolution as `conv3x3`, with a trained Glorot-uniform kernel and no bias.

    The released network has one, but a bias in front of batch norm changes no output and has a gradient of zero.

    Attributes:
        features: output channels.
        convolution: how it is computed, a key of `PRODUCTS`.
    """

    features: int
    convolution: str = "auto"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[batch, height, width, channels] -> [batch, height, width, features]."""
        shape = (3, 3, x.shape[-1], self.features)
        kernel = self.param("kernel", nn.initializers.glorot_uniform(), shape, x.dtype)
        return conv3x3(x, kernel, self.convolution)
