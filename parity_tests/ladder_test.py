"""Tests of the ladder, and of the meta-delta in every case."""

import pytest

from parity_tests.cases import BASE, CASES, FAST, POOLED, RELEASED, SGD, all_pairs, pairs, setup_of
from parity_tests.ladder import RUNGS, TOLERANCE
from parity_tests.measures import meta_delta, precision
from parity_tests.trajectory import follow


def test_every_pair_of_values_occurs_in_some_case():
    covered = set().union(*map(pairs, CASES))
    assert covered == all_pairs()
    assert not all_pairs() <= set().union(*map(pairs, CASES[1:])), "a check that cannot fail"


ON_PHOTOGRAPHS = [rung for rung in RUNGS if rung.name != "data" and not rung.name.startswith("released code")]
OF_RUNS = [rung for rung in RUNGS if rung.name in ("20 meta-iterations", "inner steps", "predictions")]
CASES_OF_RUNGS = [(BASE, RUNGS), (SGD, RUNGS), (POOLED, ON_PHOTOGRAPHS), (FAST, OF_RUNS)]


@pytest.mark.parametrize(
    ("case", "rung"),
    [pytest.param(case, rung, id=f"{case}-{rung.name}, {rung.precision}") for case, rungs in CASES_OF_RUNGS
     for rung in rungs],
)  # fmt: skip
def test_rung(case, rung):
    with precision(rung.precision):
        assert rung.measure(setup_of(case, rung.dtype)) <= rung.tolerance


@pytest.mark.parametrize("name", ["each layer", "gradients", "one optimiser step"])
def test_mini_imagenet_as_released(name):
    """Images are 84x84x3, and the layers' sizes are 84, 42, 21 and 11; the other rungs are tested on smaller images."""
    (rung,) = (rung for rung in RUNGS if (rung.name, rung.precision) == (name, "float64"))
    with precision("float64"):
        assert rung.measure(setup_of(RELEASED, "float64")) <= rung.tolerance


@pytest.mark.parametrize("case", CASES, ids=str)
def test_meta_delta_in_float64(case):
    with precision("float64"):
        assert meta_delta(setup_of(case, "float64")) <= TOLERANCE["meta-delta", "float64"]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_inner_steps_in_float32(case):
    with precision("float32"):
        steps = list(follow(setup_of(case, "float32"), 4))
    assert max(step.difference for step in steps) <= TOLERANCE["inner steps", "float32"]
    assert max(step.moment for step in steps) <= TOLERANCE["second moments", "float32"]
    assert max(step.distance for step in steps) <= TOLERANCE["ReLUs on one side", "float32"]
    assert sum(step.kinks > 0 for step in steps) <= 0.05 * len(steps) + 1
    assert max(step.left_out for step in steps) <= TOLERANCE["weights left out", "float32"]
