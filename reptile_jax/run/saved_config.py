"""Reads the config of a run from its config.json or its weights file."""

import json
from pathlib import Path

from ml_collections import ConfigDict

from reptile_jax.config import ConfigError, completed
from reptile_jax.run.pretrained import config_text


def read(named: str | Path, defaults: ConfigDict) -> ConfigDict:
    """Reads the config of trained weights.

    Args:
        named: a workdir, a checkpoint, a weights file or a shipped name, as `pretrained.load` takes it.
        defaults: configs/default.py's config, which gives each field its type.

    Raises:
        ConfigError: there is no config, or it is damaged.
        CheckpointError, WeightsError: there is nothing of this name.
    """
    try:
        text = config_text(named)
    except OSError as error:
        raise ConfigError(f"{named} has no config of a run ({error.strerror}): give --config=NAME") from error
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{named} has results that do not name their config: give --config=NAME") from error
    return parse(text, named, defaults)


def parse(text: str, named: str | Path, defaults: ConfigDict) -> ConfigDict:
    """Makes a config from the text of a config.json, also of an older version; errors mention `named`.

    Raises:
        ConfigError: the text is not the JSON of a config.
    """
    config = defaults.copy_and_resolve_references()
    try:
        fields = completed(ConfigDict(json.loads(text))).to_dict()
        fields["eval_shots"] = tuple(fields["eval_shots"])  # JSON has no tuples
        config.update(fields)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"{named} has no config of a run (it is damaged or something else): give --config=NAME"
        ) from error
    return config
