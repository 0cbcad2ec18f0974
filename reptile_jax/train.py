"""A run from its config to its results: training, curves, checkpoints, resume, evaluation."""

import contextlib
import json
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import random
from ml_collections import ConfigDict
from tqdm import tqdm

from reptile_jax import checkpoint, plots
from reptile_jax.config import ConfigError, differences, eval_shots, validate
from reptile_jax.data import load_split
from reptile_jax.episodes import EvalTask, Pool
from reptile_jax.evaluate import Accuracy, Predictions, accuracy
from reptile_jax.interrupt import stop_on_signal
from reptile_jax.metrics import MetricsWriter, progress_bar
from reptile_jax.programs import CURVE_TASKS, eval_program, initial_state, stream, train_program
from reptile_jax.reptile import MetaState

EVAL_TASKS = 10  # tasks per dispatch; more are no faster on a CPU, whose caches they outgrow
DISPATCH = 10  # meta-iterations per dispatch at most; a signal waits for the end of one
PICTURED_TASKS = 4
SETS = ("train", "validation", "test")  # what an evaluation can be on


class TrainingError(Exception):
    """Training that cannot go on; the message is one line."""


class Data(NamedTuple):
    """All classes of a run on the device, and where each set of them begins.

    Attributes:
        images: uint8 [classes, drawings, 28, 28].
        pools: for each set evaluated, its classes; "train" is also what training draws from.
        held_out: "test", or "validation" while tuning; the other one is not loaded at all.
    """

    images: jax.Array
    pools: dict[str, Pool]
    held_out: str


def load_data(config: ConfigDict) -> Data:
    """Loads the data set of a config onto the device.

    Raises:
        DataError: the data is missing or damaged.
    """
    data = config.data
    split = load_split(data.name, data.dir, data.archives, config.seed, data.validation_classes)
    held_out = "validation" if data.validation_classes else "test"
    train, held = split.train.images, getattr(split, held_out).images
    pools = {"train": Pool(0, len(train)), held_out: Pool(len(train), len(held))}
    return Data(jnp.concatenate([jnp.asarray(train), jnp.asarray(held)]), pools, held_out)


def data_label(config: ConfigDict) -> str:
    """Names the data set where its results are shown; synthetic data is called that."""
    return "glyphs (synthetic)" if config.data.name == "glyphs" else "Omniglot"


def train_and_evaluate(config: ConfigDict, workdir: Path, pretrained: Path | None = None) -> dict[str, Any]:
    """Trains from where the workdir stands to `meta_iters`, evaluates, and leaves everything in the workdir.

    Args:
        config: a run's config, see configs/default.py.
        workdir: holds config.json, metrics.jsonl, TensorBoard events, checkpoints, pictures and results.json.
        pretrained: a workdir or checkpoint whose weights and second moment a new run starts from.

    Returns:
        The results, as in results.json.

    Raises:
        ConfigError: an impossible config, or another one than the run in the workdir began with.
        DataError: the data is missing or damaged.
        CheckpointError: `pretrained` holds no checkpoint.
        TrainingError: a loss or an update was not finite.
    """
    validate(config)
    if checkpoint.newest(workdir) is not None:
        state = resume(config, workdir)
    elif pretrained:
        state = load_pretrained(config, pretrained)._replace(iteration=jnp.zeros((), jnp.int32))
    else:
        state = initial_state(config)
    data = load_data(config)
    workdir.mkdir(parents=True, exist_ok=True)
    (workdir / "config.json").write_text(config.to_json(indent=2) + "\n")
    state = train(config, workdir, data, state)
    return evaluate(config, workdir, data, state)


def evaluate_only(config: ConfigDict, workdir: Path, pretrained: Path | None = None) -> dict[str, Any]:
    """Evaluates the newest checkpoint of the workdir, or the one that `pretrained` names.

    Args, returns and raises as `train_and_evaluate`; without `pretrained`, the workdir must hold a checkpoint.
    """
    validate(config)
    state = load_pretrained(config, pretrained or workdir)
    workdir.mkdir(parents=True, exist_ok=True)
    return evaluate(config, workdir, load_data(config), state)


def resume(config: ConfigDict, workdir: Path) -> MetaState:
    """Reads the newest checkpoint of a workdir.

    Raises:
        ConfigError: the run in the workdir began with another config.
    """
    checkpoints, iteration = checkpoint.find(workdir)
    if changed := differences(checkpoints.config(iteration), config):
        raise ConfigError(
            f"workdir={workdir} holds another run ({'; '.join(changed)}): name another workdir or keep its fields"
        )
    print(f"Resuming {workdir} at meta-iteration {iteration}.", file=sys.stderr)
    return checkpoints.restore(iteration, initial_state(config))


