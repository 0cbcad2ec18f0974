"""Omniglot, 20-way 5-shot.

    python main.py --config=configs/omniglot_5shot_20way.py

Published accuracy on test characters: 96.65 % (paper, table 2).
Trains as configs/omniglot_1shot_20way.py does, and takes as long.
"""

from ml_collections import ConfigDict

from configs import omniglot_1shot_20way


def get_config() -> ConfigDict:
    """Returns the config of the run."""
    config = omniglot_1shot_20way.get_config()
    config.shots = 5
    return config
