"""The results of a run: means over many tasks, as a file, a table and a picture."""

import contextlib
import hashlib
import itertools
import json
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax import random
from jax.sharding import Mesh
from ml_collections import ConfigDict

from reptile_jax.config import FREE_FIELDS, eval_shots, field_names, get_field, seeds_of
from reptile_jax.data import DATA_SETS
from reptile_jax.devices import SEEDS, TASKS, agreed, is_main, machine, put
from reptile_jax.files import replace_text
from reptile_jax.meta.reptile import MetaState
from reptile_jax.meta.statistics import Mean, mean_and_interval
from reptile_jax.progress import progress_bar
from reptile_jax.run.interrupt import DISPATCH, Interrupted, Stop
from reptile_jax.run.programs import eval_program, initial_states, task_keys
from reptile_jax.run.unfinished import Series, Unfinished, Values
from reptile_jax.tasks import Data, kind_of

# The most that one device computes in a dispatch. A fast device is given several of them at a time, and not a longer
# one: rounding may depend on how many tasks are computed together, but must not depend on the time that they take.
EVAL_TASKS = 25
EVAL_COST = 50_000  # as `TaskKind.cost` counts
# The sets that can be evaluated, with the number of their random streams of `eval_seed`. The numbers never change,
# because the published accuracies were measured on the tasks that these numbers give. None is `TRAINING_TASKS`, so that
# a run whose `seed` is `eval_seed` is not evaluated on tasks with the keys of its training.
SET_STREAMS = {"train": 0, "validation": 3, "test": 2}


def evaluate(
    config: ConfigDict, workdir: Path | None, data: Data, states: MetaState, mesh: Mesh, stop: Stop, source: str
) -> dict[str, Any]:
    """Measures a run on `eval_samples` tasks of each held-out set, for every shot count.

    With `eval_train`, it also measures as many tasks of the training set; with `eval_untrained`, it also measures the
    untrained weights. It prints a table and, if there is a workdir, writes results.json and tasks.png. What it measured
    before an interruption is in the workdir, too, and is not measured again. `source` says where the weights are.

    Returns:
        {"meta_iters": …, "data": …, "weights": {"source": …, "sha256": …}, "config": {…},
        SET: {MEASURE: {SHOTS: RESULT}}, "untrained": {SET: …}}, where RESULT is
        {"accuracy": …, "ci95": …, "tasks": …}, or of several seeds {"accuracy": mean, "std": …, "seeds": {SEED:
        RESULT}}. "accuracy" is the name that the kind of task gives to what it measures. The measures of few-shot
        classification are the two protocols.

    Raises:
        ConfigError: the processes find different unfinished evaluations in the workdir.
        Interrupted: a signal arrived; raised between two dispatches, after the values so far were saved.
    """
    kind = kind_of(config)
    results: dict[str, Any] = {
        "meta_iters": int(np.asarray(states.iteration)[0]),
        "data": label_of(config),
        "weights": {"source": source, "sha256": digest(states.params)},
        "config": json.loads(config.to_json()),
    }
    sets = [name for name in SET_STREAMS if name in data.pools and (config.eval_train or name != "train")]
    programs = {shots: eval_program(config, mesh, shots) for shots in eval_shots(config)}
    starts = {"trained": states}
    if config.eval_untrained:
        starts["untrained"] = put(mesh, initial_states(config))
    total = len(starts) * len(programs) * len(sets) * config.eval_samples
    series = list(itertools.product(starts, programs, sets))
    unfinished = Unfinished(workdir, _identity(config, states, data), machine(mesh))
    before = {each: unfinished.values(each, config.eval_samples) for each in series}
    done = sum(map(_tasks_of, before.values()))
    unfinished.say(done, total)
    with progress_bar("evaluate", total, "task", done, is_main()) as bar:

        def after(of_series: Series, values: Values) -> None:
            unfinished.add(of_series, values)
            bar.update(_tasks_of(values))
            number = agreed(stop.number)
            unfinished.write(at_once=number != 0)
            if number:
                saved = ", saved: the same command goes on from there" if workdir is not None else ""
                raise Interrupted(number, f"interrupted in the evaluation{saved}")

        for each in series:
            start, shots, name = each
            of_sets = results if start == "trained" else results.setdefault(start, {})
            measured = measure(
                config, programs[shots], data, name, shots, starts[start], mesh, before[each], partial(after, each)
            )
            for measure_name, means in measured.items():
                by_shots = of_sets.setdefault(name, {}).setdefault(measure_name, {})
                by_shots[str(shots)] = _summary(config, means)
    outcomes = {}
    for start, of_start in starts.items():  # the same tasks
        tasks, outcomes[start] = jax.device_get(
            _eval_tasks(config, programs[config.shots], data, data.held_out, config.shots, of_start, mesh, 0)
        )
    if is_main():
        if workdir is not None:
            replace_text(workdir / "results.json", json.dumps(results, indent=2) + "\n")
            title = f"{label_of(config)}, {data.held_out} {kind.made_of}, {kind.setting(config)}"
            kind.picture(config, data, tasks, outcomes, title, workdir / "tasks.png")
            unfinished.remove()
        print(kind.report(config, data.held_out, results))
        if workdir is not None:
            with contextlib.suppress(OSError):  # nobody may listen there
                print(f"The files of the run are in {workdir}.", file=sys.stderr)
    return results


