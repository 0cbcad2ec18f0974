"""python -m reptile_jax.results [WORKDIR ...]: see `tables`."""

import sys

from reptile_jax.results.tables import main

main(sys.argv[1:])