def load_pretrained(config: ConfigDict, path: Path) -> MetaState:
    """Reads the state that a path names, and checks that it fits and has not seen what it is tested on.

    Raises:
        CheckpointError: there is no checkpoint.
        ConfigError: it has other classes or another inner optimiser, or was trained on another split of the same data.
    """
    checkpoints, iteration = checkpoint.find(path)
    saved = checkpoints.config(iteration)
    for field in ("classes", "sgd"):
        if saved[field] != config[field]:
            raise ConfigError(f"{field}={config[field]} does not fit {path}, trained with {field}={saved[field]}")
    if saved.data.name == config.data.name and saved.seed != config.seed:
        raise ConfigError(
            f"seed={config.seed} splits the characters otherwise than seed={saved.seed} of {path}, so that test "
            f"characters were trained on: give seed={saved.seed}"
        )
    held_out = saved.data.validation_classes
    if saved.data.name == config.data.name and config.data.validation_classes > held_out:
        raise ConfigError(
            f"data.validation_classes={config.data.validation_classes} are more than the {held_out} held out of the "
            f"training of {path}, so that some were trained on: give at most {held_out}"
        )
    return checkpoints.restore(iteration, initial_state(config))


def train(config: ConfigDict, workdir: Path, data: Data, state: MetaState) -> MetaState:
    """Runs the meta-iterations that are left, with curves, metrics, checkpoints and a progress bar.

    Raises:
        TrainingError: a loss or an update was not finite; the state before is the last one saved.
        Interrupted: by a signal, once the state is saved.
    """
    advance, classify = train_program(config), eval_program(config, config.shots)
    curve_pools = jax.tree.map(lambda *x: jnp.stack(x), *(_as_arrays(pool) for pool in data.pools.values()))
    curve_key = stream(config.seed, CURVE_TASKS)
    done = int(state.iteration)
    busy_seconds, busy_iterations = 0.0, 0
    intervals = (DISPATCH, config.eval_interval, config.checkpoint_interval)
    checkpoints = checkpoint.Checkpoints(workdir)
    with (
        stop_on_signal() as stop,
        contextlib.closing(MetricsWriter(workdir, done)) as metrics,
        progress_bar("train", config.meta_iters, "it", done) as bar,
    ):
        while done < config.meta_iters:
            pause = min(config.meta_iters, *(_next(done, interval) for interval in intervals))
            began = time.perf_counter()
            state, progress = advance(state, data.images, data.pools["train"], pause - done)
            if (bad := int(progress.bad_iteration)) >= 0:
                raise TrainingError(
                    f"meta-iteration {bad}: the loss or the update is not finite; the newest checkpoint is "
                    f"{checkpoint.newest(workdir)}; try less than learning_rate={config.learning_rate:g}"
                )
            busy_seconds += time.perf_counter() - began
            busy_iterations += pause - done
            bar.update(pause - done)
            done = pause
            if done % config.eval_interval == 0 or done == config.meta_iters:
                keys = _task_keys(random.fold_in(curve_key, done), 0, len(data.pools))
                _, predictions = classify(state, data.images, curve_pools, keys)
                correct = _correct(_headline(config, predictions)).mean(axis=1)
                values = {
                    "loss": float(progress.last.loss),
                    "delta_norm": float(progress.last.delta_norm),
                    **{f"{name}_accuracy": float(x) for name, x in zip(data.pools, correct, strict=True)},
                    "meta_iters_per_second": busy_iterations / busy_seconds,
                }
                metrics.write(done, values)
                busy_seconds, busy_iterations = 0.0, 0
                recent = {name: f"{_recent(metrics.rows, name):.1%}" for name in data.pools}
                bar.set_postfix(recent, refresh=False)
            if done % config.checkpoint_interval == 0 or done == config.meta_iters or stop:
                metrics.flush()
                checkpoints.save(state, config)
            if stop:
                stop.now(f"interrupted at meta-iteration {done}, saved: the same command goes on from there")
        rows = metrics.rows
    if rows:
        plots.learning_curve(rows, data.held_out, data_label(config), workdir / "learning_curve.png")
    return state


