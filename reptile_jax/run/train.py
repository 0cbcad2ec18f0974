"""A run from its config to its results: training, curves, checkpoints, resume, evaluation."""

import contextlib
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from reptile_jax.config import ConfigError, differences, seeds_of, validate
from reptile_jax.devices import agreed, is_main, machine, mesh_of, put, same_everywhere, together
from reptile_jax.files import LockedError, expanded, lock, replace_text
from reptile_jax.meta.reptile import MetaState
from reptile_jax.progress import progress_bar
from reptile_jax.run import checkpoint, plots
from reptile_jax.run.checkpoint import Checkpoints
from reptile_jax.run.curves import Curves
from reptile_jax.run.evaluate import digest, evaluate, label_of
from reptile_jax.run.interrupt import DISPATCH, Interrupted, Stop, stop_on_signal
from reptile_jax.run.metrics import MetricsWriter, read_rows
from reptile_jax.run.not_finite import bad_tasks
from reptile_jax.run.pretrained import Found, evaluated, evaluated_weights, find, is_run, load_for, same_data, source_of
from reptile_jax.run.programs import initial_states, train_program
from reptile_jax.tasks import Data, kind_of

LOCK = ".lock"  # inside a workdir


class TrainingError(Exception):
    """Training that cannot go on; the message is one line."""


def train_and_evaluate(config: ConfigDict, workdir: str | Path, pretrained: str | Path | None = None) -> dict[str, Any]:
    """Trains until `meta_iters`, from the newest checkpoint in the workdir if there is one, and evaluates.

    Args:
        config: a run's config, see configs/default.py.
        workdir: gets config.json, metrics.jsonl, TensorBoard events, checkpoints, pictures and results.json.
        pretrained: the weights and second moment that a new run starts from, as `pretrained.load` names them.

    Returns:
        The results, as in results.json.

    Raises:
        ConfigError: the config is impossible, or differs from that of the run in the workdir.
        DataError: the data is missing or damaged.
        CheckpointError, WeightsError: there are no such pretrained weights.
        TrainingError: a loss or an update was not finite.
    """
    validate(config)
    workdir, mesh = expanded(workdir), _devices(config)
    with together():
        newest = checkpoint.newest(workdir, _steps(workdir))
        if newest is not None and newest > config.meta_iters:
            raise ConfigError(
                f"meta_iters={config.meta_iters} is less than the {newest} that {workdir} has behind it: give at least "
                f"{newest}, or name another workdir"
            )
    if not same_everywhere(-1 if newest is None else newest):
        raise ConfigError(
            f"workdir={workdir} does not hold the same run in every process: name one on a disk that all of them share"
        )
    _check_not_evaluated(workdir, "this run", "")
    found = None
    if newest is not None:
        found = find(workdir / checkpoint.FOLDER / str(newest))._replace(named=workdir)
        states = resume(config, workdir, found, mesh)
    elif pretrained is not None:
        found = find(pretrained)
        states = load_for(config, found, mesh)
        states = states._replace(iteration=jnp.zeros_like(states.iteration))
    else:
        states = put(mesh, initial_states(config))
    with together():
        data = kind_of(config).load(config, mesh)
    if found is not None:
        same_data(config, found, data.fingerprint)
    with _held(workdir), stop_on_signal() as stop:
        with together():
            if checkpoint.newest(workdir, _steps(workdir), quiet=True) != newest:
                raise ConfigError(f"workdir={workdir} was trained in by another run just now: start this one again")
            if is_main():
                checkpoint.set_aside_after(workdir, newest)
        if newest is None and pretrained is not None:  # once the run has a config, it has these weights
            Checkpoints(workdir, write=True).save(states, config, 0, data.fingerprint, machine(mesh))
        with together():
            if is_main():
                replace_text(workdir / "config.json", config.to_json(indent=2) + "\n")
                if newest is not None:
                    begun = f"; pretrained={pretrained} is for runs that begin" if pretrained else ""
                    before, now = Checkpoints(workdir).machine(newest), machine(mesh)
                    moved = f"; it was on {before}, and rounding differs on {now}" if before not in ("", now) else ""
                    print(f"Resuming {workdir} at meta-iteration {newest}{begun}{moved}.", file=sys.stderr)
        states = train(config, workdir, data, states, mesh, stop)
        return evaluate(config, workdir, data, states, mesh, stop, source_of(find(workdir, quiet=True), workdir))


