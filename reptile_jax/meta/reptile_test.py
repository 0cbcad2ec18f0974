from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import random

from reptile_jax.meta.episodes import Classes, Pool, sample_eval_task, sample_train_task
from reptile_jax.meta.inner_loop import InnerLoop, inner_loop, inner_optimizer, inner_step, summed_loss
from reptile_jax.meta.protocols import predict_queries
from reptile_jax.meta.reptile import MetaState, meta_step_size, meta_update, task_delta, with_zero_head
from reptile_jax.meta.statistics import mean_and_interval
from reptile_jax.networks.omniglot import OmniglotClassifier

pytestmark = pytest.mark.usefixtures("x64")
TASKS, STEPS, CLASSES = 3, 4, 3
LR = 1e-3
IMAGES = np.random.default_rng(0).integers(0, 2, (12 * 20, 28, 28, 1), np.uint8)
TABLE = Classes(jnp.arange(12, dtype=jnp.int32) * 20, jnp.full(12, 20, jnp.int32))


@pytest.fixture(scope="module")
def images():
    return IMAGES


def loop_over(images, sgd=False, weight_decay=1.0):
    def loss(params, batch):
        return summed_loss(NETWORK.apply, params, pixels_of(images, batch.rows), batch.labels)

    return InnerLoop(loss, inner_optimizer(LR, sgd), weight_decay)


def pixels_of(images, rows):
    return jnp.asarray(images)[rows].astype(jnp.float64)


def begin(loop):
    params = NETWORK.init(random.key(0), jnp.zeros((1, 28, 28, 1), jnp.float64))
    return MetaState(params, loop.optimizer.init(params), jnp.zeros((), jnp.int32))


@partial(jax.jit, static_argnums=(0, 1))
def sample_tasks(tail_shots, seed):
    sample = partial(
        sample_train_task, table=TABLE, pool=Pool(0, 12), classes=CLASSES, shots=4, inner_batch=5, inner_iters=STEPS,
        replacement=False, tail_shots=tail_shots,
    )  # fmt: skip
    return jax.vmap(sample)(random.split(random.key(seed), TASKS))


@partial(jax.jit, static_argnames=("sgd", "weight_decay", "foml", "inner_state", "zero_head"))
def jitted_update(
    state, tasks, step_size, data, sgd=False, weight_decay=1.0, foml=False, inner_state="averaged", zero_head=False
):
    fields = {"foml": foml, "inner_state": inner_state, "zero_head": zero_head}
    return meta_update(loop_over(data, sgd, weight_decay), state, tasks, step_size, **fields)[0]


NETWORK = OmniglotClassifier(CLASSES)


jitted_apply = jax.jit(NETWORK.apply)


@jax.jit
def _gradient(params, images, labels):
    def loss(params):
        rows = jax.nn.log_softmax(NETWORK.apply(params, images))
        return -sum(rows[i, labels[i]] for i in range(labels.shape[0]))

    return jax.grad(loss)(params)


def gradient_by_hand(loop, params, batch):
    """Returns the gradient of the summed cross entropy, computed by hand."""
    return _gradient(params, pixels_of(IMAGES, batch.rows), batch.labels)


def loop_in_python(loop, params, v, t, batches, sgd=False):
    """Runs the inner loop step by step, as defined; also returns the weights before the last step."""
    for batch in batches:
        before = params
        params = jax.tree.map(lambda p: p * loop.weight_decay, params)
        g = gradient_by_hand(loop, params, batch)
        if sgd:
            params = jax.tree.map(lambda p, g: p - LR * g, params, g)
            continue
        t = t + 1
        v = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g**2, v, g)
        corrected = jax.tree.map(lambda v, t=t: v / (1 - 0.999**t), v)
        params = jax.tree.map(lambda p, g, v: p - LR * g / (jnp.sqrt(v) + 1e-8), params, g, corrected)
    return params, v, t, before


def meta_in_python(loop, state, v, t, tasks, eps, foml, inner_state, sgd=False):
    zeros = jax.tree.map(jnp.zeros_like, state.params)
    deltas, seconds, start = [], [], (v, t)
    for i in range(TASKS):
        task = jax.tree.map(lambda x, i=i: x[i], tasks)
        batches = [jax.tree.map(lambda x, k=k: x[k], task.batches) for k in range(task.batches.rows.shape[0])]
        batches += [task.tail] if task.tail else []
        v_i, t_i = {"reset": (zeros, 0), "averaged": start, "sequential": (v, t)}[inner_state]
        phi, v, t, before = loop_in_python(loop, state.params, v_i, t_i, batches, sgd)
        deltas.append(jax.tree.map(jnp.subtract, phi, before if foml else state.params))
        seconds.append(v)
    params = jax.tree.map(lambda p, *d: p + eps * sum(d) / TASKS, state.params, *deltas)
    if inner_state == "averaged":
        v = jax.tree.map(lambda *x: sum(x) / TASKS, *seconds)
    return (params, zeros, 0) if inner_state == "reset" else (params, v, t)


