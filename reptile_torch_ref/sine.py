"""Sine waves (the paper, section 4.1): the network, the tasks, and a whole run, in plain loops.

f(x) = a sin(x + b) on [-5, 5], a from 0.1 to 5, b from 0 to 2 pi. `sinusoid` takes the points of a task from 50 evenly
over the interval, `sinusoid_uniform` anywhere; errors are measured on the 50.
"""

from typing import NamedTuple

import numpy as np
import torch
from ml_collections import ConfigDict
from numpy.random import Generator
from torch import Tensor
from tqdm import trange

from reptile_torch_ref import reptile
from reptile_torch_ref.model import Weights

GRID = np.linspace(-5, 5, 50)
ACTIVATIONS = {"perceptron": torch.tanh, "perceptron_relu": torch.relu}
STREAMS = {"train": 2, "evaluate": 3}  # of random numbers; 0 and 1 are those of the classification tasks


class Wave(NamedTuple):
    """f(x) = amplitude * sin(x + phase)."""

    amplitude: float
    phase: float

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """Returns f(x)."""
        return self.amplitude * np.sin(x + self.phase)


def init_weights(seed: int, hidden: int, dtype: torch.dtype = torch.float32) -> Weights:
    """Returns the weights of 1 -> hidden -> hidden -> 1, each uniform within 1 / sqrt(inputs of its layer)."""
    generator, weights = torch.Generator().manual_seed(seed), {}
    for i, (inputs, outputs) in enumerate(((1, hidden), (hidden, hidden), (hidden, 1))):
        for name, shape in (("kernel", (outputs, inputs)), ("bias", (outputs,))):
            bound = inputs**-0.5
            weights[f"dense_{i}/{name}"] = torch.empty(shape, dtype=dtype).uniform_(-bound, bound, generator=generator)
    return weights


def predict(weights: Weights, x: Tensor, network: str) -> Tensor:
    """Returns the predictions [points] of a network, named as in `ACTIVATIONS`, at x [points]."""
    h = x[:, None].to(weights["dense_0/kernel"].dtype)
    for i in range(3):
        h = h @ weights[f"dense_{i}/kernel"].T + weights[f"dense_{i}/bias"]
        h = ACTIVATIONS[network](h) if i < 2 else h
    return h[:, 0]


def squared_error(weights: Weights, x: Tensor, y: Tensor, network: str) -> Tensor:
    """Returns the mean of (prediction - y)^2 over points x and y [points]."""
    predictions = predict(weights, x, network)
    return (predictions - y.to(predictions.dtype)).square().mean()


def inner_of(config: ConfigDict) -> reptile.Inner:
    """Returns a config's inner optimiser, with the loss."""
    fields = (config.learning_rate, config.sgd, config.weight_decay, config.inner_state, config.model.name)
    return reptile.Inner(*fields, squared_error)


def sample_wave(rng: Generator) -> Wave:
    """Draws a wave."""
    return Wave(rng.uniform(0.1, 5), rng.uniform(0, 2 * np.pi))


def sample_points(config: ConfigDict, rng: Generator, count: int) -> np.ndarray:
    """Draws the x of so many points, distinct ones of the 50 or anywhere."""
    if config.data.name == "sinusoid_uniform":
        return rng.uniform(-5, 5, count)
    return rng.choice(GRID, count, replace=False)


def batches_of(points: np.ndarray, wave: Wave, order: list[np.ndarray]) -> reptile.Task:
    """Returns the mini-batches (x, y) that an order of a wave's points makes."""
    return [(torch.from_numpy(points[i]), torch.from_numpy(wave(points[i]))) for i in order]


def sample_task(config: ConfigDict, rng: Generator) -> reptile.Task:
    """Samples a training task; with a tail, its last mini-batch is points that the others do not have."""
    wave, tail = sample_wave(rng), config.foml_tail if config.foml else 0
    points = sample_points(config, rng, config.train_shots or config.shots)
    kept, iters = len(points) - tail, config.inner_iters - (1 if tail else 0)
    order = reptile.orders(rng, kept, config.inner_batch, iters, config.replacement) if iters else []
    return batches_of(points, wave, [*order, np.arange(kept, len(points))] if tail else order)


def train(config: ConfigDict, state: reptile.State, seed: int) -> reptile.State:
    """Runs `meta_iters` meta-iterations from `state`."""
    inner = inner_of(config)
    for i in trange(config.meta_iters, desc=f"train, seed {seed}"):
        rng = np.random.default_rng([seed, STREAMS["train"], i])
        tasks = [sample_task(config, rng) for _ in range(config.meta_batch)]
        step = reptile.meta_step_at(i, config.meta_iters, config.meta_step, config.meta_step_final)
        state = reptile.meta_iteration(state, tasks, step, inner, config.foml)
    return state


def errors_of_task(
    state: reptile.State, batches: reptile.Task, whole: reptile.Batch, inner: reptile.Inner
) -> list[float]:
    """Adapts to a wave; returns the error on the points of the `whole` wave before and after every step."""
    now = reptile.task_start(state, inner)
    errors = [float(squared_error(now.params, *whole, inner.network))]
    for batch in batches:
        now = reptile.inner_step(now, *batch, inner)
        with torch.no_grad():
            errors.append(float(squared_error(now.params, *whole, inner.network)))
    return errors


def evaluate(config: ConfigDict, state: reptile.State) -> np.ndarray:
    """Returns the errors of `eval_samples` waves before and after every step: [eval_samples, 1 + eval_iters]."""
    errors, inner = [], inner_of(config)
    for i in trange(config.eval_samples, desc="evaluate"):
        rng = np.random.default_rng([config.eval_seed, STREAMS["evaluate"], i])
        wave, points = sample_wave(rng), sample_points(config, rng, config.shots)
        order = reptile.orders(rng, len(points), config.eval_batch, config.eval_iters, config.replacement)
        (whole,) = batches_of(GRID, wave, [np.arange(len(GRID))])
        errors.append(errors_of_task(state, batches_of(points, wave, order), whole, inner))
    return np.array(errors)


def init_state(config: ConfigDict, seed: int, dtype: torch.dtype = torch.float32) -> reptile.State:
    """Returns the state before the first meta-iteration, a function of `seed`."""
    params = init_weights(seed, config.model.filters, dtype)
    return reptile.State(params, {} if config.sgd else {n: torch.zeros_like(w) for n, w in params.items()}, 0)


def run(config: ConfigDict, seed: int, state: reptile.State) -> reptile.State:
    """Trains one seed, and prints its errors beside those from where it began."""
    trained = train(config, state, seed)
    before, after = (evaluate(config, start) for start in (state, trained))
    steps = sorted({0, *(2**i for i in range(config.eval_iters.bit_length())), config.eval_iters})
    print(f"seed {seed}: squared error, {config.shots} points ({config.eval_samples} waves)")
    for step in steps:
        cells = []
        for errors in (after[:, step], before[:, step]):
            ci95 = 1.96 * errors.std(ddof=1) / len(errors) ** 0.5
            cells.append(f"{errors.mean():.4f} ± {ci95:.4f}")  # 95% interval over waves
        print(f"after {step:2d} steps: {cells[0]} meta-trained, {cells[1]} before")
    return trained
