"""What was tried to reach the published accuracy sooner: short runs, measured on validation characters alone.

    python -m reptile_jax.results.search NAME... [--seed=0] [--meta_iters=3000] [--tasks=300]
        [--archives=DIR] [--output=search.jsonl]

A variant is a published run with 200 of its training characters held out and some things changed. The step size falls
to zero over this run, as in a published one, unless the variant says otherwise. No test character is ever seen.
Variants that helped became fields of the config; the others are here alone.
"""

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax, random
from jax.scipy.ndimage import map_coordinates
from ml_collections import ConfigDict

from configs import omniglot_1shot_5way, omniglot_1shot_20way
from reptile_jax.devices import keep_compiled, mesh_of
from reptile_jax.meta.episodes import Examples, TrainTask, class_batches
from reptile_jax.meta.inner_loop import InnerLoop, Params, inner_loop, summed_loss
from reptile_jax.meta.protocols import Predictions, classify
from reptile_jax.meta.reptile import MetaState, meta_step_size, meta_update
from reptile_jax.meta.statistics import mean_and_interval
from reptile_jax.run.programs import TRAINING_TASKS, initial_state, network_of, stream, task_keys
from reptile_jax.tasks import kind_of
from reptile_jax.tasks.images import images_of

Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Variant:
    """What a short run changes.

    Attributes:
        fields: fields of the config, for training and evaluation.
        ways: 5 or 20, which published run it is.
        rate_final: inner learning rate at the end of training, with which the weights are then evaluated, too; None: as
            at its beginning.
        steps: the shape of the meta step size: "linear", "cosine", "hold" (constant for half of the run) or "flat".
        layers: factors on the learning rate of the layers whose names begin so.
        beta2: decay of the second moment.
        augment: "class": one random turn, scale and shift for all drawings of a class of a task; "image": for each.
        average: decay of a running mean of the initialisation, which is evaluated in place of the last one; 0: none.
        evals: fields for further evaluations of the trained weights, by name.
    """

    fields: dict[str, Any] = field(default_factory=dict)
    ways: int = 5
    rate_final: float | None = None
    steps: str = "linear"
    layers: dict[str, float] = field(default_factory=dict)
    beta2: float = 0.999
    augment: str = ""
    average: float = 0.0
    evals: dict[str, dict[str, Any]] = field(default_factory=dict)

    def evaluations(self) -> dict[str, dict[str, Any]]:
        """Returns the fields of every evaluation of the trained weights, by name; "": as in training."""
        last = {} if self.rate_final is None else {f"rate {self.rate_final:g}": {"learning_rate": self.rate_final}}
        return {"": {}, **self.evals, **last}


