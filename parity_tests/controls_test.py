"""Negative controls: deliberate mistakes in the reference, each of which its rung must detect.

A rung detects a mistake if the difference is at least ten times the tolerance. The correct code must stay within a
third of the tolerance. Only PyTorch's side is changed, so nothing is compiled for a control.
"""

import itertools
from collections.abc import Callable
from functools import cache
from types import SimpleNamespace
from typing import NamedTuple

import jax
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torchvision import transforms

from parity_tests import bridge, compiled
from parity_tests.cases import BASE, FAST, POOLED, SGD, TRAINED, Case, setup_of
from parity_tests.ladder import RUNGS, Rung
from parity_tests.measures import precision
from reptile_torch_ref import model, reptile

PRECISIONS = ("float64", "float32", "default")
RUNG = {(rung.name, rung.precision): rung for rung in RUNGS}
Patch = pytest.MonkeyPatch


class Control(NamedTuple):
    """A mistake, the case in which it is made, and the rungs that must detect it."""

    make: Callable[[Patch], None]
    case: Case
    float64: str
    float32: str = ""  # "": none, because float32 steps start from the reference's state and so cannot detect it
    default: str = ""


def wrong_norm_epsilon(patch: Patch) -> None:
    patch.setattr(model, "NORM_EPSILON", 1e-5)


def symmetric_padding(patch: Patch) -> None:
    patch.setattr(model, "same_padding", lambda size: (1, 1))


def channel_order_flatten(patch: Patch) -> None:
    honest, order = reptile.logits, torch.arange(256).reshape(64, 2, 2).permute(1, 2, 0).flatten()
    patch.setattr(reptile, "logits", lambda w, *rest: honest({**w, "dense/kernel": w["dense/kernel"][:, order]}, *rest))


def frozen_features(patch: Patch) -> None:
    """Lets the gradient reach the dense layer alone."""
    honest = reptile.logits

    def logits(weights, *rest):
        return honest({n: w if n.startswith("dense") else w.detach() + 0 * w for n, w in weights.items()}, *rest)

    patch.setattr(reptile, "logits", logits)


def mean_for_summed_loss(patch: Patch) -> None:
    mean = SimpleNamespace(cross_entropy=lambda logits, labels, reduction: F.cross_entropy(logits, labels))
    patch.setattr(reptile, "F", mean)


def l2_for_factor_decay(patch: Patch) -> None:
    honest, step, weights = reptile.logits, reptile.inner_step, []

    def logits(params, *rest):
        weights[:] = params.values()
        return honest(params, *rest)

    def inner_step(state, images, labels, inner):
        strength = (1 - inner.weight_decay) / inner.learning_rate

        def cross_entropy(logits, labels, reduction):
            return F.cross_entropy(logits, labels, reduction=reduction) + strength / 2 * sum(
                w.square().sum() for w in weights
            )

        patch.setattr(reptile, "F", SimpleNamespace(cross_entropy=cross_entropy))
        return step(state, images, labels, inner._replace(weight_decay=1.0))

    patch.setattr(reptile, "logits", logits)
    patch.setattr(reptile, "inner_step", inner_step)


def decay_after_the_step(patch: Patch) -> None:
    step = reptile.inner_step

    def inner_step(state, images, labels, inner):
        after = step(state, images, labels, inner._replace(weight_decay=1.0))
        return after._replace(params={n: w * inner.weight_decay for n, w in after.params.items()})

    patch.setattr(reptile, "inner_step", inner_step)


def wrong_beta2(patch: Patch) -> None:
    patch.setattr(reptile, "BETA2", 0.99)


def wrong_adam_epsilon(patch: Patch) -> None:
    patch.setattr(reptile, "EPSILON", 1e-7)


def swapped_batch(patch: Patch) -> None:
    honest = bridge.train_tasks
    patch.setattr(bridge, "train_tasks", lambda *args: [[b[1], b[0], *b[2:]] for b in honest(*args)])


def last_gradient_for_whole_delta(patch: Patch) -> None:
    honest = reptile.meta_delta
    patch.setattr(reptile, "meta_delta", lambda state, tasks, inner, foml: honest(state, tasks, inner, True))


