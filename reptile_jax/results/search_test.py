"""Tests of the search, on the synthetic characters."""

import functools
import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import random

from configs import quickstart
from reptile_jax.devices import mesh_of
from reptile_jax.meta.protocols import predict_queries
from reptile_jax.results import search, tables
from reptile_jax.results.search import VARIANTS, Variant
from reptile_jax.run import programs
from reptile_jax.tasks import kind_of
from reptile_jax.tasks.images import images_of

ITERATIONS = 4
GLYPHS = {"data": {"name": "glyphs", "validation_classes": 100}, "classes": 3, "inner_batch": 6, "eval_batch": 3,
          "inner_iters": 3, "eval_iters": 3, "meta_batch": 2}  # fmt: skip


def loaded(fields):
    config = quickstart.get_config()
    config.update(GLYPHS)
    config.update({"meta_iters": ITERATIONS, **fields})
    mesh = mesh_of(config, jax.devices()[:1])
    return config, mesh, kind_of(config).load(config, mesh)


def trained(variant: Variant):
    """Returns the weights after a few meta-iterations of a variant, and those of the training program."""
    config, _, data = loaded(variant.fields)
    pixels, table = data.source[0], jax.tree.map(lambda x: x[0], data.source[1])
    run = search.train_program(config, variant, pixels, table, data.pools["train"])
    state, averaged = run(programs.initial_state(config, config.seed))
    return state.params, averaged, trained_by_the_program(tuple(variant.fields.items()))


@functools.cache
def trained_by_the_program(fields):
    config, mesh, data = loaded(dict(fields))
    states, seeds = programs.initial_states(config), np.array([config.seed], np.int32)
    program = programs.train_program(config, mesh)
    states, _ = program(states, seeds, data.source, data.pools["train"], ITERATIONS)
    return jax.tree.map(lambda x: x[0], states.params)


def farthest(a, b):
    leaves = zip(*map(jax.tree.leaves, (a, b)), strict=True)
    return max(float(np.abs(np.asarray(x) - np.asarray(y)).max()) for x, y in leaves)


@pytest.mark.parametrize("fields", [{}, {"zero_head": True, "balanced": True, "learning_rate": 2e-3}])
def test_with_fields_alone_a_variant_is_the_training_program(fields):
    ours, averaged, program = trained(Variant(fields))
    assert farthest(ours, program) < 1e-5
    assert farthest(ours, averaged) < 1e-8  # no mean was asked for


@pytest.mark.parametrize(
    "changes",
    [
        {"rate_final": 1e-4},
        {"steps": "cosine"},
        {"steps": "hold"},
        {"steps": "flat"},
        {"layers": {"dense": 3.0}},
        {"beta2": 0.9},
        {"augment": "class"},
        {"augment": "image"},
    ],
    ids=str,
)
def test_every_other_change_changes_the_training(changes):
    ours, _, program = trained(Variant(**changes))
    assert 1e-4 < farthest(ours, program) < 1


def test_the_shapes_of_the_step_size():
    config = quickstart.get_config()
    config.update({"meta_iters": 4, "meta_step": 2.0, "meta_step_final": 0.0})
    expected = {
        "linear": [2, 1.5, 1, 0.5],
        "cosine": [2, 1 + 0.5**0.5, 1, 1 - 0.5**0.5],
        "hold": [2, 2, 2, 1],
        "flat": [2, 2, 2, 2],
    }
    for shape, steps in expected.items():
        np.testing.assert_allclose([search.step_size(shape, jnp.array(i), config) for i in range(4)], steps, rtol=1e-6)


def test_a_layer_with_a_rate_of_zero_stays_and_a_rate_that_falls_to_zero_moves_less():
    start, _, _ = trained(Variant({"learning_rate": 0.0}))
    ours, _, program = trained(Variant(layers={"dense": 0.0}))
    moved = jax.tree.map(lambda x, y: bool(np.any(x != y)), ours["params"], start["params"])
    assert not any(jax.tree.leaves(moved.pop("dense"))) and all(jax.tree.leaves(moved))
    falling, _, _ = trained(Variant(rate_final=0.0))
    assert 0 < distance(falling, start) < distance(program, start)


