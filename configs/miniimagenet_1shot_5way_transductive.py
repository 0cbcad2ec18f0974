"""Mini-ImageNet, 5-way 1-shot, transductive.

    python main.py --config=configs/miniimagenet_1shot_5way_transductive.py --config.data.dir=DIR

Published accuracy on test classes: 49.97 % (paper, table 1).
Trains as configs/miniimagenet_1shot_5way.py does, and takes as long.
"""

from ml_collections import ConfigDict

from configs import miniimagenet_1shot_5way


def get_config() -> ConfigDict:
    """Returns the config of the run."""
    config = miniimagenet_1shot_5way.get_config()
    config.transductive = True
    return config
