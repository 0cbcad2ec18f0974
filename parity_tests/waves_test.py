"""Negative controls of the rungs of sine waves: mistakes in the reference, each of which its rung must detect."""

import pytest
import torch

from parity_tests import waves
from parity_tests.ladder import TOLERANCE
from parity_tests.measures import precision
from reptile_torch_ref import reptile, sine

SCRIPT, PAPER, FOML = range(3)  # of `waves.cases`


def summed_loss(patch):
    patch.setattr(sine, "squared_error", lambda w, x, y, network: (sine.predict(w, x, network) - y).square().sum())


def relu_for_tanh(patch):
    patch.setitem(sine.ACTIVATIONS, "perceptron", torch.relu)


def no_bias(patch):
    honest = sine.predict
    zeros = lambda w: {n: x * 0 if n == "dense_0/bias" else x for n, x in w.items()}  # noqa: E731
    patch.setattr(sine, "predict", lambda w, x, network: honest(zeros(w), x, network))


def whole_delta_for_the_last(patch):
    honest = reptile.meta_delta
    patch.setattr(reptile, "meta_delta", lambda state, tasks, inner, foml: honest(state, tasks, inner, False))


def constant_step_size(patch):
    patch.setattr(reptile, "meta_step_at", lambda iteration, meta_iters, first, final: first)


def error_on_the_points_given(patch):
    honest = sine.errors_of_task
    patch.setattr(sine, "errors_of_task", lambda s, batches, whole, inner: honest(s, batches, batches[0], inner))


CONTROLS = [
    (summed_loss, SCRIPT, "gradients"),
    (relu_for_tanh, SCRIPT, "predictions"),
    (no_bias, PAPER, "predictions"),
    (whole_delta_for_the_last, FOML, "meta-delta"),
    (constant_step_size, SCRIPT, "20 meta-iterations"),
    (error_on_the_points_given, PAPER, "errors"),
]


@pytest.mark.parametrize(("mistake", "case", "rung"), CONTROLS, ids=lambda x: getattr(x, "__name__", str(x)))
def test_rung_sees(mistake, case, rung, monkeypatch):
    config, tolerance = waves.cases()[case], TOLERANCE[f"sine waves, {rung}", "float64"]
    with precision("float64"):
        assert waves.MEASURES[rung](config) <= tolerance / 3
        mistake(monkeypatch)
        assert waves.MEASURES[rung](config) >= 10 * tolerance