def evaluate_only(config: ConfigDict, workdir: str | Path, pretrained: str | Path | None = None) -> dict[str, Any]:
    """Evaluates the newest checkpoint of the workdir, or the one that `pretrained` names.

    If the workdir cannot be written to, the results are printed but not saved.

    Arguments, results and errors are those of `train_and_evaluate`. Without `pretrained`, the workdir must hold a
    checkpoint, or the results of an evaluation, whose weights are then evaluated again.
    """
    validate(config)
    workdir, mesh = expanded(workdir), mesh_of(config, training=False)
    found = find(pretrained or evaluated(workdir))
    source = source_of(found, workdir)
    states = load_for(config, found, mesh)
    if is_run(workdir):
        _check_own(config, workdir, found)
    _check_not_evaluated(workdir, source, digest(states.params))
    with together():
        data = kind_of(config).load(config, mesh)
    same_data(config, found, data.fingerprint)
    kept = not workdir.exists() or os.access(workdir, os.W_OK)
    if not kept and is_main():
        print(f"{workdir} is read-only: the results are printed, and not kept.", file=sys.stderr)
    with _held(workdir) if kept else contextlib.nullcontext(), stop_on_signal() as stop:
        return evaluate(config, workdir if kept else None, data, states, mesh, stop, source)


def _check_not_evaluated(workdir: Path, source: str, sha256: str) -> None:
    """Checks that a workdir has no results of a separate evaluation, unless it was of the same weights.

    Args:
        workdir: the folder.
        source: what the new results are of, for the message.
        sha256: the checksum of the weights that are evaluated; "" for a run, whose weights are yet to be trained.

    Raises:
        ConfigError: the results would be replaced.
    """
    before = evaluated_weights(workdir)
    if before is not None and before.get("sha256") != sha256:
        of = before.get("source", "its results.json does not say which")
        raise ConfigError(
            f"workdir={workdir} holds an evaluation of other weights ({of}), whose results those of {source} would "
            f"replace: name another workdir"
        )


def _check_own(config: ConfigDict, workdir: Path, found: Found) -> None:
    """Checks that the results in a run's workdir stay those of the run.

    Raises:
        ConfigError: the weights are not the run's newest, or a field that a resumed run must keep differs.
    """
    own = checkpoint.newest(workdir, quiet=True)
    if own is None or found.path.resolve() != Checkpoints(workdir).path(own).resolve():
        raise ConfigError(
            f"workdir={workdir} holds a run of its own, whose results those of {found.named} would replace: name "
            f"another one"
        )
    changed = [change for change in differences(found.config, config) if not change.startswith("meta_iters:")]
    if changed:
        raise ConfigError(
            f"workdir={workdir} holds a run whose results this evaluation would replace ({'; '.join(changed)}): keep "
            f"its fields, or give --pretrained={workdir} --workdir=ANOTHER"
        )


@contextlib.contextmanager
def _held(workdir: Path) -> Iterator[None]:
    """Makes a workdir and keeps other runs out of it; if there are several processes, one of them does so.

    Raises:
        ConfigError: another run is at work there.
    """
    with contextlib.ExitStack() as held:
        with together():
            if is_main():
                workdir.mkdir(parents=True, exist_ok=True)
                try:
                    held.enter_context(lock(workdir / LOCK))
                except LockedError as holder:
                    raise ConfigError(
                        f"workdir={workdir} is in use by {holder}: wait for its end, or name another workdir"
                    ) from holder
        yield


def _devices(config: ConfigDict) -> Mesh:
    """Returns the devices of training, and says if it cannot use all of them."""
    mesh = mesh_of(config)
    if (used := mesh.size) < (there := len(jax.devices())):
        if jax.process_count() > 1:
            raise ConfigError(
                f"inner_state={config.inner_state!r} passes the second moment from task to task, on one device, and "
                f"cannot be spread over {jax.process_count()} processes: give averaged, or run one process"
            )
        print(
            f"inner_state={config.inner_state} passes the second moment from task to task: {used} of {there} devices, "
            f"one for each row of seeds, computes.",
            file=sys.stderr,
        )
    return mesh


def resume(config: ConfigDict, workdir: Path, found: Found, mesh: Mesh) -> MetaState:
    """Reads the checkpoint, of a workdir, that training continues from.

    Raises:
        ConfigError: the run in the workdir has another config.
    """
    saved = found.config
    changed = differences(saved, config)
    if [change.split(":")[0] for change in changed] == ["meta_iters"]:
        raise ConfigError(
            f"workdir={workdir} holds a run of meta_iters={saved.meta_iters}, over which its step size goes from "
            f"{saved.meta_step:g} to {saved.meta_step_final:g}, so that their number cannot change: keep it, or begin "
            f"another run from its weights with --pretrained={workdir} --workdir=ANOTHER"
        )
    if changed:
        raise ConfigError(
            f"workdir={workdir} holds another run ({'; '.join(changed)}): name another workdir or keep its fields"
        )
    return found.restore(mesh)


