"""Few-shot classification of images: tasks are classes with a support set and one query each."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from reptile_jax.config import eval_sets, seeds_of, train_shots
from reptile_jax.data import DATA_SETS, num_train, only, split, turned, with_turns
from reptile_jax.data.images import SETS
from reptile_jax.devices import SEEDS, put
from reptile_jax.meta.episodes import Classes, EvalTask, Examples, Pool, TrainTask, sample_eval_task, sample_train_task
from reptile_jax.meta.inner_loop import ApplyFn, InnerLoop, LossFn, OptState, Params, summed_loss
from reptile_jax.meta.protocols import Predictions, predict_queries
from reptile_jax.tasks.kind import Data, TaskKind, first_line, mean_and_spread, tasks_measured
from reptile_jax.tasks.pictures import few_shot_tasks

PICTURED_TASKS = 4

Source = tuple[jax.Array, Classes]  # uint8 [rows, height, width, channels], and the classes of one seed


def load(config: ConfigDict, mesh: Mesh) -> Data:
    """Loads the sets of images that a run needs onto the devices, once for all seeds, and splits them by each seed.

    Raises:
        DataError: the data is missing or damaged.
    """
    data = config.data
    images = DATA_SETS[data.name].load(data)  # first, because it compares the files with what `validate` has counted
    sets = eval_sets(config)
    train = num_train(data, len(images.names))
    splits = [split(images, train, data.validation_classes, seed) for seed in seeds_of(config)]
    wanted = np.unique(np.concatenate([of_seed[name] for of_seed in splits for name in sets]))
    images = only(images, wanted)
    splits = [{name: np.searchsorted(wanted, of_seed[name]) for name in sets} for of_seed in splits]
    if data.rotations:
        splits = [of_seed | {"train": turned(images, of_seed["train"])} for of_seed in splits]
        images = with_turns(images)
    chosen = [np.concatenate([of_seed[name] for name in sets]) for of_seed in splits]  # [seeds] of [classes]
    first, counts = (np.stack([column[classes] for classes in chosen]) for column in (images.first, images.counts))
    ends = np.cumsum([len(splits[0][name]) for name in sets])
    pools = {
        name: Pool(int(end) - len(splits[0][name]), len(splits[0][name])) for name, end in zip(sets, ends, strict=True)
    }
    names = tuple(tuple(images.names[i] for i in classes) for classes in chosen)
    source = (put(mesh, images.pixels), Classes(*put(mesh, (first, counts), SEEDS)))
    return Data(source, pools, names, sets[1], images.fingerprint)


def input_shape(config: ConfigDict) -> tuple[int, ...]:
    """Returns height, width and channels of an image."""
    return config.data.size, config.data.size, config.data.channels


def sample_train(config: ConfigDict, key: jax.Array, source: Source, pool: Pool) -> TrainTask:
    """Samples a training task; see `episodes.sample_train_task`."""
    return sample_train_task(
        key,
        source[1],
        pool,
        classes=config.classes,
        shots=train_shots(config),
        inner_batch=config.inner_batch,
        inner_iters=config.inner_iters,
        replacement=config.replacement,
        balanced=config.balanced,
        tail_shots=config.foml_tail,
    )


def sample_eval(config: ConfigDict, shots: int, key: jax.Array, source: Source, pool: Pool) -> EvalTask:
    """Samples a few-shot task; see `episodes.sample_eval_task`."""
    return sample_eval_task(
        key,
        source[1],
        pool,
        classes=config.classes,
        shots=shots,
        eval_batch=config.eval_batch,
        eval_iters=config.eval_iters,
        replacement=config.replacement,
        balanced=config.balanced,
    )


def images_of(config: ConfigDict, pixels: jax.Array, dtype: np.dtype) -> Callable[[jax.Array], jax.Array]:
    """Returns a function that gathers images as numbers from 0 to 1: rows [...] -> [..., height, width, channels]."""
    return lambda rows: as_numbers(config, pixels[rows], dtype)


def as_numbers(config: ConfigDict, pixels: jax.Array, dtype: np.dtype) -> jax.Array:
    """Returns pixels as numbers from 0 to 1."""
    scale = DATA_SETS[config.data.name].scale
    return pixels.astype(dtype) / scale if scale != 1 else pixels.astype(dtype)


def loss(config: ConfigDict, apply: ApplyFn, source: Source) -> LossFn:
    """Returns the loss: the cross entropy summed over the mini-batch, as in the released code."""

    def of_batch(params: Params, batch: Examples) -> jax.Array:
        images = images_of(config, source[0], _dtype(params))(batch.rows)
        return summed_loss(apply, params, images, batch.labels)

    return of_batch


def evaluate(
    config: ConfigDict,
    apply: ApplyFn,
    loop: InnerLoop,
    source: Source,
    params: Params,
    opt_state: OptState,
    task: EvalTask,
) -> Predictions:
    """Adapts to a few-shot task and classifies its queries under both protocols."""
    return predict_queries(loop, apply, images_of(config, source[0], _dtype(params)), params, opt_state, task)


def _dtype(params: Params) -> np.dtype:
    return jax.tree.leaves(params)[0].dtype


def measures(_: ConfigDict, predictions: Predictions) -> dict[str, np.ndarray]:
    """Returns the accuracy of each task under each protocol; query i of a task has label i."""
    return {protocol: correct(labels).mean(axis=-1) for protocol, labels in predictions._asdict().items()}


def correct(predicted: np.ndarray) -> np.ndarray:
    """Returns which queries were classified correctly: labels [..., classes] -> bool."""
    return predicted == np.arange(predicted.shape[-1])


def headline(config: ConfigDict) -> str:
    """Returns the config's protocol."""
    return "transductive" if config.transductive else "inductive"


