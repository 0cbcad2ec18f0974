"""The ladder, and the meta-delta in every case."""

import pytest

from parity_tests.cases import BASE, CASES, SGD, all_pairs, pairs, setup_of
from parity_tests.ladder import RUNGS, meta_delta, precision


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
        assert meta_delta(setup_of(case, "float64")) <= 1e-9
