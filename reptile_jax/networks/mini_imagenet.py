"""The released Mini-ImageNet network, in Flax."""

import flax.linen as nn
import jax

from reptile_jax.networks.convolution import Conv3x3
from reptile_jax.networks.pooling import BatchNormPoolRelu


class MiniImageNetClassifier(nn.Module):
    """Four times convolution, batch norm, max pooling and ReLU, then a dense layer (released: `MiniImageNetModel`).

    Attributes:
        classes: number of outputs.
        filters: channels of every convolution.
        convolution: how the convolutions are computed, a key of `convolution.PRODUCTS`.
    """

    classes: int
    filters: int = 32
    convolution: str = "auto"

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        """Returns logits.

        Args:
            images: [batch, height, width, channels], 0 to 1, of the dtype to compute in; released: 84x84x3. The batch's
                own statistics are used, so the logits of an image depend on the images beside it.

        Returns:
            [batch, classes].
        """
        x = images
        for i in range(4):
            x = Conv3x3(self.filters, self.convolution, name=f"conv_{i}")(x)
            x = BatchNormPoolRelu(name=f"norm_{i}")(x)
        x = x.reshape(x.shape[0], -1)  # [batch, 6 * 6 * 32], height, width, channels
        dense = nn.Dense(
            self.classes, kernel_init=nn.initializers.glorot_uniform(), param_dtype=x.dtype, dtype=x.dtype, name="dense"
        )
        return dense(x)
