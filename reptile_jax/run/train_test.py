import json
import shutil

import jax.numpy as jnp
import numpy as np
import pytest

from reptile_jax.config import ConfigError
from reptile_jax.devices import mesh_of, put
from reptile_jax.run import checkpoint, evaluate, programs, train
from reptile_jax.run.checkpoint import CheckpointError
from reptile_jax.tasks import kind_of
from reptile_jax.testing.small_runs import rows_of, same_bits, small, state_of

SEED = np.zeros(1, np.int32)  # the seeds of `small`


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run") / "whole"
    return workdir, train.train_and_evaluate(small(), workdir)


def measured(results):
    """Returns results without the description of what produced them."""
    return {name: value for name, value in results.items() if name not in ("weights", "config")}


def test_a_run_leaves_what_the_readme_says(finished):
    workdir, results = finished
    assert json.loads((workdir / "results.json").read_text()) == results
    assert results["meta_iters"] == 12 and results["data"] == "glyphs (synthetic)"
    for name in ("train", "test"):
        for protocol in ("transductive", "inductive"):
            assert list(results[name][protocol]) == ["1", "2"]
            for measured in results[name][protocol].values():
                assert 0 <= measured["accuracy"] <= 1 and 0 < measured["ci95"] < 0.5 and measured["tasks"] == 12
    assert [row["step"] for row in rows_of(workdir)] == [5, 10, 12]
    assert set(rows_of(workdir)[0]) == {"step", "loss", "delta_norm", "train_accuracy", "test_accuracy"}
    assert json.loads((workdir / "config.json").read_text())["meta_iters"] == 12
    for picture in ("learning_curve.png", "tasks.png"):
        assert (workdir / picture).read_bytes().startswith(b"\x89PNG")
    assert list(workdir.glob("events.out.tfevents.*"))
    assert sorted(int(p.name) for p in (workdir / "checkpoints").iterdir()) == [4, 8, 12]


def test_interrupted_and_resumed_is_uninterrupted_bit_for_bit(finished, tmp_path):
    whole, results = finished
    part = tmp_path / "part"
    shutil.copytree(whole, part)
    for later in (8, 12):  # as if it had died just before the second checkpoint, with metrics written beyond the first
        shutil.rmtree(part / "checkpoints" / str(later))
    resumed = train.train_and_evaluate(small(), part)
    assert resumed == results
    assert rows_of(part) == rows_of(whole)
    assert same_bits(state_of(part, small()), state_of(whole, small()))
    other = tmp_path / "other"
    train.train_and_evaluate(small(seed=1, eval_samples=2), other)
    assert not same_bits(state_of(other, small()), state_of(whole, small()))  # the comparison can fail


def test_workdir_of_another_run_is_refused_and_left_alone(finished):
    workdir, _ = finished
    before = (workdir / "config.json").read_text()
    with pytest.raises(ConfigError, match=r"holds another run \(seed: 0 -> 3\)"):
        train.train_and_evaluate(small(seed=3), workdir)
    assert (workdir / "config.json").read_text() == before


def test_meta_iterations_that_a_run_cannot_have_are_refused_with_what_would_do(finished, tmp_path):
    """A run cannot have fewer than it has done, or another number if the step size depends on it."""
    workdir, _ = finished
    before = (workdir / "config.json").read_text()
    with pytest.raises(ConfigError, match=r"meta_iters=8 is less than the 12 that .* has behind it: give at least 12"):
        train.train_and_evaluate(small(meta_iters=8), workdir)
    with pytest.raises(ConfigError, match=r"its step size goes from 1 to 0, .* --pretrained=.*/whole --workdir="):
        train.train_and_evaluate(small(meta_iters=24), workdir)
    assert (workdir / "config.json").read_text() == before
    steady = {"meta_step": 0.5, "meta_step_final": 0.5}
    train.train_and_evaluate(small(meta_iters=4, eval_samples=2, **steady), tmp_path / "steady")
    train.train_and_evaluate(small(meta_iters=8, eval_samples=2, **steady), tmp_path / "steady")
    with pytest.raises(ConfigError, match="meta_iters=4 is less than the 8"):
        train.train_and_evaluate(small(meta_iters=4, **steady), tmp_path / "steady")


