from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import random

from reptile_jax.meta import episodes
from reptile_jax.meta.episodes import (
    Classes,
    Examples,
    Pool,
    class_batches,
    mini_batches,
    sample_distinct,
    sample_eval_task,
    sample_train_task,
)

POOL, DRAWINGS = Pool(300, 77), 20
TABLE = Classes(jnp.arange(500, dtype=jnp.int32) * DRAWINGS, jnp.full(500, DRAWINGS, jnp.int32))
TRAIN = dict(classes=5, shots=10, inner_batch=10, inner_iters=7, replacement=False)
EVAL = dict(classes=5, shots=3, eval_batch=4, eval_iters=9, replacement=False)


def many(sample, count):
    return jax.tree.map(np.asarray, jax.jit(jax.vmap(sample))(random.split(random.key(7), count)))


def floyd_in_python(bits, population, count):
    """Runs algorithm P on a Python list."""
    chosen = []
    for last, bit in zip(range(population - count, population), bits, strict=True):
        draw = int(bit) % (last + 1)
        if draw in chosen:
            chosen.insert(chosen.index(draw) + 1, last)
        else:
            chosen.insert(0, draw)
    return chosen


def batches_in_python(items, batch, steps, shuffles):
    """The released code's generator with given shuffles: batches in order, with a new shuffle when items run out."""
    shuffles, batches, current = iter(shuffles), [], []
    while len(batches) < steps:
        order = next(shuffles)
        for index in order:
            current.append(items[index])
            if len(current) == batch:
                batches.append(current)
                current = []
                if len(batches) == steps:
                    break
    return batches


def examples_of(size):
    return Examples(jnp.arange(100, 100 + size), jnp.arange(size) % 3)


@pytest.mark.parametrize(("population", "count"), [(4800, 5), (423, 20), (20, 20), (7, 1), (5, 4)])
def test_distinct_equals_a_python_list(population, count):
    for seed in range(20):
        key = random.key(seed)
        wanted = floyd_in_python(random.bits(key, (count,)), population, count)
        assert sample_distinct(key, population, count).tolist() == wanted


@pytest.mark.parametrize(("population", "count"), [(5, 3), (4, 4), (6, 2)])
def test_every_ordered_choice_is_equally_likely(population, count):
    draws = 30_000
    seen = Counter(map(tuple, many(lambda key: sample_distinct(key, population, count), draws)))
    choices = int(np.prod(range(population - count + 1, population + 1)))
    assert len(seen) == choices
    expected = draws / choices
    chi_square = sum((n - expected) ** 2 / expected for n in seen.values())
    freedom = choices - 1
    assert abs(chi_square - freedom) < 5 * np.sqrt(2 * freedom)


def test_a_biased_sampler_fails_the_uniformity_check():
    """Negative control: without the insertion after the draw, the order is not uniform."""
    seen = Counter()
    rng = np.random.default_rng(0)
    for _ in range(30_000):
        chosen = []
        for last in range(2, 5):
            draw = int(rng.integers(last + 1))
            chosen.append(last if draw in chosen else draw)
        seen[tuple(chosen)] += 1
    expected = 30_000 / 60
    chi_square = sum((seen[c] - expected) ** 2 / expected for c in seen) + (60 - len(seen)) * expected
    assert chi_square - 59 > 50 * np.sqrt(2 * 59)


def test_classes_of_a_large_pool_are_uniform():
    rows = many(lambda key: sample_train_task(key, TABLE, POOL, **TRAIN).batches.rows, 4000) // DRAWINGS
    classes = np.concatenate([np.unique(task) for task in rows])
    assert classes.min() == POOL.start and classes.max() == POOL.start + POOL.size - 1
    counts = np.bincount(classes - POOL.start)
    expected = 4000 * TRAIN["classes"] / POOL.size
    assert abs(((counts - expected) ** 2 / expected).sum() - (POOL.size - 1)) < 5 * np.sqrt(2 * POOL.size)


