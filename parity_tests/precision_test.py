"""Simulates on a CPU how GPUs and TPUs multiply: by default, they round the factors of a product to fewer bits."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.extend.core import Jaxpr, Literal

from parity_tests import compiled
from parity_tests.bridge import relative
from parity_tests.cases import BASE, POOLED, RELEASED, TRAINED, Case, setup_of
from parity_tests.ladder import TOLERANCE
from parity_tests.measures import TRAIN, precision
from reptile_jax.tasks.images import images_of

FLOAT32, TENSOR_FLOAT, BFLOAT16 = 23, 10, 7  # bits of the mantissa; all have eight bits of exponent
PRODUCTS = ("dot_general", "conv_general_dilated")


def with_rounded(f: Callable[..., Any], bits: int) -> Callable[..., Any]:
    """Returns f, in which the factors of every product are rounded to a mantissa of so many bits."""

    def run(jaxpr: Jaxpr, consts: Sequence[Any], *arguments: Any) -> list[Any]:
        values = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *arguments], strict=True))
        for equation in jaxpr.eqns:
            inputs = [x.val if isinstance(x, Literal) else values[x] for x in equation.invars]
            inner = [equation.params[name] for name in ("jaxpr", "call_jaxpr", "call") if name in equation.params]
            if inner:
                results = run(inner[0].jaxpr, inner[0].consts, *inputs)
            else:
                if equation.primitive.name in PRODUCTS:
                    inputs = [lax.reduce_precision(x, 8, bits) for x in inputs]
                results = equation.primitive.bind(*inputs, **equation.params)
                results = results if equation.primitive.multiple_results else [results]
            values |= zip(equation.outvars, results, strict=True)
        return [x.val if isinstance(x, Literal) else values[x] for x in jaxpr.outvars]

    def rounded(*arguments: Any) -> Any:
        traced, shape = jax.make_jaxpr(f, return_shape=True)(*arguments)
        results = run(traced.jaxpr, traced.consts, *jax.tree.leaves(arguments))
        return jax.tree.unflatten(jax.tree.structure(shape), results)

    return rounded


def difference(case: Case, bits: int) -> float:
    """Returns by how much the logits of a mini-batch differ if the factors are rounded."""
    setup = setup_of(case, "float32")
    examples = compiled.sample(setup.config, 0, setup.pixels.jax[1], TRAIN).batches
    inputs = images_of(setup.spec.config, setup.pixels.jax[0], jnp.dtype("float32"))(examples.rows[0, 0])
    exact, rounded = (f(setup.start.params, inputs) for f in (setup.spec.apply, with_rounded(setup.spec.apply, bits)))
    return relative({"": np.asarray(rounded)}, {"": np.asarray(exact)})


@pytest.mark.parametrize("case", [BASE, TRAINED, POOLED, RELEASED], ids=str)
def test_logits_with_rounded(case):
    tolerance = TOLERANCE["logits", "default"]
    with precision("default"):
        assert difference(case, FLOAT32) <= TOLERANCE["logits", "float32"]
        assert difference(case, TENSOR_FLOAT) <= tolerance / 10
        assert difference(case, BFLOAT16) <= tolerance
        assert difference(case, 4) > tolerance
