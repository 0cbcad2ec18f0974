"""Omniglot, 5-way 1-shot, first-order MAML with a separate tail in place of Reptile.

    python main.py --config=configs/omniglot_foml_5way.py

The meta-update is the last inner step's delta, on five drawings of each class that the other steps do not see.
Everything else is as in configs/omniglot_1shot_5way.py, with the same number of drawings for the other steps.
"""

from ml_collections import ConfigDict

from configs import omniglot_1shot_5way


def get_config() -> ConfigDict:
    """Returns the config of the run."""
    config = omniglot_1shot_5way.get_config()
    config.train_shots = 15
    config.foml = True
    config.foml_tail = 5
    return config
