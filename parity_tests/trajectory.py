"""Float32, step by step: JAX repeats every inner step of the reference from the reference's state.

Single float32 steps cannot be compared directly, for three reasons:

- A ReLU whose input is zero except for rounding may be on in one framework and off in the other, and with it the whole
  gradient. Such a step is compared with the reference on either side of that kink, because JAX's step and its forward
  pass are separate programs and may be on different sides. The inputs of these ReLUs are measured; they must be
  rounding.
- Two values of a pooling window may be equal except for rounding, and the gradient goes to the larger one. Such a step
  is compared with the reference on either side of the tie.
- Adam with beta1 = 0 divides a gradient by its own size if the second moment has no history. If the root second moment
  of a weight is only rounding compared with the gradients of its layer, the weight takes a full step in either
  direction. These weights are left out of their step and counted.
"""

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import jax
import numpy as np
import torch
import torch.nn.functional as F

from parity_tests import bridge, compiled
from parity_tests.bridge import Arrays, Setup, arrays, minus, relative
from parity_tests.measures import TRAIN, torch_meta_iteration
from reptile_jax.meta.episodes import Examples
from reptile_torch_ref import reptile

TIE = 5e-6  # difference that rounding can reverse between the two largest values of a window; they are about 1 in size
TIES = 4  # of one step that are tried on both sides, the closest ones
NOISE = 1e-4  # times the root mean square gradient of a layer; ten times the rounding of its smallest gradients
ROUNDING = float(np.finfo(np.float32).eps)  # of a probability


class Step(NamedTuple):
    """How one inner step of the two sides compares.

    Attributes:
        difference: relative L2 difference of the weights' change.
        as_it_is: the same difference if kinks, ties and weights without history are not treated specially.
        moment: relative L2 difference of the second moment.
        kinks: number of ReLUs that are on in one framework and off in the other.
        distance: the largest input of those ReLUs in the reference; batch norm makes inputs about 1 in size.
        left_out: share of the weights that are left out.
    """

    difference: float
    as_it_is: float
    moment: float
    kinks: int
    distance: float
    left_out: float


class Tie(NamedTuple):
    """A pooling window whose two largest values differ by `gap`: its layer, and its place among the layer's windows."""

    gap: float
    layer: int
    place: int


@contextmanager
def replaced(**functions: Callable[..., torch.Tensor]) -> Iterator[None]:
    """Replaces functions of torch.nn.functional by others."""
    originals = {name: getattr(F, name) for name in functions}
    try:
        for name, function in functions.items():
            setattr(F, name, function)
        yield
    finally:
        for name, original in originals.items():
            setattr(F, name, original)


def _windows(x: torch.Tensor) -> torch.Tensor:
    """Returns the values of the windows of `max_pool2d(x, 2, ceil_mode=True)`: [b, c, h, w] -> [b, c, h', w', 4]."""
    x = F.pad(x, (0, x.shape[3] % 2, 0, x.shape[2] % 2), value=-torch.inf)
    return x.unfold(2, 2, 2).unfold(3, 2, 2).flatten(4)