QUERIES = 5  # of each class of a validation task
VALIDATION_TASKS = 1  # the random stream of `eval_seed` that gave the tasks of the rows in search.jsonl
RATE = {"learning_rate": 4e-3}
EVALUATIONS: dict[str, dict[str, Any]] = {
    "rate 0.002": {"learning_rate": 2e-3},
    "rate 0.008": {"learning_rate": 8e-3},
    "25 steps": {"eval_iters": 25},
    "100 steps": {"eval_iters": 100},
    "batch 10": {"eval_batch": 10},
    "batches that are not balanced": {"balanced": False},
}
BOTH = RATE | {"zero_head": True, "balanced": True}
BOTH_20 = BOTH | {"learning_rate": 2e-3, "eval_batch": 20}
VARIANTS = {
    "published": Variant(),
    "rate 0.002": Variant({"learning_rate": 2e-3}),
    "rate 0.004": Variant(RATE),
    "rate 0.008": Variant({"learning_rate": 8e-3}),
    "rate 0.008 to 0.002": Variant({"learning_rate": 8e-3}, rate_final=2e-3),
    "step 1.5": Variant(RATE | {"meta_step": 1.5}),
    "turns of classes": Variant(RATE, augment="class"),
    "balanced": Variant(RATE | {"balanced": True}),
    "zero head": Variant(RATE | {"zero_head": True}),
    "both": Variant(BOTH, evals=EVALUATIONS),
    "both, rate 0.001": Variant(BOTH | {"learning_rate": 1e-3}),
    "both, rate 0.002": Variant(BOTH | {"learning_rate": 2e-3}),
    "both, rate 0.008": Variant(BOTH | {"learning_rate": 8e-3}),
    "both, rate 0.016": Variant(BOTH | {"learning_rate": 16e-3}),
    "both, rate 0.008 to 0.002": Variant(BOTH | {"learning_rate": 8e-3}, rate_final=2e-3),
    "both, rate 0.002 to 0.008": Variant(BOTH | {"learning_rate": 2e-3}, rate_final=8e-3),
    "both, turns of classes": Variant(BOTH, augment="class"),
    "both, turns of images": Variant(BOTH, augment="image"),
    "both, step 1.5": Variant(BOTH | {"meta_step": 1.5}),
    "both, step 0.5": Variant(BOTH | {"meta_step": 0.5}),
    "both, step cosine": Variant(BOTH, steps="cosine"),
    "both, step hold": Variant(BOTH, steps="hold"),
    "both, step 0.3 flat, averaged": Variant(BOTH | {"meta_step": 0.3}, steps="flat", average=0.99),
    "both, averaged": Variant(BOTH, average=0.99),
    "both, head 3": Variant(BOTH, layers={"dense": 3.0}),
    "both, head 10": Variant(BOTH, layers={"dense": 10.0}),
    "both, head 0.3": Variant(BOTH, layers={"dense": 0.3}),
    "both, norms 3": Variant(BOTH, layers={"norm": 3.0}),
    "both, norms 0.3": Variant(BOTH, layers={"norm": 0.3}),
    "both, first layers 0.3": Variant(BOTH, layers={"conv_0": 0.3, "conv_1": 0.3}),
    "both, last layer 3": Variant(BOTH, layers={"conv_3": 3.0}),
    "both, beta2 0.99": Variant(BOTH, beta2=0.99),
    "both, moments reset": Variant(BOTH | {"inner_state": "reset"}),
    "both, shots 5": Variant(BOTH | {"train_shots": 5}),
    "both, shots 15": Variant(BOTH | {"train_shots": 15}),
    "both, batch 5, 10 steps": Variant(BOTH | {"inner_batch": 5, "inner_iters": 10}),
    "both, batch 25, 2 steps": Variant(BOTH | {"inner_batch": 25, "inner_iters": 2}),
    "both, batch 5, 10 steps, 5 shots": Variant(BOTH | {"inner_batch": 5, "inner_iters": 10, "train_shots": 5}),
    "20-way published": Variant(ways=20),
    "20-way rate 0.002": Variant({"learning_rate": 2e-3}, 20),
    "20-way zero head": Variant({"learning_rate": 2e-3, "zero_head": True}, 20),
    "20-way both": Variant(BOTH_20, 20),
    "20-way both, rate 0.001": Variant(BOTH_20 | {"learning_rate": 1e-3}, 20),
    "20-way both, rate 0.004": Variant(BOTH_20 | {"learning_rate": 4e-3}, 20),
    "20-way both, step 1.5": Variant(BOTH_20 | {"meta_step": 1.5}, 20),
    "20-way both, step hold": Variant(BOTH_20, 20, steps="hold"),
    "20-way both, turns of images": Variant(BOTH_20, 20, augment="image"),
    "20-way both, 5 steps": Variant(BOTH_20 | {"inner_iters": 5}, 20),
}


def main() -> None:
    """Runs the variants that the command line names, one after the other, and adds a line for each to a file."""
    parser = argparse.ArgumentParser("python -m reptile_jax.results.search", description=__doc__)
    parser.add_argument("names", nargs="+", metavar="NAME", help=f"some of: {'; '.join(VARIANTS)}")
    parser.add_argument("--seed", type=int, default=0, help="of the weights, the tasks and the validation characters")
    parser.add_argument("--meta_iters", type=int, default=3000)
    parser.add_argument("--tasks", type=int, default=300, help="validation tasks")
    parser.add_argument("--archives", default="", help="folder with Omniglot's two zip files; default: download them")
    parser.add_argument("--output", type=Path, default=Path("search.jsonl"))
    arguments = parser.parse_args()
    seed, meta_iters, tasks = arguments.seed, arguments.meta_iters, arguments.tasks
    for name in arguments.names:
        if name not in VARIANTS:
            parser.error(f"{name} is not a variant: give some of {', '.join(VARIANTS)}")
    keep_compiled()
    for name in arguments.names:
        for row in run(VARIANTS[name], seed, meta_iters, tasks, arguments.archives):
            line = json.dumps({"variant": name, "seed": seed, "meta_iters": meta_iters, "tasks": tasks} | row)
            print(line, flush=True)
            with arguments.output.open("a") as file:
                file.write(line + "\n")


