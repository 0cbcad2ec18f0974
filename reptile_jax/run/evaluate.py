"""The results of a run: accuracies over many few-shot tasks, as a file, a table and a picture."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax import random
from jax.sharding import Mesh
from ml_collections import ConfigDict

from reptile_jax.config import eval_shots, seeds_of
from reptile_jax.devices import SEEDS, TASKS, agreed, is_main
from reptile_jax.files import replace_text
from reptile_jax.meta.episodes import EvalTask
from reptile_jax.meta.protocols import Accuracy, Predictions, accuracy
from reptile_jax.meta.reptile import MetaState
from reptile_jax.run import plots
from reptile_jax.run.interrupt import Interrupted, Stop
from reptile_jax.run.metrics import progress_bar
from reptile_jax.run.pools import Data, data_label
from reptile_jax.run.programs import eval_program

# Of a device per dispatch, at most: a signal waits for the end of one.
EVAL_TASKS = 25
EVAL_DRAWINGS = 50_000  # through the network forwards; backwards counts twice
PICTURED_TASKS = 4
SETS = ("train", "validation", "test")  # what an evaluation can be on


def evaluate(
    config: ConfigDict, workdir: Path, data: Data, states: MetaState, mesh: Mesh, stop: Stop
) -> dict[str, Any]:
    """Measures the accuracy on `eval_samples` tasks of the held-out set, for every shot count, under both protocols.

    Under `eval_train`, on as many of the training set too.

    Writes results.json and tasks.png, and prints a table.

    Returns:
        {"meta_iters": …, "data": …, SET: {PROTOCOL: {SHOTS: RESULT}}}, where RESULT is {"accuracy": …, "ci95": …,
        "tasks": …}, or of several seeds {"accuracy": mean, "std": …, "seeds": {SEED: RESULT}}.

    Raises:
        Interrupted: by a signal, between two dispatches.
    """
    results: dict[str, Any] = {"meta_iters": int(np.asarray(states.iteration)[0]), "data": data_label(config)}
    sets = [name for name in data.pools if config.eval_train or name == data.held_out]
    results |= {name: {protocol: {} for protocol in Predictions._fields} for name in sets}
    programs = {shots: eval_program(config, mesh, shots) for shots in eval_shots(config)}
    with progress_bar("evaluate", len(programs) * len(sets) * config.eval_samples, "task") as bar:

        def after(tasks: int) -> None:
            bar.update(tasks)
            if number := agreed(stop.number):
                raise Interrupted(number, "interrupted in the evaluation; the training is saved: run the same command")

        for shots, program in programs.items():
            for name in sets:
                measured = measure(config, program, data, name, shots, states, mesh, after)
                for protocol, accuracies in measured.items():
                    results[name][protocol][str(shots)] = _summary(config, accuracies)
    tasks, predictions = _eval_tasks(config, programs[config.shots], data, data.held_out, config.shots, states, mesh, 0)
    if is_main():
        replace_text(workdir / "results.json", json.dumps(results, indent=2) + "\n")
        images = np.asarray(data.images.addressable_data(0)).reshape(-1, 28, 28)
        title = f"{data_label(config)}, {data.held_out} characters, {_setting(config)}"
        tasks, predicted = jax.tree.map(lambda x: x[0], (tasks, headline(config, predictions)))  # the first seed's
        plots.few_shot_tasks(images, tasks, predicted, PICTURED_TASKS, title, workdir / "tasks.png")
        print(report(config, data.held_out, results))
    return results


def measure(
    config: ConfigDict,
    program: Any,
    data: Data,
    name: str,
    shots: int,
    states: MetaState,
    mesh: Mesh,
    after: Callable[[int], None] = lambda tasks: None,
) -> dict[str, list[Accuracy]]:
    """Measures the accuracy of every seed's state on `eval_samples` tasks of one set.

    Args:
        config: the run's config.
        program: `eval_program(config, mesh, shots)`.
        data: the classes.
        name: the set, a key of `data.pools`.
        shots: support drawings per class.
        states: weights and inner optimiser's state, with a leading axis [seeds].
        mesh: the devices.
        after: called with the number of tasks of every dispatch.

    Returns:
        The accuracy of each seed under each protocol.
    """
    parts: list[Predictions] = []
    done = 0
    while done < config.eval_samples:
        parts.append(_eval_tasks(config, program, data, name, shots, states, mesh, done)[1])
        tasks = min(parts[-1].transductive.shape[1], config.eval_samples - done)
        done += tasks
        after(tasks)
    whole = jax.tree.map(lambda *x: np.concatenate(x, axis=1)[:, : config.eval_samples], *parts)
    return {protocol: [accuracy(x) for x in correct(getattr(whole, protocol))] for protocol in Predictions._fields}


def report(config: ConfigDict, held_out: str, results: dict[str, Any]) -> str:
    """Formats results as a table, the config's own setting last."""
    spread = "± 95% interval" if config.num_seeds == 1 else f"± standard deviation over {config.num_seeds} seeds"
    lines = [f"{results['data']}, {config.classes}-way, after {results['meta_iters']} meta-iterations ({spread})"]
    for name in (name for name in SETS if name in results):
        for shots in results[name]["transductive"]:
            cells = [f"{name} {shots}-shot:".ljust(22)]
            cells += [f"{_shown(by_shots[shots])} {protocol}" for protocol, by_shots in results[name].items()]
            lines.append("   ".join(cells))
    own = results[held_out][_protocol(config)][str(config.shots)]
    over = f"{config.eval_samples} tasks" + (f" of each of {config.num_seeds} seeds" if config.num_seeds > 1 else "")
    return "\n".join([*lines, f"{held_out} accuracy, {_setting(config)}: {_shown(own)} over {over}"])


