"""Reptile and first-order MAML (Nichol et al. 2018, arXiv 1803.02999): first the computation, then the sampling.

If the paper does not say something, its released code decides. No function changes its arguments: a step returns a new
state.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.random import Generator
from torch import Tensor

from reptile_torch_ref.model import Weights, init_weights, logits

BETA2, EPSILON = 0.999, 1e-8  # of Adam; beta1 is 0: "momentum reduced performance across the board" (the paper)

Batch = tuple[Tensor, Tensor]  # images [batch, height, width] or [..., channels], labels [batch] int64
Task = list[Batch]  # the mini-batches of one task, one for each inner step


def summed_cross_entropy(params: Weights, images: Tensor, labels: Tensor, network: str) -> Tensor:
    """Returns the cross entropy summed (not averaged) over a mini-batch."""
    return F.cross_entropy(logits(params, images, network), labels, reduction="sum")


class Inner(NamedTuple):
    """The inner optimiser, the network it trains and the loss; names and meaning are the configuration's."""

    learning_rate: float
    sgd: bool = False
    weight_decay: float = 1.0
    inner_state: str = "averaged"
    network: str = "omniglot"  # model.name
    loss: Callable[[Weights, Tensor, Tensor, str], Tensor] = summed_cross_entropy  # of weights, a mini-batch, network
    zero_head: bool = False


class State(NamedTuple):
    """Weights, Adam's second moment (same names and shapes; empty under SGD) and step count (0 under SGD)."""

    params: Weights
    second_moment: Weights
    step_count: int


def init_state(
    classes: int,
    seed: int,
    sgd: bool = False,
    dtype: torch.dtype = torch.float32,
    filters: int = 64,
    shape: tuple[int, int, int] = (28, 28, 1),
) -> State:
    """Returns the state before the first meta-iteration, a function of `seed`."""
    params = init_weights(classes, seed, dtype, filters, shape)
    return State(params, {} if sgd else {n: torch.zeros_like(w) for n, w in params.items()}, 0)


def inner_step(state: State, images: Tensor, labels: Tensor, inner: Inner) -> State:
    """Takes one step of the inner optimiser on one mini-batch.

    With w = weight_decay * phi, and g the gradient at w of the loss of the mini-batch:

        SGD:   phi' = w - learning_rate * g
        Adam:  t' = t + 1,  v' = beta2 * v + (1 - beta2) * g^2
               phi' = w - learning_rate * g / (sqrt(v' / (1 - beta2^t')) + epsilon)
    """
    params = {n: (w * inner.weight_decay).requires_grad_() for n, w in state.params.items()}
    loss = inner.loss(params, images, labels, inner.network)
    grads = dict(zip(params, torch.autograd.grad(loss, list(params.values())), strict=True))
    with torch.no_grad():
        if inner.sgd:
            return State({n: w - inner.learning_rate * grads[n] for n, w in params.items()}, {}, 0)
        count, second_moment = state.step_count + 1, {}
        for n, w in params.items():
            v = second_moment[n] = (BETA2 * state.second_moment[n]).addcmul_(grads[n], grads[n], value=1 - BETA2)
            root = v.sqrt().div_(math.sqrt(1 - BETA2**count)).add_(EPSILON)
            params[n] = w.addcdiv(grads[n], root, value=-inner.learning_rate)
        return State(params, second_moment, count)


def inner_loop(state: State, batches: Task, inner: Inner) -> State:
    """Adapts to one task, one inner step for each mini-batch; the params returned are the paper's phi."""
    for images, labels in batches:
        state = inner_step(state, images, labels, inner)
    return state


def task_start(state: State, inner: Inner) -> State:
    """Returns the state a task starts from: under `reset`, second moment and count are zero."""
    if inner.inner_state == "reset":
        return State(state.params, {n: torch.zeros_like(v) for n, v in state.second_moment.items()}, 0)
    if inner.inner_state in ("averaged", "sequential"):
        return state
    raise ValueError(f'inner_state="{inner.inner_state}": choose "averaged", "sequential" or "reset"')


def meta_delta(state: State, tasks: list[Task], inner: Inner, foml: bool = False) -> tuple[Weights, State]:
    """Returns the tasks' mean delta, and theta with the second moment and count for the next meta-iteration.

    A task's delta is phi - theta; in first-order MAML it is only the last inner step's, including weight decay.
    `averaged`: all tasks start from the same second moment and count, and the mean second moment is carried on.
    `sequential` (as in the released code): both pass from task to task. `reset`: both are zero at every task.
    """
    start, deltas, ends = state, [], []
    for batches in tasks:
        before_last = inner_loop(task_start(start, inner), batches[:-1], inner)
        end = inner_loop(before_last, batches[-1:], inner)
        base = before_last.params if foml else state.params
        deltas.append({n: phi - base[n] for n, phi in end.params.items()})
        ends.append(end)
        if inner.inner_state == "sequential":
            start = end._replace(params=state.params)
    moment = ends[-1].second_moment
    if inner.inner_state == "averaged":
        moment = {n: torch.stack([end.second_moment[n] for end in ends]).mean(0) for n in moment}
    delta = {n: torch.stack([delta[n] for delta in deltas]).mean(0) for n in state.params}
    return delta, task_start(State(state.params, moment, ends[-1].step_count), inner)


