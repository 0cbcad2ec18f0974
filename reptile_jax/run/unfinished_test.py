"""Tests that an evaluation that was stopped goes on where it was, and gives what one without a stop gives."""

import signal

import numpy as np
import pytest

from reptile_jax.run import evaluate, train, unfinished
from reptile_jax.run.interrupt import Interrupted
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
    assert unfinished.FILE not in left and left == {path.name for path in (tmp_path / "whole").iterdir()}


@pytest.mark.parametrize("change", [{"eval_seed": 7}, {"eval_samples": 11}])
def test_another_evaluation_does_not_go_on_from_it(trained, tmp_path, monkeypatch, change):
    config, workdir = trained
    evaluated(config, workdir, tmp_path / "own", monkeypatch, stops_at=2)
    other = config.copy_and_resolve_references()
    other.update(change)
    results, dispatches = evaluated(other, workdir, tmp_path / "own", monkeypatch)
    whole, all_dispatches = evaluated(other, workdir, tmp_path / "whole", monkeypatch)
    assert results == whole and dispatches == all_dispatches


def test_a_damaged_file_is_said_and_the_evaluation_starts_afresh(trained, tmp_path, monkeypatch, capsys):
    config, workdir = trained
    whole, all_dispatches = evaluated(config, workdir, tmp_path / "whole", monkeypatch)
    evaluated(config, workdir, tmp_path / "own", monkeypatch, stops_at=2)
    file = tmp_path / "own" / unfinished.FILE
    content = file.read_bytes()
    for damaged in (b"", content[: len(content) // 2], b"none", content[:60] + bytes(8) + content[68:]):
        file.write_bytes(damaged)
        results, dispatches = evaluated(config, workdir, tmp_path / "own", monkeypatch)
        assert results == whole and dispatches == all_dispatches
        assert f"{file} is damaged: the evaluation starts afresh." in capsys.readouterr().err


def test_values_keep_their_bits_and_are_written_only_now_and_then(tmp_path, monkeypatch):
    values = {"error": np.array([[0.1, np.nan, 1 / 3]], np.float32), "other": np.array([[1.0, 2.0, 3.0]])}
    of = {"weights": "a", "config": {"b": 1}}
    kept = unfinished.Unfinished(tmp_path, of)
    kept.add("trained/test/1", values)
    kept.write()
    assert not (tmp_path / unfinished.FILE).exists()  # less than half a minute went by
    monkeypatch.setattr(unfinished, "SECONDS", 0.0)
    kept.add("trained/test/1", values)
    kept.write()
    again = unfinished.Unfinished(tmp_path, of)
    assert again.tasks() == 6 and again.values("trained/train/1") == {}
    for name, x in values.items():
        read = again.values("trained/test/1")[name]
        assert read.dtype == x.dtype and read.tobytes() == np.concatenate([x, x], axis=1).tobytes()
    assert unfinished.Unfinished(tmp_path, of | {"weights": "b"}).tasks() == 0
    assert unfinished.Unfinished(None, of).tasks() == 0
