"""The Omniglot network of Nichol et al. 2018 (arXiv 1803.02999) as a function of its weights and one mini-batch.

Four times [convolution 3x3, 64 filters, stride 2 -> batch norm -> ReLU], then a dense layer. The convolutions have no
bias: batch norm takes it away again, so its gradient is analytically zero and Adam with beta1 = 0 would turn its
rounding noise into full steps.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

FILTERS = 64
NORM_EPSILON = 1e-3  # TensorFlow's default, which the released code uses; PyTorch's is 1e-5

Weights = dict[str, Tensor]  # by layer and name, in PyTorch's layouts: [out, in, 3, 3] and [classes, 256]


def init_weights(classes: int, seed: int, dtype: torch.dtype = torch.float32) -> Weights:
    """Returns the initial theta: Glorot-uniform kernels, batch-norm scale 1, batch-norm shift and dense bias 0."""
    generator, weights = torch.Generator().manual_seed(seed), {}
    for i in range(4):
        kernel = torch.empty(FILTERS, FILTERS if i else 1, 3, 3, dtype=dtype)
        weights[f"conv_{i}/kernel"] = torch.nn.init.xavier_uniform_(kernel, generator=generator)
        weights[f"norm_{i}/scale"] = torch.ones(FILTERS, dtype=dtype)
        weights[f"norm_{i}/bias"] = torch.zeros(FILTERS, dtype=dtype)
    dense = torch.empty(classes, 2 * 2 * FILTERS, dtype=dtype)
    weights["dense/kernel"] = torch.nn.init.xavier_uniform_(dense, generator=generator)
    weights["dense/bias"] = torch.zeros(classes, dtype=dtype)
    return weights


def same_padding(size: int) -> tuple[int, int]:
    """Returns the pixels (before, after) TensorFlow's SAME adds to an axis of `size`, for kernel 3 and stride 2."""
    total = max((-(-size // 2) - 1) * 2 + 3 - size, 0)  # the output has ceil(size / 2) pixels
    return total // 2, total - total // 2


def logits(weights: Weights, images: Tensor) -> Tensor:
    """Returns logits [batch, classes], in the weights' dtype, of images [batch, 28, 28] (ink 0, paper 1, any dtype).

    Batch norm always uses this mini-batch's own mean and biased variance, in training and in evaluation: what else is
    in the batch matters, and is the whole difference between the two evaluation protocols.
    """
    x = images[:, None].to(weights["dense/kernel"].dtype)  # [batch, 1, 28, 28]
    for i in range(4):
        pad = same_padding(x.shape[2])
        x = F.conv2d(F.pad(x, pad + pad), weights[f"conv_{i}/kernel"], stride=2)
        scale, shift = weights[f"norm_{i}/scale"], weights[f"norm_{i}/bias"]
        x = F.relu(F.batch_norm(x, None, None, scale, shift, training=True, eps=NORM_EPSILON))
    x = x.permute(0, 2, 3, 1).flatten(1)  # height, width, channel: the rows of an NHWC framework's dense kernel
    return F.linear(x, weights["dense/kernel"], weights["dense/bias"])
