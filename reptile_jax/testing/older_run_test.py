"""Tests that a run of an earlier version and the shipped weights, whose configs lack later fields, stay usable."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from ml_collections import ConfigDict

from configs import default
from reptile_jax import config as config_lib
from reptile_jax.config import OLDER, completed, field_names, get_field
from reptile_jax.run import pretrained, saved_config, train, weights_file
from reptile_jax.run.checkpoint import CheckpointError
from reptile_jax.testing.small_runs import rows_of

OLDER_RUN = Path(__file__).parent / "older_run"  # 4 of 8 meta-iterations, and the rows of all 8, by the same version


@pytest.fixture
def workdir(tmp_path):
    return shutil.copytree(OLDER_RUN, tmp_path / "run")


def test_an_older_run_goes_on_as_it_began(workdir):
    config = saved_config.read(workdir, default.get_config())
    config.meta_iters = 8
    train.train_and_evaluate(config, workdir)
    whole = [json.loads(line) for line in (OLDER_RUN / "metrics_of_the_whole_run.jsonl").read_text().splitlines()]
    rows = rows_of(workdir)
    assert [row["step"] for row in rows] == [2, 4, 6, 8]
    for ours, theirs in zip(rows, whole, strict=True):
        for name in ("loss", "delta_norm", "train_accuracy", "test_accuracy"):
            np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-4)
    assert not np.isclose(whole[2]["loss"], whole[3]["loss"], rtol=1e-4)  # the comparison can fail


def test_rows_with_other_keys_do_not_stand_in_the_way(workdir):
    rows = [{**row, "pace": 1.0} for row in rows_of(workdir)]
    (workdir / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = saved_config.read(workdir, default.get_config())
    config.meta_iters = 8
    train.train_and_evaluate(config, workdir)
    assert [row["step"] for row in rows_of(workdir)] == [2, 4, 6, 8]


def test_an_older_weights_file_is_read():
    """The shipped 5-way weights are of a version that did not have these fields."""
    named = "omniglot_5way"
    saved = ConfigDict(json.loads(weights_file.metadata(pretrained.SHIPPED[named])["config"]))
    assert not set(OLDER) & field_names(saved)
    config, _ = pretrained.load(named)
    assert field_names(config) == field_names(default.get_config())
    assert config.model.to_dict() == {"name": "omniglot", "filters": 64} and config.data.size == 28


def test_a_field_that_is_lacking_means_what_the_older_version_did(workdir):
    """The current default does not matter."""
    older = ConfigDict(json.loads((workdir / "config.json").read_text()))
    assert not set(OLDER) & field_names(older)
    assert {name: get_field(completed(older), name) for name in OLDER} == {
        "data.size": 28, "data.channels": 1, "data.rotations": True, "data.train_classes": 0, "model.name": "omniglot",
        "model.filters": 64, "balanced": False, "zero_head": False, "eval_set": "auto", "eval_untrained": False,
    }  # fmt: skip


def test_without_the_table_older_runs_would_be_refused(workdir, monkeypatch):
    config = saved_config.read(workdir, default.get_config())
    monkeypatch.setattr(config_lib, "OLDER", {})
    with pytest.raises(CheckpointError, match="was written by another version"):
        train.train_and_evaluate(config, workdir)
