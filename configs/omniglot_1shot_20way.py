"""Omniglot, 20-way 1-shot.

    python main.py --config=configs/omniglot_1shot_20way.py

Published accuracy on test characters: 88.14 % (paper, table 2).
The two 20-way configs train the same weights, so one training serves both.
It takes about 7.8 hours on two CPU cores, without curves and evaluation, at 7.1 meta-iterations/s (`make benchmark`).
"""

from ml_collections import ConfigDict

from configs import default


def get_config() -> ConfigDict:
    """Returns the config of the run."""
    config = default.get_config()
    config.classes = 20
    config.shots = 1
    config.train_shots = 10
    config.inner_batch = 20
    config.inner_iters = 10
    config.learning_rate = 5e-4
    config.meta_step = 1.0
    config.meta_step_final = 0.0
    config.meta_batch = 5
    config.meta_iters = 200_000
    config.eval_batch = 10
    config.eval_iters = 50
    return config
