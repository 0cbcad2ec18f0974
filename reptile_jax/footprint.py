"""What a training process takes, alone: python -m reptile_jax.footprint CONFIG_AS_JSON MEASUREMENTS STEP.

Prints its resident memory, in MB, as soon as the first meta-iteration is done and after every STEP more, and at the end
the most that it was.
"""

import json
import sys
from pathlib import Path

import jax
import numpy as np
from ml_collections import ConfigDict

import reptile_jax.train  # noqa: F401  what a run imports
from reptile_jax.classes import load_data
from reptile_jax.config import seeds_of
from reptile_jax.devices import keep_compiled, mesh_of, put
from reptile_jax.programs import initial_states, train_program


def megabytes(field: str) -> float:
    """Returns a field of Linux's /proc/self/status: "VmRSS" is the resident memory, "VmHWM" the most that it was."""
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(fields[field].split()[0]) / 1024


def main(config: ConfigDict, measurements: int, step: int) -> None:
    """Trains for a while, printing."""
    mesh = mesh_of(config)
    data, states = load_data(config, mesh), put(mesh, initial_states(config))
    advance, seeds = train_program(config, mesh), np.array(seeds_of(config), np.int32)
    for count in [1] + [step] * measurements:
        states, _ = advance(states, seeds, data.images, data.pools["train"], count)
        jax.block_until_ready(states)
        print(megabytes("VmRSS"), flush=True)
    print(megabytes("VmHWM"))
    assert "torch" not in sys.modules


if __name__ == "__main__":
    keep_compiled()
    main(ConfigDict(json.loads(sys.argv[1])), int(sys.argv[2]), int(sys.argv[3]))