def measure(
    config: ConfigDict,
    program: Any,
    data: Data,
    name: str,
    shots: int,
    states: MetaState,
    mesh: Mesh,
    before: Values | None = None,
    after: Callable[[Values], None] = lambda values: None,
) -> dict[str, list[Mean]]:
    """Measures every seed's state on `eval_samples` tasks of one set.

    Args:
        config: the run's config.
        program: `eval_program(config, mesh, shots)`.
        data: what the tasks are sampled from.
        name: the set, a key of `data.pools`.
        shots: support drawings per class.
        states: weights and inner optimiser's state, with a leading axis [seeds].
        mesh: the devices.
        before: the values of the first tasks, if they were measured before.
        after: is called again and again, with the values of the tasks since the last call.

    Returns:
        The mean of each seed, by the measure's name.
    """
    parts = [before] if before else []
    done = _tasks_of(before or {})
    tasks, at_most = _tasks_per_dispatch(config, shots, mesh), 1  # dispatches at a time
    while done < config.eval_samples:
        began = time.perf_counter()
        firsts = range(done, config.eval_samples, tasks)[:at_most]
        outcomes = [_eval_tasks(config, program, data, name, shots, states, mesh, first)[1] for first in firsts]
        measured = _joined([kind_of(config).measures(config, each) for each in jax.device_get(outcomes)])
        at_most = max(1, agreed(int(DISPATCH * len(firsts) / (time.perf_counter() - began))))
        parts.append({name: x[:, : config.eval_samples - done] for name, x in measured.items()})
        done += _tasks_of(parts[-1])
        after(parts[-1])
    return {name: [mean_and_interval(x) for x in values] for name, values in _joined(parts).items()}


def _joined(parts: list[Values]) -> Values:
    """Joins the values of tasks that were measured one after the other."""
    return {name: np.concatenate([part[name] for part in parts], axis=1) for name in parts[0]}


def _tasks_of(values: Values) -> int:
    return next(iter(values.values())).shape[1] if values else 0


def label_of(config: ConfigDict) -> str:
    """Returns the name of the data set in results."""
    return DATA_SETS[config.data.name].label


def _eval_tasks(
    config: ConfigDict, program: Any, data: Data, name: str, shots: int, states: MetaState, mesh: Mesh, first: int
) -> tuple[Any, Any]:
    """Evaluates a dispatch of a set's tasks, from number `first` on, with the keys that `eval_seed` gives.

    It returns arrays that the devices may still be computing.
    """
    count = _tasks_per_dispatch(config, shots, mesh)
    key = random.fold_in(random.fold_in(random.key(config.eval_seed), SET_STREAMS[name]), shots)
    keys = np.broadcast_to(random.key_data(task_keys(key, first, count)), (config.num_seeds, count, 2))
    pools = jax.tree.map(lambda x: np.full(count, x, np.int32), data.pools[name])
    return program(states, data.source, pools, keys)


def _tasks_per_dispatch(config: ConfigDict, shots: int, mesh: Mesh) -> int:
    devices, seeds = mesh.shape[TASKS], config.num_seeds // mesh.shape[SEEDS]
    at_most = max(1, EVAL_COST // (kind_of(config).cost(config, shots) * seeds))
    return devices * min(EVAL_TASKS, at_most, -(-config.eval_samples // devices))


# Fields on which the value of a task does not depend, but for rounding, once weights, set and shots are given.
_OF_NO_TASK = (FREE_FIELDS | {"meta_iters", "eval_shots"}) - {"eval_batch", "eval_iters", "eval_seed"}


def _identity(config: ConfigDict, states: MetaState, data: Data) -> dict[str, Any]:
    """Returns what the value of every task depends on."""
    fields = {name: get_field(config, name) for name in field_names(config) if name not in _OF_NO_TASK}
    return {"state": digest(states), "data": data.fingerprint, "fields": fields}


def digest(tree: Any) -> str:
    """Returns a checksum of arrays, such as weights."""
    sha256 = hashlib.sha256()
    for x in jax.tree.leaves(tree):
        sha256.update(np.asarray(x).tobytes())
    return sha256.hexdigest()


def _summary(config: ConfigDict, means: list[Mean]) -> dict[str, Any]:
    """Returns the RESULT of `evaluate`."""
    measured = kind_of(config).measured
    results = [{measured: each.mean, "ci95": each.ci95, "tasks": each.tasks} for each in means]
    if len(results) == 1:
        return results[0]
    values = [each.mean for each in means]
    seeds = {str(seed): result for seed, result in zip(seeds_of(config), results, strict=True)}
    return {measured: float(np.mean(values)), "std": float(np.std(values, ddof=1)), "seeds": seeds}
