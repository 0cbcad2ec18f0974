"""Compares the algorithm with torch.optim, with closed forms and with the definition by hand."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from reptile_torch_ref import reptile
from reptile_torch_ref.model import Weights, logits

CLASSES = 3
ADAM = reptile.Inner(1e-3)
SGD = reptile.Inner(3e-3, sgd=True)


def tasks_of(count: int, iters: int = 3, batch: int = 6) -> list[reptile.Task]:
    """Returns tasks of random float64 images; random pixels keep all activations away from the kink of ReLU."""
    rng = np.random.default_rng(0)
    pixels = torch.from_numpy(rng.random((count, iters, batch, 28, 28)))
    labels = torch.from_numpy(rng.integers(0, CLASSES, (count, iters, batch)))
    return [list(zip(*task, strict=True)) for task in zip(pixels, labels, strict=True)]


def state_of(inner: reptile.Inner) -> reptile.State:
    """Returns a float64 state; for Adam, its second moment is not zero."""
    state = reptile.init_state(CLASSES, 0, inner.sgd, torch.float64)
    return reptile.inner_loop(state, tasks_of(1)[0], inner)


def gradient(params: Weights, images: torch.Tensor, labels: torch.Tensor) -> Weights:
    """Returns the gradient of the summed cross entropy, computed as batch size times its mean."""
    leaves = {n: w.clone().requires_grad_() for n, w in params.items()}
    (len(labels) * F.cross_entropy(logits(leaves, images), labels)).backward()
    return {n: w.grad for n, w in leaves.items()}


def assert_close(got: Weights, want: Weights, atol: float = 1e-13) -> None:
    assert got.keys() == want.keys()
    for name in want:
        torch.testing.assert_close(got[name], want[name], rtol=1e-9, atol=atol, msg=lambda m, n=name: f"{n}: {m}")


def differs(a: Weights, b: Weights) -> bool:
    return any(not torch.allclose(a[n], b[n], rtol=1e-4, atol=1e-9) for n in a)


@pytest.mark.parametrize("carried", [False, True])
def test_adam_is_torchs(carried: bool) -> None:
    state = state_of(ADAM) if carried else reptile.init_state(CLASSES, 0, dtype=torch.float64)
    task = tasks_of(2, iters=4)[1]
    leaves = {n: w.clone().requires_grad_() for n, w in state.params.items()}
    optimiser = torch.optim.Adam(leaves.values(), ADAM.learning_rate, betas=(0.0, 0.999), eps=1e-8)
    if carried:
        for name, leaf in leaves.items():
            moment = state.second_moment[name].clone()
            step = torch.tensor(float(state.step_count))
            optimiser.state[leaf] = {"step": step, "exp_avg": torch.zeros_like(leaf), "exp_avg_sq": moment}
    for images, labels in task:
        optimiser.zero_grad()
        F.cross_entropy(logits(leaves, images), labels, reduction="sum").backward()
        optimiser.step()
    end = reptile.inner_loop(state, task, ADAM)
    assert_close(end.params, {n: leaf.detach() for n, leaf in leaves.items()})
    assert_close(end.second_moment, {n: optimiser.state[leaf]["exp_avg_sq"] for n, leaf in leaves.items()})
    assert end.step_count == state.step_count + 4


def test_delta_of_sgd_steps_is_minus_learning_rate_times_the_sum_of_gradients() -> None:
    state, task = state_of(SGD), tasks_of(1, iters=4)[0]
    total = {n: torch.zeros_like(w) for n, w in state.params.items()}
    phi = state
    for images, labels in task:
        grads = gradient(phi.params, images, labels)
        total = {n: total[n] + grads[n] for n in total}
        phi = reptile.inner_step(phi, images, labels, SGD)
    delta, carried = reptile.meta_delta(state, [task], SGD)
    assert_close(delta, {n: -SGD.learning_rate * g for n, g in total.items()})
    assert carried.second_moment == {}
    assert carried.step_count == 0


def test_reptile_with_one_sgd_step_is_joint_training() -> None:
    state, tasks = state_of(SGD), tasks_of(3, iters=1)
    grads = [gradient(state.params, *task[0]) for task in tasks]
    want = {n: w - 0.5 * SGD.learning_rate * sum(g[n] for g in grads) / 3 for n, w in state.params.items()}
    assert_close(reptile.meta_iteration(state, tasks, 0.5, SGD).params, want)


@pytest.mark.parametrize("sgd", [False, True])
def test_weight_decay_is_a_factor_before_the_step(sgd: bool) -> None:
    inner = reptile.Inner(1e-3, sgd, weight_decay=0.9)
    state, (images, labels) = state_of(SGD if sgd else ADAM), tasks_of(1)[0][0]
    decayed = state._replace(params={n: 0.9 * w for n, w in state.params.items()})
    want = reptile.inner_step(decayed, images, labels, inner._replace(weight_decay=1.0))
    got = reptile.inner_step(state, images, labels, inner)
    assert_close(got.params, want.params)
    assert_close(got.second_moment, want.second_moment)


@pytest.mark.parametrize("sgd", [False, True])
def test_foml_takes_the_last_step_alone_its_weight_decay_included(sgd: bool) -> None:
    inner = reptile.Inner(1e-3, sgd, weight_decay=0.9)
    state, tasks = state_of(SGD if sgd else ADAM), tasks_of(2)
    steps = []
    for task in tasks:
        before = reptile.inner_loop(state, task[:-1], inner)
        after = reptile.inner_step(before, *task[-1], inner)
        steps.append({n: after.params[n] - before.params[n] for n in state.params})
    want = {n: w + 0.25 * (steps[0][n] + steps[1][n]) / 2 for n, w in state.params.items()}
    got = reptile.meta_iteration(state, tasks, 0.25, inner, foml=True)
    assert_close(got.params, want)
    assert differs(got.params, reptile.meta_iteration(state, tasks, 0.25, inner).params)


def test_inner_state_averaged() -> None:
    state, tasks = state_of(ADAM), tasks_of(2)
    ends = [reptile.inner_loop(state, task, ADAM) for task in tasks]
    got = reptile.meta_iteration(state, tasks, 1.0, ADAM)
    assert_close(got.params, {n: (ends[0].params[n] + ends[1].params[n]) / 2 for n in state.params})
    want = {n: (ends[0].second_moment[n] + ends[1].second_moment[n]) / 2 for n in state.params}
    assert_close(got.second_moment, want)
    assert got.step_count == state.step_count + 3


def test_inner_state_sequential() -> None:
    inner = ADAM._replace(inner_state="sequential")
    state, tasks = state_of(ADAM), tasks_of(2)
    first = reptile.inner_loop(state, tasks[0], inner)
    second = reptile.inner_loop(reptile.State(state.params, first.second_moment, first.step_count), tasks[1], inner)
    got = reptile.meta_iteration(state, tasks, 1.0, inner)
    assert_close(got.params, {n: (first.params[n] + second.params[n]) / 2 for n in state.params})
    assert_close(got.second_moment, second.second_moment)
    assert got.step_count == state.step_count + 2 * 3
    assert differs(got.params, reptile.meta_iteration(state, tasks, 1.0, ADAM).params)


def test_inner_state_reset() -> None:
    inner = ADAM._replace(inner_state="reset")
    state, tasks = state_of(ADAM), tasks_of(2)
    zero = {n: torch.zeros_like(w) for n, w in state.params.items()}
    ends = [reptile.inner_loop(reptile.State(state.params, zero, 0), task, inner) for task in tasks]
    got = reptile.meta_iteration(state, tasks, 1.0, inner)
    assert_close(got.params, {n: (ends[0].params[n] + ends[1].params[n]) / 2 for n in state.params})
    assert_close(got.second_moment, zero)
    assert got.step_count == 0
    assert differs(got.params, reptile.meta_iteration(state, tasks, 1.0, ADAM).params)


def test_a_misspelt_inner_state_is_an_error() -> None:
    with pytest.raises(ValueError, match="sequentail"):
        reptile.meta_iteration(state_of(ADAM), tasks_of(1), 1.0, ADAM._replace(inner_state="sequentail"))


@pytest.mark.parametrize("inner_state", ["averaged", "sequential", "reset"])
def test_evaluation_follows_both_protocols_and_leaves_the_state_alone(inner_state: str) -> None:
    inner = ADAM._replace(inner_state=inner_state)
    state, (task, rest) = state_of(ADAM), tasks_of(2)
    support, queries = rest[0][0], rest[1][0][:4]
    before = [{n: w.clone() for n, w in part.items()} for part in state[:2]]
    start = state
    if inner_state == "reset":
        start = reptile.State(state.params, {n: torch.zeros_like(w) for n, w in state.params.items()}, 0)
    phi = reptile.inner_loop(start, task, inner).params
    transductive, inductive = reptile.evaluate_task(state, task, support, queries, inner)
    torch.testing.assert_close(transductive, logits(phi, queries), rtol=1e-12, atol=1e-12)
    for query, row in zip(queries, inductive, strict=True):
        alone = logits(phi, torch.cat([support, query[None]]))
        torch.testing.assert_close(row, alone[len(support)], rtol=1e-12, atol=1e-12)
    assert not torch.allclose(transductive, inductive)
    for part, copy in zip(state[:2], before, strict=True):
        assert all(torch.equal(part[n], copy[n]) for n in copy)


def test_meta_step_falls_linearly() -> None:
    assert [reptile.meta_step_at(i, 4, 1.0, 0.0) for i in range(4)] == [1.0, 0.75, 0.5, 0.25]
    assert reptile.meta_step_at(3, 10, 0.1, 0.1) == pytest.approx(0.1)


def numbered(classes: int, shots: int) -> torch.Tensor:
    """Returns drawings [classes, shots, 28, 28]; all pixels of a drawing hold its number, class by class."""
    return torch.arange(classes * shots).reshape(classes, shots, 1, 1).expand(-1, -1, 28, 28)


def numbers(task: reptile.Task) -> list[list[int]]:
    return [images[:, 0, 0].tolist() for images, _ in task]


class Shuffles:
    """Replaces a generator by one whose shuffles are known."""

    def __init__(self, *orders: list[int]) -> None:
        self.orders = list(orders)

    def permutation(self, size: int) -> np.ndarray:
        order = np.array(self.orders.pop(0))
        assert len(order) == size
        return order


def test_cycling_mini_batches_straddle_shuffles() -> None:
    rng = Shuffles([2, 0, 3, 1, 5, 4], [5, 1, 0, 4, 2, 3])
    task = reptile.mini_batches(rng, numbered(3, 2), 4, 3, False)  # type: ignore[arg-type]
    assert numbers(task) == [[2, 0, 3, 1], [5, 4, 5, 1], [0, 4, 2, 3]]
    assert [labels.tolist() for _, labels in task] == [[1, 0, 1, 0], [2, 2, 2, 0], [0, 2, 1, 1]]


def test_cycling_hands_out_every_drawing_once_in_each_round() -> None:
    task = reptile.mini_batches(np.random.default_rng(0), numbered(5, 3), 4, 13, False)
    flat = [number for batch in numbers(task) for number in batch]
    rounds = [flat[i : i + 15] for i in range(0, 45, 15)]
    assert all(sorted(r) == list(range(15)) for r in rounds)
    assert rounds[0] != rounds[1]


def test_a_mini_batch_may_be_larger_than_the_task_when_cycling() -> None:
    (batch,) = numbers(reptile.mini_batches(np.random.default_rng(0), numbered(2, 1), 5, 1, False))
    assert sorted(batch) in ([0, 0, 0, 1, 1], [0, 0, 1, 1, 1])


def test_replacement_draws_each_mini_batch_afresh_and_distinct() -> None:
    task = numbers(reptile.mini_batches(np.random.default_rng(0), numbered(5, 2), 9, 40, True))
    assert all(len(set(batch)) == 9 for batch in task)
    # Cycling would hand out the one drawing that is missing at once in the next batch's first place.
    missing = [({*range(10)} - {*batch}).pop() for batch in task]
    assert any(after[0] != gone for gone, after in zip(missing, task[1:], strict=False))
    with pytest.raises(ValueError, match="mini-batch of 11"):
        reptile.mini_batches(np.random.default_rng(0), numbered(5, 2), 11, 1, True)


@pytest.mark.parametrize("tail", [0, 1])
def test_balanced_mini_batches_have_as_many_drawings_of_each_class(tail: int) -> None:
    rng, drawings = np.random.default_rng(0), numbered(3, 4 + tail)
    task = reptile.mini_batches(rng, drawings, 6, 4 + (tail > 0), False, tail, balanced=True)[:4]
    assert all(labels.tolist() == [0, 0, 1, 1, 2, 2] for _, labels in task)
    for first, second in (numbers(task)[:2], numbers(task)[2:]):  # the two rounds
        assert sorted(first + second) == sorted(n for n in range(3 * (4 + tail)) if n % (4 + tail) < 4)
        assert all(n // (4 + tail) == i // 2 for i, n in enumerate(first))
    released = reptile.mini_batches(np.random.default_rng(0), drawings, 6, 4, False)
    assert any(sorted(labels.tolist()) != [0, 0, 1, 1, 2, 2] for _, labels in released), "a check that cannot fail"


@pytest.mark.parametrize("replacement", [False, True])
def test_foml_tail_is_kept_for_the_last_mini_batch(replacement: bool) -> None:
    task = reptile.mini_batches(np.random.default_rng(0), numbered(4, 5), 6, 5, replacement, tail=2)
    assert [len(batch) for batch in numbers(task)] == [6, 6, 6, 6, 8]
    tail = numbers(task)[-1]
    assert len(set(tail)) == 8
    assert task[-1][1].tolist() == [n // 5 for n in tail] == [0, 0, 1, 1, 2, 2, 3, 3]
    assert all(not set(tail) & set(batch) for batch in numbers(task)[:-1])


def test_foml_tail_with_one_step_is_the_tail_alone() -> None:
    (batch,) = numbers(reptile.mini_batches(np.random.default_rng(0), numbered(4, 2), 6, 1, False, tail=2))
    assert sorted(batch) == list(range(8))
    with pytest.raises(ValueError, match="foml_tail=2"):
        reptile.mini_batches(np.random.default_rng(0), numbered(4, 2), 6, 2, False, tail=2)


def test_a_task_has_distinct_classes_and_distinct_drawings() -> None:
    for seed in range(20):
        drawings = reptile.sample_drawings(np.random.default_rng(seed), numbered(6, 5), 5, 4)[:, :, 0, 0]
        assert len({int(row[0]) // 5 for row in drawings}) == 5
        assert all(len({n // 5 for n in row}) == 1 and len(set(row)) == 4 for row in drawings.tolist())
    with pytest.raises(ValueError, match="classes=7"):
        reptile.sample_drawings(np.random.default_rng(0), numbered(6, 5), 7, 1)
    with pytest.raises(ValueError, match="6 drawings"):
        reptile.sample_drawings(np.random.default_rng(0), numbered(6, 5), 2, 6)
