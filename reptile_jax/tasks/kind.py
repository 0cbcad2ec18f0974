"""Defines the interface of a kind of task, so that runs, programs and results do not depend on the kind."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from reptile_jax.meta.episodes import Pool, TrainTask
from reptile_jax.meta.inner_loop import ApplyFn, InnerLoop, LossFn, OptState, Params

Source = Any  # pytree on the devices: the data that the tasks of one seed are sampled from


class Data(NamedTuple):
    """The data that the tasks of a run are sampled from.

    Attributes:
        source: (shared, of_seed), pytrees on the devices: the data that all seeds share, and the data of each seed with
            a leading axis [seeds]. A program gets the pair of one seed, without that axis.
        pools: the classes of each set that the run is evaluated on; training draws from "train".
        names: the names of each seed's classes, in the order of the pools.
        held_out: the set for curves and the headline.
        fingerprint: a checksum of the data; "" if the data depends only on the config.
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
        loss: (config, network, source) -> the loss that an inner step reduces.
        evaluate: (config, network, inner loop, source, theta, optimiser state, task) -> the outcome, a pytree.
        measures: (config, outcomes of tasks) -> by the measure's name, one number for each task [..., tasks].
        headline: (config) -> the name of the measure in curves and in the last line of the report.
        measured: the quantity's name in results.json and metrics.jsonl, such as "accuracy".
        axis: properties for the axis of pictures that show a measure, as `Axes.set` takes them.
        made_of: the content of a task in one word, such as "classes".
        shown: (mean, spread) -> both in the format of the report.
        report: (config, the set of the last line, results as in results.json) -> the results as text; the last line is
            for the config's own setting.
        setting: (config) -> the run's setting in a few words.
        cost: (config, shots) -> the cost of one evaluated task, in passes of a drawing of 28x28 pixels.
        describe: (data, seed's index, training task) -> the content of the task, for messages.
        picture: (config, data, tasks, outcomes for each start, title, file) draws a few tasks; the starts are "trained"
            and sometimes "untrained".
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
    """Returns the mean of a result, and its standard deviation over seeds, or its 95% interval if there is one seed."""
    return result[measured], result["std" if "std" in result else "ci95"]


def first_line(config: ConfigDict, results: dict[str, Any], setting: str) -> str:
    """Returns the first line of a report: the setting, the length of the training, and the meaning of ±."""
    spread = "± 95% interval" if config.num_seeds == 1 else f"± standard deviation over {config.num_seeds} seeds"
    return f"{results['data']}, {setting}, after {results['meta_iters']} meta-iterations ({spread})"


def tasks_measured(config: ConfigDict) -> str:
    """Returns a text such as "1000 tasks of each of 3 seeds"."""
    of_seeds = f" of each of {config.num_seeds} seeds" if config.num_seeds > 1 else ""
    return f"{config.eval_samples} tasks{of_seeds}"
