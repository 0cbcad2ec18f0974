"""Tests that need no second framework: the inner loop and the meta-update must follow the theory, in float64.

The network is a tanh perceptron, which is smooth and small, so that gradients of gradients exist and compiling is fast.
Paper: Nichol, Achiam, Schulman, arXiv 1803.02999, sections 3 (joint training) and 5.1 (the expansion).
"""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import random

from reptile_jax.meta.episodes import Examples, TrainTask
from reptile_jax.meta.inner_loop import InnerLoop, inner_loop, inner_optimizer, summed_loss
from reptile_jax.meta.reptile import MetaState, meta_update, task_delta

pytestmark = pytest.mark.usefixtures("x64")
TASKS, BATCHES, BATCH, CLASSES, HIDDEN = 3, 3, 4, 3, 6


def perceptron(params, images):
    hidden = jnp.tanh(images.reshape(images.shape[0], -1) @ params["in"])
    return hidden @ params["out"]


@pytest.fixture(scope="module")
def data():
    return np.random.default_rng(0).integers(0, 2, (40, 28, 28), np.uint8)


@pytest.fixture
def params():
    first, second = random.split(random.key(0))
    return {
        "in": random.normal(first, (784, HIDDEN), jnp.float64) / 28,
        "out": random.normal(second, (HIDDEN, CLASSES), jnp.float64) / 2,
    }


@pytest.fixture(scope="module")
def batches():
    """Returns the mini-batches of every task, [tasks, batches, batch]."""
    rng = np.random.default_rng(1)
    shape = (TASKS, BATCHES, BATCH)
    return Examples(rng.integers(0, 40, shape, np.int32), rng.integers(0, CLASSES, shape, np.int32))


def sgd_loop(data, learning_rate):
    """Returns an inner loop of SGD; `learning_rate` may be traced, so that one program serves all rates."""

    def loss(params, batch):
        return summed_loss(perceptron, params, jnp.asarray(data)[batch.rows].astype(jnp.float64), batch.labels)

    return InnerLoop(loss, inner_optimizer(learning_rate, True), 1.0)


@jax.jit
def gradient(params, data, batch):
    return jax.grad(partial(summed_loss, perceptron))(params, data[batch.rows].astype(jnp.float64), batch.labels)


def close(ours, theirs, tolerance=1e-12):
    difference = optax.tree.norm(jax.tree.map(jnp.subtract, ours, theirs)) / optax.tree.norm(theirs)
    return float(difference) <= tolerance


def test_one_sgd_step_per_task_is_joint_training(data, params, batches):
    rate, size = 0.02, 0.3
    tasks = TrainTask(jax.tree.map(lambda x: x[:, :1], batches), None)

    @jax.jit
    def both(params):
        loop = sgd_loop(data, rate)
        state = MetaState(params, loop.optimizer.init(params), jnp.zeros((), jnp.int32))
        after, _ = meta_update(loop, state, tasks, size, foml=False, inner_state="averaged")

        def joint_loss(params):  # the mean over tasks of the loss that each task trains on
            images = jnp.asarray(data)[tasks.batches.rows[:, 0]].astype(jnp.float64)
            return jnp.mean(jax.vmap(partial(summed_loss, perceptron, params))(images, tasks.batches.labels[:, 0]))

        return after.params, jax.tree.map(lambda p, g: p - size * rate * g, params, jax.grad(joint_loss)(params))

    assert close(*both(params))


def test_delta_of_sgd_is_minus_the_rate_times_the_sum_of_gradients(data, params, batches):
    rate, task = 0.05, jax.tree.map(lambda x: jnp.asarray(x[0]), batches)
    phi, _, _ = jax.jit(lambda p: inner_loop(sgd_loop(data, rate), p, inner_optimizer(rate, True).init(p), task))(
        params
    )
    total, at = jax.tree.map(jnp.zeros_like, params), params
    for k in range(BATCHES):
        g = gradient(at, data, jax.tree.map(lambda x, k=k: x[k], task))
        total = jax.tree.map(jnp.add, total, g)
        at = jax.tree.map(lambda p, g: p - rate * g, at, g)
    assert close(jax.tree.map(jnp.subtract, phi, params), jax.tree.map(lambda g: -rate * g, total))
    at_start = [gradient(params, data, jax.tree.map(lambda x, k=k: x[k], task)) for k in range(BATCHES)]
    wrong = jax.tree.map(lambda *g: -rate * sum(g), *at_start)  # with all gradients taken at theta
    assert not close(jax.tree.map(jnp.subtract, phi, params), wrong, 1e-3)


