"""Mini-ImageNet, 5-way 5-shot.

    python main.py --config=configs/miniimagenet_5shot_5way.py --config.data.dir=DIR

Published accuracy on test classes: 62.74 % (paper, table 1).
Trains as configs/miniimagenet_1shot_5way.py does, and takes as long.
"""

from ml_collections import ConfigDict

from configs import miniimagenet_1shot_5way


def get_config() -> ConfigDict:
    """Returns the config of the run."""
    config = miniimagenet_1shot_5way.get_config()
    config.shots = 5
    config.eval_shots = (5,)
    config.eval_batch = 15
    return config
