"""Runs a short soak; `make soak` runs the long one."""

import json
import os

from reptile_jax.testing.soak import FIELDS, soak

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
