"""Omniglot, 5-way 1-shot, transductive.

    python main.py --config=configs/omniglot_1shot_5way_transductive.py

Published accuracy on test characters: 97.68 % (paper, table 2).
Trains as configs/omniglot_1shot_5way.py does, and takes as long.
"""

from ml_collections import ConfigDict

from configs import omniglot_1shot_5way


def get_config() -> ConfigDict:
    """Returns the config of the run."""
    config = omniglot_1shot_5way.get_config()
    config.transductive = True
    return config