def test_a_run_that_goes_on_says_that_it_does_not_begin_with_pretrained_weights(finished, tmp_path, capsys):
    again = shutil.copytree(finished[0], tmp_path / "again")
    train.train_and_evaluate(small(), again, pretrained="omniglot_5way")
    assert "at meta-iteration 12; pretrained=omniglot_5way is for runs that begin." in capsys.readouterr().err


def test_evaluating_a_saved_run_gives_the_results_of_the_run(finished, tmp_path):
    """The second moment is restored with the weights; without it, the results would differ."""
    workdir, results = finished
    assert measured(train.evaluate_only(small(), tmp_path / "eval", pretrained=workdir)) == measured(results)
    assert train.evaluate_only(small(), workdir) == results
    early = train.evaluate_only(small(), tmp_path / "early", pretrained=workdir / "checkpoints" / "4")
    assert early["meta_iters"] == 4 and measured(early) != measured(results)


def test_an_evaluation_is_replaced_only_by_one_of_the_same_weights(finished, tmp_path):
    workdir, early = finished[0], finished[0] / "checkpoints" / "4"
    train.evaluate_only(small(eval_samples=2), tmp_path, early)
    before = (tmp_path / "results.json").read_text()
    for attempt in (
        lambda: train.evaluate_only(small(), tmp_path, workdir),
        lambda: train.train_and_evaluate(small(), tmp_path),
    ):
        with pytest.raises(ConfigError, match=r"holds an evaluation of other weights \(.*checkpoints/4\), .*: name"):
            attempt()
    assert (tmp_path / "results.json").read_text() == before and not (tmp_path / "config.json").exists()
    assert train.evaluate_only(small(), tmp_path, early)["test"]["inductive"]["1"]["tasks"] == 12


def test_the_same_path_with_other_weights_replaces_no_evaluation(finished, tmp_path):
    """It is the checksum that decides: the same weights under another name may be evaluated there."""
    named = shutil.copytree(finished[0] / "checkpoints" / "4", tmp_path / "run" / "checkpoints" / "4")
    train.evaluate_only(small(eval_samples=2), tmp_path / "own", named)
    same = train.evaluate_only(small(), tmp_path / "own", finished[0] / "checkpoints" / "4")
    shutil.rmtree(named)
    shutil.copytree(finished[0] / "checkpoints" / "8", named)
    for content in (json.dumps(same), "{}", "[]", '{"weights": {"source": "../run/checkpoints/4"}}', "cut of"):
        (tmp_path / "own" / "results.json").write_text(content)
        with pytest.raises(ConfigError, match=r"holds an evaluation of other weights \(.*\), .*: name another workdir"):
            train.evaluate_only(small(), tmp_path / "own", named)
        assert (tmp_path / "own" / "results.json").read_text() == content


def test_pretrained_weights_start_a_new_run_at_iteration_zero(finished, tmp_path):
    workdir, _ = finished
    train.train_and_evaluate(small(meta_iters=1), tmp_path / "on", pretrained=workdir)
    tuned, start = state_of(tmp_path / "on", small()), state_of(workdir, small())
    config = small(meta_iters=1)
    data = kind_of(config).load(config, mesh_of(config))
    wanted, _ = programs.train_program(config, mesh_of(config))(
        start._replace(iteration=jnp.zeros(1, jnp.int32)), SEED, data.source, data.pools["train"], 1
    )
    assert tuned.iteration.tolist() == [1] and same_bits(tuned, wanted)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"classes": 4}, "classes=4 does not fit .*, trained with classes=3"),
        ({"sgd": True}, "sgd=True does not fit"),
        ({"seed": 1}, "seed=1 splits the classes differently from seed=0 .* test classes were trained on"),
        ({"data.validation_classes": 9}, "data.validation_classes=9 are more than the 0 held out"),
    ],
)
def test_pretrained_weights_that_do_not_fit_are_refused(finished, tmp_path, fields, message):
    with pytest.raises(ConfigError, match=message):
        train.evaluate_only(small(**fields), tmp_path, pretrained=finished[0])