def run(variant: Variant, seed: int, meta_iters: int, tasks: int, archives: str) -> Rows:
    """Trains a variant and returns its validation accuracies in per cent, one row for each way of evaluation."""
    config = (omniglot_1shot_5way if variant.ways == 5 else omniglot_1shot_20way).get_config()
    config.update({"data": {"validation_classes": 200, "archives": archives}, "meta_iters": meta_iters, "seed": seed})
    config.update(variant.fields)
    data = kind_of(config).load(config, mesh_of(config, jax.devices()[:1]))
    pixels, table = data.source[0], jax.tree.map(lambda x: x[0], data.source[1])
    train = train_program(config, variant, pixels, table, data.pools["train"])
    state = initial_state(config, config.seed)
    began = time.perf_counter()
    state, averaged = train(state)
    jax.block_until_ready(averaged)
    seconds = time.perf_counter() - began
    params = averaged if variant.average else state.params
    rows = []
    for name, fields in variant.evaluations().items():
        other = ConfigDict(config)
        other.update(fields)
        row: dict[str, Any] = {"evaluation": name, "seconds": round(seconds)}
        for shots in (1, 5):
            key = random.fold_in(random.fold_in(random.key(config.eval_seed), VALIDATION_TASKS), shots)
            keys = task_keys(key, 0, tasks)
            args = other, variant, pixels, table, data.pools["validation"], shots
            predictions = jax.device_get(eval_program(*args)(params, state.opt_state, keys))
            for protocol, labels in predictions._asdict().items():
                mean = mean_and_interval((labels == np.arange(config.classes)).mean(axis=(1, 2)))
                row[f"{shots}-shot {protocol}"] = [round(100 * mean.mean, 2), round(100 * mean.ci95, 2)]
        rows.append(row)
    return rows


def inner_loop_of(config: ConfigDict, variant: Variant, pixels: jax.Array, rate: jax.Array | float) -> InnerLoop:
    """Returns the inner loop with a learning rate that may be traced; a batch is examples and a key."""
    apply, images_at = network_of(config).apply, images_of(config, pixels, np.dtype(np.float32))

    def scaled(updates: Params, _: Params) -> Params:
        def of_leaf(path: Any, update: jax.Array) -> jax.Array:
            return update * next((f for name, f in variant.layers.items() if path[1].key.startswith(name)), 1.0)

        return jax.tree_util.tree_map_with_path(of_leaf, updates)

    def loss(params: Params, batch: tuple[Examples, jax.Array]) -> jax.Array:
        examples, key = batch
        images = images_at(examples.rows)
        if variant.augment:
            draws = examples.labels if variant.augment == "class" else jnp.arange(len(examples.labels))
            images = jax.vmap(moved)(jax.vmap(partial(random.fold_in, key))(draws), images)
        return summed_loss(apply, params, images, examples.labels)

    optimizer = optax.chain(
        optax.scale_by_rms(decay=variant.beta2, eps=1e-8, eps_in_sqrt=False, bias_correction=True),
        optax.stateless(scaled) if variant.layers else optax.identity(),
        optax.scale_by_learning_rate(rate),
    )
    return InnerLoop(loss, optimizer, config.weight_decay)


def moved(key: jax.Array, image: jax.Array) -> jax.Array:
    """Turns an image [28, 28, 1] by up to 15 degrees and shifts it by about 2 pixels at most.

    What is on it becomes up to a quarter larger or a sixth smaller.
    """
    turn, scale, *shift = random.uniform(key, (4,), minval=-1.0)
    turn, scale = turn * (np.pi / 12), 1 + 0.2 * scale
    y, x = jnp.meshgrid(jnp.arange(28.0) - 13.5, jnp.arange(28.0) - 13.5, indexing="ij")
    cos, sin = jnp.cos(turn) * scale, jnp.sin(turn) * scale
    at = [y * cos - x * sin + 13.5 + 2 * shift[0], y * sin + x * cos + 13.5 + 2 * shift[1]]
    return map_coordinates(image[..., 0], at, order=1, cval=1.0)[..., None]