def reset_second_moment(patch: Patch) -> None:
    """Resets only the moment, because another step count would be detected at once."""
    honest = reptile.meta_delta

    def meta_delta(state, tasks, inner, foml):
        zeros = {n: torch.zeros_like(v) for n, v in state.second_moment.items()}
        return honest(state._replace(second_moment=zeros), tasks, inner, foml)

    patch.setattr(reptile, "meta_delta", meta_delta)


def sequential_for_averaged(patch: Patch) -> None:
    """Changes only the moment, as in `reset_second_moment`."""
    honest = reptile.meta_delta

    def meta_delta(state, tasks, inner, foml):
        delta, carried = honest(state, tasks, inner._replace(inner_state="sequential"), foml)
        return delta, carried._replace(step_count=state.step_count + len(tasks[0]))

    patch.setattr(reptile, "meta_delta", meta_delta)


def head_that_moves(patch: Patch) -> None:
    patch.setattr(reptile, "with_zero_head", lambda params: params)


def constant_step_size(patch: Patch) -> None:
    patch.setattr(reptile, "meta_step_at", lambda iteration, meta_iters, first, final: first)


def running_averages(patch: Patch) -> None:
    averages = [(torch.zeros(64), torch.ones(64)) for _ in range(4)]
    honest, calls = F.batch_norm, itertools.cycle(range(4))

    def batch_norm(x, mean, variance, scale, shift, training, eps):
        layer = next(calls)
        averages[layer] = tuple(x_.to(x.dtype) for x_ in averages[layer])
        adapting = torch.is_grad_enabled()
        return honest(x, *averages[layer], scale, shift, training=adapting, momentum=0.1, eps=eps)

    patch.setattr(F, "batch_norm", batch_norm)


def pooling_that_ignores_the_sign(patch: Patch) -> None:
    """Takes the maximum before the norm, with the statistics of all values, even if the scale is negative."""

    def block(x, kernel, scale, shift):
        y = F.conv2d(x, kernel, padding=1)
        mean, variance = y.mean((0, 2, 3)), y.var((0, 2, 3), correction=0)
        factor = scale / (variance + model.NORM_EPSILON).sqrt()
        y = F.max_pool2d(y, 2, ceil_mode=True)
        return F.relu((y - mean[:, None, None]) * factor[:, None, None] + shift[:, None, None])

    patch.setitem(model.BLOCKS, "miniimagenet", block)


def norm_of_pooled_values(patch: Patch) -> None:
    def block(x, kernel, scale, shift):
        y = F.max_pool2d(F.conv2d(x, kernel, padding=1), 2, ceil_mode=True)
        return F.relu(model.batch_norm(y, scale, shift))

    patch.setitem(model.BLOCKS, "miniimagenet", block)


def pooling(patch: Patch, pool: Callable[[torch.Tensor], torch.Tensor]) -> None:
    patch.setattr(F, "max_pool2d", lambda x, size, ceil_mode: pool(x))


def valid_pooling(patch: Patch) -> None:
    """Ignores the last row and column of an odd size; the output keeps its size, so that it can be compared."""
    honest = F.max_pool2d

    def pool(x):
        y = honest(x, 2)
        return F.pad(y, (0, x.shape[3] % 2, 0, x.shape[2] % 2))

    pooling(patch, pool)


def average_for_maximum(patch: Patch) -> None:
    pooling(patch, lambda x: F.avg_pool2d(x, 2, ceil_mode=True, count_include_pad=False))


def padding_before(patch: Patch) -> None:
    honest = F.max_pool2d
    pooling(patch, lambda x: honest(F.pad(x, (x.shape[3] % 2, 0, x.shape[2] % 2, 0), value=-torch.inf), 2))


def query_without_support(patch: Patch) -> None:
    honest = reptile.evaluate_task
    patch.setattr(
        reptile, "evaluate_task", lambda s, batches, support, q, inner: honest(s, batches, support[:0], q, inner)
    )


def clockwise_rotation(patch: Patch) -> None:
    honest = transforms.functional.rotate
    patch.setattr(transforms.functional, "rotate", lambda images, angle: honest(images, -angle))
    patch.setattr(bridge, "load_pixels", bridge.load_pixels.__wrapped__)


