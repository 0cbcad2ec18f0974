"""Runs a short soak; `make soak` runs the long one."""

import json
import os

import pytest

from reptile_jax.testing import soak as soak_module
from reptile_jax.testing.small_runs import content_of
from reptile_jax.testing.soak import FIELDS, Soak, soak

KILLS = {"data preparation": 1, "checkpoint write": 1, "training": 1, "evaluation": 1}
SHORTER = FIELDS | {"meta_iters": 3000, "eval_samples": 1500}


def test_killed_at_every_kind_of_moment_a_run_ends_as_if_never_killed(tmp_path):
    runs = soak(tmp_path / "soak", KILLS, os.environ.get("REPTILE_OMNIGLOT"), SHORTER)
    assert runs.same() == []
    assert len(runs.log) == len(KILLS) - ("REPTILE_OMNIGLOT" not in os.environ)
    metrics = tmp_path / "soak" / "part" / "metrics.jsonl"
    lines = metrics.read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == list(range(50, 3001, 50))
    metrics.write_text("\n".join(lines[:-1]))
    assert runs.same() == ["metrics"]  # the comparison can fail


def test_an_attempt_that_misses_its_moment_leaves_the_run_as_it_was(tmp_path, monkeypatch):
    runs = Soak(tmp_path / "soak", None, SHORTER | {"eval_samples": 20})
    runs.kill("training")
    before = content_of(tmp_path)
    monkeypatch.setattr(soak_module, "ATTEMPTS", 1)
    monkeypatch.setitem(runs._moments, "training", lambda: False)  # so the run goes on to its end
    with pytest.raises(RuntimeError, match="never killed in training"):
        runs.kill("training")
    assert content_of(tmp_path) == before
    runs.run("part")
    assert content_of(tmp_path) != before
