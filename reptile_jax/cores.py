"""How many CPU cores this process may use."""

import contextlib
import os
from pathlib import Path


def usable_cores() -> int:
    """Returns the number of cores that this process may use: its affinity, and the quota of its container on Linux."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    groups, group = Path("/sys/fs/cgroup"), ""
    with contextlib.suppress(OSError):
        group = Path("/proc/self/cgroup").read_text().strip().rpartition("::/")[2]
    version_1 = [groups / "cpu" / f"cpu.cfs_{name}_us" for name in ("quota", "period")]
    version_2 = [[folder / "cpu.max"] for folder in (groups / group / "cpu.max").parents]  # each group limits its own
    for files in (*version_2, version_1):
        with contextlib.suppress(OSError, ValueError):  # there are no such control groups, or the quota is "max"
            quota, period = (int(number) for file in files for number in file.read_text().split())
            cores = min(cores, max(1, quota // period)) if quota > 0 else cores  # -1: no quota
    return cores