def meta_iteration(state: State, tasks: list[Task], step: float, inner: Inner, foml: bool = False) -> State:
    """Makes one meta-update on `meta_batch` tasks: theta <- theta + step * mean_i(phi_i - theta) (algorithm 2)."""
    delta, carried = meta_delta(state, tasks, inner, foml)
    params = {n: w + step * delta[n] for n, w in state.params.items()}
    return carried._replace(params=with_zero_head(params) if inner.zero_head else params)


def with_zero_head(params: Weights) -> Weights:
    """Returns the weights with a dense layer of zeros (`zero_head`; Kao et al. 2021, arXiv 2106.15367)."""
    return {n: torch.zeros_like(w) if n.startswith("dense/") else w for n, w in params.items()}


def meta_step_at(iteration: int, meta_iters: int, meta_step: float, meta_step_final: float) -> float:
    """Returns the interpolation factor of an iteration, counted from 0: linear from meta_step to meta_step_final."""
    f = iteration / meta_iters
    return f * meta_step_final + (1 - f) * meta_step


def evaluate_task(state: State, batches: Task, support: Tensor, queries: Tensor, inner: Inner) -> tuple[Tensor, Tensor]:
    """Adapts from theta and the trained second moment (`state` does not change), then predicts under both protocols.

    Returns logits [queries, classes], whose arg max is the prediction: transductive logits, with the queries [queries,
    ...] as one batch, and inductive logits, with each query appended to the whole support set [classes * shots, ...].
    """
    phi = inner_loop(task_start(state, inner), batches, inner).params
    with torch.no_grad():
        inductive = [logits(phi, torch.cat([support, query[None]]), inner.network)[-1] for query in queries]
        return logits(phi, queries, inner.network), torch.stack(inductive)


def sample_drawings(rng: Generator, characters: Sequence[Tensor], classes: int, shots: int) -> Tensor:
    """Draws distinct classes and distinct drawings of each: of tensors [drawings, ...] -> [classes, shots, ...]."""
    if classes > len(characters):
        raise ValueError(f"classes={classes} exceeds the {len(characters)} classes of the data")
    chosen = [characters[row] for row in rng.choice(len(characters), classes, replace=False)]
    if shots > min(map(len, chosen)):
        raise ValueError(f"{shots} drawings of a class exceed those that the data has: {min(map(len, chosen))}")
    return torch.stack([drawings[rng.choice(len(drawings), shots, replace=False)] for drawings in chosen])


def labelled(drawings: Tensor) -> Batch:
    """Returns images [classes * shots, ...], class by class, and their labels 0..classes-1."""
    return drawings.flatten(0, 1), torch.arange(len(drawings)).repeat_interleave(drawings.shape[1])


def mini_batches(
    rng: Generator, drawings: Tensor, batch: int, iters: int, replacement: bool, tail: int = 0, balanced: bool = False
) -> Task:
    """Makes `iters` mini-batches of `batch` drawings from a task's drawings [classes, shots, ...].

    Without `replacement`, they are used in shuffled order and shuffled again whenever they run out, so a batch may span
    two shuffles. With `replacement`, every batch is sampled afresh, and its drawings are distinct. `tail` (foml_tail)
    drawings of each class are reserved for the last mini-batch, which consists of all of them. If `balanced`, each
    class is divided in the same way, and every batch has the same number of drawings of each.
    """
    if tail:
        if tail > drawings.shape[1] - (iters > 1):
            raise ValueError(f"foml_tail={tail} of {drawings.shape[1]} drawings leaves none for the steps before")
        rest = drawings[:, :-tail]
        first = mini_batches(rng, rest, batch, iters - 1, replacement, balanced=balanced) if iters > 1 else []
        return [*first, labelled(drawings[:, -tail:])]
    if balanced:
        classes, shots = drawings.shape[:2]
        by_class = [orders(rng, shots, batch // classes, iters, replacement) for _ in range(classes)]
        chosen = [torch.stack([x[i] for x, i in zip(drawings, of, strict=True)]) for of in zip(*by_class, strict=True)]
        return [labelled(x) for x in chosen]
    images, labels = labelled(drawings)
    return [(images[i], labels[i]) for i in orders(rng, len(images), batch, iters, replacement)]


def orders(rng: Generator, examples: int, batch: int, iters: int, replacement: bool) -> list[np.ndarray]:
    """Returns the places of the examples in each of `iters` mini-batches, as `mini_batches` describes: [batch] each."""
    if replacement and batch > examples:
        raise ValueError(f"replacement: a mini-batch of {batch} distinct examples exceeds the task's {examples}")
    if replacement:
        return [rng.choice(examples, batch, replace=False) for _ in range(iters)]
    shuffles = [rng.permutation(examples) for _ in range(math.ceil(iters * batch / examples))]
    return list(np.concatenate(shuffles)[: iters * batch].reshape(iters, batch))
