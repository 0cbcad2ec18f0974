"""Trains and evaluates: python -m reptile_torch_ref.train --config=configs/NAME.py [--config.FIELD=VALUE ...]."""

import re
import sys
from collections.abc import Sequence
from functools import partial
from urllib.error import URLError

import numpy as np
import torch
from absl import app, flags
from ml_collections import ConfigDict, config_flags
from torch import Tensor
from tqdm import trange

from reptile_torch_ref import data, reptile, sine, weights
from reptile_torch_ref.model import BLOCKS


def inner_of(config: ConfigDict) -> reptile.Inner:
    """Returns the inner optimiser and the network of a configuration."""
    fields = (config.learning_rate, config.sgd, config.weight_decay, config.inner_state, config.model.name)
    return reptile.Inner(*fields, zero_head=config.zero_head)


def train(config: ConfigDict, characters: Sequence[Tensor], state: reptile.State) -> reptile.State:
    """Runs `meta_iters` meta-iterations from `state` on training classes, [drawings, ...] each."""
    inner = inner_of(config)
    for i in trange(config.meta_iters, desc="train"):
        step = reptile.meta_step_at(i, config.meta_iters, config.meta_step, config.meta_step_final)
        state = reptile.meta_iteration(state, sample_tasks(config, characters, i), step, inner, config.foml)
    return state


def sample_tasks(config: ConfigDict, characters: Sequence[Tensor], iteration: int) -> list[reptile.Task]:
    """Samples the tasks of one meta-iteration, a function of (seed, iteration)."""
    rng, tasks = np.random.default_rng([config.seed, 0, iteration]), []
    shape = (config.inner_batch, config.inner_iters, config.replacement, config.foml_tail if config.foml else 0)
    for _ in range(config.meta_batch):
        drawings = reptile.sample_drawings(rng, characters, config.classes, config.train_shots or config.shots)
        drawings = drawings / data.SCALE[config.data.name]
        tasks.append(reptile.mini_batches(rng, drawings, *shape, balanced=config.balanced))
    return tasks


def evaluate(config: ConfigDict, characters: Sequence[Tensor], state: reptile.State) -> np.ndarray:
    """Returns the accuracy of each of `eval_samples` tasks, transductive and inductive: [eval_samples, 2], 0 to 1."""
    inner = inner_of(config)
    accuracies = np.zeros((config.eval_samples, 2))
    for i in trange(config.eval_samples, desc="evaluate"):
        rng = np.random.default_rng([config.eval_seed, 1, i])  # 1, so that equal seeds do not give training's episodes
        drawings = reptile.sample_drawings(rng, characters, config.classes, config.shots + 1)
        drawings = drawings / data.SCALE[config.data.name]
        support, (queries, labels) = drawings[:, :-1], reptile.labelled(drawings[:, -1:])
        shape = (config.eval_batch, config.eval_iters, config.replacement)
        batches = reptile.mini_batches(rng, support, *shape, balanced=config.balanced)
        outputs = reptile.evaluate_task(state, batches, support.flatten(0, 1), queries, inner)
        accuracies[i] = [(logits.argmax(1) == labels).double().mean() for logits in outputs]
    return accuracies


def main(config: ConfigDict, init: str = "", weights_file: str = "") -> None:
    """Trains (from the weights file `init` if named), writes `weights_file` if named, evaluates, prints."""
    if config.data.name.startswith("sinusoid"):
        return train_on_waves(config, init, weights_file)
    if config.num_seeds != 1:
        raise ValueError(f"num_seeds={config.num_seeds}: the reference trains one seed at a time")
    if config.model.name not in BLOCKS:
        raise ValueError(f'model.name="{config.model.name}": choose {" or ".join(BLOCKS)}')
    split = data.load(config.data, config.seed)
    shape = (config.data.size, config.data.size, config.data.channels)
    init_state = partial(reptile.init_state, filters=config.model.filters, shape=shape)
    state = weights.load(init) if init else init_state(config.classes, config.seed, config.sgd)
    state = state._replace(params=reptile.with_zero_head(state.params)) if config.zero_head else state
    state = train(config, split.train, state)
    if weights_file:
        weights.save(weights_file, state)
    # While classes are held out for tuning, no test class is evaluated, unless the configuration says so.
    tuning = len(split.validation) > 0 and config.eval_set != "test"
    unseen = ("validation", split.validation) if tuning else ("test", split.test)
    for name, characters in (("training", split.train), unseen):
        accuracies = 100 * evaluate(config, characters, state)
        mean, error = accuracies.mean(0), accuracies.std(0, ddof=1) / len(accuracies) ** 0.5
        results = [f"{m:.2f} ± {1.96 * e:.2f} %" for m, e in zip(mean, error, strict=True)]  # 95% interval over tasks
        print(f"{name} classes: {results[0]} transductive, {results[1]} inductive ({len(accuracies)} tasks)")


def train_on_waves(config: ConfigDict, init: str, weights_file: str) -> None:
    """Does the same as `main` on sine waves, one seed after the other; a weights file has one seed."""
    torch.set_num_threads(1)  # the products are too small for two to share
    if config.num_seeds != 1 and (init or weights_file):
        raise ValueError(f"num_seeds={config.num_seeds}: a weights file holds one seed, give num_seeds=1")
    for seed in range(config.seed, config.seed + config.num_seeds):
        start = weights.load(init) if init else sine.init_state(config, seed)
        state = sine.run(config, seed, start)
    if weights_file:
        weights.save(weights_file, state)


def parse_flags(argv: list[str]) -> list[str]:
    """Parses the flags; if they are wrong, ends the program with one line that says so."""
    try:
        rest = flags.FLAGS(argv)
        if CONFIG.value is None:
            sys.exit("error: no config is given: give --config=configs/NAME.py")
        _ = CONFIG.value.seed  # raises where the file was not found
    except OSError:
        sys.exit("error: --config names no file: give configs/NAME.py")
    except Exception as error:  # a config is a program, and can fail in any way
        sys.exit(f"error: {explained(error)}")
    if len(rest) > 1:
        sys.exit(f"error: unexpected argument {rest[1]}: flags are written --name=value")
    return rest


def explained(error: Exception) -> str:
    """Returns one line about an error in the flags or in the config."""
    if match := re.match(r"flag --config\.([^=]*)=(.*?): ", str(error)):
        return f"{match[1]}={match[2]} is not possible: give a value of the kind that configs/default.py has"
    said: object = error
    while isinstance(said, KeyError | AttributeError) and said.args:  # their texts would be in quotes
        said = said.args[0]
    text = str(said).strip()
    text = " ".join((text.splitlines()[-1] if "Traceback" in text else text).split()).removeprefix("ValueError: ")
    if isinstance(error, KeyError | AttributeError):
        return f"the config has no field {text}"
    return text if isinstance(error, flags.Error) else f"--config cannot be loaded ({text}): give configs/NAME.py"


def run(_: list[str]) -> None:
    """Does what the flags say; reports an error in one line."""
    try:
        main(CONFIG.value, INIT.value, WEIGHTS.value)
    except URLError as error:
        sys.exit(
            f"error: Omniglot cannot be downloaded ({error.reason}): try again, or give data.archives, their folder"
        )
    except (OSError, ValueError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="replace")  # type: ignore[union-attr]  # where there is no ±
    CONFIG = config_flags.DEFINE_config_file("config", help_string="fields of the run", lock_config=True)
    INIT = flags.DEFINE_string("init", "", "weights file to start from")
    WEIGHTS = flags.DEFINE_string("weights", "", "weights file to write after training")
    app.run(run, flags_parser=parse_flags)
