"""What is wrong on the command line is one line that names field, value and cure; nothing is written."""

import pytest

from reptile_jax.testing.small_runs import run

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
    ("meta_step=1e39", "meta_step=1e+39 is not possible: give a finite number"),
    ("seed=99999999999", "seed=99999999999 is not possible: give a whole number from 0 to 2147483647"),
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
    ("data.folder=/tmp", "the config has no field 'folder': its fields are those of configs/default.py"),
    ("data.name.x=1", "indices must be integers"),
    # flags
    ("--mode=trian", "flag --mode=trian: value should be one of <train|eval|parity|benchmark>"),
    ("--wrokdir=x", "Unknown command line flag 'wrokdir'. Did you mean: workdir"),
    ("stray", "unexpected argument stray: flags are written --name=value"),
    ("--config=nowhere.py", "config=nowhere.py is no file: give configs/NAME.py"),
    ("--num_processes=2", "num_processes=2 is for several processes: give --distributed"),
    ("--workdir=", "workdir= names nothing: give a path, or leave it out"),
    ("--pretrained=", "pretrained= names nothing: give a path, or leave it out"),
    ("--flagfile=nowhere", "Unable to open flagfile"),
    ("--mode=eval", "runs/quickstart holds no checkpoint: name a workdir"),
    ("--mode=eval --workdir=omniglot_5way", "omniglot_5way holds no checkpoint: name a workdir"),
    ("--pretrained=nowhere", "nowhere holds no checkpoint: name a workdir"),
    ("--pretrained=omniglot_5wya", "weights file, or what is shipped (omniglot_20way, omniglot_5way)"),
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


FILES = {
    "def get_config(": "(SyntaxError: '(' was never closed): give configs/NAME.py",
    "import nowhere": "(ModuleNotFoundError: No module named 'nowhere'): give configs/NAME.py",
    "x = 1": "has no attribute 'get_config'): give configs/NAME.py",
    "def get_config(): return 5": "the config is 5: give a ConfigDict of configs/default.py",
    "from ml_collections import ConfigDict as C\ndef get_config(): return C()": "is missing: begin with configs",
    "from configs import default as d\ndef get_config():\n c = d.get_config()\n c.x = 0\n return c": "x is no field:",
    "def get_config(): raise ValueError('these are its words')": "ValueError: these are its words",
}


@pytest.mark.parametrize("content", FILES)
def test_a_config_file_that_is_none(tmp_path, content):
    """What is wrong in one line, not a traceback."""
    (tmp_path / "own.py").write_text(content)
    failed = run(f"--config={tmp_path / 'own.py'}", config=None, cwd=tmp_path)
    assert failed.returncode == 1 and failed.stderr.startswith("error: ") and failed.stderr.count("\n") == 1
    assert "Traceback" not in failed.stderr and FILES[content] in failed.stderr
    assert {path.name for path in tmp_path.iterdir()} <= {"own.py", "__pycache__"}


def test_a_saved_config_that_is_none(tmp_path):
    workdir = tmp_path / "run"
    absent = run("--workdir", "run", config=None, cwd=tmp_path)
    assert absent.returncode == 1 and "give configs/NAME.py, for there is no run/config.json" in absent.stderr
    workdir.mkdir()
    for content in ("", "[]", "{}", '{"eval_shots": 5}', '{"eval_shots": [1], "data": 5}'):
        (workdir / "config.json").write_text(content)
        failed = run("--workdir", "run", config=None, cwd=tmp_path)
        assert failed.returncode == 1 and failed.stderr.count("\n") == 1 and "Traceback" not in failed.stderr
        assert "run has no config of a run" in failed.stderr and "give --config=" in failed.stderr
