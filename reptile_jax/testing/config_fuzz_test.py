"""Tests that every config either is refused with one line that says what to change, or trains and evaluates."""

import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from reptile_jax.config import INNER_STATES, TASKS_AT_ONCE, ConfigError
from reptile_jax.networks.layers import CONVOLUTIONS
from reptile_jax.run import train
from reptile_jax.testing.small_runs import SMALL, small, typed

few = st.integers(-1, 6)
FIELDS = st.fixed_dictionaries(
    {},
    optional={
        "seed": st.integers(-1, 2**31), "num_seeds": st.integers(0, 2), "classes": st.integers(1, 4) | st.just(200),
        "shots": few | st.just(20), "train_shots": few | st.just(21), "inner_batch": few, "inner_iters": few,
        "replacement": st.booleans(), "learning_rate": st.floats(-1, 1) | st.just(float("nan")), "sgd": st.booleans(),
        "weight_decay": st.floats(0, 2), "inner_state": st.sampled_from((*INNER_STATES, "none")),
        "meta_batch": st.integers(0, 3), "meta_step": st.floats(-0.1, 1), "meta_step_final": st.floats(-0.1, 1),
        "foml": st.booleans(), "foml_tail": st.integers(-1, 3), "eval_batch": few, "eval_iters": few,
        "eval_samples": st.integers(0, 5), "eval_interval": few, "checkpoint_interval": few,
        "eval_shots": st.lists(st.integers(0, 20), max_size=1).map(tuple), "eval_seed": st.integers(-1, 2**31),
        "transductive": st.booleans(), "tasks_at_once": st.sampled_from((*TASKS_AT_ONCE, "")),
        "convolution": st.sampled_from((*CONVOLUTIONS, "")), "data.validation_classes": st.integers(-1, 360),
    },
)  # fmt: skip
ENDS = {"refused": 0, "trained": 0, "not finite": 0}
ENDS_OF_PROGRAM = []


@settings(max_examples=40, deadline=None, derandomize=True)
@given(FIELDS)
def _any_config(fields):
    with tempfile.TemporaryDirectory() as folder:
        workdir = Path(folder, "run")
        try:
            results = train.train_and_evaluate(small(**{"meta_iters": 1, "eval_samples": 2} | fields), workdir)
        except ConfigError as error:
            assert "\n" not in str(error) and ": give " in str(error) and not workdir.exists()
            ENDS["refused"] += 1
        except train.TrainingError as error:  # a large learning rate
            assert "\n" not in str(error) and "not finite" in str(error)
            ENDS["not finite"] += 1
        else:
            assert results["meta_iters"] == 1
            ENDS["trained"] += 1


def test_any_config_is_refused_or_trains():
    _any_config()
    assert ENDS["refused"] > 20 and ENDS["trained"] > 3, ENDS


@settings(max_examples=10, deadline=None, derandomize=True)
@given(FIELDS)
def _any_command_line(fields):
    with tempfile.TemporaryDirectory() as folder:
        given = SMALL | {"meta_iters": 1, "eval_samples": 2} | fields
        overrides = [f"--config.{name}={value}" for name, value in given.items()]
        done = typed("--config=quickstart", *overrides, "--workdir=run", cwd=folder)
        assert done.returncode in (0, 1) and "Traceback" not in done.stderr
        refused = done.returncode == 1 and "not finite" not in done.stderr
        if refused:
            assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1 and ": give " in done.stderr
        assert Path(folder, "run").exists() != refused
        ENDS_OF_PROGRAM.append(done.returncode)


def test_any_command_line_is_refused_or_trains():
    _any_command_line()
    assert {0, 1} == set(ENDS_OF_PROGRAM)
