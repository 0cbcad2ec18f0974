"""Real training on real input, seen to learn."""

import json
import os

import pytest

from configs import quickstart
from reptile_jax import program_test, train
from reptile_jax.programs import eval_program, initial_state, train_program

ARCHIVES = os.environ.get("REPTILE_OMNIGLOT")


def test_a_trained_initialisation_beats_an_untrained_one_on_glyphs():
    config = quickstart.get_config()
    config.meta_iters, config.eval_samples = 300, 1000
    data, program = train.load_data(config), eval_program(config, 1)
    untrained = train.measure(config, program, data, "test", 1, initial_state(config))
    state, _ = train_program(config)(initial_state(config), data.images, data.pools["train"], config.meta_iters)
    trained = train.measure(config, program, data, "test", 1, state)
    for protocol in ("transductive", "inductive"):
        assert trained[protocol].accuracy > untrained[protocol].accuracy + 0.15, (protocol, trained, untrained)


@pytest.mark.skipif(not ARCHIVES, reason="real Omniglot: REPTILE_OMNIGLOT=DIR names the folder of its archives")
def test_a_short_run_learns_omniglot(tmp_path):
    fields = {"data__archives": ARCHIVES, "data__dir": "tfds", "meta_iters": 300, "eval_samples": 100}
    done = program_test.run("--workdir=run", config="omniglot_5shot_5way", cwd=tmp_path, **fields)
    assert done.returncode == 0, done.stderr
    test = json.loads((tmp_path / "run" / "results.json").read_text())["test"]
    assert test["transductive"]["5"]["accuracy"] > 0.85 and test["transductive"]["1"]["accuracy"] > 0.65