def test_no_checkpoint_is_a_clear_error(tmp_path):
    with pytest.raises(CheckpointError, match="holds no checkpoint: name a workdir"):
        train.evaluate_only(small(), tmp_path / "empty")
    assert not (tmp_path / "empty").exists()


def test_however_a_run_is_cut_into_dispatches_its_bits_are_the_same(compilations):
    config, mesh, ends, compiled = small(meta_step=0.7), mesh_of(small()), [], []  # no other test compiles its program
    data, advance = kind_of(config).load(config, mesh), programs.train_program(config, mesh)
    for cuts in ([12], [1, np.int32(4), 7], [5, 5, 2]):
        state = put(mesh, programs.initial_states(config))
        for count in cuts:
            before = len(compilations)
            state, _ = advance(state, SEED, data.source, data.pools["train"], count)
            compiled.append(len(compilations) - before)
        ends.append(state)
    assert same_bits(ends[0], ends[1]) and same_bits(ends[0], ends[2])
    assert compiled[0] > 0 and not any(compiled[1:])


def test_evaluation_episodes_depend_on_the_evaluation_seed_alone():
    config, mesh = small(), mesh_of(small())
    data, program, state = (
        kind_of(config).load(config, mesh),
        programs.eval_program(config, mesh, 1),
        programs.initial_states(config),
    )
    sample = lambda config, state, name: evaluate._eval_tasks(  # noqa: E731
        config, program, data, name, 1, state, mesh, 0
    )[0]
    tasks = sample(config, state, "test")
    assert same_bits(
        tasks, sample(small(seed=0, meta_iters=99), state._replace(iteration=jnp.full(1, 50, jnp.int32)), "test")
    )
    assert not same_bits(tasks, sample(small(eval_seed=2), state, "test"))
    pool = data.pools["test"]
    names = set(data.names[0][pool.start : pool.start + pool.size])
    first = np.asarray(data.source[1].first)[0]
    sampled = {data.names[0][np.flatnonzero(first == 20 * (row // 20))[-1]] for row in np.ravel(tasks.support.rows)}
    assert sampled <= names and len(sampled) > 3
    assert not set(np.ravel(sample(config, state, "train").support.rows)) & set(np.ravel(tasks.support.rows))


def test_training_classes_may_be_left_out_of_the_evaluation(finished):
    workdir, results = finished
    alone = train.evaluate_only(small(eval_train=False), workdir.parent / "alone", workdir)
    assert measured(alone) == {name: value for name, value in measured(results).items() if name != "train"}


def test_validation_characters_stand_in_for_test_characters(tmp_path):
    results = train.train_and_evaluate(small(**{"data.validation_classes": 30}), tmp_path / "tuning")
    assert set(results) == {"meta_iters", "data", "weights", "config", "train", "validation"}
    plain, tuning = (kind_of(c).load(c, mesh_of(c)) for c in (small(), small(**{"data.validation_classes": 30})))
    assert tuning.pools["validation"].size == 30 and tuning.pools["train"].size == plain.pools["train"].size - 4 * 30
    test = set(plain.names[0][plain.pools["test"].start :])
    assert len(test) == 150 and not test & {name.rpartition("/rot")[0] or name for name in tuning.names[0]}


def test_a_loss_that_is_not_finite_stops_the_run_and_saves_nothing(tmp_path):
    with pytest.raises(train.TrainingError, match="meta-iteration 0: the loss or the update is not finite"):
        train.train_and_evaluate(small(sgd=True, learning_rate=1e38), tmp_path / "run")
    assert checkpoint.newest(tmp_path / "run") is None
