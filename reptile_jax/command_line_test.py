"""What is wrong on the command line is one line that names field, value and cure; nothing is written."""

import pytest

from reptile_jax.program_test import MAIN, run

TABLE = [
    # fields out of range
    ("classes=1", "classes=1 is not possible: give"),
    ("classes=-5", "classes=-5 is not possible: give"),
    ("shots=0", "shots=0 is not possible: give"),
    ("train_shots=-1", "train_shots=-1 is not possible: give"),
    ("inner_batch=0", "inner_batch=0 is not possible: give"),
    ("inner_iters=0", "inner_iters=0 is not possible: give"),
    ("learning_rate=0.0", "learning_rate=0.0 is not possible: give"),
    ("learning_rate=nan", "learning_rate=nan is not possible: give"),
    ("learning_rate=-1e-3", "learning_rate=-0.001 is not possible: give"),
    ("weight_decay=0.0", "weight_decay=0.0 is not possible: give"),
    ("meta_batch=0", "meta_batch=0 is not possible: give"),
    ("meta_iters=0", "meta_iters=0 is not possible: give"),
    ("meta_step=inf", "meta_step=inf is not possible: give"),
    ("meta_step_final=-0.1", "meta_step_final=-0.1 is not possible: give"),
    ("foml_tail=-1", "foml_tail=-1 is not possible: give"),
    ("eval_batch=0", "eval_batch=0 is not possible: give"),
    ("eval_iters=0", "eval_iters=0 is not possible: give"),
    ("eval_samples=1", "eval_samples=1 is not possible: give"),
    ("eval_interval=0", "eval_interval=0 is not possible: give"),
    ("eval_seed=2147483648", "eval_seed=2147483648 is not possible: give"),
    ("eval_shots=(0,5)", "eval_shots=(0, 5) is not possible: give"),
    ("checkpoint_interval=0", "checkpoint_interval=0 is not possible: give"),
    ("seed=-1", "seed=-1 is not possible: give"),
    ("num_seeds=0", "num_seeds=0 is not possible: give"),
    ("data.validation_classes=-1", "data.validation_classes=-1 is not possible: give"),
    # values that are none of those there are
    ("data.name=mnist", "data.name='mnist' is not possible: give one of omniglot, glyphs"),
    ("inner_state=carried", "inner_state='carried' is not possible: give one of averaged, sequential, reset"),
    ("tasks_at_once=some", "tasks_at_once='some' is not possible: give one of auto, one, all"),
    ("convolution=fft", "convolution='fft' is not possible: give one of matmul, lax"),
    # impossible combinations
    ("classes=151", "classes=151 exceeds the 150 test characters of glyphs: give less"),
    ("shots=20", "shots=20 and one query exceed the 20 drawings of a character: give at most 19"),
    ("train_shots=21", "train_shots=21 exceeds the 20 drawings of a character: give at most 20"),
    ("eval_shots=(1,20)", "eval_shots=20 and one query exceed the 20 drawings of a character: give at most 19"),
    ("foml_tail=2", "foml_tail=2 has no meaning without first-order MAML: give foml=True or foml_tail=0"),
    ("foml_tail=10 foml=True", "foml_tail=10 leaves no drawings of train_shots=10 for the other steps: give less"),
    ("replacement=True inner_batch=51", "inner_batch=51 exceeds the 50 drawings of a training task"),
    ("replacement=True eval_batch=6", "eval_batch=6 exceeds the 5 drawings of a 1-shot task"),
    ("data.validation_classes=350", "data.validation_classes=350 leaves none of the 350 training characters"),
    ("data.validation_classes=4", "classes=5 exceeds the 4 validation characters of glyphs: give less"),
    ("seed=2147483647 num_seeds=2", "num_seeds=2 from seed=2147483647 on go beyond 2147483647: give a smaller seed"),
    # wrong types and names
    ("classes=five", "flag --config.classes=five"),
    ("sgd=perhaps", "flag --config.sgd=perhaps"),
    ("eval_shots=a", "eval_shots=('a',) is not possible: give shot counts"),
    ("meta_iters=1.5", "flag --config.meta_iters=1.5"),
    ("clases=5", 'Did you mean "classes" instead of "clases"?'),
    ("data.folder=/tmp", "folder"),
    # flags
    ("--mode=trian", "flag --mode=trian: value should be one of <train|eval|parity|benchmark>"),
    ("--wrokdir=x", "Unknown command line flag 'wrokdir'. Did you mean: workdir"),
    ("stray", "unexpected argument stray: flags are written --name=value"),
    ("--config=nowhere.py", "config=nowhere.py is no file: give configs/NAME.py"),
    ("--num_processes=2", "num_processes=2 is for several processes: give --distributed"),
    ("--mode=eval", "runs/quickstart holds no checkpoint: name a workdir"),
    ("--pretrained=nowhere", "nowhere holds no checkpoint: name a workdir"),
]


@pytest.mark.parametrize(("given", "message"), TABLE, ids=[given for given, _ in TABLE])
def test_one_line_and_nothing_written(tmp_path, given, message):
    arguments = [word if word.startswith("--") or "=" not in word else f"--config.{word}" for word in given.split()]
    failed = run(*arguments, cwd=tmp_path)
    assert failed.returncode == 1 and failed.stdout == ""
    assert failed.stderr.startswith("error: ") and failed.stderr.count("\n") == 1, failed.stderr
    assert message in failed.stderr
    assert not list(tmp_path.iterdir())


def test_no_config(tmp_path):
    failed = run("--config=", cwd=tmp_path)
    assert (
        failed.returncode == 1 and failed.stderr.startswith("error: config= is no file") and not [*tmp_path.iterdir()]
    )


def test_a_config_that_fails(tmp_path):
    """Its own words in one line, not a traceback."""
    failed = run(f"--config={MAIN.parent / 'configs' / 'gradient_combinations.py'}:sum9", cwd=tmp_path)
    assert failed.returncode == 1 and failed.stderr.count("\n") == 1 and "Traceback" not in failed.stderr
    assert "ValueError: 'sum9' is no combination: give one of sum1, sum2" in failed.stderr and not [*tmp_path.iterdir()]
