"""The cases of the suite: settings of which every pair of values occurs in some case."""

import itertools
from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from configs import default
from parity_tests import bridge, compiled
from reptile_jax.meta.reptile import MetaState
from reptile_jax.run.programs import initial_state

TRAINED_FOR = 30  # meta-iterations


class Case(NamedTuple):
    """One setting of everything the meta-delta depends on.

    Attributes:
        algorithm: "reptile", "foml" (first-order MAML) or "foml_tail" (with a tail of one drawing per class).
        optimizer: "adam" or "sgd".
        batches: "cycling", or "replacement".
        ways: classes of a task.
        weight_decay: factor before each inner step; 1 is off.
        inner_state: how Adam's second moment and step count pass on.
        weights: "initial", or "trained" for a while by the JAX program.
        seed: of the weights, the split and the episodes.
        network: `model.name`; Mini-ImageNet's has photographs of 20x20 and 8 filters, or is as "released".
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

    def __str__(self) -> str:
        """As a test's name."""
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
            ]
        )


VALUES = Case(
    ("reptile", "foml", "foml_tail"),
    ("adam", "sgd"),
    ("cycling", "replacement"),
    (5, 20),
    (1.0, 0.97),
    ("averaged", "sequential", "reset"),
    ("initial", "trained"),
    (0, 1, 2),
    ("omniglot", "miniimagenet"),
)  # type: ignore[arg-type]

BASE = Case("reptile", "adam", "cycling", 5, 1.0, "averaged", "initial", 0)  # as the published runs
TRAINED = BASE._replace(weights="trained")
SGD = BASE._replace(optimizer="sgd", weight_decay=0.97)
POOLED = BASE._replace(network="miniimagenet")
RELEASED = BASE._replace(network="released miniimagenet")  # 84x84x3 and 32 filters

CASES = [
    Case("reptile", "adam", "cycling", 5, 0.97, "averaged", "initial", 1, "miniimagenet"),
    Case("reptile", "adam", "cycling", 20, 1.0, "sequential", "trained", 2),
    Case("reptile", "sgd", "replacement", 5, 1.0, "averaged", "trained", 0),
    Case("reptile", "sgd", "cycling", 20, 1.0, "reset", "trained", 1),
    Case("foml", "adam", "cycling", 5, 0.97, "sequential", "initial", 1),
    Case("foml", "adam", "replacement", 5, 0.97, "reset", "trained", 2, "miniimagenet"),
    Case("foml", "sgd", "cycling", 20, 1.0, "sequential", "initial", 0, "miniimagenet"),
    Case("foml", "sgd", "replacement", 5, 0.97, "averaged", "trained", 2),
    Case("foml_tail", "adam", "cycling", 20, 0.97, "reset", "initial", 0),
    Case("foml_tail", "adam", "replacement", 20, 1.0, "averaged", "trained", 1, "miniimagenet"),
    Case("foml_tail", "sgd", "replacement", 5, 0.97, "sequential", "initial", 2),
]


def pairs(case: tuple[Any, ...]) -> set[tuple[Any, ...]]:
    """Returns the pairs of values, of different settings, that a case has."""
    return set(itertools.combinations(enumerate(case), 2))


def all_pairs() -> set[tuple[Any, ...]]:
    """Returns every pair of values there is."""
    return set().union(*(pairs(case) for case in itertools.product(*VALUES)))


def config_of(case: Case, data: str = "glyphs", archives: str = "", data_dir: str = "") -> ConfigDict:
    """Returns a case's configuration: two tasks of three inner steps.

    A task's 15 or 40 drawings are handed out in batches of 10 or 20, so that cycling shuffles again in mid-batch.
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
    config.sgd = case.optimizer == "sgd"
    config.learning_rate = 3e-3 if config.sgd else 1e-3
    config.weight_decay = case.weight_decay
    config.inner_state = case.inner_state
    config.foml = case.algorithm != "reptile"
    config.foml_tail = 1 if case.algorithm == "foml_tail" else 0
    config.meta_batch = 2
    config.meta_iters = 64  # a power of two: every step size is a float32, which is what the JAX program computes it in
    config.meta_step, config.meta_step_final = 1.0, 0.0
    config.eval_iters = 5
    return config


def setup_of(case: Case, dtype: str, **data: str) -> bridge.Setup:
    """Returns a case as both sides see it; call it in the precision of `dtype`. `data` is that of `config_of`."""
    config = config_of(case, **data)
    if case.weights == "initial":
        return bridge.setup(config, jnp.dtype(dtype))
    start = trained(case.ways, case.network)
    if config.sgd or config.inner_state == "reset":  # the weights alone
        empty = jax.eval_shape(lambda: initial_state(config, config.seed, jnp.dtype(dtype))).opt_state
        start = start._replace(opt_state=jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), empty))
    as_dtype = jax.tree.map(lambda x: jnp.asarray(x, dtype if x.dtype == np.float32 else x.dtype), start)
    return bridge.setup(config, jnp.dtype(dtype), as_dtype._replace(iteration=jnp.zeros((), jnp.int32)))


@cache
def trained(ways: int, network: str) -> MetaState:
    """Trains for a while, in float32, by the JAX program; every kind of case starts from these weights."""
    with jax.enable_x64(False):
        setup = bridge.setup(config_of(BASE._replace(ways=ways, network=network)), jnp.dtype("float32"))
        state = compiled.train(setup.config, setup.start, setup.pixels.jax, bridge.POOLS["train"], TRAINED_FOR)
        return jax.tree.map(np.asarray, state)
