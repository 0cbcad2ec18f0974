"""Tests the program: its imports, that runs repeat exactly, and that it saves and resumes."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ml_collections import ConfigDict

from configs.default import get_config
from reptile_torch_ref import reptile, train, weights

ROOT = Path(__file__).parent.parent


def small_config() -> ConfigDict:
    """Returns the config of the 5-way run, shortened to a few iterations."""
    config = get_config()
    config.shots, config.train_shots, config.inner_batch, config.inner_iters = 1, 4, 10, 3
    config.meta_batch, config.meta_iters, config.meta_step, config.meta_step_final = 2, 4, 1.0, 0.0
    config.eval_iters, config.eval_samples = 3, 4
    return config


def patterns(characters: int) -> torch.Tensor:
    """Returns classes [characters, 20, 28, 28] with different patterns; each drawing has other flipped pixels."""
    rng = np.random.default_rng(0)
    ideal = rng.integers(0, 2, (characters, 1, 7, 7)).repeat(4, axis=2).repeat(4, axis=3)
    return torch.from_numpy((ideal ^ (rng.random((characters, 20, 28, 28)) < 0.05)).astype(np.uint8))


def run(*arguments: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], cwd=ROOT, env=env, capture_output=True, text=True, check=False)


def test_no_jax_is_imported() -> None:
    code = "import sys; from configs import quickstart; from reptile_torch_ref import data, train; "
    code += "data.load(quickstart.get_config().data, 0)"
    result = run("-c", code + "; print([name for name in sys.modules if name.startswith(('jax', 'flax', 'optax'))])")
    assert result.stdout.strip() == "[]", result.stderr


def test_a_run_is_a_function_of_its_seed() -> None:
    config, characters = small_config(), patterns(30)
    start = reptile.init_state(config.classes, config.seed)
    first, again = (train.train(config, characters, start) for _ in range(2))
    assert all(torch.equal(first.params[n], again.params[n]) for n in first.params)
    config.seed = 1
    other = train.train(config, characters, start)
    assert not torch.equal(first.params["conv_1/kernel"], other.params["conv_1/kernel"])


@pytest.mark.parametrize("fast", [True, False])
def test_the_fields_of_the_fast_run_reach_evaluation_and_the_start(fast: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    config = small_config()
    config.data.name, config.shots, config.balanced, config.zero_head = "glyphs", 2, fast, fast
    config.eval_batch, config.meta_iters = 5, 0
    original, all_labels, heads = reptile.evaluate_task, [], []

    def recorded(state: reptile.State, batches: reptile.Task, *rest: Any) -> Any:
        all_labels.extend(sorted(labels.tolist()) for _, labels in batches)
        heads.append(bool(state.params["dense/kernel"].any()))
        return original(state, batches, *rest)

    monkeypatch.setattr(reptile, "evaluate_task", recorded)
    train.main(config)
    assert all(labels == [0, 1, 2, 3, 4] for labels in all_labels) == fast
    assert heads == [not fast] * 2 * config.eval_samples


def test_the_fields_of_the_fast_run_reach_training() -> None:
    config, characters = small_config(), patterns(30)
    config.balanced, config.zero_head = True, True
    for task in train.sample_tasks(config, characters, 0):
        assert all(sorted(labels.tolist()) == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4] for _, labels in task)
    start = reptile.init_state(config.classes, config.seed)
    heads = [train.train(config, characters, start).params["dense/kernel"]]
    config.zero_head = False
    heads.append(train.train(config, characters, start).params["dense/kernel"])
    assert [bool(head.any()) for head in heads] == [False, True]


def test_tasks_have_the_configured_shape() -> None:
    config = small_config()
    config.foml, config.foml_tail = True, 1
    tasks = train.sample_tasks(config, patterns(30), 0)
    assert [[len(images) for images, _ in task] for task in tasks] == [[10, 10, 5]] * 2
    config.foml = False  # Reptile has no tail
    tasks = train.sample_tasks(config, patterns(30), 0)
    assert [[len(images) for images, _ in task] for task in tasks] == [[10, 10, 10]] * 2


def test_command_line_trains_saves_evaluates_and_starts_from_a_file(tmp_path: Path) -> None:
    first, second = str(tmp_path / "first"), str(tmp_path / "second")
    fields = {"data.name": "glyphs", "meta_iters": 2, "inner_iters": 3, "eval_iters": 2, "eval_samples": 3}
    command = ["-m", "reptile_torch_ref.train", "--config=configs/default.py"]
    command += [f"--config.{name}={value}" for name, value in fields.items()]
    result = run(*command, f"--weights={first}")
    assert result.returncode == 0, result.stderr
    assert [line.split(":")[0] for line in result.stdout.splitlines()] == ["training classes", "test classes"]
    assert weights.load(first).step_count == 6
    result = run(*command, f"--weights={second}", f"--init={first}", "--config.data.validation_classes=20")
    assert result.returncode == 0, result.stderr
    # While characters are held out for tuning, the test characters stay unseen.
    assert [line.split(":")[0] for line in result.stdout.splitlines()] == ["training classes", "validation classes"]
    assert weights.load(second).step_count == 12


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--config=configs/default.py --config.meta_itres=2", 'Did you mean "meta_iters" instead of "meta_itres"?'),
        ("--config=configs/default.py --config.clases=5", 'Did you mean "classes" instead of "clases"?'),
        ("--config=configs/gradient_combinations.py", "error: '' is no combination: give one of sum1"),
        ("--config=configs/default.py --config.data.nmae=x", "error: the config has no field 'nmae'"),
        ("--config=configs/default.py --config.data=x", "error: data=x is not possible: give a value of the kind"),
        ("--config=pyproject.toml", "error: --config cannot be loaded ("),
        ("--config=reptile_jax/results/omniglot_5way/config.json", "'false' is not defined): give configs/NAME.py"),
        ("--config=configs/default.py --wieghts=x", "Unknown command line flag 'wieghts'. Did you mean: weights"),
        ("--config=configs/default.py stray", "unexpected argument stray"),
        ("", "no config is given: give --config=configs/NAME.py"),
        ("--config=nowhere", "--config names no file: give configs/NAME.py"),
        ("--config=configs/default.py --config.num_seeds=2", "num_seeds=2: the reference trains one seed at a time"),
        ("--config=configs/default.py --config.model.name=mlp", 'model.name="mlp": choose omniglot or miniimagenet'),
    ],
)
def test_what_is_wrong_on_the_command_line_is_one_line(flags: str, message: str) -> None:
    result = run("-m", "reptile_torch_ref.train", *flags.split())
    assert result.returncode == 1 and result.stdout == ""
    assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1 and message in result.stderr


def test_output_in_ascii() -> None:
    """ASCII has no ±."""
    fields = {"data.name": "glyphs", "meta_iters": 1, "inner_iters": 1, "eval_iters": 1, "eval_samples": 2}
    overrides = [f"--config.{name}={value}" for name, value in fields.items()]
    command = ["-m", "reptile_torch_ref.train", "--config=configs/default.py", *overrides]
    result = run(*command, env=os.environ | {"PYTHONIOENCODING": "ascii"})
    assert result.returncode == 0, result.stderr
    assert result.stdout.isascii() and result.stdout.count(" ? ") == 4
