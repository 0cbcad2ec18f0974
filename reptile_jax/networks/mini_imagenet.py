"""The released Mini-ImageNet network, in Flax."""

import flax.linen as nn
import jax

from reptile_jax.networks.pooled import conv_norm_pool_relu, padded_norm_pool_relu
from reptile_jax.networks.pooled_images import images_norm_pool_relu

FEW_CHANNELS = 4


class Kernel(nn.Module):
    """A trained Glorot-uniform kernel for `x`, and no bias.

    The released network has a bias, but a bias before batch norm changes no output, and its gradient is zero.

    Attributes:
        features: output channels.
    """

    features: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[batch, height, width, channels] -> the kernel [3, 3, channels, features]."""
        shape = (3, 3, x.shape[-1], self.features)
        return self.param("kernel", nn.initializers.glorot_uniform(), shape, x.dtype)


class ConvNormPoolRelu(nn.Module):
    """`conv_norm_pool_relu` with a trained scale (initially 1) and bias (initially 0) per channel.

    Attributes:
        convolution: how the convolution is computed, a key of `convolution.CONVOLUTIONS`.
    """

    convolution: str = "auto"

    @nn.compact
    def __call__(self, x: jax.Array, kernel: jax.Array, real: jax.Array | None = None) -> jax.Array:
        """[batch, height, width, channels] -> [batch, ceil(height/2), ceil(width/2), features].

        `real` is what `padded.apply_padded` gives.
        """
        scale = self.param("scale", nn.initializers.ones, (kernel.shape[-1],), x.dtype)
        bias = self.param("bias", nn.initializers.zeros, (kernel.shape[-1],), x.dtype)
        if real is not None:
            return padded_norm_pool_relu(x, kernel, scale, bias, self.convolution, real)
        _, height, width, channels = x.shape
        if channels <= FEW_CHANNELS and height % 2 == width % 2 == 0 and self.convolution == "auto":
            return images_norm_pool_relu(x, kernel, scale, bias)
        return conv_norm_pool_relu(x, kernel, scale, bias, self.convolution)


class MiniImageNetClassifier(nn.Module):
    """Four layers of convolution, batch norm, max pooling and ReLU, then a dense layer (released: `MiniImageNetModel`).

    Attributes:
        classes: number of outputs.
        filters: channels of each convolution.
        convolution: how the convolutions are computed, a key of `convolution.CONVOLUTIONS`.
    """

    classes: int
    filters: int = 32
    convolution: str = "auto"

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        """Returns logits.

        Args:
            images: [batch, height, width, channels], 0 to 1, of the dtype to compute in; 84x84x3 in the released
                code. Batch norm uses the batch's own statistics, so the logits of an image depend on the other images.

        Returns:
            [batch, classes].
        """
        x = images
        for i in range(4):
            kernel = Kernel(self.filters, name=f"conv_{i}")(x)
            x = ConvNormPoolRelu(self.convolution, name=f"norm_{i}")(x, kernel)
        x = x.reshape(x.shape[0], -1)  # [batch, 6 * 6 * 32] as released: height, width, channels
        dense = nn.Dense(
            self.classes, kernel_init=nn.initializers.glorot_uniform(), param_dtype=x.dtype, dtype=x.dtype, name="dense"
        )
        return dense(x)
