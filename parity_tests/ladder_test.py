"""The ladder, and the meta-delta in every case."""

import pytest

from parity_tests.cases import BASE, CASES, SGD, all_pairs, pairs, setup_of
from parity_tests.ladder import RUNGS, TOLERANCE
from parity_tests.measures import meta_delta, precision
from parity_tests.trajectory import follow


def test_every_pair_of_values_occurs_in_some_case():
    covered = set().union(*map(pairs, CASES))
    assert covered == all_pairs()
    assert not all_pairs() <= set().union(*map(pairs, CASES[1:])), "a check that cannot fail"


@pytest.mark.parametrize("rung", RUNGS, ids=lambda rung: f"{rung.name}, {rung.precision}")
@pytest.mark.parametrize("case", [BASE, SGD], ids=str)
def test_rung(case, rung):
    with precision(rung.precision):
        assert rung.measure(setup_of(case, rung.precision)) <= rung.tolerance


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
