"""Omniglot, 5-way 1-shot.

    python main.py --config=configs/omniglot_1shot_5way.py

Published accuracy on test characters: 95.39 % (paper, table 2).
The three 5-way configs train the same weights, so one training serves all of them.
It takes about 70 minutes on two CPU cores, without curves and evaluation, at 24 meta-iterations/s (`make benchmark`).
"""

from ml_collections import ConfigDict

from configs import default


def get_config() -> ConfigDict:
    """Returns the config of the run."""
    config = default.get_config()
    config.classes = 5
    config.shots = 1
    config.train_shots = 10
    config.inner_batch = 10
    config.inner_iters = 5
    config.learning_rate = 1e-3
    config.meta_step = 1.0
    config.meta_step_final = 0.0
    config.meta_batch = 5
    config.meta_iters = 100_000
    config.eval_batch = 5
    config.eval_iters = 50
    return config