CONTROLS = [
    Control(clockwise_rotation, BASE, "data"),
    Control(wrong_norm_epsilon, BASE, "each layer", "logits"),
    Control(symmetric_padding, BASE, "each layer", "each layer"),
    Control(pooling_that_ignores_the_sign, POOLED, "each layer"),
    Control(norm_of_pooled_values, POOLED, "logits", "logits"),
    Control(valid_pooling, POOLED, "logits", "logits"),
    Control(average_for_maximum, POOLED, "logits", "logits"),
    Control(padding_before, POOLED, "logits", "logits"),
    Control(channel_order_flatten, BASE, "logits", "logits", "logits"),
    Control(mean_for_summed_loss, SGD, "loss", "loss"),
    Control(mean_for_summed_loss, SGD, "one optimiser step", "inner steps"),
    Control(frozen_features, BASE, "gradients", "gradients"),
    Control(frozen_features, BASE, "inner loop", "weights left out"),
    Control(symmetric_padding, BASE, "logits", "ReLUs on one side"),
    Control(l2_for_factor_decay, SGD, "one optimiser step", "inner steps"),
    Control(decay_after_the_step, SGD, "one optimiser step", "inner steps"),
    Control(wrong_beta2, TRAINED, "one optimiser step", "inner steps"),
    Control(wrong_beta2, TRAINED, "inner loop", "second moments"),
    Control(wrong_adam_epsilon, BASE, "one optimiser step"),
    Control(swapped_batch, BASE, "task delta"),
    Control(last_gradient_for_whole_delta, BASE, "task delta"),
    Control(sequential_for_averaged, BASE, "meta-delta"),
    Control(reset_second_moment, TRAINED, "task delta"),
    Control(constant_step_size, BASE, "20 meta-iterations"),
    Control(head_that_moves, FAST, "20 meta-iterations"),
    Control(running_averages, TRAINED, "predictions", "predictions"),
    Control(query_without_support, TRAINED, "predictions", "predictions"),
]


@cache
def honest_difference(rung: Rung, case: Case) -> float:
    with precision(rung.precision):
        return rung.measure(setup_of(case, rung.dtype))


@pytest.mark.parametrize(
    ("control", "rung"),
    [pytest.param(c, RUNG[getattr(c, name), name], id=f"{c.make.__name__}, {getattr(c, name)}, {name}")
     for c in CONTROLS for name in PRECISIONS if getattr(c, name)],
)  # fmt: skip
def test_rung_sees(control, rung, monkeypatch):
    assert honest_difference(rung, control.case) <= rung.tolerance / 3
    with precision(rung.precision):
        control.make(monkeypatch)
        difference = rung.measure(setup_of(control.case, rung.dtype))
    assert np.isfinite(difference)
    assert difference >= 10 * (rung.tolerance or 1)  # tolerance 0 means a count: at least ten


@pytest.mark.parametrize(
    ("name", "dtype"), [("logits", "float64"), ("gradients", "float64"), ("inner steps", "float32")]
)
def test_a_nan_on_the_side_of_jax_is_a_difference(name, dtype, monkeypatch):
    def nan_of(x):
        return x * np.asarray(np.nan, x.dtype) if np.issubdtype(x.dtype, np.floating) else x

    def spoilt(function):
        return lambda *arguments: jax.tree.map(nan_of, function(*arguments))

    for function in ("forward", "step"):
        monkeypatch.setattr(compiled, function, spoilt(getattr(compiled, function)))
    with precision(dtype):
        assert RUNG[name, dtype].measure(setup_of(BASE, dtype)) == float("inf")


def test_every_rung_has_a_control():
    """The released code and the sine waves have controls of their own, in their tests."""
    elsewhere = ("released code", "sine waves")
    seen = {(getattr(control, name), name) for control in CONTROLS for name in PRECISIONS}
    assert {key for key in RUNG if not key[0].startswith(elsewhere)} == {key for key in seen if key[0]}


def test_the_controls_leave_nothing_changed():
    assert honest_difference.__wrapped__(RUNG["one optimiser step", "float64"], BASE) <= 1e-9 / 3
