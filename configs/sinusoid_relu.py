"""Sine waves as in the paper's text: ReLU, and points anywhere in [-5, 5].

python main.py --config=configs/sinusoid_relu.py
"""

from ml_collections import ConfigDict

from configs import sinusoid


def get_config() -> ConfigDict:
    """Returns the config of the run."""
    config = sinusoid.get_config()
    config.data.name = "sinusoid_uniform"
    config.model.name = "perceptron_relu"
    config.inner_iters = 10
    return config
