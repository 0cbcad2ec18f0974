"""Tests for eight devices; devices_test.py runs them in a process with eight virtual devices."""

import functools
import os
import sys
from pathlib import Path
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import omniglot_1shot_5way, omniglot_1shot_20way
from reptile_jax import devices
from reptile_jax.devices import background_device, mesh_of, put
from reptile_jax.meta.reptile import MetaMetrics
from reptile_jax.run import curves
from reptile_jax.run.curves import Curves
from reptile_jax.run.evaluate import measure
from reptile_jax.run.metrics import MetricsWriter
from reptile_jax.run.programs import (
    curve_program,
    eval_program,
    initial_states,
    state_shapes,
    task_keys,
    train_program,
)
from reptile_jax.tasks import kind_of
from reptile_jax.testing.small_runs import small, small_waves


def train(config, count, dtype, iterations):
    """Returns the weights after some meta-iterations on the first few devices."""
    mesh = mesh_of(config, jax.devices()[:count])
    data, states = kind_of(config).load(config, mesh), put(mesh, initial_states(config, dtype))
    seeds = np.arange(config.num_seeds, dtype=np.int32) + config.seed
    states, _ = train_program(config, mesh)(states, seeds, data.source, data.pools["train"], iterations)
    return jax.tree.map(np.asarray, states)


@functools.cache
def on_one_device(seed, dtype, iterations):
    """Returns the weights after some meta-iterations of five tasks on one device."""
    return train(small(meta_batch=5, meta_iters=20, seed=seed), 1, dtype, iterations)


def distance(a, b):
    """Returns the relative L2 distance of weights and inner optimiser's states."""
    flat_a, flat_b = (np.concatenate([np.ravel(x) for x in jax.tree.leaves((s.params, s.opt_state))]) for s in (a, b))
    return np.linalg.norm(flat_a - flat_b) / np.linalg.norm(flat_b)


def test_the_meshes():
    assert jax.device_count() == 8
    shapes = lambda **fields: mesh_of(small(**fields)).devices.shape  # noqa: E731
    assert shapes() == shapes(num_seeds=3) == (1, 8)
    assert shapes(num_seeds=4) == (4, 2) and shapes(num_seeds=16) == (8, 1) and shapes(num_seeds=6) == (2, 4)
    one_after_the_other = small(inner_state="sequential", num_seeds=4)
    assert shapes(inner_state="sequential") == (1, 1) and mesh_of(one_after_the_other).devices.shape == (4, 1)
    assert mesh_of(one_after_the_other, training=False).devices.shape == (4, 2)


@pytest.fixture(scope="module", params=["averaged", "reset"])
def alone(request):
    """Returns a config with five tasks per meta-iteration, and twenty meta-iterations on one device, in float64."""
    config = small(meta_batch=5, meta_iters=20, inner_state=request.param)
    with jax.enable_x64(True):
        return config, train(config, 1, jnp.float64, 20)


@pytest.mark.parametrize("devices", [2, 8])
def test_tasks_spread_over_devices_train_as_on_one(x64, alone, devices):
    config, wanted = alone
    assert distance(train(config, devices, jnp.float64, 20), wanted) < 1e-7


def test_a_task_more_or_less_is_seen(x64, alone):
    """Negative control: if the added tasks counted, the mean would differ."""
    config, wanted = alone
    config = config.copy_and_resolve_references()
    config.meta_batch = 6
    assert distance(train(config, 8, jnp.float64, 20), wanted) > 1e-3


@pytest.mark.parametrize(
    ("num_seeds", "devices", "tasks_at_once"), [(3, 1, "all"), (3, 8, "one"), (4, 8, "one"), (4, 8, "all")]
)
def test_each_seed_is_the_run_it_would_be_alone(x64, num_seeds, devices, tasks_at_once):
    config = small(meta_batch=5, meta_iters=20, num_seeds=num_seeds, tasks_at_once=tasks_at_once, seed=2)
    together = train(config, devices, jnp.float64, 20)
    for index in (0, num_seeds - 1):
        wanted = on_one_device(2 + index, jnp.float64, 20)
        got = jax.tree.map(lambda x, index=index: x[index : index + 1], together)
        assert distance(got, wanted) < 1e-7
        assert distance(jax.tree.map(lambda x: x[1:2], together), wanted) > 1e-3  # another seed is another run


@pytest.mark.parametrize(("num_seeds", "devices"), [(3, 1), (4, 8)])
def test_one_meta_iteration_in_float32(num_seeds, devices):
    config = small(meta_batch=5, meta_iters=20, num_seeds=num_seeds)
    together = train(config, devices, jnp.float32, 1)
    for index in range(num_seeds):
        got = jax.tree.map(lambda x, index=index: x[index : index + 1], together)
        assert distance(got, on_one_device(index, jnp.float32, 1)) < 1e-4


def test_evaluation_spread_over_devices_is_that_of_one(x64):
    for num_seeds, many in ((3, 8), (4, 8)):
        config = small(num_seeds=num_seeds, eval_samples=12)
        states = initial_states(config, jnp.float64)
        results = []
        for count in (many, 1):
            mesh = mesh_of(config, jax.devices()[:count])
            program = eval_program(config, mesh, 1)
            results.append(
                measure(config, program, kind_of(config).load(config, mesh), "test", 1, put(mesh, states), mesh)
            )
        assert results[0] == results[1]
        assert len({x.mean for x in results[0]["inductive"]}) > 1