def test_adam_without_a_first_moment_in_closed_form():
    """v_t = (1 - b) * sum_s b^(t - s) g_s^2, and a step is -lr * g_t / (sqrt(v_t / (1 - b^t)) + 1e-8), b = 0.999."""
    rate, steps = 1e-3, 6
    gradients = np.random.default_rng(2).normal(size=(steps, 5)) * np.logspace(-9, 2, 5)
    optimizer = inner_optimizer(rate, False)

    @jax.jit
    def run(gradients):
        with jax.numpy_dtype_promotion("standard"):
            return jax.lax.scan(lambda s, g: optimizer.update(g, s)[::-1], optimizer.init(gradients[0]), gradients)[1]

    ours = np.asarray(run(gradients))
    for t in range(1, steps + 1):
        powers = 0.999 ** (t - np.arange(1, t + 1))[:, None]
        moment = 0.001 * np.sum(powers * gradients[:t] ** 2, axis=0)
        step = -rate * gradients[t - 1] / (np.sqrt(moment / (1 - 0.999**t)) + 1e-8)
        np.testing.assert_allclose(ours[t - 1], step, rtol=1e-10)
    np.testing.assert_allclose(ours[0], -rate * gradients[0] / (np.abs(gradients[0]) + 1e-8), rtol=1e-10)


@pytest.fixture
def expansion(data, params, batches):
    """Returns the remainders of the expansion of an update of two steps, as a function of the learning rate.

    The expectation is exact: it is the mean over all tasks and all ordered pairs of their mini-batches.
    """
    orders = np.array(list(itertools.permutations(range(BATCHES), 2)))
    pairs = jax.tree.map(lambda x: jnp.asarray(x[:, orders].reshape(-1, 2, BATCH)), batches)
    images = jnp.asarray(data)[pairs.rows].astype(jnp.float64)  # [pairs, 2, batch, 28, 28]
    norm = optax.tree.norm

    @jax.jit
    def remainders(params, rate):
        def mean_update(foml):
            loop = sgd_loop(data, rate)
            start = loop.optimizer.init(params)
            one = jax.vmap(lambda b: task_delta(loop, params, start, TrainTask(b, None), foml)[0])
            return jax.tree.map(lambda d: -jnp.mean(d, axis=0) / rate, one(pairs))

        def gradients(params):
            of = jax.grad(partial(summed_loss, perceptron))
            return [jax.vmap(partial(of, params))(images[:, i], pairs.labels[:, i]) for i in range(2)]

        def half_inner_product(params):
            g1, g2 = gradients(params)
            return optax.tree.vdot(g1, g2) / (2 * len(orders) * TASKS)

        average = jax.tree.map(lambda g: jnp.mean(g, axis=0), gradients(params)[0])  # AvgGrad
        inner = jax.grad(half_inner_product)(params)  # AvgGradInner
        results = []
        for foml, terms in ((False, 2), (True, 1)):
            zeroth = jax.tree.map(lambda u, a, terms=terms: u - terms * a, mean_update(foml), average)
            first = jax.tree.map(lambda z, i: z + rate * i, zeroth, inner)
            results.append((norm(zeroth), norm(first), norm(inner)))
        return results

    return lambda rate: [tuple(map(float, r)) for r in remainders(params, jnp.asarray(rate, jnp.float64))]


@pytest.mark.parametrize(
    "foml", [False, True], ids=["g1+g2 = 2 AvgGrad - a AvgGradInner", "g2 = AvgGrad - a AvgGradInner"]
)
def test_expected_update_of_two_steps(expansion, foml):
    rates = [1e-4, 5e-5, 2.5e-5]
    zeroth, first, inner = np.array([expansion(rate)[int(foml)] for rate in rates]).T
    np.testing.assert_allclose(first[:-1] / first[1:], 4, rtol=0.05)  # the remainder: second order
    np.testing.assert_allclose(zeroth[:-1] / zeroth[1:], 2, rtol=0.05)  # without the inner product: first order
    assert first[-1] < 0.05 * rates[-1] * inner[-1], "the inner-product term explains the first order"
