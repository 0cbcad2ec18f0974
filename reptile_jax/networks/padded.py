"""Runs a network on a batch that is padded to a compiled size, as if only the real images were in it."""

import inspect
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax

Params = Any  # pytree of the network's weights


def apply_padded(network: nn.Module, params: Params, images: jax.Array, real: jax.Array) -> jax.Array:
    """Returns the outputs that the real images have when they are alone in the batch.

    Every layer whose `__call__` has an argument `real` is given it, and leaves the other images out of its statistics.

    Args:
        network: one of `NETWORKS`, for images.
        params: its weights.
        images: [batch, height, width, channels].
        real: bool [batch], False for the images that only pad the batch.

    Returns:
        [batch, outputs]; what stands at the other images means nothing.
    """

    def with_real(
        call: Callable[..., Any], args: Any, kwargs: dict[str, Any], context: nn.module.InterceptorContext
    ) -> Any:
        takes_it = "real" in inspect.signature(context.orig_method).parameters
        return call(*args, **kwargs | {"real": real} if takes_it else kwargs)

    with nn.intercept_methods(with_real):
        return jax.numpy.asarray(network.apply(params, images))
