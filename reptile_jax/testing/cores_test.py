"""Tests how many devices a program makes from the cores that it may use."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import main
from reptile_jax import command_line
from reptile_jax.cores import usable_cores
from reptile_jax.devices import best_cpu_devices
from reptile_jax.testing.eight_devices import distance
from reptile_jax.testing.small_runs import SMALL, run, same_bits, small, state_of

FIELDS = SMALL | {"meta_batch": 5, "meta_iters": 4, "checkpoint_interval": 2}
CPU = os.environ | {"JAX_PLATFORMS": "cpu"}  # the platform of these tests on a machine with a GPU, too


@pytest.mark.parametrize(
    ("fields", "by_cores"),
    [
        ({"meta_batch": 5}, {1: 1, 2: 2, 3: 3, 4: 3, 5: 5, 64: 5}),  # 5 tasks on 4 devices take as long as on 3
        ({"meta_batch": 1}, {1: 1, 2: 1, 64: 1}),
        ({"meta_batch": 1, "num_seeds": 3}, {2: 1, 3: 3, 4: 3}),  # the seeds must divide equally among the devices
        ({"meta_batch": 5, "num_seeds": 3}, {2: 2, 4: 3, 16: 15}),
        ({"meta_batch": 5, "inner_state": "sequential"}, {16: 1}),
        ({"meta_batch": 5, "inner_state": "sequential", "num_seeds": 4}, {2: 2, 16: 4}),
    ],
)
def test_devices_by_cores(fields, by_cores):
    assert {cores: best_cpu_devices(small(**fields), cores) for cores in by_cores} == by_cores


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="the system has no affinity of processes")
def test_the_cores_are_those_that_the_process_may_use():
    code = "import os; from reptile_jax.cores import usable_cores as n; print(n())"
    one = f"import os; os.sched_setaffinity(0, {{min(os.sched_getaffinity(0))}}); {code}"
    here, there = (
        int(subprocess.run([sys.executable, "-c", text], capture_output=True, check=True, text=True).stdout)
        for text in (code, one)
    )
    assert here == usable_cores() and there == 1


@pytest.mark.parametrize(("quota", "cores"), [("max", 8), ("300000", 3), ("50000", 1)])
@pytest.mark.parametrize("version", [1, 2, "2, a group inside the box"])
def test_the_quota_of_a_container(monkeypatch, version, quota, cores):
    """Versions 1 and 2 of Linux's control groups; without a quota, they have "-1" and "max"."""
    folder = "/sys/fs/cgroup/cpu/cpu.cfs"
    files = {
        1: {
            "/proc/self/cgroup": "1:cpu:/box\n",
            f"{folder}_quota_us": quota.replace("max", "-1"),
            f"{folder}_period_us": "100000\n",
        },
        2: {"/proc/self/cgroup": "0::/box\n", "/sys/fs/cgroup/box/cpu.max": f"{quota} 100000\n"},
        "2, a group inside the box": {
            "/proc/self/cgroup": "0::/box/job\n",
            "/sys/fs/cgroup/box/cpu.max": f"{quota} 100000\n",
            "/sys/fs/cgroup/box/job/cpu.max": "900000 100000\n",
        },
    }

    def read_text(path):
        if str(path) not in files[version]:
            raise FileNotFoundError(path)
        return files[version][str(path)]

    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.setattr("reptile_jax.cores.Path.read_text", read_text)
    assert usable_cores() == cores


def test_the_cores_of_a_system_that_has_no_affinity_and_no_control_groups(monkeypatch):
    """macOS is such a system."""
    monkeypatch.delattr("os.sched_getaffinity", raising=False)
    monkeypatch.setattr("reptile_jax.cores.Path.read_text", Path("/nowhere").open)
    monkeypatch.setattr("os.cpu_count", lambda: 6)
    assert usable_cores() == 6


