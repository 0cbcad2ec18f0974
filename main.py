"""Trains and evaluates Reptile: python main.py --config=configs/NAME.py [--config.FIELD=VALUE ...] [--workdir=DIR]."""

import sys
from pathlib import Path

import jax
from absl import app, flags, logging
from ml_collections import config_flags

from reptile_jax import train
from reptile_jax.checkpoint import CheckpointError
from reptile_jax.config import ConfigError
from reptile_jax.data import DataError

CONFIG = config_flags.DEFINE_config_file("config", None, "The run's config, a file of configs/.", lock_config=True)
WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run; default: runs/<config name>.")
MODE = flags.DEFINE_enum("mode", "train", ["train", "eval"], "Train and then evaluate, or evaluate only.")
PRETRAINED = flags.DEFINE_string("pretrained", None, "Workdir or checkpoint with the weights to start from.")


def main(argv: list[str]) -> None:
    """Runs the mode that the flags name."""
    if len(argv) > 1:
        sys.exit(f"error: unexpected argument {argv[1]}: flags are written --name=value")
    if not flags.FLAGS["verbosity"].present:
        logging.set_verbosity(logging.WARNING)  # JAX and Orbax say much at the level of information
    if jax.config.jax_compilation_cache_dir is None:  # as set by JAX_COMPILATION_CACHE_DIR
        jax.config.update("jax_compilation_cache_dir", str(Path.home() / ".cache" / "reptile_jax"))
    config_name = Path(flags.FLAGS["config"].config_filename).stem
    workdir = Path(WORKDIR.value or Path("runs") / config_name)
    run = train.train_and_evaluate if MODE.value == "train" else train.evaluate_only
    try:
        run(CONFIG.value, workdir, Path(PRETRAINED.value) if PRETRAINED.value else None)
    except (ConfigError, DataError, CheckpointError, train.TrainingError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    flags.mark_flag_as_required("config")
    app.run(main)