def distance(a, b):
    """Returns the relative L2 distance of two pytrees."""
    return float(optax.tree.norm(jax.tree.map(jnp.subtract, a, b)) / optax.tree.norm(b))


def test_reset_forgets_the_second_moment_of_the_weights_that_a_run_starts_from(images):
    fresh, tasks = begin(loop_over(images)), sample_tasks(0, 5)
    moment = jax.tree.map(lambda p: jnp.full_like(p, 0.01), fresh.params)
    used = fresh._replace(opt_state=optax.tree.set(fresh.opt_state, nu=moment, count=jnp.int32(50)))
    after = {
        inner_state: [
            jitted_update(state, tasks, 0.5, images, inner_state=inner_state).params for state in (fresh, used)
        ]
        for inner_state in ("reset", "averaged")
    }
    assert distance(*after["reset"]) == 0 < distance(*after["averaged"])


@pytest.mark.parametrize(
    ("inner_state", "tail_shots", "sgd", "weight_decay"),  # tail_shots None: Reptile, else first-order MAML
    [
        ("averaged", None, False, 1.0),
        ("averaged", 0, False, 0.97),
        ("averaged", 1, True, 0.97),
        ("sequential", None, False, 0.97),
        ("sequential", 1, False, 1.0),
        ("reset", None, True, 1.0),
        ("reset", 0, False, 1.0),
    ],
)
def test_two_meta_iterations_equal_plain_loops(images, inner_state, tail_shots, sgd, weight_decay):
    loop, foml = loop_over(images, sgd, weight_decay), tail_shots is not None
    state = begin(loop)
    python, v, t = state, jax.tree.map(jnp.zeros_like, state.params), 0
    for seed in (5, 6):
        tasks = sample_tasks(tail_shots or 0, seed)
        state = jitted_update(
            state, tasks, 0.3, images, sgd=sgd, weight_decay=weight_decay, foml=foml, inner_state=inner_state
        )
        params, v, t = meta_in_python(loop, python, v, t, tasks, 0.3, foml, inner_state, sgd)
        python = python._replace(params=params)
    assert distance(state.params, python.params) < 1e-11
    assert int(state.iteration) == 2
    if not sgd:
        assert int(state.opt_state[0].count) == t == {"averaged": 8, "sequential": 24, "reset": 0}[inner_state]
        if inner_state != "reset":
            assert distance(state.opt_state[0].nu, v) < 1e-11


def test_the_three_inner_states_differ(images):
    """Negative control: resetting or carrying the second moment in another way shows after two meta-iterations."""
    loop = loop_over(images)
    ends = {}
    for inner_state in ("averaged", "sequential", "reset"):
        state = begin(loop)
        for seed in (5, 6):
            state = jitted_update(state, sample_tasks(0, seed), 1.0, images, inner_state=inner_state)
        ends[inner_state] = state.params
    assert distance(ends["averaged"], ends["sequential"]) > 1e-4
    assert distance(ends["averaged"], ends["reset"]) > 1e-4


def test_inner_loop_delta_of_sgd_is_minus_the_learning_rate_times_the_gradients(images):
    loop = loop_over(images, sgd=True)
    params, batches = begin(loop).params, jax.tree.map(lambda x: x[0], sample_tasks(0, 5).batches)
    phi, _, _ = jax.jit(lambda p, b: inner_loop(loop, p, loop.optimizer.init(p), b))(params, batches)
    total, at = jax.tree.map(jnp.zeros_like, params), params
    for k in range(STEPS):
        g = gradient_by_hand(loop, at, jax.tree.map(lambda x, k=k: x[k], batches))
        at, total = jax.tree.map(lambda p, g: p - LR * g, at, g), jax.tree.map(jnp.add, total, g)
    delta = jax.tree.map(jnp.subtract, phi, params)
    assert distance(delta, jax.tree.map(lambda g: -LR * g, total)) < 1e-12