@pytest.mark.parametrize(
    ("flags", "variables", "made"),
    [
        ("--config=quickstart", {}, [5]),  # five tasks
        ("--mode=eval --pretrained=omniglot_5way", {}, [8]),
        ("--mode=benchmark", {}, [8]),
        ("--config=quickstart --cpu_devices=3", {}, [3]),
        ("--mode=eval --pretrained=omniglot_5way --cpu_devices=3", {}, [3]),
        ("--mode=benchmark --cpu_devices=3", {}, [3]),
        ("--config=quickstart --distributed", {}, []),
        ("--mode=parity", {}, []),
        ("--mode=demo --pretrained=omniglot_5way", {}, []),
        ("--config=quickstart", {"JAX_NUM_CPU_DEVICES": "2"}, []),
        ("--config=quickstart", {"XLA_FLAGS": "--xla_force_host_platform_device_count=2"}, []),
        ("--config=quickstart", {"XLA_FLAGS": "--xla_gpu_deterministic_ops=true"}, [5]),
    ],
)
def test_the_devices_of_each_mode_on_eight_cores(monkeypatch, flags, variables, made):
    assert devices_made(monkeypatch, 8, flags, variables) == made


def test_more_cores_than_xla_can_have_as_devices(monkeypatch):
    assert devices_made(monkeypatch, 1000, "--mode=eval --pretrained=omniglot_5way", {}) == [256]


def devices_made(monkeypatch, cores, flags, variables):
    """Returns the numbers of devices that main.py makes."""
    for name in ("JAX_NUM_CPU_DEVICES", "XLA_FLAGS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    made = []
    for module in ("main", "reptile_jax.devices"):
        monkeypatch.setattr(f"{module}.make_cpu_devices", made.append)
    monkeypatch.setattr("reptile_jax.devices.usable_cores", lambda: cores)
    main.make_devices(command_line.parse(["main.py", *flags.split()], main.MODES))
    return made


def test_a_run_goes_on_with_another_number_of_devices_and_says_so(tmp_path):
    """Two devices round differently from one; a number of devices in the environment is kept."""

    def trained(workdir, *flags, env=CPU):
        done = run(f"--workdir={workdir}", *flags, cwd=tmp_path, env=env, **FIELDS)
        assert done.returncode == 0, done.stderr
        return done.stderr, state_of(tmp_path / workdir, small(**FIELDS))

    def interrupt(workdir):
        (tmp_path / workdir / "checkpoints" / "4").rename(tmp_path / f"newest of {workdir}")

    _, one = trained("one", "--cpu_devices=1")
    _, two = trained("two", "--cpu_devices=2")
    assert not same_bits(one, two) and distance(one, two) < 1e-3
    interrupt("two")
    said, again = trained("two", "--cpu_devices=2")
    assert "Resuming two at meta-iteration 2.\n" in said and same_bits(again, two)
    interrupt("one")
    said, moved = trained("one", env=CPU | {"JAX_NUM_CPU_DEVICES": "2"})
    on = f"of {usable_cores()} cores"
    told = f"Resuming one at meta-iteration 2; it was on 1 cpu device {on}, and rounding differs on 2 cpu devices {on}."
    assert told in said and distance(moved, one) < 1e-3


def test_a_program_makes_the_devices_that_its_tasks_can_fill(tmp_path):
    done = run("--workdir=run", cwd=tmp_path, env=CPU, **FIELDS)
    assert done.returncode == 0
    (seal,) = (tmp_path / "run" / "checkpoints" / "4").glob("seal.json")
    expected = best_cpu_devices(small(**FIELDS), usable_cores())
    assert f'"machine": "{expected} cpu device' in seal.read_text()


def test_no_devices_are_refused(tmp_path):
    failed = run("--cpu_devices=0", cwd=tmp_path, **FIELDS)
    assert failed.returncode == 1 and "cpu_devices=0" in failed.stderr and failed.stderr.count("\n") == 1


def test_cpu_devices_share_the_data():
    """Eight devices of a process share an array, unless it is divided along the mesh."""
    code = (
        "import jax, numpy as np; from jax.sharding import Mesh; from reptile_jax.devices import put;"
        "mesh = Mesh(np.array(jax.devices())[None], ('seeds', 'tasks')); x = np.ones((8, 1000, 1001), np.uint8);"
        "print(*[len({y.data.unsafe_buffer_pointer() for y in put(mesh, x, *axes).addressable_shards})"
        " for axes in ((), (None, 'tasks'))])"
    )
    env = CPU | {"JAX_NUM_CPU_DEVICES": "8"}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert done.stdout == "1 8\n", done.stderr
