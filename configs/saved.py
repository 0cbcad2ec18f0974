"""The config that trained a run: configs/saved.py:NAMED, which main.py takes where --config is left out.

NAMED is a workdir or, in evaluation, whatever --pretrained takes.
"""

import json

from ml_collections import ConfigDict

from configs import default
from reptile_jax.run.checkpoint import CheckpointError
from reptile_jax.run.pretrained import config_text
from reptile_jax.run.weights_file import WeightsError


def get_config(named: str) -> ConfigDict:
    """Returns the config of a run.

    Raises:
        ValueError: there is no such run, or it is of another version.
    """
    config = default.get_config()
    try:
        fields = json.loads(config_text(named))
        fields["eval_shots"] = tuple(fields["eval_shots"])  # JSON has lists alone
        config.update(fields)
    except CheckpointError as error:
        raise ValueError(error) from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError, WeightsError) as error:
        raise ValueError(f"{named} has no config of a run ({error}): give --config=configs/NAME.py") from error
    return config
