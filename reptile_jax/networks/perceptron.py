"""The perceptron for sine waves, in Flax: two hidden layers."""

from collections.abc import Callable

import flax.linen as nn
import jax
from jax import random


class Perceptron(nn.Module):
    """Two hidden layers and an output layer (paper, section 4.1: 1 -> 64 -> 64 -> 1).

    The initial kernels and biases of a layer with n inputs are uniform between -1 / sqrt(n) and 1 / sqrt(n), as in
    PyTorch, whose layers the released script uses. With biases of zero, every hidden unit of the first layer would bend
    at x = 0.

    Attributes:
        outputs: number of outputs.
        hidden: units of each hidden layer.
        activation: of the hidden layers.
    """

    outputs: int
    hidden: int = 64
    activation: Callable[[jax.Array], jax.Array] = nn.tanh

    @nn.compact
    def __call__(self, inputs: jax.Array) -> jax.Array:
        """Returns outputs [batch, outputs] of inputs [batch, ...], in the inputs' dtype."""
        x = inputs.reshape(inputs.shape[0], -1)
        for i, width in enumerate((self.hidden, self.hidden, self.outputs)):
            x = _dense(width, x, f"dense_{i}")(self.activation(x) if i else x)
        return x


def _dense(width: int, x: jax.Array, name: str) -> nn.Dense:
    bound = x.shape[-1] ** -0.5

    def uniform(key: jax.Array, shape: tuple[int, ...], dtype: jax.typing.DTypeLike) -> jax.Array:
        return random.uniform(key, shape, dtype, -bound, bound)

    return nn.Dense(width, kernel_init=uniform, bias_init=uniform, param_dtype=x.dtype, dtype=x.dtype, name=name)


PERCEPTRONS: dict[str, Callable[[int, int, str], nn.Module]] = {
    "perceptron": lambda outputs, hidden, _: Perceptron(outputs, hidden, nn.tanh),
    "perceptron_relu": lambda outputs, hidden, _: Perceptron(outputs, hidden, nn.relu),
}