def shown(mean: float, spread: float) -> str:
    """Returns per cent as text, such as "97.02 ± 0.31 %"."""
    return f"{100 * mean:.2f} ± {100 * spread:.2f} %"


def report(config: ConfigDict, held_out: str, results: dict[str, Any]) -> str:
    """Returns one line for each set and number of shots, with the accuracies under both protocols."""
    lines = [first_line(config, results, f"{config.classes}-way")]
    for name in (name for name in SETS if name in results):
        for start, of_start in (("", results), ("untrained, ", results.get("untrained", {}))):
            of_set = of_start.get(name, {})
            for shots in of_set.get(headline(config), {}):
                cells = [f"{start}{name} {shots}-shot:".ljust(22)]
                cells += [f"{_shown(by_shots[shots])} {protocol}" for protocol, by_shots in of_set.items()]
                lines.append("   ".join(cells))
    own = _shown(results[held_out][headline(config)][str(config.shots)])
    return "\n".join([*lines, f"{held_out} accuracy, {setting(config)}: {own} over {tasks_measured(config)}"])


def _shown(result: dict[str, Any]) -> str:
    return shown(*mean_and_spread(result, "accuracy"))


def setting(config: ConfigDict) -> str:
    """Returns a text such as "5-way 1-shot, transductive"."""
    return f"{config.classes}-way {config.shots}-shot, {headline(config)}"


def cost(config: ConfigDict, shots: int) -> int:
    """Returns how many images pass through the network in one few-shot task; a backward pass counts twice."""
    images = 3 * config.eval_iters * config.eval_batch + config.classes * (config.classes * shots + 2)
    return images * max(1, config.data.size**2 // 28**2)


def describe(data: Data, seed: int, task: TrainTask) -> list[str]:
    """Returns the names of the classes of a training task."""
    first, count = (np.asarray(column)[seed] for column in data.source[1])
    rows = np.unique(np.concatenate([np.ravel(examples.rows) for examples in task if examples is not None]))
    inside = (rows[:, None] >= first) & (rows[:, None] < first + count)  # [rows, classes]
    return [data.names[seed][i] for i in np.flatnonzero(inside.any(axis=0))]


def picture(
    config: ConfigDict, data: Data, tasks: EvalTask, predictions: dict[str, Predictions], title: str, path: Path
) -> None:
    """Draws a few tasks of the first seed with their predictions after training, under the config's protocol."""
    of_protocol = getattr(predictions["trained"], headline(config))
    tasks, predicted = jax.tree.map(lambda x: x[0], (tasks, of_protocol))
    pixels, scale = np.asarray(data.source[0].addressable_data(0)), DATA_SETS[config.data.name].scale
    few_shot_tasks(pixels, scale, tasks, predicted, PICTURED_TASKS, title, path)


KIND = TaskKind(
    load=load,
    input_shape=input_shape,
    outputs=lambda config: config.classes,
    sample_train=sample_train,
    sample_eval=sample_eval,
    loss=loss,
    evaluate=evaluate,
    measures=measures,
    headline=headline,
    measured="accuracy",
    axis={"ylim": (None, 1)},
    made_of="classes",
    shown=shown,
    report=report,
    setting=setting,
    cost=cost,
    describe=describe,
    picture=picture,
)
