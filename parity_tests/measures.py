"""Compares JAX with PyTorch, from layers to meta-updates; every comparison returns the worst difference of a setup."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import jax
import numpy as np
import torch
import torch.nn.functional as F

from parity_tests import bridge, compiled
from parity_tests.bridge import Setup, arrays, minus, relative
from reptile_jax.files import expanded
from reptile_jax.meta.episodes import Examples
from reptile_jax.meta.reptile import MetaState
from reptile_torch_ref import model, reptile

TRAIN, HELD_OUT = bridge.POOLS["train"], bridge.POOLS["held_out"]
META_ITERATIONS = 20
EVAL_TASKS = 20


@contextmanager
def precision(name: str) -> Iterator[None]:
    """Computes in "float64" or "float32", with matrix products in full precision on every device.

    "default" is float32 with products in the precision that JAX takes by default, or that its settings say.
    """
    products = nullcontext() if name == "default" else jax.default_matmul_precision("highest")
    with jax.enable_x64(name == "float64"), products:
        yield


def data(setup: Setup) -> float:
    """Returns how many images differ, in all splits of the data set or in the whole folder `data.dir`."""
    data = setup.config.data
    if data.name == "images" and data.dir:
        return float(bridge.different_images(expanded(data.dir), data.size, data.channels)[0])
    return float(setup.pixels.different)


def layers(setup: Setup) -> float:
    """Compares outputs and gradients of every convolution and every batch norm with ReLU, on random inputs."""
    if setup.config.model.name == "miniimagenet":
        return pooled_layers(setup)
    rng, worst = np.random.default_rng(0), 0.0
    params = setup.start.params["params"]
    for i, size in enumerate((28, 14, 7, 4)):
        kernel = np.asarray(params[f"conv_{i}"]["kernel"])
        ins, outs, after = kernel.shape[2], kernel.shape[3], (size + 1) // 2
        x, grad, scale, bias = (
            rng.normal(size=shape).astype(kernel.dtype)
            for shape in ((4, size, size, ins), (4, after, after, outs), (outs,), (outs,))
        )
        y, gradients = compiled.conv(x, kernel, grad)
        pad = model.same_padding(size)
        leaves = [_leaf(x, (0, 3, 1, 2)), _leaf(kernel, (3, 2, 0, 1))]
        theirs = F.conv2d(F.pad(leaves[0], pad + pad), leaves[1], stride=2)
        worst = max(worst, _layer((y, *gradients), theirs, leaves, grad))
        x = rng.normal(size=grad.shape).astype(kernel.dtype)
        y, gradients = compiled.norm(x, scale, bias, grad)
        leaves = [_leaf(x, (0, 3, 1, 2)), _leaf(scale), _leaf(bias)]
        normal = F.batch_norm(leaves[0], None, None, *leaves[1:], training=True, eps=model.NORM_EPSILON)
        worst = max(worst, _layer((y, *gradients), F.relu(normal), leaves, grad))
    return worst


def pooled_layers(setup: Setup) -> float:
    """Compares every convolution with batch norm, pooling and ReLU in the same way, with scales of both signs."""
    rng, worst, size = np.random.default_rng(0), 0.0, setup.config.data.size
    params = setup.start.params["params"]
    for i in range(4):
        kernel = np.asarray(params[f"conv_{i}"]["kernel"])
        ins, outs, after = kernel.shape[2], kernel.shape[3], (size + 1) // 2
        x, grad, scale, bias = (
            rng.normal(size=shape).astype(kernel.dtype)
            for shape in ((4, size, size, ins), (4, after, after, outs), (outs,), (outs,))
        )
        leaves = [_leaf(x, (0, 3, 1, 2)), _leaf(kernel, (3, 2, 0, 1)), _leaf(scale), _leaf(bias)]
        theirs = model.BLOCKS["miniimagenet"](*leaves)
        for images in (False, True) if size % 2 == 0 else (False,):
            y, gradients = compiled.pooled(images, x, kernel, scale, bias, grad)
            worst = max(worst, _layer((y, *gradients), theirs, leaves, grad))
        size = after
    return worst


def _leaf(x: np.ndarray, axes: tuple[int, ...] = (0,)) -> torch.Tensor:
    return torch.from_numpy(x.transpose(axes).copy()).requires_grad_()


def _layer(ours: tuple[jax.Array, ...], y: torch.Tensor, leaves: list[torch.Tensor], grad: np.ndarray) -> float:
    """Returns the worst difference of a layer's output and gradients; `y` and `leaves` have PyTorch's layouts."""
    theirs = [
        y,
        *torch.autograd.grad(y, leaves, torch.from_numpy(grad.transpose(0, 3, 1, 2).copy()), retain_graph=True),
    ]
    axes = {4: (0, 2, 3, 1), 1: (0,)}
    if leaves[1].ndim == 4:  # it is a kernel and not a scale
        theirs[2] = theirs[2].permute(2, 3, 1, 0).permute(0, 3, 1, 2)
    worst = 0.0
    for a, b in zip(ours, theirs, strict=True):
        worst = max(worst, relative({"": np.asarray(a)}, {"": b.detach().permute(axes[b.ndim]).numpy()}))
    return worst


def _first_batch(setup: Setup) -> Examples:
    """Returns the first mini-batch of the first task."""
    return jax.tree.map(lambda x: x[0, 0], compiled.sample(setup.config, 0, setup.pixels.jax[1], TRAIN).batches)


def _forward(setup: Setup) -> tuple[compiled.Forward, compiled.Forward]:
    """Returns logits, loss and gradients of the first mini-batch on each side."""
    examples, one = _first_batch(setup), np.ones((), setup.dtype)
    ours = compiled.forward(setup.spec, one, setup.start.params, examples, setup.pixels.jax)
    images, labels = bridge.batch(examples, setup.pixels.torch)
    leaves = {name: w.requires_grad_() for name, w in bridge.to_torch(setup.start).params.items()}
    outputs = reptile.logits(leaves, images, setup.inner.network)
    total = reptile.F.cross_entropy(outputs, labels, reduction="sum")
    named = dict(zip(leaves, torch.autograd.grad(total, list(leaves.values())), strict=True))
    return ours, compiled.Forward(outputs.detach().numpy(), total.detach().numpy(), named, [])


def logits(setup: Setup) -> float:
    """Compares the logits of a mini-batch."""
    ours, theirs = _forward(setup)
    return relative({"": np.asarray(ours.logits)}, {"": np.asarray(theirs.logits)})


def loss(setup: Setup) -> float:
    """Compares the summed loss of a mini-batch."""
    ours, theirs = _forward(setup)
    return relative({"": np.asarray(ours.loss)}, {"": np.asarray(theirs.loss)})


def gradients(setup: Setup) -> float:
    """Compares the gradient of the loss."""
    ours, theirs = _forward(setup)
    return relative(arrays(ours.gradients), arrays(theirs.gradients))


def states(ours: MetaState, theirs: reptile.State, before: MetaState) -> float:
    """Compares the change of the weights, and the second moment; infinite if the step counts differ."""
    count = compiled.count(ours)
    if count != theirs.step_count:
        return float("inf")
    start = arrays(before.params)
    worst = relative(minus(arrays(ours.params), start), minus(arrays(theirs.params), start))
    moment = compiled.second_moment(ours)
    return worst if moment is None else max(worst, relative(arrays(moment), arrays(theirs.second_moment)))


def one_step(setup: Setup) -> float:
    """Compares one step of the inner optimiser."""
    examples, start = _first_batch(setup), setup.start
    ours = compiled.step(setup.spec, setup.weight_decay, start, examples, setup.pixels.jax)
    batch = bridge.batch(examples, setup.pixels.torch)
    return states(ours, reptile.inner_step(bridge.to_torch(start), *batch, setup.inner), start)


def several_steps(setup: Setup) -> float:
    """Compares the inner loop on one task."""
    examples = jax.tree.map(lambda x: x[0], compiled.sample(setup.config, 0, setup.pixels.jax[1], TRAIN).batches)
    start = setup.start
    after = compiled.steps(setup.spec, setup.weight_decay, start.params, start.opt_state, examples, setup.pixels.jax)
    batches = bridge.batches(examples, setup.pixels.torch)
    theirs = reptile.inner_loop(bridge.to_torch(start), batches, setup.inner)
    return states(start._replace(params=after[0], opt_state=after[1]), theirs, start)


def task_delta(setup: Setup) -> float:
    """Compares what one task contributes: phi - theta, or for first-order MAML only what the last step changed."""
    tasks = compiled.sample(setup.config, 0, setup.pixels.jax[1], TRAIN)
    start, one = setup.start, jax.tree.map(lambda x: x[:1], tasks)
    opt_state = compiled.task_start(setup.spec, start)
    ours, _, _ = compiled.delta(
        setup.spec, setup.weight_decay, start.params, opt_state, jax.tree.map(lambda x: x[0], one), setup.pixels.jax
    )
    batches = bridge.train_tasks(one, setup.pixels.torch)
    theirs, _ = reptile.meta_delta(bridge.to_torch(start), batches, setup.inner, setup.config.foml)
    return relative(arrays(ours), arrays(theirs))


def meta_delta(setup: Setup) -> float:
    """Compares the mean delta of a meta-batch, and the second moment and step count that are carried on."""
    tasks = compiled.sample(setup.config, 0, setup.pixels.jax[1], TRAIN)
    one = np.ones((), setup.dtype)
    ours = compiled.update(setup.spec, setup.weight_decay, setup.start, tasks, one, setup.pixels.jax)
    batches = bridge.train_tasks(tasks, setup.pixels.torch)
    theirs = reptile.meta_iteration(bridge.to_torch(setup.start), batches, 1.0, setup.inner, setup.config.foml)
    return states(ours, theirs, setup.start)


def torch_meta_iteration(setup: Setup, state: reptile.State, iteration: int) -> reptile.State:
    """Computes one meta-iteration of the reference, on the tasks that JAX samples."""
    c = setup.config
    tasks = compiled.sample(c, iteration, setup.pixels.jax[1], TRAIN)
    size = reptile.meta_step_at(iteration, c.meta_iters, c.meta_step, c.meta_step_final)
    return reptile.meta_iteration(state, bridge.train_tasks(tasks, setup.pixels.torch), size, setup.inner, c.foml)


def meta_iterations(setup: Setup) -> float:
    """Compares the change after 20 meta-iterations; neither side is reset to the other's state in between."""
    ours = compiled.train(setup.config, setup.start, setup.pixels.jax, TRAIN, META_ITERATIONS)
    theirs = bridge.to_torch(setup.start)
    for iteration in range(META_ITERATIONS):
        theirs = torch_meta_iteration(setup, theirs, iteration)
    return states(ours, theirs, setup.start)


def predictions(setup: Setup) -> float:
    """Returns how many queries the evaluation program and the reference classify differently, in both protocols."""
    return predictions_from(setup, bridge.to_torch(setup.start))


def predictions_from(setup: Setup, start: reptile.State) -> float:
    """Returns the same count if the reference starts from the state `start`."""
    tasks, ours = compiled.evaluate(setup.config, setup.start, setup.pixels.jax, HELD_OUT, EVAL_TASKS)
    different = 0
    for i, task in enumerate(bridge.eval_tasks(tasks, setup.pixels.torch)):
        theirs = reptile.evaluate_task(start, *task, setup.inner)
        different += sum(
            int(np.sum(np.asarray(a)[i] != b.argmax(1).numpy())) for a, b in zip(ours, theirs, strict=True)
        )
    return float(different)