def test_loss_is_summed_and_weight_decay_comes_before_the_gradient(images):
    loop = loop_over(images, sgd=True, weight_decay=0.5)
    params, batch = begin(loop).params, jax.tree.map(lambda x: x[0, 0], sample_tasks(0, 5).batches)
    phi, _, loss = inner_step(loop, params, loop.optimizer.init(params), batch)
    decayed = jax.tree.map(lambda p: 0.5 * p, params)
    g = gradient_by_hand(loop, decayed, batch)
    assert distance(phi, jax.tree.map(lambda p, g: p - LR * g, decayed, g)) < 1e-13
    mean_step = jax.tree.map(lambda p, g: p - LR * g / batch.rows.size, decayed, g)
    assert distance(jax.tree.map(jnp.subtract, phi, decayed), jax.tree.map(jnp.subtract, mean_step, decayed)) > 1
    assert float(loss) > np.log(CLASSES) * batch.rows.size * 0.5


def test_from_a_zero_head_the_numbering_of_the_classes_does_not_matter(images):
    """Numbered otherwise, the classes of a task move the layers below the head in the same way, and permute the head.

    No second moment is carried, because a carried one numbers the classes, too.
    """
    loop, turned = loop_over(images), jnp.array([2, 0, 1])
    task = jax.tree.map(lambda x: x[0], sample_tasks(0, 5))
    other = task._replace(batches=task.batches._replace(labels=turned[task.batches.labels]))
    drawn = begin(loop).params
    differences = []
    for params in (with_zero_head(drawn), drawn):
        deltas = [task_delta(loop, params, loop.optimizer.init(params), t, False)[0]["params"] for t in (task, other)]
        one, two = ({k: v for k, v in delta.items() if k != "dense"} for delta in deltas)
        differences.append(distance(one, two))
        heads = [delta["dense"]["kernel"] for delta in deltas]
        differences.append(distance(heads[0], heads[1][:, turned]))
    assert max(differences[:2]) < 1e-8 and min(differences[2:]) > 1e-3


def test_a_zero_head_stays_zero_and_the_other_layers_move_as_ever(images):
    state, tasks = begin(loop_over(images)), sample_tasks(0, 5)
    state = state._replace(params=with_zero_head(state.params))
    plain, zeroed = (jitted_update(state, tasks, 0.5, images, zero_head=zero_head) for zero_head in (False, True))
    assert not any(jnp.any(x) for x in jax.tree.leaves(zeroed.params["params"]["dense"]))
    assert all(jnp.any(x) for x in jax.tree.leaves(plain.params["params"]["dense"]))
    assert distance(with_zero_head(plain.params), zeroed.params) == 0
    assert distance(plain.opt_state[0].nu, zeroed.opt_state[0].nu) == 0


def test_step_size_is_linear_from_first_to_final():
    assert [float(meta_step_size(i, 4, 1.0, 0.2)) for i in range(5)] == pytest.approx([1.0, 0.8, 0.6, 0.4, 0.2])


def sample_eval(seed):
    settings = dict(classes=CLASSES, shots=2, eval_batch=4, eval_iters=5, replacement=False)
    return sample_eval_task(random.key(seed), TABLE, Pool(0, 12), **settings)


def test_both_protocols_equal_plain_loops(images):
    loop, differ = loop_over(images), 0
    pixels = lambda rows: pixels_of(images, jnp.asarray(rows))  # noqa: E731
    state = jitted_update(begin(loop), sample_tasks(0, 5), 1.0, images)
    for seed in range(4):
        task = sample_eval(seed)
        got = jax.jit(lambda s, t: predict_queries(loop, NETWORK.apply, pixels, s.params, s.opt_state, t))(state, task)
        batches = [jax.tree.map(lambda x, k=k: x[k], task.batches) for k in range(5)]
        second_moment = state.opt_state[0].nu
        phi, *_ = loop_in_python(loop, state.params, second_moment, int(state.opt_state[0].count), batches)
        assert got.transductive.tolist() == jitted_apply(phi, pixels(task.queries.rows)).argmax(-1).tolist()
        alone = [
            int(jitted_apply(phi, pixels([*task.support.rows.tolist(), int(query)]))[-1].argmax())
            for query in task.queries.rows
        ]
        assert got.inductive.tolist() == alone
        differ += got.transductive.tolist() != got.inductive.tolist()
    assert differ, "the protocols never differ here, so that one could stand in for the other unseen"


def test_accuracy_interval_is_over_tasks():
    correct = np.array([[1, 1, 1, 1], [1, 1, 0, 0], [1, 0, 0, 0], [1, 1, 1, 0]], bool)
    measured = mean_and_interval(correct.mean(axis=1))
    assert measured.mean == pytest.approx(0.625) and measured.tasks == 4
    assert measured.ci95 == pytest.approx(1.96 * np.sqrt(((0.375**2) * 2 + 2 * 0.125**2) / 3) / 2)
