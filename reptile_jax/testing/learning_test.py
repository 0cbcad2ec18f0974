"""Tests that real training on real input learns."""

import json
import os

import numpy as np
import pytest

from configs import quickstart
from reptile_jax.devices import mesh_of, put
from reptile_jax.run.evaluate import measure
from reptile_jax.run.programs import eval_program, initial_states, train_program
from reptile_jax.tasks import kind_of
from reptile_jax.testing import small_runs

ARCHIVES = os.environ.get("REPTILE_OMNIGLOT")


def test_a_trained_initialisation_beats_an_untrained_one_on_glyphs():
    config = quickstart.get_config()
    config.meta_iters, config.eval_samples = 100, 100
    mesh = mesh_of(config)
    data, program, states = (
        kind_of(config).load(config, mesh),
        eval_program(config, mesh, 1),
        put(mesh, initial_states(config)),
    )
    untrained = measure(config, program, data, "test", 1, states, mesh)
    seeds = np.zeros(1, np.int32)
    states, _ = train_program(config, mesh)(states, seeds, data.source, data.pools["train"], config.meta_iters)
    trained = measure(config, program, data, "test", 1, states, mesh)
    for protocol in ("transductive", "inductive"):
        assert trained[protocol][0].mean > untrained[protocol][0].mean + 0.15, (protocol, trained, untrained)


@pytest.mark.skipif(not ARCHIVES, reason="real Omniglot: REPTILE_OMNIGLOT=DIR names the folder of its archives")
def test_a_short_run_learns_omniglot(tmp_path):
    fields = {"data__archives": ARCHIVES, "data__dir": "tfds", "meta_iters": 300, "eval_samples": 100}
    done = small_runs.run("--workdir=run", config="omniglot_5shot_5way", cwd=tmp_path, eval_train=False, **fields)
    assert done.returncode == 0, done.stderr
    test = json.loads((tmp_path / "run" / "results.json").read_text())["test"]
    assert test["transductive"]["5"]["accuracy"] > 0.85 and test["transductive"]["1"]["accuracy"] > 0.65
