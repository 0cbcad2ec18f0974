"""The JAX side, compiled: functions of reptile_jax under `jax.jit`, which all tests share.

Most of the suite's time is compilation. Therefore weight decay, data, episodes and state are arguments of the compiled
functions and not parts of them.
"""

import json
from collections.abc import Callable
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import random
from ml_collections import ConfigDict

from reptile_jax.devices import mesh_of
from reptile_jax.meta.episodes import Classes, EvalTask, Examples, Pool, TrainTask
from reptile_jax.meta.inner_loop import InnerLoop, OptState, Params, inner_loop, inner_optimizer, inner_step
from reptile_jax.meta.inner_loop import summed_loss as loss_of
from reptile_jax.meta.protocols import Predictions
from reptile_jax.meta.reptile import MetaState, meta_update, task_delta
from reptile_jax.networks import NETWORKS
from reptile_jax.networks.layers import batch_norm_relu, conv3x3_stride2
from reptile_jax.networks.pooled import conv_norm_pool_relu
from reptile_jax.networks.pooled_images import images_norm_pool_relu
from reptile_jax.run.programs import eval_program, sample_meta_batch, train_program
from reptile_jax.tasks import images
from reptile_jax.tasks.images import Source


class Spec(NamedTuple):
    """The fields of the configuration that a function is compiled for."""

    classes: int
    sgd: bool
    learning_rate: float
    foml: bool
    inner_state: str
    data: str = "omniglot"
    network: str = "omniglot"
    filters: int = 64
    zero_head: bool = False

    @property
    def config(self) -> ConfigDict:
        """The part of the config that determines how pixels are scaled."""
        return ConfigDict({"data": {"name": self.data}})

    @property
    def apply(self) -> Callable[..., Any]:
        """The network."""
        return NETWORKS[self.network](self.classes, self.filters, "auto").apply

    @property
    def without_training(self) -> "Spec":
        """The spec without the fields that matter only in training."""
        return self._replace(sgd=True, learning_rate=0.0, foml=False, inner_state="", zero_head=False)

    def loop(self, weight_decay: jax.Array, data: Source) -> InnerLoop:
        """Returns what all inner loops share."""
        loss = images.loss(self.config, self.apply, data)
        return InnerLoop(loss, inner_optimizer(self.learning_rate, self.sgd), weight_decay)


class Forward(NamedTuple):
    """The network on one mini-batch: logits [batch, classes], summed loss, gradients, and the output of every ReLU."""

    logits: jax.Array
    loss: jax.Array
    gradients: Params
    activations: list[jax.Array]


@jax.jit
def conv(x: jax.Array, kernel: jax.Array, grad: jax.Array) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    """Returns a convolution, and its gradients if the output's gradient is `grad`."""
    y, pull = jax.vjp(conv3x3_stride2, x, kernel)
    return y, pull(grad)


@jax.jit
def norm(x: jax.Array, scale: jax.Array, bias: jax.Array, grad: jax.Array) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    """Returns batch norm with ReLU, and its gradients if the output's gradient is `grad`."""
    y, pull = jax.vjp(batch_norm_relu, x, scale, bias)
    return y, pull(grad)


@partial(jax.jit, static_argnums=0)
def pooled(
    images: bool, x: jax.Array, kernel: jax.Array, scale: jax.Array, bias: jax.Array, grad: jax.Array
) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    """Returns convolution, batch norm, pooling and ReLU, and their gradients; `images` chooses the images' layer."""
    y, pull = jax.vjp(images_norm_pool_relu if images else conv_norm_pool_relu, x, kernel, scale, bias)
    return y, pull(grad)


@partial(jax.jit, static_argnums=0)
def _forward(spec: Spec, weight_decay: jax.Array, params: Params, examples: Examples, data: Source) -> Forward:
    apply = spec.apply
    inputs = images.images_of(spec.config, data[0], weight_decay.dtype)(examples.rows)
    params = jax.tree.map(lambda p: p * weight_decay, params)
    logits, captured = apply(params, inputs, capture_intermediates=True, mutable=["intermediates"])
    loss, gradients = jax.value_and_grad(partial(loss_of, apply))(params, inputs, examples.labels)
    outputs = captured["intermediates"]
    return Forward(logits, loss, gradients, [outputs[f"norm_{i}"]["__call__"][0] for i in range(4)])


def forward(spec: Spec, weight_decay: jax.Array, params: Params, examples: Examples, data: Source) -> Forward:
    """Returns logits, loss and gradients of one mini-batch [batch], with the weights multiplied by `weight_decay`."""
    return _forward(spec.without_training, weight_decay, params, examples, data)


@partial(jax.jit, static_argnums=0)
def _step(spec: Spec, weight_decay: jax.Array, state: MetaState, examples: Examples, data: Source) -> MetaState:
    params, opt_state, _ = inner_step(spec.loop(weight_decay, data), state.params, state.opt_state, examples)
    return state._replace(params=params, opt_state=opt_state)


