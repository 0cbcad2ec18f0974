"""Compares sine waves with their definition and with plain NumPy loops, in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import random

from configs import sinusoid, sinusoid_relu
from reptile_jax.config import ConfigError, validate
from reptile_jax.devices import mesh_of, put
from reptile_jax.meta.reptile import task_delta
from reptile_jax.run.programs import eval_program, inner_loop_of, network_of, sample_meta_batch
from reptile_jax.run.programs import initial_state as initial
from reptile_jax.tasks import sine
from reptile_jax.testing.small_runs import small_waves

SOURCE, POOL = ((), ()), None
GRID = np.linspace(-5, 5, 50)
DRAWS = 4000


@pytest.fixture(scope="module", params=[sinusoid, sinusoid_relu], ids=lambda module: module.__name__)
def config(request):
    return request.param.get_config()


def drawn(sample, count=DRAWS):
    return jax.tree.map(np.asarray, jax.jit(jax.vmap(sample))(random.split(random.key(3), count)))


def uniform(values, low, high):
    """Returns whether values look uniform: uniform values have a larger Kolmogorov-Smirnov distance once in 10,000."""
    ordered = np.sort(values.ravel().astype(np.float64))
    ranks = np.arange(1, len(ordered) + 1) / len(ordered)
    inside = low <= ordered[0] and ordered[-1] <= high
    return bool(inside and np.max(np.abs(ranks - (ordered - low) / (high - low))) < 2.2 / np.sqrt(len(ordered)))


# Sampling.


def test_amplitudes_and_phases_are_uniform_and_independent():
    waves = drawn(sine.sample_wave)
    assert uniform(waves.amplitude, 0.1, 5) and uniform(waves.phase, 0, 2 * np.pi)
    assert not uniform(waves.amplitude, -0.5, 5) and not uniform(waves.phase, 0, np.pi), "a check that cannot fail"
    assert abs(np.corrcoef(waves.amplitude, waves.phase)[0, 1]) < 4 / np.sqrt(DRAWS)


def wave_through(points):
    """Returns amplitude and phase of a sin(x + b) by linear least squares, and the largest residual."""
    x, y = points.inputs.ravel().astype(np.float64), points.targets.ravel()
    basis = np.stack([np.sin(x), np.cos(x)], axis=1)
    (of_sin, of_cos), *_ = np.linalg.lstsq(basis, y, rcond=None)
    return np.hypot(of_sin, of_cos), np.arctan2(of_cos, of_sin), np.abs(basis @ [of_sin, of_cos] - y).max()


def test_all_points_of_a_task_are_on_one_wave(config):
    train = drawn(lambda key: sine.sample_train(config, key, SOURCE, POOL), 100).batches
    evaluated = drawn(lambda key: sine.sample_eval(config, 10, key, SOURCE, POOL), 100)
    amplitudes = []
    for i in range(100):
        amplitude, phase, residual = wave_through(jax.tree.map(lambda x, i=i: x[i], train))
        assert residual < 1e-5
        amplitudes.append(amplitude)
        task = jax.tree.map(lambda x, i=i: x[i], evaluated)
        amplitude, phase, residual = wave_through(task.support)
        assert residual < 1e-5
        np.testing.assert_allclose(task.whole.targets, amplitude * np.sin(GRID + phase), atol=1e-3)
        assert wave_through(jax.tree.map(lambda x, y: np.append(x, y), task.support, task.batches))[2] < 1e-5
    assert min(amplitudes) >= 0.1 and max(amplitudes) <= 5.001 and len(np.unique(np.round(amplitudes, 4))) > 95


def test_points_of_the_script_are_ten_distinct_ones_of_fifty():
    config = sinusoid.get_config()
    train = drawn(lambda key: sine.sample_train(config, key, SOURCE, POOL), 200).batches.inputs
    assert train.shape == (200, 5, 10)
    np.testing.assert_allclose(np.sort(train.reshape(200, 50)), np.broadcast_to(GRID, (200, 50)), atol=1e-6)
    assert not np.array_equal(train[0], train[1])
    support = drawn(lambda key: sine.sample_eval(config, 10, key, SOURCE, POOL)).support.inputs
    places = np.round((support + 5) * 4.9).astype(int)
    assert all(len(set(task)) == 10 for task in places.tolist())
    counts = np.bincount(places.ravel(), minlength=50)
    expected = DRAWS / 5
    assert ((counts - expected) ** 2 / expected).sum() < 50 + 5 * np.sqrt(100)


def test_points_of_the_paper_are_anywhere():
    config = sinusoid_relu.get_config()
    inputs = drawn(lambda key: sine.sample_eval(config, 10, key, SOURCE, POOL)).support.inputs
    assert uniform(inputs, -5, 5) and len(np.unique(inputs)) > 0.99 * inputs.size
    of_script = drawn(lambda key: sine.sample_eval(sinusoid.get_config(), 10, key, SOURCE, POOL)).support.inputs
    assert len(np.unique(of_script)) == 50


def test_mini_batches_of_an_evaluation_are_its_ten_points_every_time(config):
    task = drawn(lambda key: sine.sample_eval(config, 10, key, SOURCE, POOL), 20)
    assert task.batches.inputs.shape == (20, 32, 10)
    wanted = np.broadcast_to(np.sort(task.support.inputs)[:, None], (20, 32, 10))
    np.testing.assert_array_equal(np.sort(task.batches.inputs), wanted)


def test_a_tail_shares_no_point_with_the_other_steps():
    config = small_waves(foml=True, foml_tail=10)
    task = drawn(lambda key: sine.sample_train(config, key, SOURCE, POOL), 50)
    assert task.batches.inputs.shape == (50, 4, 10) and task.tail.inputs.shape == (50, 10)
    for batches, tail in zip(task.batches.inputs, task.tail.inputs, strict=True):
        assert len({*batches.ravel().tolist()}) == 40 and not {*batches.ravel().tolist()} & {*tail.tolist()}


# The computation, against loops in NumPy.


class Network:
    """A 1-64-64-1 network in NumPy, with gradients by hand."""

    def __init__(self, name, params):
        tanh, relu = (np.tanh, lambda h: 1 - h**2), (lambda z: np.maximum(z, 0), lambda h: h > 0)
        self.f, self.slope = {"perceptron": tanh, "perceptron_relu": relu}[name]
        layers = (params["params"][f"dense_{i}"] for i in range(3))
        self.weights = [np.array(layer[name], np.float64) for layer in layers for name in ("kernel", "bias")]

    def __call__(self, x):
        k1, b1, k2, b2, k3, b3 = self.weights
        self.h0 = np.asarray(x, np.float64)[:, None]
        self.h1 = self.f(self.h0 @ k1 + b1)
        self.h2 = self.f(self.h1 @ k2 + b2)
        return (self.h2 @ k3 + b3)[:, 0]

    def step(self, x, y, learning_rate):
        """Takes a step of plain SGD on the mean squared error, and returns the error."""
        _, _, k2, _, k3, _ = self.weights
        error = self(x) - y
        g3 = (2 * error / len(x))[:, None]
        g2 = g3 @ k3.T * self.slope(self.h2)
        g1 = g2 @ k2.T * self.slope(self.h1)
        gradients = []
        for h, g in ((self.h0, g1), (self.h1, g2), (self.h2, g3)):
            gradients += [h.T @ g, g.sum(0)]
        self.weights = [w - learning_rate * g for w, g in zip(self.weights, gradients, strict=True)]
        return float(np.mean(error**2))


def flat(params):
    layers = (params["params"][f"dense_{i}"] for i in range(3))
    return [np.asarray(layer[name]) for layer in layers for name in ("kernel", "bias")]


@pytest.fixture
def setting(config, x64):
    """Returns a config, weights and a training task, in float64."""
    params = initial(config, 0, jnp.float64).params
    task = jax.tree.map(lambda x: x[0], sample_meta_batch(config, 0, 0, SOURCE, POOL, jnp.arange(1)))
    return config, params, task


def delta(config, params, task, **fields):
    changed = config.copy_and_resolve_references()
    changed.update(fields)
    loop = inner_loop_of(changed, SOURCE)
    return task_delta(loop, params, loop.optimizer.init(params), task, changed.foml)


def largest_difference(ours, theirs):
    return max(np.abs(a - b).max() for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("foml", [False, True], ids=["reptile", "foml"])
def test_the_delta_of_a_task_is_that_of_a_plain_loop(setting, foml):
    config, params, task = setting
    network = Network(config.model.name, params)
    losses = []
    for x, y in zip(task.batches.inputs, task.batches.targets, strict=True):
        before = network.weights
        losses.append(network.step(np.asarray(x), np.asarray(y), config.learning_rate))
    start = before if foml else Network(config.model.name, params).weights
    wanted = [after - first for after, first in zip(network.weights, start, strict=True)]
    ours, _, loss = delta(config, params, task, foml=foml)
    assert largest_difference(flat(ours), wanted) < 1e-14
    assert abs(float(loss) - np.mean(losses)) < 1e-13
    for mistake in ({"learning_rate": 0.2}, {"weight_decay": 0.99}, {"sgd": False}, {"foml": not foml}):
        wrong, _, _ = delta(config, params, task, **{"foml": foml} | mistake)
        assert largest_difference(flat(wrong), wanted) > 1e-4, mistake


def test_an_evaluation_is_that_of_a_plain_loop(config, x64):
    config = config.copy_and_resolve_references()
    config.num_seeds = 1
    mesh = mesh_of(config)
    params = initial(config, 0, jnp.float64)
    states = put(mesh, jax.tree.map(lambda x: np.asarray(x)[None], params))
    keys = np.asarray(random.key_data(random.split(random.key(1), 3)))[None]
    pools = jax.tree.map(lambda x: np.full(3, x, np.int32), sine.Pool(0, 1))
    program = eval_program(config, mesh, 10)
    tasks, fits = jax.tree.map(lambda x: np.asarray(x)[0], program(states, SOURCE, pools, keys))
    steps = [0, 1, 2, 4, 8, 16, 32]
    for i in range(3):
        network, errors, wrong = Network(config.model.name, params.params), [], []
        for step in range(33):
            if step in steps:
                predictions = network(np.float32(GRID))
                errors.append(np.mean((predictions - tasks.whole.targets[i]) ** 2))
                on_support = network(tasks.support.inputs[i]) - tasks.support.targets[i]
                wrong.append(np.mean(on_support**2))
                np.testing.assert_allclose(fits.predictions[i][steps.index(step)], predictions, atol=1e-12)
            network.step(tasks.support.inputs[i], tasks.support.targets[i], config.learning_rate)
        np.testing.assert_allclose(fits.errors[i], errors, rtol=1e-11)
        assert np.abs(fits.errors[i] - wrong).max() > 1e-3  # the error on the ten points differs
    named = sine.measures(config, fits)
    assert list(named) == [f"after {n} step{'s' * (n != 1)}" for n in steps]
    np.testing.assert_array_equal(named["after 32 steps"], fits.errors[:, -1])


def test_initial_weights_are_uniform_as_pytorchs_layers_begin(config):
    flat_of_seeds = zip(*(flat(initial(config, seed).params) for seed in range(4)), strict=True)
    for weights, inputs in zip(flat_of_seeds, (1, 1, 64, 64, 64, 64), strict=True):
        assert uniform(np.concatenate([w.ravel() for w in weights]), -(inputs**-0.5), inputs**-0.5)
    shapes = [w.shape for w in flat(initial(config, 0).params)]
    assert shapes == [(1, 64), (64,), (64, 64), (64,), (64, 1), (1,)]
    assert network_of(config).activation is {"perceptron": jax.nn.tanh}.get(config.model.name, jax.nn.relu)


# Configs.


def test_the_scripts_fields():
    config = sinusoid.get_config()
    wanted = dict(
        train_shots=50, shots=10, inner_batch=10, inner_iters=5, learning_rate=0.02, sgd=True, meta_batch=1,
        meta_iters=30_000, meta_step=0.1, meta_step_final=0.0, eval_batch=10, eval_iters=32, eval_samples=1000,
        weight_decay=1.0, foml=False, replacement=False,
    )  # fmt: skip
    assert {name: config[name] for name in wanted} == wanted
    relu = sinusoid_relu.get_config()
    changed = {name for name in config if config[name] != relu[name]}
    assert changed == {"data", "model", "inner_iters", "learning_rate"}
    for whole in (config, relu):
        validate(whole)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"classes": 5}, "classes=5 is not possible with data.name=sinusoid: give 1"),
        ({"model.name": "omniglot"}, "model.name=omniglot is not possible with data.name=sinusoid: give perceptron or"),
        ({"data.size": 28}, "data.size=28 is not possible with data.name=sinusoid: give 1"),
        ({"data.rotations": True}, "data.rotations=True is not possible with data.name=sinusoid: give False"),
        ({"eval_set": "validation"}, "eval_set=validation is not possible with data.name=sinusoid: give auto or test"),
        ({"transductive": True}, "transductive=True is not possible"),
        ({"train_shots": 51}, "train_shots=51 exceeds the 50 examples of sine waves: give at most 50"),
        ({"shots": 50}, "shots=50 and one query exceed the 50 examples of sine waves: give at most 49"),
    ],
)
def test_what_waves_cannot_be_is_one_line(fields, message):
    with pytest.raises(ConfigError) as error:
        validate(small_waves(**fields))
    assert str(error.value).startswith(message) and "\n" not in str(error.value)
