"""Where a run computes: its tasks and seeds are spread over the devices of all processes."""

import contextlib
import functools
import math
import os
import re
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax import lax
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from ml_collections import ConfigDict

from reptile_jax.cores import usable_cores
from reptile_jax.progress import say

# JAX's warning. The process may have been killed while it wrote an entry, or its disk may be full.
CACHE_FAILURE = r"Error (?:reading|writing) persistent compilation cache entry for '[^']*': \w+: (.*)"
SEEDS, TASKS = "seeds", "tasks"  # the axes of the mesh
ALIGNMENT = 64  # bytes; where host memory is aligned to it, CPU devices read that memory and copy nothing
MOST_CPU_DEVICES = 256  # XLA cannot compute on 1024
LOWEST = 19  # priority of a thread, as `nice` takes it


def keep_compiled() -> None:
    """Keeps compiled programs between runs, in the user's cache folder or where JAX_COMPILATION_CACHE_DIR says.

    If they cannot be read or written there, one line says so, and the run goes on.
    """
    home = os.path.expanduser("~")
    if jax.config.values["jax_compilation_cache_dir"] is None and home != "~":  # "~": a user who has none
        jax.config.update("jax_compilation_cache_dir", str(Path(home, ".cache", "reptile_jax")))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)  # a run compiles many small programs
    show = warnings.showwarning

    def show_once(message: Warning | str, *rest: Any, **named: Any) -> None:
        failure = re.match(CACHE_FAILURE, str(message))
        if failure is None:
            return show(message, *rest, **named)
        warnings.filterwarnings("ignore", message=CACHE_FAILURE)  # the same would follow for every program
        folder = jax.config.values["jax_compilation_cache_dir"]
        return say(
            f"{folder}: compiled programs cannot be kept there or read ({failure[1]}), so this run compiles its own: "
            "make room and write access there, or delete the *-cache files in it"
        )

    warnings.showwarning = show_once


def best_cpu_devices(config: ConfigDict, cores: int) -> int:
    """Returns how many CPU devices train a run fastest on so many cores.

    That is the smallest number for which the busiest device has the fewest tasks. One device hardly gains from a second
    core, because the matrix products of a task are small.
    """

    def tasks_of_the_busiest(devices: int) -> int:
        rows = math.gcd(config.num_seeds, devices)
        shared_by = 1 if config.inner_state == "sequential" else devices // rows
        return config.num_seeds // rows * -(-config.meta_batch // shared_by)

    return min(range(1, cores + 1), key=tasks_of_the_busiest)


def make_cpu_devices(number: int) -> None:
    """Divides the CPU into so many XLA devices.

    Raises:
        RuntimeError: JAX has its devices already.
    """
    jax.config.update("jax_num_cpu_devices", number)


def divide_cpu(config: ConfigDict | None = None) -> None:
    """Makes the CPU devices that a run trains fastest on, or one for each core if there is no run to train.

    Does nothing if the environment sets the number of CPU devices.

    Raises:
        RuntimeError: JAX has its devices already.
    """
    by_flag = "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", "")
    if not by_flag and "JAX_NUM_CPU_DEVICES" not in os.environ:
        cores = min(usable_cores(), MOST_CPU_DEVICES)
        make_cpu_devices(cores if config is None else best_cpu_devices(config, cores))


@functools.cache
def background_device() -> jax.Device | None:
    """Returns a CPU device that computes on what the devices of the run leave of the cores, or None on an accelerator.

    It is not one of `jax.devices()`, because the threads of those have one priority and take a core from each other. It
    has a client of its own with a single thread, on Linux of the lowest priority. Returns None, too, if the run has
    several processes, because such a device belongs to one of them.
    """
    if jax.default_backend() != "cpu" or jax.process_count() > 1:
        return None
    from jaxlib import xla_client  # not public, so only what needs it depends on it

    def client_of_a_thread() -> xla_client.Client:
        if sys.platform == "linux":  # elsewhere, a priority is that of a whole process
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), LOWEST)  # the client's threads inherit it
        return xla_client.make_cpu_client(num_devices=1)

    threads = os.environ.get("PJRT_NPROC")
    os.environ["PJRT_NPROC"] = "1"  # with two threads, small products take twice the CPU time
    try:
        with ThreadPoolExecutor(1) as thread:
            return thread.submit(client_of_a_thread).result().devices()[0]
    finally:
        os.environ.pop("PJRT_NPROC")
        if threads is not None:
            os.environ["PJRT_NPROC"] = threads


