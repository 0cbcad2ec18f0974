"""Omniglot, 20-way, in a tenth of the published meta-iterations.

    python main.py --config=configs/omniglot_fast_20way.py

The training differs from the published one in its length and in the fields that configs/omniglot_fast_5way.py changes,
chosen in the same way. A balanced mini-batch has a drawing of each character, so `eval_batch` is 20 instead of 10.
"""

from ml_collections import ConfigDict

from configs import omniglot_5shot_20way


def get_config() -> ConfigDict:
    """Returns the config of the run."""
    config = omniglot_5shot_20way.get_config()
    config.learning_rate = 2e-3
    config.balanced = True
    config.zero_head = True
    config.meta_iters = 20_000
    config.eval_batch = 20
    config.eval_interval = 50
    config.eval_train = False
    return config
