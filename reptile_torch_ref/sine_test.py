"""Tests sine waves: the sampling, the network in closed form, and a run that learns."""

import numpy as np
import pytest
import torch
from ml_collections import ConfigDict

from configs import sinusoid, sinusoid_relu
from reptile_torch_ref import reptile, sine, train, weights


def small_config(**fields: object) -> ConfigDict:
    """Returns the config of a run that takes seconds."""
    config = sinusoid.get_config()
    config.update({"num_seeds": 1, "meta_iters": 4, "eval_iters": 3, "eval_samples": 4} | fields)
    return config


def test_waves_are_in_their_range() -> None:
    rng = np.random.default_rng(0)
    amplitudes, phases = np.array([sine.sample_wave(rng) for _ in range(4000)]).T
    for values, low, high in ((amplitudes, 0.1, 5), (phases, 0, 2 * np.pi)):
        assert low <= values.min() and values.max() <= high
        counts, _ = np.histogram(values, 20, (low, high))
        assert ((counts - 200) ** 2 / 200).sum() < 19 + 5 * np.sqrt(2 * 19)
    x = np.array([-1.0, 0.5])
    np.testing.assert_array_equal(sine.Wave(2.0, 0.3)(x), [2 * np.sin(-0.7), 2 * np.sin(0.8)])


def test_a_training_task_is_one_pass_over_the_fifty_points() -> None:
    task = sine.sample_task(sinusoid.get_config(), np.random.default_rng(0))
    assert [x.shape for x, _ in task] == [(10,)] * 5
    np.testing.assert_array_equal(np.sort(torch.cat([x for x, _ in task]).numpy()), np.linspace(-5, 5, 50))
    uniform = sine.sample_task(sinusoid_relu.get_config(), np.random.default_rng(0))
    assert not set(torch.cat([x for x, _ in uniform]).tolist()) & set(sine.GRID)


def test_a_tail_shares_no_point_with_the_other_steps() -> None:
    task = sine.sample_task(small_config(foml=True, foml_tail=10), np.random.default_rng(0))
    before = torch.cat([x for x, _ in task[:-1]]).tolist()
    assert len(task) == 5 and len(set(before)) == 40 and not set(before) & set(task[-1][0].tolist())


@pytest.mark.parametrize(("network", "f"), [("perceptron", np.tanh), ("perceptron_relu", lambda z: np.maximum(z, 0))])
def test_the_network_in_numpy(network: str, f: object) -> None:
    params = sine.init_weights(0, 64, torch.float64)
    k0, b0, k1, b1, k2, b2 = (w.numpy() for w in params.values())
    x = np.linspace(-5, 5, 7)
    wanted = (f(f(x[:, None] @ k0.T + b0) @ k1.T + b1) @ k2.T + b2)[:, 0]  # type: ignore[operator]
    ours = sine.predict(params, torch.from_numpy(x), network).numpy()
    np.testing.assert_allclose(ours, wanted, rtol=1e-12)
    error = sine.squared_error(params, torch.from_numpy(x), torch.ones(7, dtype=torch.float64), network)
    np.testing.assert_allclose(float(error), np.mean((wanted - 1) ** 2), rtol=1e-12)


def test_errors_are_those_before_and_after_every_step() -> None:
    config = small_config()
    state, inner = sine.init_state(config, 0, torch.float64), sine.inner_of(config)
    task = sine.sample_task(config, np.random.default_rng(0))
    whole, errors = task[0], []
    for steps in range(len(task) + 1):
        phi = reptile.inner_loop(state, task[:steps], inner).params
        errors.append(float(sine.squared_error(phi, *whole, inner.network)))
    assert sine.errors_of_task(state, task, whole, inner) == errors and len(set(errors)) == 6


def test_meta_training_beats_where_it_began() -> None:
    config = small_config(meta_iters=1500, eval_iters=8, eval_samples=50)
    state = sine.init_state(config, 0)
    trained = sine.train(config, state, 0)
    before, after = (sine.evaluate(config, start) for start in (state, trained))
    assert before.shape == after.shape == (50, 9)
    assert after[:, -1].mean() < 0.8 * before[:, -1].mean()
    assert after[:, -1].mean() < 0.8 * after[:, 0].mean()


def test_the_program_runs_every_seed_and_goes_on(tmp_path, capsys) -> None:
    train.main(small_config(num_seeds=2))
    output = capsys.readouterr().out
    assert output.count("meta-trained") == 8 and "seed 0:" in output and "seed 1:" in output
    path = str(tmp_path / "weights.safetensors")
    train.main(small_config(), weights_file=path)
    assert output.startswith(capsys.readouterr().out)  # seed 0 alone is seed 0 of two
    assert weights.load(path).params["dense_1/kernel"].shape == (64, 64)
    train.main(small_config(), init=path)
    with pytest.raises(ValueError, match="num_seeds=2: a weights file holds one seed"):
        train.main(small_config(num_seeds=2), init=path)
