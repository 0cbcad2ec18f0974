"""Tests that an evaluation that was stopped goes on where it was, and gives what one without a stop gives."""

import errno
import signal

import jax
import numpy as np
import pytest

from reptile_jax.devices import mesh_of
from reptile_jax.run import evaluate, train, unfinished
from reptile_jax.run.interrupt import Interrupted
from reptile_jax.run.pretrained import find, load_for
from reptile_jax.run.unfinished import Unfinished
from reptile_jax.tasks import kind_of
from reptile_jax.testing.small_runs import small, small_waves

PER_DISPATCH = 5  # so that a series of 12 tasks has three dispatches


@pytest.fixture(scope="module", params=[small, small_waves])
def trained(request, tmp_path_factory):
    """Trains a small run; returns its config and its workdir."""
    workdir = tmp_path_factory.mktemp("unfinished") / "run"
    train.train_and_evaluate(request.param(), workdir)
    return request.param(), workdir


def evaluated(config, workdir, own, monkeypatch, stops_at=0):
    """Evaluates a run in a folder of its own, as if a signal came in a dispatch; returns results and dispatches."""
    dispatches = []
    plain = evaluate._eval_tasks

    def counted(config, program, data, name, shots, *rest):
        dispatches.append((name, shots, rest[-1]))
        return plain(config, program, data, name, shots, *rest)

    with monkeypatch.context() as patched:
        patched.setattr(evaluate, "EVAL_TASKS", PER_DISPATCH)
        patched.setattr(evaluate, "_eval_tasks", counted)
        patched.setattr(evaluate, "agreed", lambda _: signal.SIGINT if len(dispatches) == stops_at else 0)
        if stops_at == 0:
            return train.evaluate_only(config, own, workdir), dispatches
        with pytest.raises(Interrupted, match="saved: the same command goes on from there") as stopped:
            train.evaluate_only(config, own, workdir)
        assert stopped.value.status == 130 and not (own / "results.json").exists()
        return None, dispatches


def test_a_stopped_evaluation_goes_on_where_it_was(trained, tmp_path, monkeypatch, capsys):
    config, workdir = trained
    whole, all_dispatches = evaluated(config, workdir, tmp_path / "whole", monkeypatch)
    first = evaluated(config, workdir, tmp_path / "own", monkeypatch, stops_at=2)[1]
    second = evaluated(config, workdir, tmp_path / "own", monkeypatch, stops_at=2)[1]
    capsys.readouterr()
    results, rest = evaluated(config, workdir, tmp_path / "own", monkeypatch)
    assert f"Resuming the evaluation in {tmp_path / 'own'} at task" in capsys.readouterr().err
    assert results == whole
    assert first + second + rest == all_dispatches and len(all_dispatches) > 5
    left = {path.name for path in (tmp_path / "own").iterdir()}
    assert left == {path.name for path in (tmp_path / "whole").iterdir()}


def changed(config, **fields):
    other = config.copy_and_resolve_references()
    other.update_from_flattened_dict(fields)
    return other


def test_more_or_fewer_tasks_and_sets_go_on_from_it(trained, tmp_path, monkeypatch):
    config, workdir = trained
    for fields in ({"eval_samples": 14, "eval_train": False}, {"eval_samples": 4, "eval_interval": 7}):
        other = changed(config, **fields)
        evaluated(config, workdir, tmp_path / "own", monkeypatch, stops_at=4)
        whole, all_dispatches = evaluated(other, workdir, tmp_path / "whole", monkeypatch)
        results, dispatches = evaluated(other, workdir, tmp_path / "own", monkeypatch)
        assert results == whole and len(dispatches) < len(all_dispatches)
        (tmp_path / "own" / "results.json").unlink()


def test_another_evaluation_neither_goes_on_from_it_nor_replaces_it(trained, tmp_path, monkeypatch):
    config, workdir = trained
    evaluated(config, workdir, tmp_path / "own", monkeypatch, stops_at=2)
    other = changed(config, eval_seed=7)
    whole, other_dispatches = evaluated(other, workdir, tmp_path / "other", monkeypatch)
    assert evaluated(other, workdir, tmp_path / "own", monkeypatch, stops_at=1)[1] == other_dispatches[:1]
    results, dispatches = evaluated(config, workdir, tmp_path / "own", monkeypatch)
    assert dispatches == evaluated(config, workdir, tmp_path / "whole", monkeypatch)[1][2:]
    assert results["test"] != whole["test"] and not list((tmp_path / "own").glob(f"{unfinished.FILE}_*"))


