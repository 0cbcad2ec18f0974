"""Omniglot, 5-way 5-shot.

    python main.py --config=configs/omniglot_5shot_5way.py

Published accuracy on test characters: 98.90 % (paper, table 2).
Trains as configs/omniglot_1shot_5way.py does, and takes as long.
"""

from ml_collections import ConfigDict

from configs import omniglot_1shot_5way


def get_config() -> ConfigDict:
    """Returns the config of the run."""
    config = omniglot_1shot_5way.get_config()
    config.shots = 5
    return config
