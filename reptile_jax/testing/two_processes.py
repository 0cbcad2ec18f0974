"""A program that devices_test.py starts as several processes: python two_processes.py FILE PORT PROCESSES PROCESS."""

import sys
import time
from pathlib import Path
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

from reptile_jax.run import checkpoint
from reptile_jax.testing import eight_devices
from reptile_jax.testing.small_runs import small

if __name__ == "__main__":
    file, port, processes, process = sys.argv[1], *map(int, sys.argv[2:])
    jax.distributed.initialize(f"localhost:{port}", processes, process)
    config, workdir, seal = small(meta_batch=5, meta_iters=20), Path(file).with_suffix(""), checkpoint._seal
    states = eight_devices.train(config, jax.device_count(), jnp.float64, 20)
    with mock.patch.object(checkpoint, "_seal", lambda *arguments: (time.sleep(2), seal(*arguments))):
        checkpoint.Checkpoints(workdir, write=True).save(states, config, 0)
    assert checkpoint.newest(workdir) == 20  # in every process, however long sealing takes
    if process == 0:
        np.savez(file, weights=np.concatenate([x.ravel() for x in jax.tree.leaves(states.params)]))