def test_what_the_values_depend_on(trained):
    """Weights, second moment, data and every field that can change a value make another evaluation."""
    config, workdir = trained
    mesh = mesh_of(config)
    states, data = load_for(config, find(workdir), mesh), kind_of(config).load(config, mesh)
    same = evaluate._identity(config, states, data)
    assert same == evaluate._identity(changed(config, eval_samples=9, transductive=True, meta_iters=99), states, data)
    double = lambda tree: jax.tree.map(lambda x: 2 * x, tree)  # noqa: E731
    others = [
        (config, states._replace(params=double(states.params)), data),
        (config, states, data._replace(fingerprint="other")),
    ]
    if not config.sgd:
        others.append((config, states._replace(opt_state=double(states.opt_state)), data))
    for fields in (
        {"eval_batch": 4},
        {"eval_iters": 2},
        {"learning_rate": 0.5},
        {"seed": 5},
        {"data.name": "omniglot"},
    ):
        others.append((changed(config, **fields), states, data))
    assert all(evaluate._identity(*other) != same for other in others)


@pytest.fixture
def kept(tmp_path):
    """Writes a file of values; returns them, what they are of, and the file."""
    values = {"error": np.array([[0.1, np.nan, 1 / 3]], np.float32), "other": np.array([[1.0, 2.0, 3.0]])}
    of, evaluation = {"weights": "a", "config": {"b": 1}}, ("trained", 1, "test")
    begun = Unfinished(tmp_path, of, "1 cpu device")
    begun.add(evaluation, values)
    begun.add(evaluation, values)
    begun.write(at_once=True)
    (file,) = tmp_path.iterdir()
    return {name: np.concatenate([x, x], axis=1) for name, x in values.items()}, of, file


def test_values_keep_their_bits(kept, tmp_path, capsys):
    values, of, _ = kept
    again = Unfinished(tmp_path, of, "2 cpu devices")
    again.say(6, 12)
    assert "at task 6 of 12; it was on 1 cpu device, and rounding differs on 2 cpu devices." in capsys.readouterr().err
    for name, x in values.items():
        read = again.values(("trained", 1, "test"), 100)[name]
        assert read.dtype == x.dtype and read.tobytes() == x.tobytes()
        assert again.values(("trained", 1, "test"), 4)[name].tobytes() == x[:, :4].tobytes()
    assert again.values(("trained", 1, "train"), 100) == {}
    assert Unfinished(tmp_path, of | {"weights": "b"}, "").values(("trained", 1, "test"), 100) == {}
    assert Unfinished(None, of, "").values(("trained", 1, "test"), 100) == {}


def test_the_file_is_written_only_now_and_then_and_a_failure_is_said(kept, monkeypatch, capsys):
    _, of, file = kept
    file.unlink()
    begun = Unfinished(file.parent, of, "")
    begun.write()
    assert not file.exists()  # less than half a minute went by
    monkeypatch.setattr(unfinished, "SECONDS", 0.0)
    begun.write()
    assert file.exists()

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(unfinished, "replace_bytes", full)
    begun.write()
    assert capsys.readouterr().err == f"{file} cannot be written (No space left on device): the evaluation goes on\n"
    with pytest.raises(OSError, match="No space left on device"):
        begun.write(at_once=True)


def test_every_damage_is_noticed(kept, capsys):
    _, of, file = kept
    content, rng = file.read_bytes(), np.random.default_rng(0)
    damaged = [content[:n] for n in (1, 31, 32, 33, len(content) // 2, len(content) - 1)] + [content + b"0"]
    for place in rng.integers(0, len(content), 200):
        damaged.append(content[:place] + bytes([content[place] ^ 1 << int(rng.integers(8))]) + content[place + 1 :])
    for each in damaged:
        file.write_bytes(each)
        assert Unfinished(file.parent, of, "").values(("trained", 1, "test"), 100) == {}
        assert capsys.readouterr().err == f"{file} is damaged: the evaluation starts afresh.\n"