def _two_largest(windows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the numbers of the largest value of each window, the first one if several are equal, and of the next."""
    first = windows.argmax(-1, keepdim=True)
    return first, windows.scatter(-1, first, -torch.inf).argmax(-1, keepdim=True)


def ties_of(x: torch.Tensor, layer: int) -> list[Tie]:
    """Returns the windows of pooling whose gradient rounding can send to another value; ReLU follows the pooling."""
    windows = _windows(x)
    first, second = (windows.gather(-1, which).flatten() for which in _two_largest(windows))
    gaps = first - second
    places = (gaps > 0) & (gaps <= TIE) & (first > -TIE)
    return [Tie(float(gaps[place]), layer, int(place)) for place in places.nonzero().flatten()]


def pooling(turned: tuple[Tie, ...]) -> Callable[..., torch.Tensor]:
    """Returns the max pooling of the layers, one call after the other, which takes the second value in `turned`."""
    layers = itertools.count()

    def pool(x: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
        layer, windows = next(layers), _windows(x)
        first, second = _two_largest(windows)
        for tie in turned:
            if tie.layer == layer:
                first.view(-1)[tie.place] = second.view(-1)[tie.place]
        return windows.gather(-1, first)[..., 0]

    return pool


def compare(setup: Setup, state: reptile.State, examples: Examples) -> tuple[Step, reptile.State]:
    """Takes one inner step on both sides from the reference's state; returns the reference's next state too."""
    start, inputs, pools, ties = bridge.to_jax(state, setup.start), [], itertools.count(), []
    ours = compiled.step(setup.spec, setup.weight_decay, start, examples, setup.pixels.jax)
    forward = compiled.forward(setup.spec, setup.weight_decay, start.params, examples, setup.pixels.jax)
    batch, relu, max_pool2d = bridge.batch(examples, setup.pixels.torch), F.relu, F.max_pool2d

    def recorded(x: torch.Tensor) -> torch.Tensor:
        inputs.append(x.detach())
        return relu(x)

    def recorded_pool(x: torch.Tensor, *size: int, **mode: bool) -> torch.Tensor:
        ties.extend(ties_of(x.detach(), next(pools)))
        return max_pool2d(x, *size, **mode)

    with replaced(relu=recorded, max_pool2d=recorded_pool):
        theirs = reptile.inner_step(state, *batch, setup.inner)
    masks = [torch.from_numpy(np.array(x) > 0).permute(0, 3, 1, 2) for x in forward.activations]
    crossed = torch.cat([x[(x > 0) != mask].abs() for x, mask in zip(inputs, masks, strict=True)])
    sides, nearest = [theirs], sorted(ties)[:TIES]
    turns = [turned for count in range(len(nearest) + 1) for turned in itertools.combinations(nearest, count)]
    for turned, other_side in itertools.product(turns, (False, True) if len(crossed) else (False,)):
        of_layers = iter(masks)
        functions = {"max_pool2d": pooling(turned)} if turned else {}
        if other_side:
            functions["relu"] = lambda x, of_layers=of_layers: torch.where(next(of_layers), x, torch.zeros_like(x))
        if functions:
            with replaced(**functions):
                sides.append(reptile.inner_step(state, *batch, setup.inner))
    before = arrays(start.params)
    change, gradients = minus(arrays(ours.params), before), arrays(forward.gradients)
    difference, left_out, side = min(
        ((*_difference(change, gradients, before, side, len(examples.labels)), side) for side in sides),
        key=lambda result: result[0],
    )
    moment = 0.0
    if not setup.inner.sgd:
        moment = relative(arrays(compiled.second_moment(ours)), arrays(side.second_moment))
    as_it_is = relative(change, minus(arrays(theirs.params), before))
    distance = float(crossed.max()) if len(crossed) else 0.0
    return Step(difference, as_it_is, moment, len(crossed), distance, left_out), theirs


def _difference(
    change: Arrays, gradients: Arrays, before: Arrays, theirs: reptile.State, batch: int
) -> tuple[float, float]:
    """Returns the relative difference of the weights' change, and the share of the weights that it leaves out."""
    keep = _with_history(gradients, theirs, batch)
    wanted = minus(arrays(theirs.params), before)
    kept, total = (sum(np.sum(x) for x in keep.values()), sum(x.size for x in keep.values()))
    difference = relative({n: change[n] * keep[n] for n in keep}, {n: wanted[n] * keep[n] for n in keep})
    return difference, 1 - float(kept / total)


def _with_history(gradients: Arrays, after: reptile.State, batch: int) -> Arrays:
    """Marks weights whose bias-corrected root second moment is more than rounding compared with the gradients.

    The gradient of the dense bias is a sum of differences of probabilities over the mini-batch. From a dense layer of
    zeros and a balanced mini-batch, they cancel except for their own rounding, in all of the layer.
    """
    if not after.second_moment:
        return {name: np.ones(g.shape, bool) for name, g in gradients.items()}
    correction = 1 - reptile.BETA2**after.step_count
    keep = {}
    for name, moment in arrays(after.second_moment).items():
        layer = np.sqrt(np.mean(np.square(gradients[name])))
        rounding = max(NOISE * layer, batch * ROUNDING if name == "dense/bias" else 0)
        keep[name] = np.sqrt(moment / correction) >= rounding
    return keep


def follow(setup: Setup, meta_iterations: int) -> Iterator[Step]:
    """Compares every inner step of the first meta-iterations of the reference."""
    state = bridge.to_torch(setup.start)
    for iteration in range(meta_iterations):
        tasks = compiled.sample(setup.config, iteration, setup.pixels.jax[1], TRAIN)
        start = state
        for i in range(setup.config.meta_batch):
            now = reptile.task_start(start, setup.inner)
            for examples in _mini_batches(tasks, i):
                step, now = compare(setup, now, examples)
                yield step
            if setup.inner.inner_state == "sequential":
                start = now._replace(params=state.params)
        state = torch_meta_iteration(setup, state, iteration)


def _mini_batches(tasks: Any, i: int) -> list[Examples]:
    """Returns the mini-batches of one task of a meta-batch; a tail is the last one."""
    task = jax.tree.map(lambda x: x[i], tasks)
    steps = [Examples(*pair) for pair in zip(*task.batches, strict=True)]
    return steps + ([task.tail] if task.tail else [])


def inner_steps(setup: Setup) -> float:
    """Returns the worst difference of the inner steps of two meta-iterations."""
    return max(step.difference for step in follow(setup, 2))


def moments(setup: Setup) -> float:
    """Returns the worst difference of the second moment after the same steps."""
    return max(step.moment for step in follow(setup, 2))


def kinks(setup: Setup) -> float:
    """Returns the largest input of a ReLU that is on in one framework and off in the other, in the same steps."""
    return max(step.distance for step in follow(setup, 2))


def left_out(setup: Setup) -> float:
    """Returns the largest share of the weights that is left out of one of the same steps."""
    return max(step.left_out for step in follow(setup, 2))


def predictions(setup: Setup) -> float:
    """Returns how many queries the sides classify differently, in both protocols, with weights that PyTorch adapted."""
    different, start = 0, bridge.to_torch(setup.start)
    tasks, _ = compiled.evaluate(setup.config, setup.start, setup.pixels.jax, bridge.POOLS["held_out"], 20)
    for i, task in enumerate(bridge.eval_tasks(tasks, setup.pixels.torch)):
        theirs = reptile.evaluate_task(start, *task, setup.inner)
        adapted = reptile.inner_loop(reptile.task_start(start, setup.inner), task[0], setup.inner)
        one = jax.tree.map(lambda x, i=i: np.asarray(x)[i], tasks)
        ours = compiled.predict(setup.spec, bridge.to_jax(adapted, setup.start), one, setup.pixels.jax)
        for a, b in zip(ours, theirs, strict=True):
            different += int(np.sum(np.asarray(a) != b.argmax(1).numpy()))
    return float(different)
