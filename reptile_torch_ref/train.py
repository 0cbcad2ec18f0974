"""Trains and evaluates: python -m reptile_torch_ref.train --config=configs/NAME.py [--config.FIELD=VALUE ...]."""

import numpy as np
from absl import app, flags
from ml_collections import ConfigDict, config_flags
from torch import Tensor
from tqdm import trange

from reptile_torch_ref import data, reptile, weights

CONFIG = config_flags.DEFINE_config_file("config", help_string="the run's fields", lock_config=True)
INIT = flags.DEFINE_string("init", "", "weights file to start from (weights, second moment, count)")
WEIGHTS = flags.DEFINE_string("weights", "", "weights file to write after training")
TRAINING, EVALUATION = 0, 1  # keep the episodes of the two apart where seed and eval_seed are equal


def train(config: ConfigDict, characters: Tensor, state: reptile.State) -> reptile.State:
    """Runs `meta_iters` meta-iterations from `state` on training classes [classes, 20, 28, 28]."""
    inner = reptile.Inner(config.learning_rate, config.sgd, config.weight_decay, config.inner_state)
    for i in trange(config.meta_iters, desc="train"):
        step = reptile.meta_step_at(i, config.meta_iters, config.meta_step, config.meta_step_final)
        state = reptile.meta_iteration(state, sample_tasks(config, characters, i), step, inner, config.foml)
    return state


def sample_tasks(config: ConfigDict, characters: Tensor, iteration: int) -> list[reptile.Task]:
    """Samples the tasks of one meta-iteration, a function of (seed, iteration)."""
    rng, tasks = np.random.default_rng([config.seed, TRAINING, iteration]), []
    shape = (config.inner_batch, config.inner_iters, config.replacement, config.foml_tail if config.foml else 0)
    for _ in range(config.meta_batch):
        drawings = reptile.sample_drawings(rng, characters, config.classes, config.train_shots or config.shots)
        tasks.append(reptile.mini_batches(rng, drawings, *shape))
    return tasks


def evaluate(config: ConfigDict, characters: Tensor, state: reptile.State) -> np.ndarray:
    """Returns the accuracy of each of `eval_samples` tasks, transductive and inductive: [eval_samples, 2], 0 to 1."""
    inner = reptile.Inner(config.learning_rate, config.sgd, config.weight_decay, config.inner_state)
    accuracies = np.zeros((config.eval_samples, 2))
    for i in trange(config.eval_samples, desc="evaluate"):
        rng = np.random.default_rng([config.eval_seed, EVALUATION, i])
        drawings = reptile.sample_drawings(rng, characters, config.classes, config.shots + 1)
        support, (queries, labels) = drawings[:, :-1], reptile.labelled(drawings[:, -1:])
        batches = reptile.mini_batches(rng, support, config.eval_batch, config.eval_iters, config.replacement)
        outputs = reptile.evaluate_task(state, batches, support.flatten(0, 1), queries, inner)
        accuracies[i] = [(logits.argmax(1) == labels).double().mean() for logits in outputs]
    return accuracies


def main(_: list[str]) -> None:
    """Trains, writes the weights, evaluates, prints."""
    config = CONFIG.value
    split = data.load(config.data.name, config.data.archives, config.seed, config.data.validation_classes)
    state = reptile.init_state(config.classes, config.seed, config.sgd)
    state = train(config, split.train, weights.load(INIT.value) if INIT.value else state)
    if WEIGHTS.value:
        weights.save(WEIGHTS.value, state)
    # While characters are held out for tuning, no test character is evaluated.
    unseen = ("validation", split.validation) if len(split.validation) else ("test", split.test)
    for name, characters in (("training", split.train), unseen):
        accuracies = 100 * evaluate(config, characters, state)
        error = 1.96 * accuracies.std(0, ddof=1) / len(accuracies) ** 0.5  # half of the 95% interval over tasks
        for protocol, mean, half in zip(("transductive", "inductive"), accuracies.mean(0), error, strict=True):
            print(
                f"{name} classes, {config.shots}-shot {protocol}: {mean:.2f} ± {half:.2f} % ({len(accuracies)} tasks)"
            )


if __name__ == "__main__":
    flags.mark_flag_as_required("config")
    app.run(main)