def distance(a, b):
    leaves = zip(*map(jax.tree.leaves, (a, b)), strict=True)
    return float(np.sqrt(sum(np.sum(np.square(np.asarray(x) - np.asarray(y))) for x, y in leaves)))


def test_the_evaluation_is_that_of_the_program(monkeypatch):
    monkeypatch.setattr(search, "QUERIES", 1)
    config = quickstart.get_config()
    config.update(GLYPHS | {"eval_batch": 6})  # all of the support set, so that the order of mini-batches is nothing
    data = kind_of(config).load(config, mesh_of(config, jax.devices()[:1]))
    pixels, table = data.source[0], jax.tree.map(lambda x: x[0], data.source[1])
    state, pool, keys = programs.initial_state(config, 0), data.pools["validation"], random.split(random.key(0), 60)
    args = config, Variant(augment="image"), pixels, table, pool  # which is for training alone
    optimizer = search.inner_loop_of(*args[:3], config.learning_rate).optimizer
    ours = search.eval_program(*args, shots=2)(state.params, optimizer.init(state.params), keys)
    loop, apply = programs.inner_loop_of(config, (pixels, table)), programs.network_of(config).apply

    def of_program(key):
        task = kind_of(config).sample_eval(config, 2, key, (pixels, table), pool)
        images = images_of(config, pixels, np.dtype(np.float32))
        return predict_queries(loop, apply, images, state.params, state.opt_state, task)

    theirs = jax.jit(lambda keys: jax.lax.map(of_program, keys))(keys)
    for a, b in zip(ours, theirs, strict=True):
        assert np.mean(a[:, 0] == b) > 0.98  # rounding may decide a query
        assert np.mean(a[:, 0] == np.roll(b, 1, axis=0)) < 0.9  # other tasks


def test_the_mean_of_the_initialisation_lags_behind():
    ours, averaged, _ = trained(Variant(average=0.5))
    assert farthest(ours, averaged) > 1e-4


def test_a_moved_image_is_on_paper_and_keeps_its_ink():
    paper, square = jnp.ones((28, 28, 1)), jnp.ones((28, 28, 1)).at[9:19, 9:19].set(0)
    ink = []
    for key in random.split(random.key(0), 20):
        np.testing.assert_allclose(search.moved(key, paper), 1, atol=1e-6)
        ink.append(float(jnp.sum(1 - search.moved(key, square))))
    assert 100 / 1.2**2 - 5 < min(ink) < 90 and 110 < max(ink) < 100 / 0.8**2 + 5


def test_a_run_measures_every_evaluation():
    variant = Variant({**GLYPHS, "data": {"name": "glyphs"}}, evals={"few steps": {"eval_iters": 1}})
    rows = search.run(variant, 0, 20, 8, "")
    assert [row["evaluation"] for row in rows] == ["", "few steps"]
    assert all(34 < row["5-shot transductive"][0] <= 100 for row in rows)  # a third is chance
    assert rows[0]["5-shot inductive"] != rows[1]["5-shot inductive"]


def test_a_name_that_is_none_is_told_in_a_line(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["search", "both", "neither"])
    with pytest.raises(SystemExit, match="2"):
        search.main()
    assert "neither is not a variant: give some of published, " in capsys.readouterr().err


def test_every_variant_is_kept_with_every_evaluation():
    rows = [json.loads(line) for line in (tables.RESULTS / "search.jsonl").read_text().splitlines()]
    names = [(row["seed"], row["variant"], row["evaluation"]) for row in rows]
    assert len(set(names)) == len(names)
    every = {(0, name, evaluation) for name, variant in VARIANTS.items() for evaluation in variant.evaluations()}
    assert {name for name in names if name[0] == 0} == every
    assert {(0, *name[1:]) for name in names} == every