def headline(config: ConfigDict, predictions: Predictions) -> np.ndarray:
    """The predictions under the config's own protocol."""
    return getattr(predictions, _protocol(config))


def correct(predicted: np.ndarray) -> np.ndarray:
    """Which queries were classified right: labels [..., classes] -> bool."""
    return predicted == np.arange(predicted.shape[-1])


def task_keys(key: jax.Array, first: int, count: int) -> jax.Array:
    """The keys of tasks first..first+count-1 of a stream: [count]."""
    return jax.vmap(lambda task: random.fold_in(key, task))(first + np.arange(count, dtype=np.int32))


def _eval_tasks(
    config: ConfigDict, program: Any, data: Data, name: str, shots: int, states: MetaState, mesh: Mesh, first: int
) -> tuple[EvalTask, Predictions]:
    """Evaluates a dispatch of tasks, `first` and on, of a set's stream, which depends on `eval_seed` alone."""
    devices, seeds = mesh.shape[TASKS], config.num_seeds // mesh.shape[SEEDS]
    drawings = 3 * config.eval_iters * config.eval_batch + config.classes * (config.classes * shots + 2)  # of a task
    at_most = max(1, EVAL_DRAWINGS // (drawings * seeds))
    count = devices * min(EVAL_TASKS, at_most, -(-config.eval_samples // devices))
    key = random.fold_in(random.fold_in(random.key(config.eval_seed), SETS.index(name)), shots)
    keys = np.broadcast_to(random.key_data(task_keys(key, first, count)), (config.num_seeds, count, 2))
    pools = jax.tree.map(lambda x: np.full(count, x, np.int32), data.pools[name])
    return jax.device_get(program(states, data.images, pools, keys))


def _summary(config: ConfigDict, accuracies: list[Accuracy]) -> dict[str, Any]:
    """The RESULT of `evaluate`."""
    if len(accuracies) == 1:
        return accuracies[0]._asdict()
    values = [each.accuracy for each in accuracies]
    seeds = {str(seed): each._asdict() for seed, each in zip(seeds_of(config), accuracies, strict=True)}
    return {"accuracy": float(np.mean(values)), "std": float(np.std(values, ddof=1)), "seeds": seeds}


def _shown(result: dict[str, Any]) -> str:
    """In per cent, as "97.02 ± 0.31 %"."""
    spread = result["std" if "std" in result else "ci95"]
    return f"{100 * result['accuracy']:.2f} ± {100 * spread:.2f} %"


def _protocol(config: ConfigDict) -> str:
    return "transductive" if config.transductive else "inductive"


def _setting(config: ConfigDict) -> str:
    return f"{config.classes}-way {config.shots}-shot, {_protocol(config)}"