def step(spec: Spec, weight_decay: jax.Array, state: MetaState, examples: Examples, data: Source) -> MetaState:
    """Takes one inner step on a mini-batch [batch]; the meta-iteration stays the same."""
    spec = spec._replace(foml=False, inner_state="averaged", zero_head=False)
    return _step(spec, weight_decay, state, examples, data)


@partial(jax.jit, static_argnums=0)
def steps(
    spec: Spec, weight_decay: jax.Array, params: Params, opt_state: OptState, examples: Examples, data: Source
) -> tuple[Params, OptState, jax.Array]:
    """Runs the inner loop on mini-batches [steps, batch]."""
    return inner_loop(spec.loop(weight_decay, data), params, opt_state, examples)


@partial(jax.jit, static_argnums=0)
def delta(
    spec: Spec, weight_decay: jax.Array, params: Params, opt_state: OptState, task: TrainTask, data: Source
) -> tuple[Params, OptState, jax.Array]:
    """Returns the contribution of one task to the meta-delta."""
    return task_delta(spec.loop(weight_decay, data), params, opt_state, task, spec.foml)


@partial(jax.jit, static_argnums=0)
def update(
    spec: Spec, weight_decay: jax.Array, state: MetaState, tasks: TrainTask, step_size: jax.Array, data: Source
) -> MetaState:
    """Computes one meta-update."""
    loop = spec.loop(weight_decay, data)
    fields = {"foml": spec.foml, "inner_state": spec.inner_state, "zero_head": spec.zero_head}
    return meta_update(loop, state, tasks, step_size, **fields)[0]


def count(state: MetaState) -> int:
    """Returns Adam's step count; 0 with SGD."""
    return int(optax.tree.get(state.opt_state, "count", 0))


def second_moment(state: MetaState) -> Params | None:
    """Returns Adam's second moment; None with SGD."""
    return optax.tree.get(state.opt_state, "nu")


def task_start(spec: Spec, state: MetaState) -> OptState:
    """Returns the optimiser state from which the first task of a meta-iteration starts."""
    return jax.tree.map(jnp.zeros_like, state.opt_state) if spec.inner_state == "reset" else state.opt_state


@partial(jax.jit, static_argnums=0)
def _predict(spec: Spec, params: Params, task: EvalTask, data: Source) -> Predictions:
    loop = spec.loop(jnp.ones(()), data)
    return images.evaluate(spec.config, spec.apply, loop, data, params, loop.optimizer.init(params), task)


def predict(spec: Spec, adapted: MetaState, task: EvalTask, data: Source) -> Predictions:
    """Classifies one task's queries with adapted weights; no inner step is left to do."""
    done = Examples(*(x[:0] for x in task.batches))
    return _predict(spec.without_training, adapted.params, task._replace(batches=done), data)


@cache
def _sampler(fields: str) -> Callable[[int, int, Classes, Pool], TrainTask]:
    """Compiles the sampling of meta-batches for all seeds."""

    @jax.jit
    def sampler(seed: jax.Array, iteration: jax.Array, classes: Classes, pool: Pool) -> TrainTask:
        config = ConfigDict(json.loads(fields))
        return sample_meta_batch(config, seed, iteration, (None, classes), pool, jnp.arange(config.meta_batch))

    return sampler


def sample(config: ConfigDict, iteration: int, classes: Classes, pool: Pool) -> TrainTask:
    """Samples the tasks of one meta-iteration as the training program does; returns indices [meta_batch, ...]."""
    names = ("classes", "shots", "train_shots", "inner_batch", "inner_iters", "replacement", "balanced", "foml_tail",
             "meta_batch")  # fmt: skip
    with jax.enable_x64(False):  # only integers are computed: one program serves both precisions
        fields = {name: config[name] for name in names} | {"data": {"name": config.data.name}}
        sampler = _sampler(json.dumps(fields))
        return jax.tree.map(np.asarray, sampler(config.seed, iteration, classes, pool))


def of_one_seed(data: Source) -> Any:
    """Returns the source of a run of one seed."""
    return data[0], jax.tree.map(lambda x: x[None], data[1])


def train(config: ConfigDict, state: MetaState, data: Source, pool: Pool, count: int) -> MetaState:
    """Runs `count` meta-iterations of the training program."""
    states = jax.tree.map(lambda x: jnp.asarray(x)[None], state)
    seeds = np.array([config.seed], np.int32)
    states, _ = train_program(config, mesh_of(config))(states, seeds, of_one_seed(data), pool, count)
    return jax.tree.map(lambda x: x[0], states)


def evaluate(
    config: ConfigDict, state: MetaState, data: Source, pool: Pool, tasks: int
) -> tuple[EvalTask, Predictions]:
    """Runs the evaluation program on `tasks` few-shot tasks that it samples; returns arrays [tasks, ...]."""
    keys = jax.vmap(random.key)(np.arange(tasks, dtype=np.uint32) + np.uint32(config.eval_seed))
    pools = Pool(*(np.full(tasks, x, np.int32) for x in pool))
    states = jax.tree.map(lambda x: x[None], state)
    program = eval_program(config, mesh_of(config), config.shots)
    result = program(states, of_one_seed(data), pools, random.key_data(keys)[None])
    return jax.tree.map(lambda x: x[0], result)
