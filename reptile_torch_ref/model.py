"""The networks of Nichol et al. 2018 (arXiv 1803.02999) as functions of their weights and one mini-batch.

The networks have four blocks of a 3x3 convolution, batch norm and ReLU, and then a dense layer. The convolutions for
Omniglot have stride 2; those for Mini-ImageNet are followed by batch norm and 2x2 max pooling. The convolutions have no
bias, because batch norm would cancel it: its gradient would be zero in theory, and Adam with beta1 = 0 would turn its
rounding noise into full steps.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

NORM_EPSILON = 1e-3  # TensorFlow's default, which the released code uses; PyTorch's is 1e-5

Weights = dict[str, Tensor]  # by layer and name, in PyTorch's layouts: [out, in, 3, 3] and [classes, inputs]


def init_weights(
    classes: int,
    seed: int,
    dtype: torch.dtype = torch.float32,
    filters: int = 64,
    shape: tuple[int, int, int] = (28, 28, 1),
) -> Weights:
    """Returns the initial theta: Glorot-uniform kernels, batch-norm scale 1, batch-norm shift and dense bias 0.

    Both networks have the same: `filters` channels of each convolution, images of `shape` [height, width, channels].
    """
    generator, weights = torch.Generator().manual_seed(seed), {}
    height, width, channels = shape
    for i in range(4):
        kernel = torch.empty(filters, filters if i else channels, 3, 3, dtype=dtype)
        weights[f"conv_{i}/kernel"] = torch.nn.init.xavier_uniform_(kernel, generator=generator)
        weights[f"norm_{i}/scale"] = torch.ones(filters, dtype=dtype)
        weights[f"norm_{i}/bias"] = torch.zeros(filters, dtype=dtype)
        height, width = -(-height // 2), -(-width // 2)
    dense = torch.empty(classes, height * width * filters, dtype=dtype)
    weights["dense/kernel"] = torch.nn.init.xavier_uniform_(dense, generator=generator)
    weights["dense/bias"] = torch.zeros(classes, dtype=dtype)
    return weights


def same_padding(size: int) -> tuple[int, int]:
    """Returns the pixels (before, after) TensorFlow's SAME adds to an axis of `size`, for kernel 3 and stride 2."""
    total = max((-(-size // 2) - 1) * 2 + 3 - size, 0)  # the output has ceil(size / 2) pixels
    return total // 2, total - total // 2


def batch_norm(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """Normalises by this mini-batch's own mean and biased variance, in training and in evaluation.

    The result for an image depends on the rest of its batch. The two protocols differ only in what that rest is.
    """
    return F.batch_norm(x, None, None, scale, shift, training=True, eps=NORM_EPSILON)


def omniglot_block(x: Tensor, kernel: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """Convolution with stride 2, batch norm, ReLU: [b, c, h, w] -> [b, filters, ceil(h/2), ceil(w/2)]."""
    x = F.conv2d(F.pad(x, same_padding(x.shape[3]) + same_padding(x.shape[2])), kernel, stride=2)
    return F.relu(batch_norm(x, scale, shift))


def mini_imagenet_block(x: Tensor, kernel: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """Convolution, batch norm, max pooling, ReLU: [b, c, h, w] -> [b, filters, ceil(h/2), ceil(w/2)].

    With `ceil_mode` the windows that an odd size cuts, on the right and at the bottom, are smaller.
    """
    x = batch_norm(F.conv2d(x, kernel, padding=1), scale, shift)
    return F.relu(F.max_pool2d(x, 2, ceil_mode=True))


BLOCKS = {"omniglot": omniglot_block, "miniimagenet": mini_imagenet_block}
# How images lie in memory; with its channels last Mini-ImageNet's network is faster on a CPU.
MEMORY = {"omniglot": torch.contiguous_format, "miniimagenet": torch.channels_last}


def logits(weights: Weights, images: Tensor, network: str = "omniglot") -> Tensor:
    """Returns logits [batch, classes], in the weights' dtype, of images of any dtype.

    The images are [batch, height, width, channels], or [batch, height, width] where they are grey; as released 28x28
    with ink 0 and paper 1 for "omniglot", 84x84x3 from 0 to 1 for "miniimagenet".
    """
    x = images if images.ndim == 4 else images[..., None]
    x = x.to(weights["dense/kernel"].dtype).permute(0, 3, 1, 2).clone(memory_format=MEMORY[network])
    for i in range(4):
        x = BLOCKS[network](x, weights[f"conv_{i}/kernel"], weights[f"norm_{i}/scale"], weights[f"norm_{i}/bias"])
    x = x.permute(0, 2, 3, 1).flatten(1)  # height, width, channel: the rows of an NHWC framework's dense kernel
    return F.linear(x, weights["dense/kernel"], weights["dense/bias"])
