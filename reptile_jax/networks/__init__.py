"""Networks: `NETWORKS` names them, and a config's `model.name` picks one."""

from collections.abc import Callable

import flax.linen as nn

from reptile_jax.networks.mini_imagenet import MiniImageNetClassifier
from reptile_jax.networks.omniglot import OmniglotClassifier
from reptile_jax.networks.perceptron import PERCEPTRONS

# (outputs, width, how convolutions are computed) -> a network of inputs [batch, ...] with outputs [batch, outputs].
NETWORKS: dict[str, Callable[[int, int, str], nn.Module]] = {
    "omniglot": OmniglotClassifier,
    "miniimagenet": MiniImageNetClassifier,
    **PERCEPTRONS,
}

__all__ = ["NETWORKS"]