def mesh_of(config: ConfigDict, of: Sequence[jax.Device] | None = None, training: bool = True) -> Mesh:
    """Returns devices, by default all of every process, as a grid [seeds, tasks].

    The number of rows is the largest that divides both the number of seeds and the number of devices. The devices of a
    row share the tasks of its seeds. If training passes the second moment from task to task, one device of each row
    does all of it, and the others are idle; a mesh for evaluation alone has all devices.
    """
    used = jax.devices() if of is None else of
    rows = math.gcd(config.num_seeds, len(used))
    grid = np.array(used).reshape(rows, -1)
    one_of_row = training and config.inner_state == "sequential"
    return Mesh(grid[:, :1] if one_of_row else grid, (SEEDS, TASKS))


def at_once(config: ConfigDict) -> bool:
    """Returns whether the tasks (and seeds) of a device run together under `vmap`, and not one after the other.

    By default they run one after the other on a CPU, because its caches hold the arrays of one task but not of many.
    """
    return config.tasks_at_once == "all" or (config.tasks_at_once == "auto" and jax.default_backend() != "cpu")


def each(f: Callable[..., Any], *xs: Any, at_once: bool) -> Any:
    """Maps f over the leading axis of its arguments, with `vmap` or in a loop."""
    return jax.vmap(f)(*xs) if at_once else lax.map(lambda x: f(*x), xs)


def put(mesh: Mesh, tree: Any, *axes: str) -> Any:
    """Places host arrays, which are the same in every process, on a mesh, with their leading axes along its `axes`.

    CPU devices share the memory of arrays that are whole there, so no code may write to them afterwards.
    """
    sharding = NamedSharding(mesh, PartitionSpec(*axes))

    def placed(x: np.ndarray) -> jax.Array:
        x = _aligned(np.asarray(x))
        return jax.make_array_from_callback(x.shape, sharding, lambda index: x[index])

    return jax.tree.map(placed, tree)


def _aligned(x: np.ndarray) -> np.ndarray:
    """Returns the array, or a copy of it, in memory that CPU devices can share."""
    if x.ctypes.data % ALIGNMENT == 0 and x.flags.c_contiguous:
        return x
    memory = np.empty(x.nbytes + ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % ALIGNMENT
    copy = memory[start : start + x.nbytes].view(x.dtype).reshape(x.shape)
    copy[...] = x
    return copy


def machine(mesh: Mesh) -> str:
    """Describes what a run is computed on and what its rounding depends on, such as "2 cpu devices of 4 cores"."""
    device = mesh.devices.flat[0]
    cores = f" of {usable_cores()} cores" if device.platform == "cpu" else ""
    return f"{mesh.size} {device.device_kind} device{'s' if mesh.size > 1 else ''}{cores}"


def is_main() -> bool:
    """Returns whether this is the process that prints and writes."""
    return jax.process_index() == 0


def agreed(number: int) -> int:
    """Returns the largest of the numbers that the processes give; every process must call it."""
    return int(np.max(_everywhere(number)))


def same_everywhere(number: int) -> bool:
    """Returns whether all processes give the same number; every process must call it."""
    return bool(np.all(_everywhere(number) == number))


class ElsewhereError(Exception):
    """Another process of the run failed, and its message says why."""


@contextlib.contextmanager
def together() -> Iterator[None]:
    """If any process raises an error in this context, all raise, so that none waits; every process must enter it.

    Raises:
        ElsewhereError: this process did not fail, but another one did.
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
    """Returns the numbers that the processes give."""
    return np.asarray(multihost_utils.process_allgather(np.int32(number)))
