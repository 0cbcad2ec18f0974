"""Regression of sine waves: a task is f(x) = a sin(x + b), of which a few points are known (paper, section 4.1)."""

from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import random
from jax.sharding import Mesh
from ml_collections import ConfigDict

from reptile_jax.config import eval_sets, train_shots
from reptile_jax.data import DATA_SETS
from reptile_jax.data.waves import HIGH, LOW, Waves, evenly
from reptile_jax.meta.episodes import Pool, TrainTask, mini_batches
from reptile_jax.meta.inner_loop import ApplyFn, InnerLoop, LossFn, OptState, Params, inner_loop
from reptile_jax.tasks.kind import Data, Source, TaskKind, first_line, mean_and_spread, tasks_measured
from reptile_jax.tasks.pictures import waves_and_predictions

AMPLITUDES, PHASES = (0.1, 5.0), (0.0, 2 * np.pi)
PICTURED_TASKS = 4
POINTS_AS_DEAR_AS_A_DRAWING = 600  # multiplications of 1-64-64-1, and of the Omniglot network


class Wave(NamedTuple):
    """f(x) = amplitude * sin(x + phase); float32."""

    amplitude: jax.Array
    phase: jax.Array


class Points(NamedTuple):
    """Points of a wave, float32; the last axis is the points, after leading axes such as tasks and steps."""

    inputs: jax.Array  # [..., points], x
    targets: jax.Array  # [..., points], f(x)


class EvalTask(NamedTuple):
    """A wave to adapt to: mini-batches, the points that they come from, and the points where errors are measured."""

    batches: Points  # [eval_iters, eval_batch]
    support: Points  # [shots]
    whole: Points  # [50], evenly over the interval


class Fit(NamedTuple):
    """The outcome of adaptation to a wave after each number of steps in `steps_shown`; NumPy arrays on the host."""

    predictions: Any  # [shown, 50], at the inputs of `EvalTask.whole`
    errors: Any  # [shown], the mean of their squared errors


def load(config: ConfigDict, mesh: Mesh) -> Data:
    """Loads nothing, because every task draws a new wave, in training and in evaluation."""
    sets = eval_sets(config)
    return Data(((), ()), {name: Pool(0, 1) for name in sets}, (("sine wave",),) * config.num_seeds, sets[1], "")


def value(wave: Wave, inputs: jax.Array) -> jax.Array:
    """Returns the values of the wave at inputs of any shape."""
    return wave.amplitude * jnp.sin(inputs + wave.phase)


def sample_wave(key: jax.Array) -> Wave:
    """Draws a wave with uniform amplitude and phase."""
    amplitude, phase = random.split(key)
    return Wave(
        random.uniform(amplitude, (), jnp.float32, *AMPLITUDES), random.uniform(phase, (), jnp.float32, *PHASES)
    )


def sample_points(key: jax.Array, wave: Wave, waves: Waves, count: int) -> Points:
    """Draws points of a wave: distinct points of the data set, or uniform points if the data set has none."""
    if waves.points is None:
        inputs = random.uniform(key, (count,), jnp.float32, LOW, HIGH)
    else:
        order = jnp.argsort(random.bits(key, waves.points.shape, jnp.uint32))
        inputs = jnp.asarray(waves.points)[order[:count]]
    return Points(inputs, value(wave, inputs))


def sample_train(config: ConfigDict, key: jax.Array, _: Source, pool: Pool) -> TrainTask:
    """Samples `train_shots` points of a wave in mini-batches; the last `foml_tail` points are the tail."""
    wave_key, point_key, batch_key = random.split(key, 3)
    points = sample_points(point_key, sample_wave(wave_key), _waves(config), train_shots(config))
    kept = train_shots(config) - config.foml_tail
    first, tail = jax.tree.map(lambda x: x[:kept], points), jax.tree.map(lambda x: x[kept:], points)
    steps = config.inner_iters - 1 if config.foml_tail else config.inner_iters
    batches = mini_batches(batch_key, first, config.inner_batch, steps, config.replacement)
    return TrainTask(batches, tail if config.foml_tail else None)


def sample_eval(config: ConfigDict, shots: int, key: jax.Array, _: Source, pool: Pool) -> EvalTask:
    """Samples a wave and `shots` of its points to adapt to."""
    wave_key, point_key, batch_key = random.split(key, 3)
    wave = sample_wave(wave_key)
    support = sample_points(point_key, wave, _waves(config), shots)
    batches = mini_batches(batch_key, support, config.eval_batch, config.eval_iters, config.replacement)
    inputs = jnp.asarray(evenly())
    return EvalTask(batches, support, Points(inputs, value(wave, inputs)))


def _waves(config: ConfigDict) -> Waves:
    return DATA_SETS[config.data.name].load(config.data)


def predict(apply: ApplyFn, params: Params, inputs: jax.Array) -> jax.Array:
    """Returns the network's predictions [points] at inputs [points], in the dtype of its weights."""
    return apply(params, inputs.astype(jax.tree.leaves(params)[0].dtype)[:, None])[:, 0]


