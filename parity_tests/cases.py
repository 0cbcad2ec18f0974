"""The cases of the suite, chosen so that every pair of values of two settings occurs in some case."""

import itertools
from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from configs import default
from parity_tests import bridge, compiled
from reptile_jax.meta.reptile import MetaState, with_zero_head
from reptile_jax.run.programs import initial_state

TRAINED_FOR = 30  # meta-iterations


class Case(NamedTuple):
    """A value for everything that the meta-delta depends on.

    Attributes:
        algorithm: "reptile", "foml" (first-order MAML) or "foml_tail" (with a tail of one drawing per class).
        optimizer: "adam" or "sgd".
        batches: "cycling", "replacement" or "balanced" (cycling within each class).
        ways: classes of a task.
        weight_decay: the factor applied before each inner step; 1 means none.
        inner_state: how Adam's second moment and step count are carried.
        weights: "initial", or "trained" for a while by the JAX program.
        seed: the seed of the weights, the split and the episodes.
        network: `model.name`. Mini-ImageNet's network has photographs of 20x20 and 8 filters; with the prefix
            "released", it has the sizes of the released code.
        head: the dense layer at the start of a task: "trained", or "zero".
    """

    algorithm: str
    optimizer: str
    batches: str
    ways: int
    weight_decay: float
    inner_state: str
    weights: str
    seed: int
    network: str = "omniglot"
    head: str = "trained"

    def __str__(self) -> str:
        """Returns the case as the name of a test."""
        way, decay, seed = f"{self.ways}-way", f"decay {self.weight_decay:g}", f"seed {self.seed}"
        return ", ".join(
            [
                self.algorithm,
                self.optimizer,
                self.batches,
                way,
                decay,
                self.inner_state,
                self.weights,
                seed,
                self.network,
                f"{self.head} head",
            ]
        )


VALUES = Case(
    ("reptile", "foml", "foml_tail"),
    ("adam", "sgd"),
    ("cycling", "replacement", "balanced"),
    (5, 20),
    (1.0, 0.97),
    ("averaged", "sequential", "reset"),
    ("initial", "trained"),
    (0, 1, 2),
    ("omniglot", "miniimagenet"),
    ("trained", "zero"),
)  # type: ignore[arg-type]

BASE = Case("reptile", "adam", "cycling", 5, 1.0, "averaged", "initial", 0)  # as in the published runs
TRAINED = BASE._replace(weights="trained")
SGD = BASE._replace(optimizer="sgd", weight_decay=0.97)
POOLED = BASE._replace(network="miniimagenet")
FAST = BASE._replace(batches="balanced", head="zero")  # as in the fast runs
RELEASED = BASE._replace(network="released miniimagenet")  # 84x84x3 and 32 filters

CASES = [
    Case("reptile", "adam", "balanced", 5, 0.97, "averaged", "initial", 1, "miniimagenet", "zero"),
    Case("reptile", "adam", "balanced", 20, 1.0, "sequential", "trained", 2, "omniglot", "zero"),
    Case("reptile", "sgd", "replacement", 5, 1.0, "averaged", "trained", 0, "omniglot", "zero"),
    Case("reptile", "sgd", "cycling", 20, 1.0, "reset", "trained", 1),
    Case("foml", "adam", "cycling", 5, 0.97, "sequential", "initial", 1, "omniglot", "zero"),
    Case("foml", "adam", "replacement", 5, 0.97, "reset", "trained", 2, "miniimagenet"),
    Case("foml", "sgd", "replacement", 20, 1.0, "sequential", "initial", 0, "miniimagenet"),
    Case("foml", "sgd", "balanced", 5, 0.97, "averaged", "trained", 2),
    Case("foml_tail", "adam", "balanced", 20, 0.97, "reset", "initial", 0, "omniglot", "zero"),
    Case("foml_tail", "adam", "replacement", 20, 1.0, "averaged", "trained", 1, "miniimagenet"),
    Case("foml_tail", "sgd", "cycling", 5, 0.97, "sequential", "initial", 2, "omniglot", "zero"),
    Case("foml_tail", "sgd", "cycling", 5, 0.97, "averaged", "initial", 0, "miniimagenet", "zero"),
]


def pairs(case: tuple[Any, ...]) -> set[tuple[Any, ...]]:
    """Returns the pairs of values of two settings that occur in a case."""
    return set(itertools.combinations(enumerate(case), 2))


def all_pairs() -> set[tuple[Any, ...]]:
    """Returns every possible pair of values of two settings."""
    return set().union(*(pairs(case) for case in itertools.product(*VALUES)))


def config_of(case: Case, data: str = "glyphs", archives: str = "", data_dir: str = "") -> ConfigDict:
    """Returns a case's configuration: two tasks of three or four inner steps.

    In 5-way cases without a tail, mini-batches of 10 come from 15 drawings, so cycling shuffles again within a batch.
    """
    config = default.get_config()
    config.seed = case.seed
    config.data.name, config.data.archives, config.data.dir = data, archives, data_dir
    if "miniimagenet" in case.network:
        config.data.name, config.data.rotations = "images", False
        config.data.size, config.data.channels, config.model.filters = 20, 3, 8
        config.model.name = "miniimagenet"
    if case.network.startswith("released"):
        config.data.size, config.model.filters = 84, 32
    config.classes = case.ways
    config.shots = 1
    config.train_shots = 3
    config.inner_batch = 2 * case.ways if case.ways == 5 else case.ways
    config.inner_iters = 4 if case.ways == 20 else 3
    config.replacement = case.batches == "replacement"
    config.balanced = case.batches == "balanced"
    config.zero_head = case.head == "zero"
    config.sgd = case.optimizer == "sgd"
    config.learning_rate = 3e-3 if config.sgd else 1e-3
    config.weight_decay = case.weight_decay
    config.inner_state = case.inner_state
    config.foml = case.algorithm != "reptile"
    config.foml_tail = 1 if case.algorithm == "foml_tail" else 0
    config.meta_batch = 2
    config.meta_iters = 64  # a power of two: each step size is exact in float32, in which the JAX program computes it
    config.meta_step, config.meta_step_final = 1.0, 0.0
    config.eval_iters = 5
    return config


def setup_of(case: Case, dtype: str, **data: str) -> bridge.Setup:
    """Returns a case as both sides see it; call it in the precision of `dtype`. `data` is as in `config_of`."""
    config = config_of(case, **data)
    if case.weights == "initial":
        return bridge.setup(config, jnp.dtype(dtype))
    start = trained(case.ways, case.network)
    if config.sgd or config.inner_state == "reset":  # only the weights are used
        empty = jax.eval_shape(lambda: initial_state(config, config.seed, jnp.dtype(dtype))).opt_state
        start = start._replace(opt_state=jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), empty))
    start = start._replace(params=with_zero_head(start.params)) if config.zero_head else start
    as_dtype = jax.tree.map(lambda x: jnp.asarray(x, dtype if x.dtype == np.float32 else x.dtype), start)
    return bridge.setup(config, jnp.dtype(dtype), as_dtype._replace(iteration=jnp.zeros((), jnp.int32)))


@cache
def trained(ways: int, network: str) -> MetaState:
    """Trains for a while, in float32, with the JAX program, to give the trained cases their start."""
    with jax.enable_x64(False):
        setup = bridge.setup(config_of(BASE._replace(ways=ways, network=network)), jnp.dtype("float32"))
        state = compiled.train(setup.config, setup.start, setup.pixels.jax, bridge.POOLS["train"], TRAINED_FOR)
        return jax.tree.map(np.asarray, state)
