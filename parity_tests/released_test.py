"""Tests both sides against results of the released code, and that mistakes on either side are detected."""

import copy
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from types import SimpleNamespace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
import torch.nn.functional as F

from configs import omniglot_1shot_5way
from parity_tests import bridge
from parity_tests.ladder import TOLERANCE
from parity_tests.measures import precision
from parity_tests.released import record, sides
from reptile_jax.meta import inner_loop as jax_inner_loop
from reptile_jax.meta import reptile as jax_reptile
from reptile_jax.meta.inner_loop import summed_loss
from reptile_jax.meta.protocols import classify
from reptile_jax.networks import layers
from reptile_jax.networks.omniglot import OmniglotClassifier
from reptile_jax.tasks import images
from reptile_torch_ref import model, reptile

RECORDED = record.load()
SIDES = {"JAX": sides.by_jax, "torch": sides.by_torch}
Patch = pytest.MonkeyPatch


class Control(NamedTuple):
    """A mistake made on both sides, and the case that must detect it."""

    make: Callable[[Patch], None]
    case: str


def mean_for_summed_loss(patch: Patch) -> None:
    patch.setattr(images, "summed_loss", lambda *args: summed_loss(*args) / args[-1].size)
    mean = SimpleNamespace(cross_entropy=lambda logits, labels, reduction: F.cross_entropy(logits, labels))
    patch.setattr(reptile, "F", mean)


def decay_after_the_step(patch: Patch) -> None:
    ours, theirs = jax_inner_loop.inner_step, reptile.inner_step

    def jax_step(loop, *args):
        params, opt_state, loss = ours(loop._replace(weight_decay=1.0), *args)
        return jax.tree.map(lambda p: p * loop.weight_decay, params), opt_state, loss

    def torch_step(state, images, labels, inner):
        after = theirs(state, images, labels, inner._replace(weight_decay=1.0))
        return after._replace(params={n: w * inner.weight_decay for n, w in after.params.items()})

    patch.setattr(jax_inner_loop, "inner_step", jax_step)
    patch.setattr(reptile, "inner_step", torch_step)


def the_other_algorithm(patch: Patch) -> None:
    """Swaps Reptile and first-order MAML."""
    ours, theirs = jax_reptile.task_delta, reptile.meta_delta
    patch.setattr(jax_reptile, "task_delta", lambda *args: ours(*args[:-1], not args[-1]))
    patch.setattr(reptile, "meta_delta", lambda *args: theirs(*args[:-1], not args[-1]))


def epsilon_on_the_corrected_root(patch: Patch) -> None:
    """Adds epsilon where Optax and PyTorch add it, which is this project's own form."""

    def adam(learning_rate, beta2, epsilon):
        rms = optax.scale_by_rms(decay=beta2, eps=epsilon, eps_in_sqrt=False, bias_correction=True)
        return optax.chain(rms, optax.scale_by_learning_rate(learning_rate))

    patch.setattr(sides, "tensorflow_adam", adam)
    patch.setattr(sides, "tensorflow_adam_in_torch", nullcontext)
    patch.setattr(reptile, "BETA2", record.BETA2)
    patch.setattr(reptile, "EPSILON", record.EPSILON)


def second_moment_reset(patch: Patch) -> None:
    """Resets the second moment at every task, but not the step count."""
    ours = jax_reptile.task_delta

    def task_delta(loop, params, opt_state, *args):
        zeros = jax.tree.map(lambda x: jnp.zeros_like(x) if x.dtype == jnp.float64 else x, opt_state)
        return ours(loop, params, zeros, *args)

    def task_start(state, inner):
        return state._replace(second_moment={n: torch.zeros_like(v) for n, v in state.second_moment.items()})

    patch.setattr(jax_reptile, "task_delta", task_delta)
    patch.setattr(reptile, "task_start", task_start)


def another_norm_epsilon(patch: Patch) -> None:
    patch.setattr(layers, "NORM_EPSILON", 1e-5)
    patch.setattr(model, "NORM_EPSILON", 1e-5)


def two_batches_swapped(patch: Patch) -> None:
    honest = record.inputs

    def inputs(case):
        given = honest(case)
        return given._replace(images=given.images[:, :, ::-1].copy(), labels=given.labels[:, :, ::-1].copy())

    patch.setattr(sides, "inputs", inputs)


