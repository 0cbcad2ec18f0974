"""The ladder of parity: every rung has a tolerance and a reason for the tolerance."""

from collections.abc import Callable
from typing import NamedTuple

from parity_tests import measures, trajectory, waves
from parity_tests.bridge import Setup
from parity_tests.released import sides


class Rung(NamedTuple):
    """One comparison.

    Attributes:
        name: what is compared.
        precision: what `measures.precision` takes: "float64", "float32" or "default".
        tolerance: the largest difference that passes.
        reason: why the tolerance is not smaller.
        measure: the function that returns the difference for a setup in that precision. The rungs of the released code
            and of sine waves ignore the setup, because they have their own inputs.
    """

    name: str
    precision: str
    tolerance: float
    reason: str
    measure: Callable[[Setup], float]

    @property
    def dtype(self) -> str:
        """The type of weights and pixels."""
        return "float64" if self.precision == "float64" else "float32"


SUMMATION = "sums are in another order, and batch norm's division makes their rounding about 100 times larger"
OF_WAVES = [*[(1e-12, "sums are in another order")] * 4, (1e-8, "32 steps from untrained weights make rounding larger")]
RUNGS = [
    Rung("data", "float64", 0, "pixels are whole numbers", measures.data),
    Rung("each layer", "float64", 1e-9, SUMMATION, measures.layers),
    Rung("logits", "float64", 1e-9, SUMMATION, measures.logits),
    Rung("loss", "float64", 1e-9, SUMMATION, measures.loss),
    Rung("gradients", "float64", 1e-9, SUMMATION, measures.gradients),
    Rung("one optimiser step", "float64", 1e-9, SUMMATION, measures.one_step),
    Rung("inner loop", "float64", 1e-9, SUMMATION, measures.several_steps),
    Rung("task delta", "float64", 1e-9, SUMMATION, measures.task_delta),
    Rung("meta-delta", "float64", 1e-9, SUMMATION, measures.meta_delta),
    Rung("20 meta-iterations", "float64", 1e-7, "every step enlarges earlier differences", measures.meta_iterations),
    Rung("predictions", "float64", 0, "labels are whole numbers", measures.predictions),
    Rung("released code, JAX", "float64", 1e-10, SUMMATION, lambda _: sides.worst(sides.by_jax)),
    Rung("released code, torch", "float64", 1e-10, SUMMATION, lambda _: sides.worst(sides.by_torch)),
    *(
        Rung(f"sine waves, {name}", "float64", tolerance, reason, lambda _, f=measure: waves.worst(f))
        for (name, measure), (tolerance, reason) in zip(waves.MEASURES.items(), OF_WAVES, strict=True)
    ),
    Rung("each layer", "float32", 2e-6, SUMMATION, measures.layers),
    Rung("logits", "float32", 5e-6, SUMMATION, measures.logits),
    Rung("loss", "float32", 2e-6, SUMMATION, measures.loss),
    Rung("gradients", "float32", 4e-5, SUMMATION, measures.gradients),
    Rung("inner steps", "float32", 5e-5, "the gradients'; Optax takes 1 - 0.999^t in float32", trajectory.inner_steps),
    Rung("second moments", "float32", 2e-4, "squares of gradients; the largest weigh most", trajectory.moments),
    Rung("ReLUs on one side", "float32", 5e-6, "their inputs are zero but for rounding", trajectory.kinks),
    Rung("weights left out", "float32", 0.01, "those whose gradients are rounding", trajectory.left_out),
    Rung("predictions", "float32", 0, "labels are whole numbers; the same adapted weights", trajectory.predictions),
    Rung("logits", "default", 0.02, "by default, a TPU rounds the factors of products to bfloat16", measures.logits),
]
TOLERANCE = {(rung.name, rung.precision): rung.tolerance for rung in RUNGS}
