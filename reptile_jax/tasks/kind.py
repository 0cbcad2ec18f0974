"""What a kind of task has to say of itself, so that runs, programs and results know nothing of it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from reptile_jax.meta.episodes import Pool, TrainTask
from reptile_jax.meta.inner_loop import ApplyFn, InnerLoop, LossFn, OptState, Params

Source = Any  # pytree on the devices: what the tasks of one seed are sampled from


class Data(NamedTuple):
    """What the tasks of a run are sampled from.

    Attributes:
        source: (shared, of_seed), pytrees on the devices: what all seeds have in common, and what each seed has for
            itself, with a leading axis [seeds]. A program sees the pair of one seed, without that axis.
        pools: for each set of classes that the run is evaluated on, where its classes are; "train" is also what
            training draws from.
        names: of each seed's classes, in the order in which the pools count them.
        held_out: the set that curves and the headline are on.
        fingerprint: of the data's content; "" where the data is a function of the config alone.
    """

    source: tuple[Any, Any]
    pools: dict[str, Pool]
    names: tuple[tuple[str, ...], ...]
    held_out: str
    fingerprint: str


class TaskKind(NamedTuple):
    """A kind of task; every function takes the run's config first.

    Attributes:
        load: (config, mesh) -> the data, on the devices.
        input_shape: (config) -> shape of one input of the network.
        outputs: (config) -> outputs of the network.
        sample_train: (config, key, source, pool) -> a training task.
        sample_eval: (config, shots, key, source, pool) -> a task to evaluate on, a pytree.
        loss: (config, network, source) -> what an inner step descends.
        evaluate: (config, network, inner loop, source, theta, optimiser state, task) -> what came of it, a pytree.
        measures: (config, what came of tasks) -> by the measure's name, one number for each task [..., tasks].
        headline: (config) -> the name of the measure that curves and the last line of the report show.
        measured: what the measures are, as results.json and metrics.jsonl call it, such as "accuracy".
        axis: of pictures that show a measure, as `Axes.set` takes it.
        made_of: what tasks are made of, such as "classes".
        shown: (mean, spread) -> both as the report shows them.
        report: (config, the set of the last line, results as in results.json) -> all of them as text, line by line, the
            config's own setting last.
        setting: (config) -> the run's setting in a few words.
        cost: (config, shots) -> inputs that go through the network in one evaluated task, each as dear as a drawing of
            28x28 pixels.
        describe: (data, seed's index, training task) -> what the task is made of, for messages.
        picture: (config, data, tasks, what came of them from each start, title, file) draws a few tasks; the starts are
            "trained" and perhaps "untrained".
    """

    load: Callable[[ConfigDict, Mesh], Data]
    input_shape: Callable[[ConfigDict], tuple[int, ...]]
    outputs: Callable[[ConfigDict], int]
    sample_train: Callable[[ConfigDict, jax.Array, Source, Pool], TrainTask]
    sample_eval: Callable[[ConfigDict, int, jax.Array, Source, Pool], Any]
    loss: Callable[[ConfigDict, ApplyFn, Source], LossFn]
    evaluate: Callable[[ConfigDict, ApplyFn, InnerLoop, Source, Params, OptState, Any], Any]
    measures: Callable[[ConfigDict, Any], dict[str, np.ndarray]]
    headline: Callable[[ConfigDict], str]
    measured: str
    axis: dict[str, Any]
    made_of: str
    shown: Callable[[float, float], str]
    report: Callable[[ConfigDict, str, dict[str, Any]], str]
    setting: Callable[[ConfigDict], str]
    cost: Callable[[ConfigDict, int], int]
    describe: Callable[[Data, int, TrainTask], list[str]]
    picture: Callable[[ConfigDict, Data, Any, dict[str, Any], str, Path], None]


def mean_and_spread(result: dict[str, Any], measured: str) -> tuple[float, float]:
    """The mean of a result of results.json, and its standard deviation over seeds or, of one seed, its 95% interval."""
    return result[measured], result["std" if "std" in result else "ci95"]


def first_line(config: ConfigDict, results: dict[str, Any], setting: str) -> str:
    """The first line of every report: what was measured, after how long, and what stands behind the ±."""
    spread = "± 95% interval" if config.num_seeds == 1 else f"± standard deviation over {config.num_seeds} seeds"
    return f"{results['data']}, {setting}, after {results['meta_iters']} meta-iterations ({spread})"


def tasks_measured(config: ConfigDict) -> str:
    """As "1000 tasks of each of 3 seeds"."""
    of_seeds = f" of each of {config.num_seeds} seeds" if config.num_seeds > 1 else ""
    return f"{config.eval_samples} tasks{of_seeds}"