def train_program(
    config: ConfigDict, variant: Variant, pixels: jax.Array, table: Any, pool: Any
) -> Callable[[MetaState], tuple[MetaState, Params]]:
    """Compiles the whole training: the first state -> the last one, and the running mean of the initialisation."""
    iters, first = config.meta_iters, config.learning_rate
    final = first if variant.rate_final is None else variant.rate_final

    def sample(key: jax.Array) -> TrainTask:
        batches = kind_of(config).sample_train(config, key, (pixels, table), pool).batches
        keys = random.split(random.fold_in(key, 1), config.inner_iters)
        if variant.augment == "class":  # one key for the whole task, so that a class is moved alike in all mini-batches
            keys = jnp.broadcast_to(keys[0], keys.shape)
        return TrainTask((batches, keys), None)

    def meta_iteration(_: jax.Array, carry: tuple[MetaState, Params]) -> tuple[MetaState, Params]:
        state, averaged = carry
        done = state.iteration / iters
        rate = first + (final - first) * done
        step = step_size(variant.steps, state.iteration, config)
        key = random.fold_in(stream(config.seed, TRAINING_TASKS), state.iteration)
        tasks = jax.vmap(lambda task: sample(random.fold_in(key, task)))(jnp.arange(config.meta_batch))
        fields = {name: config[name] for name in ("foml", "inner_state", "zero_head")}
        state = meta_update(inner_loop_of(config, variant, pixels, rate), state, tasks, step, **fields)[0]
        averaged = jax.tree.map(lambda a, p: a + (1 - variant.average) * (p - a), averaged, state.params)
        return state, averaged

    def train(state: MetaState) -> tuple[MetaState, Params]:
        optimizer = inner_loop_of(config, variant, pixels, first).optimizer
        state = state._replace(opt_state=optimizer.init(state.params))
        return lax.fori_loop(0, iters, meta_iteration, (state, state.params))

    return jax.jit(train)


def step_size(shape: str, iteration: jax.Array, config: ConfigDict) -> jax.Array | float:
    """Returns the meta step size, whose mean over the run is the same for all shapes but "hold" and "flat"."""
    done = iteration / config.meta_iters
    if shape == "cosine":
        return config.meta_step * (1 + jnp.cos(np.pi * done)) / 2
    if shape == "hold":
        return config.meta_step * jnp.minimum(1.0, 2 * (1 - done))
    if shape == "flat":
        return config.meta_step
    return meta_step_size(iteration, config.meta_iters, config.meta_step, config.meta_step_final)


def eval_program(
    config: ConfigDict, variant: Variant, pixels: jax.Array, table: Any, pool: Any, shots: int
) -> Callable[[Params, Any, jax.Array], Any]:
    """Compiles evaluation: (initialisation, second moment, keys [tasks]) -> predictions [tasks, QUERIES, classes].

    Every adapted copy classifies `QUERIES` sets of queries, each a query per class, because they cost less than tasks.
    """
    plain = replace(variant, augment="")
    apply, loop = network_of(config).apply, inner_loop_of(config, plain, pixels, config.learning_rate)
    images_at = images_of(config, pixels, np.dtype(np.float32))

    def one_task(key: jax.Array, params: Params, opt_state: Any) -> Predictions:
        sampled = kind_of(config).sample_eval(config, shots + QUERIES - 1, key, (pixels, table), pool)
        rows = sampled.support.rows.reshape(config.classes, -1)
        rows = jnp.concatenate([rows, sampled.queries.rows[:, None]], axis=1)  # [classes, shots + QUERIES]
        support, queries = rows[:, :shots], rows[:, shots:].T
        how = config.eval_batch, config.eval_iters, config.replacement, config.balanced
        batches = class_batches(random.fold_in(key, 2), support, *how)
        start = loop.optimizer.init(params) if config.inner_state == "reset" else opt_state
        phi, _, _ = inner_loop(loop, params, start, (batches, jnp.zeros(config.eval_iters)))
        return lax.map(lambda query: classify(apply, phi, images_at(support.reshape(-1)), images_at(query)), queries)

    return jax.jit(lambda params, opt_state, keys: lax.map(lambda key: one_task(key, params, opt_state), keys))


if __name__ == "__main__":
    main()