def train(config: ConfigDict, workdir: Path, data: Data, states: MetaState, mesh: Mesh, stop: Stop) -> MetaState:
    """Runs the remaining meta-iterations, with curves, metrics, checkpoints and a progress bar.

    Raises:
        TrainingError: a loss, an update or the new state was not finite; that state was not saved.
        Interrupted: a signal arrived; raised after the state was saved.
    """
    advance, seeds = train_program(config, mesh), np.array(seeds_of(config), np.int32)
    done = int(np.asarray(states.iteration)[0])
    if done < config.meta_iters:
        # This compiles the program. A signal waits for the end of a compilation, and here there is nothing to save.
        advance(states, seeds, data.source, data.pools["train"], 0)
        if number := agreed(stop.number):
            raise Interrupted(number, f"interrupted at meta-iteration {done}: the same command goes on from there")
    busy_seconds, busy_iterations = 0.0, 0
    at_most = 1  # meta-iterations per dispatch
    checkpoints = Checkpoints(workdir, write=True)
    with (
        contextlib.closing(MetricsWriter(workdir, done)) as metrics,
        progress_bar("train", config.meta_iters, "it", done, is_main()) as bar,
        Curves(config, data, mesh, metrics) as curves,
    ):
        while done < config.meta_iters:
            due = (_next(done, interval) for interval in (config.eval_interval, config.checkpoint_interval))
            pause = min(config.meta_iters, done + at_most, *due)
            began, before = time.perf_counter(), states
            states, progress = advance(states, seeds, data.source, data.pools["train"], pause - done)
            bad = np.asarray(progress.bad_iteration)
            if np.any(bad >= 0):
                curves.measure()
                index = int(np.argmin(np.where(bad >= 0, bad, config.meta_iters)))  # the seed that was the first
                before, _ = advance(before, seeds, data.source, data.pools["train"], int(bad[index]) - done)
                raise _not_finite(config, workdir, data, before, index)
            seconds = time.perf_counter() - began
            at_most = agreed(max(1, int(DISPATCH * (pause - done) / seconds)))
            busy_seconds += seconds
            busy_iterations += pause - done
            bar.update(pause - done)
            done = pause
            stopping = agreed(stop.number)  # by a signal to any of the processes, in the same place in all
            if done % config.eval_interval == 0 or done == config.meta_iters:
                curves.add(done, states, progress.last, busy_iterations / busy_seconds)
                busy_seconds, busy_iterations = 0.0, 0
            if done % config.checkpoint_interval == 0 or done == config.meta_iters or stopping:
                curves.measure()
                metrics.flush()
                checkpoints.save(states, config, len(metrics.rows), data.fingerprint, machine(mesh))
            bar.set_postfix(curves.recent(), refresh=False)
            if stopping:
                raise Interrupted(
                    stopping, f"interrupted at meta-iteration {done}, saved: the same command goes on from there"
                )
        rows = metrics.rows
    if rows and is_main():
        plots.learning_curve(rows, kind_of(config), data.held_out, label_of(config), workdir / "learning_curve.png")
    return states


def _not_finite(config: ConfigDict, workdir: Path, data: Data, before: MetaState, index: int) -> TrainingError:
    """Says which meta-iteration of which seed was not finite, for which classes; `before` is the state before it."""
    tasks = bad_tasks(config, data, before, index)
    named = "; ".join(", ".join(names) for names in tasks or [])
    where = f"in the tasks of {named}" if tasks else "in no task of its own" if tasks == [] else "in some task"
    of_seed = f" of seed {seeds_of(config)[index]}" if config.num_seeds > 1 else ""
    newest = checkpoint.newest(workdir)
    saved = "there is no checkpoint" if newest is None else f"the newest checkpoint is {newest}"
    return TrainingError(
        f"meta-iteration {int(np.asarray(before.iteration)[index])}{of_seed}: the loss or the update is not finite "
        f"{where}; {saved}; try less than learning_rate={config.learning_rate:g}, meta_step={config.meta_step:g} or "
        f"weight_decay={config.weight_decay:g}"
    )


def _next(done: int, interval: int) -> int:
    """Returns the first multiple of the interval after `done`."""
    return (done // interval + 1) * interval


def _steps(workdir: Path) -> list[int]:
    """Returns the meta-iterations of the rows in the workdir's metrics.jsonl."""
    return [row["step"] for row in read_rows(workdir / "metrics.jsonl")]