def loss(config: ConfigDict, apply: ApplyFn, _: Source) -> LossFn:
    """Returns the loss: the mean squared error over the mini-batch."""

    def of_batch(params: Params, batch: Points) -> jax.Array:
        predictions = predict(apply, params, batch.inputs)
        return jnp.mean(jnp.square(predictions - batch.targets.astype(predictions.dtype)))

    return of_batch


def steps_shown(config: ConfigDict) -> list[int]:
    """Returns the numbers of inner steps after which errors are reported: 0, the powers of two, and all steps."""
    powers = (2**i for i in range(config.eval_iters.bit_length()))
    return sorted({0, *powers, config.eval_iters})


def evaluate(
    config: ConfigDict,
    apply: ApplyFn,
    loop: InnerLoop,
    _: Source,
    params: Params,
    opt_state: OptState,
    task: EvalTask,
) -> Fit:
    """Adapts to a wave's points, and predicts the whole wave before the first step and after each step."""
    start = predict(apply, params, task.whole.inputs)
    observed = lambda phi, _: predict(apply, phi, task.whole.inputs)  # noqa: E731
    _, _, after = inner_loop(loop, params, opt_state, task.batches, observed)
    shown = jnp.concatenate([start[None], after])[np.array(steps_shown(config))]
    return Fit(shown, jnp.mean(jnp.square(shown - task.whole.targets.astype(shown.dtype)[None]), axis=-1))


def measures(config: ConfigDict, fits: Fit) -> dict[str, np.ndarray]:
    """Returns the error of each task after every reported number of steps."""
    return {_after(steps): fits.errors[..., i] for i, steps in enumerate(steps_shown(config))}


def _after(steps: int) -> str:
    return f"after {steps} step{'' if steps == 1 else 's'}"


def headline(config: ConfigDict) -> str:
    """Returns the name of the headline's measure, which is the error after all steps."""
    return _after(config.eval_iters)


def shown(mean: float, spread: float) -> str:
    """Returns a text such as "0.0213 ± 0.0012"."""
    return f"{mean:.4f} ± {spread:.4f}"


def setting(config: ConfigDict) -> str:
    """Returns a text such as "10 points, 32 steps"."""
    return f"{config.shots} points, {config.eval_iters} steps"


def report(config: ConfigDict, held_out: str, results: dict[str, Any]) -> str:
    """Returns one line for each number of points and of steps, with the errors of trained and untrained weights."""
    lines = [first_line(config, results, "mean squared error")]
    for name in (name for name in eval_sets(config) if name in results):
        starts = {"meta-trained": results[name], "untrained": results.get("untrained", {}).get(name, {})}
        for shots in results[name][headline(config)]:
            for steps in results[name]:
                cells = [f"{name}, {shots} points, {steps}:".ljust(34)]
                cells += [f"{_shown(of[steps][shots])} {start}" for start, of in starts.items() if of]
                lines.append("   ".join(cells))
    own = _shown(results[held_out][headline(config)][str(config.shots)])
    return "\n".join([*lines, f"{held_out} squared error, {setting(config)}: {own} over {tasks_measured(config)}"])


def _shown(result: dict[str, Any]) -> str:
    return shown(*mean_and_spread(result, "squared_error"))


def cost(config: ConfigDict, shots: int) -> int:
    """Returns the cost of the points of one evaluated task, in passes of a drawing; a backward pass counts twice."""
    points = config.eval_iters * (3 * config.eval_batch + len(evenly()))
    return max(1, points // POINTS_AS_DEAR_AS_A_DRAWING)


def describe(data: Data, seed: int, task: TrainTask) -> list[str]:
    """Returns the range of the values in a training task."""
    values = np.concatenate([np.ravel(points.targets) for points in task if points is not None])
    return [f"a wave with values from {values.min():.2f} to {values.max():.2f}"]


def picture(config: ConfigDict, data: Data, tasks: EvalTask, fits: dict[str, Fit], title: str, path: Path) -> None:
    """Draws a few waves of the first seed, each with its points and with predictions before, during and after."""
    tasks, fits = jax.tree.map(lambda x: np.asarray(x[0])[:PICTURED_TASKS], (tasks, fits))
    steps = steps_shown(config)
    drawn = sorted({0, len(steps) // 2, len(steps) - 1})
    predictions = {start: fit.predictions[:, drawn] for start, fit in fits.items()}
    labels = [_after(steps[i]) for i in drawn]
    waves_and_predictions(tasks.whole, tasks.support, predictions, labels, title, path)


KIND = TaskKind(
    load=load,
    input_shape=lambda config: (1,),
    outputs=lambda config: 1,
    sample_train=sample_train,
    sample_eval=sample_eval,
    loss=loss,
    evaluate=evaluate,
    measures=measures,
    headline=headline,
    measured="squared_error",
    axis={"yscale": "log"},
    made_of="waves",
    shown=shown,
    report=report,
    setting=setting,
    cost=cost,
    describe=describe,
    picture=picture,
)