@pytest.mark.parametrize("num_seeds", [1, 4])
def test_points_of_the_curves_are_those_of_one_device(x64, num_seeds, monkeypatch):
    """They are spread over the devices, as on accelerators, or measured in the background."""
    config, rows = small_waves(num_seeds=num_seeds, meta_iters=100), []
    metrics = MetaMetrics(np.zeros(num_seeds), np.zeros(num_seeds))
    for count, background in ((1, None), (3, None), (8, None), (2, background_device())):
        monkeypatch.setattr(curves, "background_device", lambda background=background: background)
        mesh = mesh_of(config, jax.devices()[:count])
        states, writer = put(mesh, initial_states(config, jnp.float64)), mock.Mock(spec=MetricsWriter, rows=[])
        with Curves(config, kind_of(config).load(config, mesh), mesh, writer) as of_run:
            for iteration in range(7):
                of_run.add(iteration, states, metrics, 1.0)
            assert len(writer.write.call_args_list) == (7 if background is None else 5)
            of_run.measure()
        assert [call.args[0] for call in writer.write.call_args_list] == list(range(7))
        rows.append(np.array([list(call.args[1].values()) for call in writer.write.call_args_list]))
    for others in rows[1:]:
        np.testing.assert_allclose(others, rows[0], rtol=1e-9)
    assert len(np.unique(rows[0][:, 2:4])) == 14


def test_the_device_in_the_background_shares_the_images():
    config = small(meta_batch=5)
    mesh, device = mesh_of(config), background_device()
    assert device is not None and device not in jax.devices() and mesh.size == 8
    data = kind_of(config).load(config, mesh)
    with Curves(config, data, mesh, mock.Mock(spec=MetricsWriter, rows=[])) as of_run:
        images, theirs = data.source[0], of_run._source[0]
        assert theirs.devices() == {device}
        assert theirs.unsafe_buffer_pointer() == images.addressable_shards[0].data.unsafe_buffer_pointer()


@pytest.mark.skipif(sys.platform != "linux", reason="only on Linux do threads have priorities of their own")
def test_the_device_in_the_background_has_one_thread_of_low_priority(monkeypatch):
    def threads():  # -> name and priority
        found = {}
        for path in Path("/proc/self/task").glob("*/stat"):
            name, fields = path.read_text().rsplit(")", 1)
            found[path.parent.name] = name, int(fields.split()[16])
        return found

    monkeypatch.setenv("PJRT_NPROC", "5")
    jax.devices()  # makes the threads of the other devices
    before = threads()
    assert background_device.__wrapped__() is not None  # a new one
    assert os.environ["PJRT_NPROC"] == "5"
    new = [thread for number, thread in threads().items() if number not in before]
    assert sum("XLAEigen" in name for name, _ in new) == 1
    assert {priority for _, priority in new} == {devices.LOWEST}
    assert os.getpriority(os.PRIO_PROCESS, os.getpid()) < devices.LOWEST


@pytest.mark.parametrize(("of", "value"), [("default_backend", "gpu"), ("process_count", 2)])
def test_no_device_in_the_background(monkeypatch, of, value):
    monkeypatch.setattr(jax, of, lambda: value)
    assert background_device.__wrapped__() is None


def test_tasks_that_do_not_divide_are_all_evaluated():
    config = small()
    mesh = mesh_of(config)
    data, states = kind_of(config).load(config, mesh), put(mesh, initial_states(config))
    keys = jax.random.key_data(task_keys(jax.random.key(0), 0, 11))[None]
    program = eval_program(config, mesh, 1)
    pools = jax.tree.map(lambda x: np.full(11, x, np.int32), data.pools["test"])
    tasks, predictions = program(states, data.source, pools, keys)
    assert predictions.inductive.shape == (1, 11, 3)
    first, _ = program(states, data.source, jax.tree.map(lambda x: x[:8], pools), keys[:, :8])
    assert np.array_equal(tasks.support.rows[:, :8], first.support.rows)


@pytest.mark.parametrize(
    ("module", "devices"), [(omniglot_1shot_5way, 2), (omniglot_1shot_5way, 8), (omniglot_1shot_20way, 8)]
)
def test_a_published_run_on_any_number_of_devices(module, devices):
    """One meta-iteration of five tasks, which cannot be divided equally among the devices."""
    config = module.get_config()
    config.data.name = "glyphs"
    assert distance(train(config, devices, jnp.float32, 1), train(config, 1, jnp.float32, 1)) < 1e-4


@pytest.mark.parametrize(
    "fields", [{}, {"num_seeds": 4}, {"foml": True}, {"inner_state": "sequential", "num_seeds": 8}]
)
def test_eight_accelerators_programs_lower(fields):
    config, platforms = small(tasks_at_once="all", **fields), ("cuda", "tpu")
    mesh = mesh_of(config)
    data, states = kind_of(config).load(config, mesh), state_shapes(config, mesh)
    seeds = np.arange(config.num_seeds, dtype=np.int32)
    exported = jax.export.export(jax.jit(train_program(config, mesh)), platforms=platforms)(
        states, seeds, data.source, data.pools["train"], 10
    )
    assert exported.nr_devices == 8
    assert ("all_reduce" in exported.mlir_module()) == (mesh.shape["tasks"] > 1)
    pools, keys = (
        jax.tree.map(lambda x: np.full(8, x, np.int32), data.pools["test"]),
        np.zeros((len(seeds), 8, 2), "uint32"),
    )
    exported = jax.export.export(eval_program(config, mesh, 1), platforms=platforms)(states, data.source, pools, keys)
    assert exported.nr_devices == 8
    pools, iterations = jax.tree.map(lambda x: x[:2], pools), np.arange(10, dtype=np.int32)
    exported = jax.export.export(curve_program(config, mesh), platforms=platforms)(
        10 * [states], iterations, data.source, pools, seeds
    )
    assert exported.nr_devices == 8