CONTROLS = [
    Control(mean_for_summed_loss, "reptile_sgd"),
    Control(the_other_algorithm, "reptile_sgd"),
    Control(decay_after_the_step, "reptile_sgd_decay"),
    Control(the_other_algorithm, "foml_sgd"),
    Control(epsilon_on_the_corrected_root, "reptile_adam_sequential"),
    Control(second_moment_reset, "reptile_adam_sequential"),
    Control(another_norm_epsilon, "reptile_sgd_20way"),
    Control(two_batches_swapped, "reptile_sgd_20way"),
]


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("name", RECORDED)
def test_a_case_is_computed_as_released(name, side):
    with precision("float64"):
        assert sides.agreement(SIDES[side], name) <= TOLERANCE[f"released code, {side}", "float64"] / 3


def test_every_case_has_a_control():
    assert {control.case for control in CONTROLS} == set(RECORDED)


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("control", CONTROLS, ids=lambda control: f"{control.make.__name__}, {control.case}")
def test_a_mistake_is_seen(control, side, monkeypatch):
    control.make(monkeypatch)
    with precision("float64"):
        difference = sides.agreement(SIDES[side], control.case)
    assert np.isfinite(difference)
    assert difference >= 10 * TOLERANCE[f"released code, {side}", "float64"]


def numbers(entry, path=()):
    """Returns the paths to all numbers of a record, except those of the case and the positions of the entries."""
    if isinstance(entry, (dict, list)):
        items = entry.items() if isinstance(entry, dict) else enumerate(entry)
        return [found for key, x in items if key not in ("case", "at") for found in numbers(x, (*path, key))]
    return [path]


@pytest.mark.parametrize("name", RECORDED)
def test_every_number_of_the_record_counts(name):
    paths = numbers(RECORDED[name])
    assert record.difference(RECORDED[name], RECORDED[name]) == 0 and len(paths) > 150
    for *path, last in paths:
        changed = entry = copy.deepcopy(RECORDED[name])
        for key in path:
            entry = entry[key]
        largest = max(map(abs, entry)) if isinstance(entry, list) else abs(entry[last])
        entry[last] += 1e-8 * largest
        assert record.difference(changed, RECORDED[name]) > TOLERANCE["released code, JAX", "float64"]


def test_what_is_missing_counts():
    changed = copy.deepcopy(RECORDED["reptile_adam_sequential"])
    del changed["second_moment"]
    assert record.difference(changed, RECORDED["reptile_adam_sequential"]) == float("inf")
    changed = copy.deepcopy(RECORDED["reptile_sgd"])
    del changed["updates"][-1]
    assert record.difference(changed, RECORDED["reptile_sgd"]) == float("inf")
    for value in ("nan", "inf"):
        changed = copy.deepcopy(RECORDED["reptile_sgd"])
        changed["updates"][-1] = jax.tree.map(lambda _, value=value: float(value), changed["updates"][-1])
        assert record.difference(changed, RECORDED["reptile_sgd"]) == float("inf")


def test_predictions_are_those_of_the_recorded_logits():
    """The evaluation's own functions return labels instead of logits, and must put each query into the same batch."""
    for name, entry in RECORDED.items():
        given, wanted = record.inputs(entry["case"]), entry["logits_before"]
        with precision("float64"):
            params, support, queries = sides.jax_inputs(given)
            apply = OmniglotClassifier(entry["case"]["ways"]).apply
            ours = jax.jit(partial(classify, apply))(params, support, queries)
        for protocol, labels in ours._asdict().items():
            assert labels.tolist() == np.argmax(wanted[protocol], axis=1).tolist(), name


def test_the_place_of_epsilon_makes_little_difference(data_fields):
    """Compares TensorFlow's Adam with this project's Adam in the first meta-updates of the published 5-way run.

    In the first one the second moment starts at zero, and the forms differ for the few weights whose gradients are
    small compared with epsilon / sqrt(1 - 0.999).
    """
    config = omniglot_1shot_5way.get_config()
    config.data.name, config.data.archives, config.data.dir = (
        data_fields.get(field, "") for field in ("data", "archives", "data_dir")
    )
    with precision("float64"):
        differences = sides.place_of_epsilon(bridge.setup(config, jnp.dtype("float64")), meta_iterations=10)
    print(*(f"{difference:.1e}" for difference in differences))
    assert 1e-3 < differences[0] < 5e-2
    assert all(1e-7 < difference < 5e-7 for difference in differences[1:])
