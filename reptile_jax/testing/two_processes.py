"""A program that devices_test.py starts as several processes: python two_processes.py FILE PORT PROCESSES PROCESS."""

import sys

import jax
import jax.numpy as jnp
import numpy as np

from reptile_jax.testing import eight_devices
from reptile_jax.testing.small_runs import small

if __name__ == "__main__":
    file, port, processes, process = sys.argv[1], *map(int, sys.argv[2:])
    jax.distributed.initialize(f"localhost:{port}", processes, process)
    states = eight_devices.train(small(meta_batch=5, meta_iters=20), jax.device_count(), jnp.float64, 20)
    if process == 0:
        np.savez(file, weights=np.concatenate([x.ravel() for x in jax.tree.leaves(states.params)]))
