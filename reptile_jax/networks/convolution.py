"""The 3x3 convolution at stride 1 and its kernel's gradient, with weights of one task and with weights of many.

With the weights of one task, XLA's own convolution is the fastest, but the weight gradient that automatic
differentiation makes of it is not: inside a loop, XLA's CPU back end runs that gradient hundreds of times slower. With
separate weights for every task (`vmap`), the convolution would become a grouped convolution, which is slow. Matrix
products replace both.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_batching import custom_vmap

Product = Callable[[jax.Array, jax.Array], jax.Array]


class Convolution(NamedTuple):
    """How a convolution is computed.

    Attributes:
        convolve: (x [b, h, w, in], kernel [3, 3, in, out]) -> [b, h, w, out].
        kernel_gradient: (x, the output's gradient) -> the kernel's gradient.
    """

    convolve: Product
    kernel_gradient: Product


def lax_convolve(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Convolves with XLA's own convolution."""
    return lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


def matmul_convolve(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Convolves with one matrix product of the 3x3 patches [b * h * w, 9 * in] and the kernel."""
    height, width = x.shape[1:3]
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    taps = [padded[:, i : i + height, j : j + width] for i in range(3) for j in range(3)]
    patches = jnp.concatenate(taps, axis=-1).reshape(-1, 9 * x.shape[-1])
    return (patches @ kernel.reshape(-1, kernel.shape[-1])).reshape(*x.shape[:-1], kernel.shape[-1])


def matmul_kernel_gradient(x: jax.Array, grad: jax.Array) -> jax.Array:
    """Returns the kernel's gradient, computed with one matrix product.

    Tap (i, j) is the product of the images shifted j columns to the left and the output's gradient shifted i rows down.
    Three shifts of each give all nine taps, with a third of the memory of the patches.
    """
    height, width = x.shape[1:3]
    wide = jnp.pad(x, ((0, 0), (0, 0), (1, 1), (0, 0)))
    left = jnp.concatenate([wide[:, :, j : j + width] for j in range(3)], axis=-1).reshape(-1, 3 * x.shape[-1])
    high = jnp.pad(grad, ((0, 0), (1, 1), (0, 0), (0, 0)))
    down = jnp.concatenate([high[:, 2 - i : 2 - i + height] for i in range(3)], axis=-1)
    product = left.T @ down.reshape(-1, 3 * grad.shape[-1])  # [3 * in, 3 * out]
    return product.reshape(3, x.shape[-1], 3, grad.shape[-1]).transpose(2, 0, 1, 3)


def kernel_gradient_by_image(x: jax.Array, grad: jax.Array) -> jax.Array:
    """Computes the same image by image, so that the inputs of each product stay in a core's cache."""

    def add(total: jax.Array, image: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        return total + matmul_kernel_gradient(*(array[None] for array in image)), None

    return lax.scan(add, jnp.zeros((3, 3, x.shape[-1], grad.shape[-1]), x.dtype), (x, grad))[0]


def _one_task_or_many(one: Product, many: Product) -> Product:
    """Returns a function that computes `one`, but `many` under `vmap` over weights, images or both."""
    function = custom_vmap(one)

    @function.def_vmap
    def rule(size: int, batched: list[bool], *arguments: jax.Array) -> tuple[jax.Array, bool]:
        axes = [0 if b else None for b in batched]
        return jax.vmap(many, in_axes=axes, axis_size=size)(*arguments), True

    return function


CONVOLUTIONS: dict[str, Convolution] = {
    "matmul": Convolution(matmul_convolve, matmul_kernel_gradient),
    "lax": Convolution(lax_convolve, kernel_gradient_by_image),
    "auto": Convolution(
        _one_task_or_many(lax_convolve, matmul_convolve),
        _one_task_or_many(kernel_gradient_by_image, matmul_kernel_gradient),
    ),
}
