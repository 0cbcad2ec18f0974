"""The config that a run began with: configs/saved.py:WORKDIR, which main.py takes where --config is left out."""

import json
from pathlib import Path

from ml_collections import ConfigDict

from configs import default


def get_config(workdir: str) -> ConfigDict:
    """Returns the config of the run in a workdir.

    Raises:
        ValueError: the workdir holds no config.json, or it is of another version.
    """
    path = Path(workdir, "config.json")
    config = default.get_config()
    try:
        fields = json.loads(path.read_text())
        fields["eval_shots"] = tuple(fields["eval_shots"])  # JSON has lists alone
        config.update(fields)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is not the config of a run ({error}): give --config=configs/NAME.py") from error
    return config
