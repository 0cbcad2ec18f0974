"""Where a run computes: tasks and seeds spread over the devices of every process, and what the processes agree on."""

import contextlib
import math
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax import lax
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from ml_collections import ConfigDict

SEEDS, TASKS = "seeds", "tasks"  # the axes of the mesh


def keep_compiled() -> None:
    """Keeps compiled programs between runs, in the user's cache folder or where JAX_COMPILATION_CACHE_DIR says."""
    home = os.path.expanduser("~")
    if jax.config.values["jax_compilation_cache_dir"] is None and home != "~":  # "~": a user who has none
        jax.config.update("jax_compilation_cache_dir", str(Path(home, ".cache", "reptile_jax")))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)  # a run compiles many small programs


def mesh_of(config: ConfigDict, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Returns devices, by default all of every process, as a grid [seeds, tasks].

    As many rows as divide both the seeds and the devices; a row shares the tasks of its seeds. Tasks that pass the
    second moment on, one to the next, have one device a row, and the others have nothing to do.
    """
    devices = jax.devices() if devices is None else devices
    rows = math.gcd(config.num_seeds, len(devices))
    grid = np.array(devices).reshape(rows, -1)
    return Mesh(grid[:, :1] if config.inner_state == "sequential" else grid, (SEEDS, TASKS))


def at_once(config: ConfigDict) -> bool:
    """Whether the tasks (and seeds) of a device run together, vmapped, or one after the other.

    The latter by default on a CPU, whose caches hold the arrays of one task and not of many.
    """
    return config.tasks_at_once == "all" or (config.tasks_at_once == "auto" and jax.default_backend() != "cpu")


def each(f: Callable[..., Any], *xs: Any, at_once: bool) -> Any:
    """Maps f over the leading axis of its arguments, vmapped or as a loop."""
    return jax.vmap(f)(*xs) if at_once else lax.map(lambda x: f(*x), xs)


def put(mesh: Mesh, tree: Any, *axes: str) -> Any:
    """Places host arrays, the same in every process, on a mesh, their leading axes along `axes` of it."""
    sharding = NamedSharding(mesh, PartitionSpec(*axes))
    return jax.tree.map(lambda x: jax.make_array_from_callback(x.shape, sharding, lambda index: x[index]), tree)


def is_main() -> bool:
    """Whether this is the process that prints and writes."""
    return jax.process_index() == 0


def agreed(number: int) -> int:
    """Returns the largest of the numbers that the processes give; each of them has to call it."""
    return int(np.max(_everywhere(number)))


def same_everywhere(number: int) -> bool:
    """Whether all processes give the same number; each of them has to call it."""
    return bool(np.all(_everywhere(number) == number))


class ElsewhereError(Exception):
    """Another process of the run failed, and says why."""


@contextlib.contextmanager
def together() -> Iterator[None]:
    """What one process raises in here, all raise, so that none waits for another; each of them has to come here.

    Raises:
        ElsewhereError: in the processes that did not fail themselves.
    """
    error: Exception | None = None
    try:
        yield
    except Exception as raised:
        error = raised
    failed = agreed(error is not None)
    if error is not None:
        raise error
    if failed:
        raise ElsewhereError("another process of the run failed, and says why")


def _everywhere(number: int) -> np.ndarray:
    """The numbers that the processes give."""
    return np.asarray(multihost_utils.process_allgather(np.int32(number)))