def evaluate(config: ConfigDict, workdir: Path, data: Data, state: MetaState) -> dict[str, Any]:
    """Measures the accuracy on `eval_samples` tasks of each set, for every shot count, under both protocols.

    Writes results.json and tasks.png, and prints a table.

    Returns:
        {"meta_iters": …, "data": …, SET: {PROTOCOL: {SHOTS: {"accuracy": …, "ci95": …, "tasks": …}}}}.
    """
    results: dict[str, Any] = {"meta_iters": int(state.iteration), "data": data_label(config)}
    results |= {name: {protocol: {} for protocol in Predictions._fields} for name in data.pools}
    programs = {shots: eval_program(config, shots) for shots in eval_shots(config)}
    with progress_bar("evaluate", len(programs) * len(data.pools) * config.eval_samples, "task") as bar:
        for shots, program in programs.items():
            for name in data.pools:
                measured = measure(config, program, data, name, shots, state, bar)
                for protocol, value in measured.items():
                    results[name][protocol][str(shots)] = value._asdict()
    (workdir / "results.json").write_text(json.dumps(results, indent=2) + "\n")
    tasks, predictions = _eval_tasks(config, programs[config.shots], data, data.held_out, config.shots, state, 0)
    images = np.asarray(data.images).reshape(-1, 28, 28)
    title = f"{data_label(config)}, {data.held_out} characters, {_setting(config)}"
    plots.few_shot_tasks(
        images, tasks, np.asarray(_headline(config, predictions)), PICTURED_TASKS, title, workdir / "tasks.png"
    )
    print(report(config, data.held_out, results))
    return results


def measure(
    config: ConfigDict, program: Any, data: Data, name: str, shots: int, state: MetaState, bar: tqdm | None = None
) -> dict[str, Accuracy]:
    """Measures the accuracy of a state on `eval_samples` tasks of one set.

    Args:
        config: the run's config.
        program: `eval_program(config, shots)`.
        data: the classes.
        name: the set, a key of `data.pools`.
        shots: support drawings per class.
        state: weights and inner optimiser's state.
        bar: progress bar to move on.

    Returns:
        The accuracy under each protocol.
    """
    parts = []
    for first in range(0, config.eval_samples, EVAL_TASKS):
        parts.append(_eval_tasks(config, program, data, name, shots, state, first)[1])
        if bar is not None:
            bar.update(min(EVAL_TASKS, config.eval_samples - first))
    return {
        protocol: accuracy(_correct(np.concatenate([getattr(part, protocol) for part in parts])[: config.eval_samples]))
        for protocol in Predictions._fields
    }


def report(config: ConfigDict, held_out: str, results: dict[str, Any]) -> str:
    """Formats results as a table, the config's own setting last."""
    lines = [f"{results['data']}, {config.classes}-way, after {results['meta_iters']} meta-iterations (± 95% interval)"]
    for name in ("train", held_out):
        for shots in results[name]["transductive"]:
            cells = [f"{name} {shots}-shot:".ljust(22)]
            cells += [f"{Accuracy(**by_shots[shots])} {protocol}" for protocol, by_shots in results[name].items()]
            lines.append("   ".join(cells))
    own = Accuracy(**results[held_out][_protocol(config)][str(config.shots)])
    return "\n".join([*lines, f"{held_out} accuracy, {_setting(config)}: {own} over {own.tasks} tasks"])


def _eval_tasks(
    config: ConfigDict, program: Any, data: Data, name: str, shots: int, state: MetaState, first: int
) -> tuple[EvalTask, Predictions]:
    """Evaluates tasks first..first+EVAL_TASKS-1 of a set's stream, which depends on `eval_seed` alone."""
    key = random.fold_in(random.fold_in(random.key(config.eval_seed), SETS.index(name)), shots)
    keys = _task_keys(key, first, EVAL_TASKS)
    pools = jax.tree.map(lambda x: jnp.full((EVAL_TASKS,), x), data.pools[name])
    return jax.device_get(program(state, data.images, pools, keys))


def _task_keys(key: jax.Array, first: int, count: int) -> jax.Array:
    """The keys of tasks first..first+count-1 of a stream: [count]."""
    return jax.vmap(lambda task: random.fold_in(key, task))(first + jnp.arange(count))


def _as_arrays(pool: Pool) -> Pool:
    return jax.tree.map(jnp.int32, pool)


def _next(done: int, interval: int) -> int:
    """The first multiple of the interval after `done`."""
    return (done // interval + 1) * interval


def _correct(predicted: jax.Array | np.ndarray) -> np.ndarray:
    """Which queries were classified right: [tasks, classes] labels -> bool."""
    return np.asarray(predicted) == np.arange(predicted.shape[1])


def _protocol(config: ConfigDict) -> str:
    return "transductive" if config.transductive else "inductive"


def _headline(config: ConfigDict, predictions: Predictions) -> jax.Array:
    """The predictions under the config's own protocol."""
    return getattr(predictions, _protocol(config))


def _setting(config: ConfigDict) -> str:
    return f"{config.classes}-way {config.shots}-shot, {_protocol(config)}"


def _recent(rows: list[dict[str, Any]], name: str) -> float:
    """The mean accuracy of the last points of a curve."""
    return float(np.mean([row[f"{name}_accuracy"] for row in rows[-plots.CURVE_WINDOW :]]))
