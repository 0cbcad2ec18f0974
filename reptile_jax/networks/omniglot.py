"""The released Omniglot network, in Flax."""

import flax.linen as nn
import jax

from reptile_jax.networks.layers import BatchNormRelu, Conv3x3Stride2


class OmniglotClassifier(nn.Module):
    """Four layers of convolution, batch norm and ReLU, then a dense layer (released code: `OmniglotModel`).

    Attributes:
        classes: number of outputs.
        filters: channels of each convolution.
        convolution: how the convolutions are computed, a key of `layers.CONVOLUTIONS`.
    """

    classes: int
    filters: int = 64
    convolution: str = "matmul"

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        """Returns logits.

        Args:
            images: [batch, height, width, channels], of the dtype to compute in; 28x28x1 with ink 0 and paper 1 in the
                released code. Batch norm uses the batch's own statistics, so the logits of an image depend on the other
                images.

        Returns:
            [batch, classes].
        """
        x = images
        for i in range(4):
            x = Conv3x3Stride2(self.filters, self.convolution, name=f"conv_{i}")(x)
            x = BatchNormRelu(name=f"norm_{i}")(x)
        x = x.reshape(x.shape[0], -1)  # [batch, 2 * 2 * 64] as released: height, width, channels
        dense = nn.Dense(
            self.classes, kernel_init=nn.initializers.glorot_uniform(), param_dtype=x.dtype, dtype=x.dtype, name="dense"
        )
        return dense(x)
