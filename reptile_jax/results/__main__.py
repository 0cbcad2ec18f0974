"""python -m reptile_jax.results [WORKDIR ...]: see `tables`."""

import sys

from reptile_jax.config import ConfigError
from reptile_jax.results.tables import main
from reptile_jax.run.checkpoint import CheckpointError

try:
    main(sys.argv[1:])
except (ConfigError, CheckpointError, ValueError) as error:
    sys.exit(f"error: {error}")
except OSError as error:
    sys.exit(f"error: {error.filename}: {error.strerror}: name the workdir of a run that is finished")
