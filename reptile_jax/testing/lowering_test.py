"""Tests what the compiled programs contain, and that they can be lowered for accelerators."""

import re

import jax
import numpy as np
import pytest
from jax import monitoring

from configs import miniimagenet_1shot_5way, omniglot_1shot_5way, omniglot_1shot_20way
from reptile_jax.devices import mesh_of
from reptile_jax.meta.episodes import Classes, Pool
from reptile_jax.run import train
from reptile_jax.run.metrics import MetricsWriter
from reptile_jax.run.programs import eval_program, state_shapes, train_program
from reptile_jax.tasks import kind_of
from reptile_jax.testing.small_runs import small

# A convolution in StableHLO whose channels or batch are split into groups, as for weights of every task's own.
GROUPED = re.compile(r"(feature|batch)_group_count\s*=\s*(?!1\b)\d+")
# Operations that need the host, by their names in JAX and XLA.
HOST = re.compile(r"callback|infeed|outfeed|stablehlo\.(send|recv)|SendTo|RecvFrom|MoveToHost|pinned_host")

ACCELERATORS = ("cuda", "tpu")  # one export is for both, and is traced once
RUNS = [omniglot_1shot_5way, omniglot_1shot_20way, miniimagenet_1shot_5way]


def traced(module=omniglot_1shot_5way, program="train", **fields):
    """Traces a program of a published run on as many images and classes as Omniglot has."""
    config = module.get_config()
    config.update(fields)
    mesh = mesh_of(config)
    states = state_shapes(config, mesh)
    table = Classes(*(jax.ShapeDtypeStruct((1, 5223), np.int32) for _ in range(2)))
    source = (jax.ShapeDtypeStruct((4 * 1623 * 20, *kind_of(config).input_shape(config)), np.uint8), table)
    if program == "train":
        return jax.jit(train_program(config, mesh)), (states, np.zeros(1, np.int32), source, Pool(0, 4800), 10)
    pools = Pool(np.zeros(50, np.int32), np.full(50, 423, np.int32))
    return eval_program(config, mesh, 1), (states, source, pools, np.zeros((1, 50, 2), np.uint32))


def text_of(*args, **kwargs):
    program, arguments = traced(*args, **kwargs)
    return program.lower(*arguments).as_text()


@pytest.mark.parametrize("program", ["train", "eval"])
@pytest.mark.parametrize("module", RUNS)
def test_no_grouped_convolution_and_nothing_for_the_host(module, program):
    for tasks_at_once in ("one", "all"):
        text = text_of(module, program, tasks_at_once=tasks_at_once)
        assert not GROUPED.search(text) and not HOST.search(text)
        xlas_own = module is miniimagenet_1shot_5way and tasks_at_once == "one"
        assert "stablehlo.dot_general" in text and ("stablehlo.convolution" in text) == xlas_own


def test_a_grouped_convolution_and_a_host_transfer_would_be_seen():
    assert GROUPED.search(text_of(convolution="lax", tasks_at_once="all"))
    assert "stablehlo.convolution" in text_of(convolution="lax", tasks_at_once="one")

    def with_callback(x):
        jax.debug.callback(lambda x: None, x)
        return x

    assert HOST.search(jax.jit(with_callback).lower(1.0).as_text())


@pytest.mark.parametrize("convolution", ["auto", "matmul", "lax"])
@pytest.mark.parametrize("program", ["train", "eval"])
def test_programs_lower_for_accelerators(convolution, program):
    for module in RUNS:
        function, arguments = traced(module, program, convolution=convolution, tasks_at_once="all")
        exported = jax.export.export(function, platforms=ACCELERATORS)(*arguments)
        assert exported.platforms == ACCELERATORS
        assert bool(GROUPED.search(exported.mlir_module())) == (convolution == "lax")


def test_every_product_takes_the_precision_that_jax_is_told():
    """JAX_DEFAULT_MATMUL_PRECISION lets accelerators compute in bfloat16."""
    function, arguments = traced(tasks_at_once="all")
    with jax.default_matmul_precision("BF16_BF16_F32"):
        text = jax.export.export(function, platforms=ACCELERATORS)(*arguments).mlir_module()
    products = [line for line in text.splitlines() if "stablehlo.dot_general" in line]
    assert len(products) >= 14  # four convolutions and a dense layer: forward, and twice backward but for the images
    assert all("lhs_precision_type = bf16, rhs_precision_type = bf16, accumulation_type = f32" in x for x in products)


def test_nothing_is_compiled_after_the_first_point_of_the_curves(tmp_path, monkeypatch):
    """Dispatches have 5, 4, 1 and 2 meta-iterations, with curves and checkpoints between them."""
    compilations, points = [], []
    listener = lambda event, duration, **_: compilations.append(event) if "backend_compile" in event else None  # noqa: E731
    write = MetricsWriter.write
    monkeypatch.setattr(MetricsWriter, "write", lambda *args: (points.append(len(compilations)), write(*args)))
    monitoring.register_event_duration_secs_listener(listener)
    try:
        train.train_and_evaluate(small(meta_iters=32, eval_interval=5, checkpoint_interval=9), tmp_path / "run")
    finally:
        monitoring.unregister_event_duration_listener(listener)
    assert points == [points[0]] * 7 and points[0] > 0  # the first dispatch is compiled, and the listener hears it
    assert len(compilations) > points[-1]  # evaluation's
