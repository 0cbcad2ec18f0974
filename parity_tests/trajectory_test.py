"""Tests how the ties of max pooling are found and turned; ladder_test.py tests the steps themselves."""

import pytest
import torch
import torch.nn.functional as F

from parity_tests.trajectory import TIE, pooling, ties_of

SHAPE = (2, 3, 5, 7)  # odd sizes, so that the last windows are smaller


@pytest.fixture
def values():
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_without_a_turn_it_is_max_pooling_with_its_gradient(values):
    values[0, 0, :2, :2] = 3.0  # equal values: the first one gets the gradient
    ours, theirs = (values.clone().requires_grad_() for _ in range(2))
    pooled = [pooling(())(ours), F.max_pool2d(theirs, 2, ceil_mode=True)]
    torch.testing.assert_close(*pooled, rtol=0, atol=0)
    for x in pooled:
        x.square().sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=0, atol=0)


@pytest.mark.parametrize(("gap", "found"), [(TIE / 2, True), (2 * TIE, False), (0.0, False)])
def test_a_tie_is_found_and_turned(values, gap, found):
    assert not ties_of(values, 1)
    values[1, 2, 2:4, 4:6] = torch.tensor([[0.0, 9.0], [9.0 - gap, 1.0]], dtype=values.dtype)
    ties = ties_of(values, 1)
    assert len(ties) == found
    layers = pooling(tuple(ties))
    wanted = F.max_pool2d(values, 2, ceil_mode=True)
    torch.testing.assert_close(layers(values), wanted, rtol=0, atol=0)  # layer 0, which has no tie
    if found:
        wanted[1, 2, 1, 2] = 9.0 - gap
    values.requires_grad_()
    pooled = layers(values)
    torch.testing.assert_close(pooled, wanted, rtol=0, atol=0)
    pooled.sum().backward()
    assert values.grad[1, 2, 2:4, 4:6].tolist() == ([[0, 0], [1, 0]] if found else [[0, 1], [0, 0]])


def test_where_relu_is_off_nothing_is_a_tie(values):
    values[1, 2, 2:4, 4:6] = torch.tensor([[-1.0, -1.0 - TIE / 2], [-3.0, -3.0]], dtype=values.dtype)
    assert not ties_of(values, 0)