@pytest.mark.parametrize(("size", "batch", "steps"), [(50, 10, 5), (50, 10, 7), (15, 10, 6), (4, 10, 3), (5, 5, 4)])
def test_cycling_equals_the_released_generator(size, batch, steps):
    key, examples = random.key(3), examples_of(size)
    shuffles = episodes._shuffles(key, -(-batch * steps // size), size)
    assert all(sorted(shuffle) == list(range(size)) for shuffle in shuffles.tolist())
    wanted = batches_in_python(examples.rows.tolist(), batch, steps, shuffles.tolist())
    got = mini_batches(key, examples, batch, steps, replacement=False)
    assert got.rows.tolist() == wanted
    assert (got.labels == (got.rows - 100) % 3).all()


def test_a_batch_may_straddle_two_shuffles_and_repeat_a_drawing():
    got = many(lambda key: mini_batches(key, examples_of(15), 10, 3, replacement=False).rows, 200)
    used = got.reshape(200, 30)
    assert all(len(set(task[:15])) == 15 and len(set(task[15:])) == 15 for task in used.tolist())
    assert any(len(set(batch)) < 10 for batch in got[:, 1].tolist())


def test_replacement_batches_are_distinct_inside_and_independent_between():
    got = many(lambda key: mini_batches(key, examples_of(15), 10, 3, replacement=True).rows, 200)
    assert all(len(set(batch)) == 10 for task in got.tolist() for batch in task)
    first_two = got[:, :2].reshape(200, 20)
    assert any(len(set(task)) < 15 for task in first_two.tolist())  # cycling would have used all fifteen
    common = np.mean([len(set(first) & set(second)) for first, second in got[:, :2].tolist()])
    assert abs(common - 10 * 10 / 15) < 0.31  # five standard errors of the mean of independent choices
    with pytest.raises(ValueError, match="batches of 16 distinct drawings out of 15"):
        mini_batches(random.key(0), examples_of(15), 16, 1, replacement=True)


@pytest.mark.parametrize("replacement", [False, True])
def test_balanced_batches_divide_each_class_as_the_examples_of_a_task(replacement):
    key, rows = random.key(3), jnp.arange(4 * 7, dtype=jnp.int32).reshape(4, 7)
    got = class_batches(key, rows, 12, 5, replacement, balanced=True)
    assert (np.sort(got.labels) == np.repeat(np.arange(4), 3)).all() and (got.labels == got.rows // 7).all()
    for label, of_class in enumerate(random.split(key, 4)):
        wanted = mini_batches(of_class, rows[label], 3, 5, replacement)
        assert got.rows[got.labels == label].tolist() == wanted.reshape(-1).tolist()
    other = class_batches(key, rows, 12, 5, replacement, balanced=False)
    assert (np.sort(other.labels) != np.repeat(np.arange(4), 3)).any(), "a check that cannot fail"


@pytest.mark.parametrize("tail_shots", [0, 2])
def test_balanced_tasks_use_every_drawing_once_in_each_round(tail_shots):
    settings = TRAIN | dict(inner_batch=5, inner_iters=9 if tail_shots else 8, shots=4 + tail_shots, balanced=True)
    task = many(lambda key: sample_train_task(key, TABLE, POOL, **settings, tail_shots=tail_shots), 50)
    for rows, labels in zip(task.batches.rows, task.batches.labels, strict=True):
        assert (labels == np.arange(5)).all()
        rounds = rows.reshape(2, 4 * 5)
        assert all(len(set(r)) == 20 for r in rounds.tolist()) and (np.sort(rounds[0]) == np.sort(rounds[1])).all()
        first, second = (r.reshape(4, 5).T.tolist() for r in rounds)  # by class
        orders = {tuple(map(one.index, two)) for one, two in zip(first, second, strict=True)}
        assert len(orders) > 1  # every class is shuffled on its own
    support = many(lambda key: sample_eval_task(key, TABLE, POOL, **EVAL | dict(eval_batch=5), balanced=True), 50)
    assert (support.batches.labels == np.arange(5)).all()
    assert (np.sort(support.batches.rows[:, :3].reshape(50, -1)) == np.sort(support.support.rows)).all()


def test_training_task_has_distinct_classes_and_drawings():
    batches = many(lambda key: sample_train_task(key, TABLE, POOL, **TRAIN).batches, 300)
    for rows, labels in zip(batches.rows, batches.labels, strict=True):
        by_label = {label: set((rows[labels == label] // DRAWINGS).tolist()) for label in range(5)}
        assert all(len(classes) == 1 for classes in by_label.values())
        assert len(set.union(*by_label.values())) == 5
        assert all(len(set(rows[labels == label].tolist())) == 10 for label in range(5))


@pytest.mark.parametrize("of_eval", [False, True])
def test_every_image_of_classes_of_unequal_size_is_equally_likely_in_its_class(of_eval):
    counts = np.array([20, 4, 9, 5], np.int32)
    first = np.array([0, 20, 24, 33], np.int32)
    table, pool = Classes(jnp.asarray(first), jnp.asarray(counts)), Pool(0, 4)
    if of_eval:
        sample = lambda key: sample_eval_task(key, table, pool, **EVAL | dict(classes=4)).support.rows  # noqa: E731
    else:
        settings = TRAIN | dict(classes=4, shots=3, inner_batch=12, inner_iters=1)
        sample = lambda key: sample_train_task(key, table, pool, **settings).batches.rows  # noqa: E731
    seen = np.bincount(many(sample, 3000).ravel(), minlength=38)
    assert len(seen) == 38 and seen.sum() == 3000 * 4 * 3
    for start, count in zip(first, counts, strict=True):
        share = 3 / count  # three distinct images of each class in every task
        error = np.sqrt(3000 * share * (1 - share))
        assert (abs(seen[start : start + count] - 3000 * share) < 5 * error).all()


@pytest.mark.parametrize("inner_iters", [1, 4])
def test_tail_shares_no_drawing_with_the_other_steps(inner_iters):
    settings = TRAIN | dict(inner_iters=inner_iters, tail_shots=3)
    task = many(lambda key: sample_train_task(key, TABLE, POOL, **settings), 100)
    assert task.batches.rows.shape == (100, inner_iters - 1, 10)
    assert task.tail.rows.shape == (100, 15)
    for batches, tail in zip(task.batches.rows, task.tail.rows, strict=True):
        assert not set(batches.ravel().tolist()) & set(tail.tolist())
        assert len(set(tail.tolist())) == 15
    assert (task.tail.labels == np.repeat(np.arange(5), 3)).all()


def test_no_query_is_in_the_support_set_and_batches_come_from_it():
    task = many(lambda key: sample_eval_task(key, TABLE, POOL, **EVAL), 200)
    for support, queries, batches in zip(task.support.rows, task.queries.rows, task.batches.rows, strict=True):
        assert len(set(support.tolist())) == 15
        assert not set(support.tolist()) & set(queries.tolist())
        assert set(batches.ravel().tolist()) == set(support.tolist())
        assert (support.reshape(5, 3) // DRAWINGS == (queries // DRAWINGS)[:, None]).all()
    assert (task.queries.labels == np.arange(5)).all()


def test_the_same_key_gives_the_same_task_in_any_batch_and_any_precision(x64):
    keys = random.split(random.key(1), 6)
    sample = lambda key: sample_train_task(key, TABLE, POOL, **TRAIN)  # noqa: E731
    together = jax.vmap(sample)(keys)
    with jax.enable_x64(False):
        for i in range(6):
            alone = sample(random.wrap_key_data(random.key_data(keys[i])))
            assert (np.asarray(alone.batches.rows) == np.asarray(together.batches.rows[i])).all()
