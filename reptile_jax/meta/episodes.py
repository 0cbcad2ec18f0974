"""Samples episodes: makes the drawings of a task from a random key, as indices into the data, on the device.

A data set is one array of images; an image is its row in that array, and a class is a range of rows. Every function
here is a pure function of its key, so the episodes of any meta-iteration can be sampled again, printed or given to
other code.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax, random


class Classes(NamedTuple):
    """The rows of every class in the data: first, first + 1, ... first + counts - 1."""

    first: jax.Array  # [classes] int32
    counts: jax.Array  # [classes] int32


class Pool(NamedTuple):
    """The classes that a task is drawn from: `size` classes from `start` on (traced or not)."""

    start: jax.Array | int
    size: jax.Array | int


class Examples(NamedTuple):
    """Images and their labels; the last axis is the examples, after leading axes such as tasks and steps."""

    rows: jax.Array  # [..., examples] int32, rows of the data [rows, height, width, channels]
    labels: jax.Array  # [..., examples] int32, 0..classes-1


class TrainTask(NamedTuple):
    """The data for the inner loop of one training task."""

    batches: Any  # Examples [inner_iters, inner_batch] of images; one step less if there is a tail
    tail: Any  # Examples [classes * foml_tail] for the last step of first-order MAML; None if there is no tail


class EvalTask(NamedTuple):
    """One few-shot task: mini-batches to adapt on, the support set they come from, and one query per class."""

    batches: Examples  # [eval_iters, eval_batch]
    support: Examples  # [classes * shots]
    queries: Examples  # [classes]


def sample_distinct(key: jax.Array, population: jax.Array | int, count: int) -> jax.Array:
    """Draws `count` distinct numbers below `population`, every ordered choice equally likely.

    This is Floyd's algorithm P (Bentley and Floyd, CACM 30(9), 1987). It takes `count` steps for any population, while
    a shuffle would sort thousands of numbers for each task. A draw is 32 random bits modulo its range: of a million
    draws from a few thousand numbers, fewer than one differ from an exactly uniform draw.

    Args:
        key: random key.
        population: how many numbers to draw from, 0..population-1; at least `count`, and it may be traced.
        count: how many to draw.

    Returns:
        [count] int32.
    """
    last = jnp.asarray(population - count, jnp.int32) + jnp.arange(count, dtype=jnp.int32)  # step i draws up to last[i]
    draws = (random.bits(key, (count,), jnp.uint32) % (last.astype(jnp.uint32) + 1)).astype(jnp.int32)
    places = jnp.arange(count, dtype=jnp.int32)

    def insert(i: jax.Array, chosen: jax.Array) -> jax.Array:
        same = chosen == draws[i]
        taken = jnp.any(same)  # if so, the largest number goes in right after the draw; else the draw goes in first
        place = jnp.where(taken, jnp.argmax(same).astype(jnp.int32) + 1, 0)
        number = jnp.where(taken, last[i], draws[i])
        return jnp.where(places < place, chosen, jnp.where(places == place, number, jnp.roll(chosen, 1)))

    return lax.fori_loop(0, count, insert, jnp.full((count,), -1, jnp.int32))


def mini_batches(key: jax.Array, examples: Any, batch: int, steps: int, replacement: bool) -> Any:
    """Divides the examples of one task into `steps` mini-batches, as the released code does.

    Without replacement, the examples are shuffled and used in order, and shuffled again whenever they run out. A batch
    that spans two shuffles may hold a drawing twice. With replacement, every batch is sampled afresh, and its drawings
    are distinct.

    Args:
        key: random key.
        examples: the task's examples, a pytree of arrays [examples, ...].
        batch: examples per mini-batch.
        steps: number of mini-batches.
        replacement: whether to sample every mini-batch afresh.

    Returns:
        A pytree like `examples`, of arrays [steps, batch, ...].

    Raises:
        ValueError: with replacement, a batch has more examples than the task.
    """
    size = jax.tree.leaves(examples)[0].shape[0]
    if steps == 0:  # first-order MAML with a tail and a single step
        return jax.tree.map(lambda x: jnp.zeros((0, batch, *x.shape[1:]), x.dtype), examples)
    if replacement:
        if batch > size:
            raise ValueError(f"cannot draw batches of {batch} distinct drawings out of {size}")
        order = _shuffles(key, steps, size)[:, :batch]
    else:
        order = _shuffles(key, -(-steps * batch // size), size)
        order = order.reshape(-1)[: steps * batch].reshape(steps, batch)
    return jax.tree.map(lambda x: x[order], examples)


def class_batches(
    key: jax.Array, rows: jax.Array, batch: int, steps: int, replacement: bool, balanced: bool
) -> Examples:
    """Divides the images of a task's classes into `steps` mini-batches.

    Args:
        key: random key.
        rows: the images of the classes [classes, shots], as rows of the data.
        batch: images per mini-batch.
        steps: number of mini-batches.
        replacement: see `mini_batches`.
        balanced: every mini-batch has the same number of images of each class, which divides the images of each class
            as `mini_batches` does. Otherwise, the mini-batches are drawn from the images of all classes, as released.

    Returns:
        Examples [steps, batch].
    """
    if not balanced:
        return mini_batches(key, _examples(rows), batch, steps, replacement)
    classes = rows.shape[0]

    def of_class(key: jax.Array, rows: jax.Array) -> jax.Array:
        return mini_batches(key, rows, batch // classes, steps, replacement)

    batches = jax.vmap(of_class, out_axes=1)(random.split(key, classes), rows)  # [steps, classes, batch / classes]
    labels = jnp.broadcast_to(jnp.arange(classes, dtype=jnp.int32)[:, None], batches.shape)
    return Examples(batches.reshape(steps, batch), labels.reshape(steps, batch))


def _shuffles(key: jax.Array, count: int, size: int) -> jax.Array:
    """Shuffles 0..size-1 `count` times: [count, size] int32."""
    bits = random.bits(key, (count * size,), jnp.uint32)  # flat, because XLA compiles two axes several times as slowly
    return jnp.argsort(bits.reshape(count, size), axis=-1).astype(jnp.int32)


def _sample_images(key: jax.Array, table: Classes, pool: Pool, classes: int, shots: int) -> jax.Array:
    """Draws distinct classes and distinct images of each: [classes, shots] int32 rows of the data."""
    class_key, image_key = random.split(key)
    chosen = pool.start + sample_distinct(class_key, pool.size, classes)
    first, counts = table.first[chosen], table.counts[chosen]
    within = jax.vmap(lambda k, n: sample_distinct(k, n, shots))(random.split(image_key, classes), counts)
    return first[:, None] + within


def _examples(rows: jax.Array) -> Examples:
    """Flattens rows [classes, shots]; the label of a row is the position of its class."""
    labels = jnp.broadcast_to(jnp.arange(rows.shape[0], dtype=jnp.int32)[:, None], rows.shape)
    return Examples(rows.reshape(-1), labels.reshape(-1))


def sample_train_task(
    key: jax.Array,
    table: Classes,
    pool: Pool,
    *,
    classes: int,
    shots: int,
    inner_batch: int,
    inner_iters: int,
    replacement: bool,
    balanced: bool = False,
    tail_shots: int = 0,
) -> TrainTask:
    """Samples a training task (released code: the mini-batches of `Reptile` and `FOML`).

    Args:
        key: random key of the task.
        table: where the images of every class lie.
        pool: the classes to draw from, at least `classes`; each has at least as many images as are drawn of it.
        classes: classes of the task.
        shots: drawings per class.
        inner_batch: drawings per inner step.
        inner_iters: inner steps.
        replacement: see `mini_batches`.
        balanced: see `class_batches`.
        tail_shots: drawings per class, out of `shots`, kept for the last step; 0: no tail.

    Returns:
        The task; with a tail, `batches` has one step less and never holds a drawing of the tail.
    """
    image_key, batch_key = random.split(key)
    rows = _sample_images(image_key, table, pool, classes, shots)
    tail = _examples(rows[:, shots - tail_shots :]) if tail_shots else None
    steps = inner_iters - 1 if tail_shots else inner_iters
    rows = rows[:, : shots - tail_shots]
    return TrainTask(class_batches(batch_key, rows, inner_batch, steps, replacement, balanced), tail)


def sample_eval_task(
    key: jax.Array,
    table: Classes,
    pool: Pool,
    *,
    classes: int,
    shots: int,
    eval_batch: int,
    eval_iters: int,
    replacement: bool,
    balanced: bool = False,
) -> EvalTask:
    """Samples a few-shot task: `shots` drawings of each class to adapt on and one more as its query.

    Args:
        key: random key of the task.
        table: where the images of every class lie.
        pool: the classes to draw from, at least `classes`; each has at least as many images as are drawn of it.
        classes: classes of the task.
        shots: support drawings per class.
        eval_batch: drawings per inner step.
        eval_iters: inner steps.
        replacement: see `mini_batches`.
        balanced: see `class_batches`.

    Returns:
        The task; no query is in its support set.
    """
    image_key, batch_key = random.split(key)
    rows = _sample_images(image_key, table, pool, classes, shots + 1)
    support, queries = rows[:, :shots], rows[:, shots:]
    batches = class_batches(batch_key, support, eval_batch, eval_iters, replacement, balanced)
    return EvalTask(batches, _examples(support), _examples(queries))
