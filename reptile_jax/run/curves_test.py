"""Tests that points of the curves that are measured together are what each of them is alone."""

import jax
import numpy as np
import pytest

from reptile_jax.devices import mesh_of, put
from reptile_jax.run import train
from reptile_jax.run.interrupt import Interrupted
from reptile_jax.run.programs import CURVE_TASKS, eval_program, initial_states, stream, train_program
from reptile_jax.tasks import kind_of
from reptile_jax.testing.small_runs import rows_of, small, small_waves

TOGETHER = {"tasks_at_once": "all", "eval_interval": 2, "checkpoint_interval": 100, "meta_iters": 7}


def point_by_point(config):
    """Returns the squared errors [points, sets] at every second meta-iteration and at the last, and the points."""
    mesh, kind, seeds = mesh_of(config), kind_of(config), np.arange(config.num_seeds, dtype=np.int32)
    data, states = kind.load(config, mesh), put(mesh, initial_states(config))
    advance, program = train_program(config, mesh), eval_program(config, mesh, config.shots)
    pools = jax.tree.map(lambda *x: np.array(x, np.int32), data.pools["train"], data.pools["test"])
    iterations, errors, done = (2, 4, 6, 7), [], 0
    for iteration in iterations:
        states, _ = advance(states, seeds, data.source, data.pools["train"], iteration - done)
        done = iteration
        streams = [jax.random.fold_in(stream(int(seed), CURVE_TASKS), iteration) for seed in seeds]
        keys = [[jax.random.key_data(jax.random.fold_in(key, task)) for task in range(2)] for key in streams]
        _, outcomes = program(states, data.source, pools, np.array(keys))
        errors.append(kind.measures(config, jax.device_get(outcomes))[kind.headline(config)].mean(axis=0))
    return np.array(errors), iterations


def test_points_measured_together_are_those_measured_one_by_one(tmp_path):
    config = small_waves(**TOGETHER)
    train.train_and_evaluate(config, tmp_path / "run")
    rows = rows_of(tmp_path / "run")
    errors, iterations = point_by_point(config)
    assert [row["step"] for row in rows] == list(iterations)
    together = np.array([[row["train_squared_error"], row["test_squared_error"]] for row in rows])
    np.testing.assert_allclose(together, errors, rtol=1e-4)
    assert np.all(np.abs(together - np.roll(errors, 1, axis=0)) > 1e-3 * errors)  # of another point
    assert np.all(np.abs(together - errors[:, ::-1]) > 1e-3 * errors)  # of the other set


@pytest.mark.parametrize("stops_at", [2, 3])
def test_a_run_that_stops_before_its_points_are_measured_loses_none(tmp_path, monkeypatch, stops_at):
    config = small(**TOGETHER)
    train.train_and_evaluate(config, tmp_path / "whole")
    dispatches = []

    def agreed(number):  # is called for the length of a dispatch, then for the signal
        dispatches.append(number)
        return 15 if len(dispatches) == 1 + 2 * stops_at else number

    with monkeypatch.context() as patched:
        patched.setattr(train, "agreed", agreed)
        with pytest.raises(Interrupted, match="interrupted at meta-iteration"):
            train.train_and_evaluate(config, tmp_path / "part")
    before = rows_of(tmp_path / "part")
    train.train_and_evaluate(config, tmp_path / "part")
    assert 0 < len(before) < len(rows_of(tmp_path / "part"))
    assert rows_of(tmp_path / "part") == rows_of(tmp_path / "whole")


def test_a_run_that_fails_writes_the_points_before(tmp_path):
    config = small(**TOGETHER | {"eval_interval": 1, "meta_step": 1e25})
    with pytest.raises(train.TrainingError, match="meta-iteration 1: the loss or the update is not finite"):
        train.train_and_evaluate(config, tmp_path / "run")
    assert [row["step"] for row in rows_of(tmp_path / "run")] == [1]
