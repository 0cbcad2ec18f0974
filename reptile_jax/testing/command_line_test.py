"""Tests that every error on the command line is one line with field, value and cure, and that nothing is written."""

import errno

import jax
import pytest

import reptile_jax.predict.folder
import reptile_jax.run.train
from reptile_jax.results import runs
from reptile_jax.testing.small_runs import MAIN, run, typed

LONG = 300 * "a"  # longer than a name of a file may be
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
    ("weight_decay=0.0", "weight_decay=0.0 is not possible: give a finite number above 0; 1 is off"),
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
    # values that do not exist
    ("data.name=mnist", "data.name='mnist' is not possible: give one of omniglot, glyphs"),
    ("inner_state=carried", "inner_state='carried' is not possible: give one of averaged, sequential, reset"),
    ("tasks_at_once=some", "tasks_at_once='some' is not possible: give one of auto, one, all"),
    ("convolution=fft", "convolution='fft' is not possible: give one of matmul, lax, auto"),
    # impossible combinations
    ("classes=151", "classes=151 exceeds the 150 test classes of glyphs: give fewer"),
    ("shots=20", "shots=20 and one query exceed the 20 examples of Glyphs/character001: give at most 19"),
    ("train_shots=21", "train_shots=21 exceeds the 20 examples of Glyphs/character001: give at most 20"),
    ("eval_shots=(1,20)", "eval_shots=20 and one query exceed the 20 examples of Glyphs/character001: give at most 19"),
    ("foml_tail=2", "foml_tail=2 has no meaning without first-order MAML: give foml=True or foml_tail=0"),
    ("foml_tail=10 foml=True", "foml_tail=10 leaves no examples of train_shots=10 for the other steps: give fewer"),
    ("replacement=True inner_batch=51", "inner_batch=51 exceeds the 50 examples of a training task"),
    ("replacement=True eval_batch=6", "eval_batch=6 exceeds the 5 examples of a 1-shot task"),
    ("data.validation_classes=350", "data.validation_classes=350 leaves none of the 350 training classes"),
    ("data.validation_classes=4", "classes=5 exceeds the 4 validation classes of glyphs: give fewer"),
    ("seed=2147483647 num_seeds=2", "num_seeds=2 from seed=2147483647 goes beyond 2147483647: give a smaller seed"),
    # wrong types and names
    ("classes=five", "classes=five is not possible: give a whole number"),
    ("sgd=perhaps", "sgd=perhaps is not possible: give true or false"),
    ("eval_shots=a", "eval_shots=('a',) is not possible: give shot counts"),
    ("eval_shots=(1,", "eval_shots=(1, is not possible: give whole numbers, such as (1,5)"),
    ("meta_iters=1.5", "meta_iters=1.5 is not possible: give a whole number"),
    ("clases=5", "the config has no field 'clases': did you mean classes? Its fields are those of configs/default.py"),
    ("data.folder=/tmp", "the config has no field 'data.folder': "),
    ("data.name.x=1", "the config has no field 'data.name.x': did you mean data.name?"),
    ("data=glyphs", "data.validation_classes: give one, as --config.data.name=VALUE"),
    # flags
    ("--mode=trian", "flag --mode=trian: value should be one of <train|eval|predict|demo|parity|benchmark>"),
    ("--wrokdir=x", "Unknown command line flag 'wrokdir'. Did you mean: workdir"),
    ("stray", "unexpected argument stray: flags are written --name=value"),
    ("--mode=eval --mode", "Missing value for flag --mode"),
    ("--num_processes=2", "num_processes=2 is for several processes: give --distributed"),
    ("--workdir=", "workdir= is empty: give a name or a path, or leave it out"),
    (f"--workdir={MAIN}", "main.py is a file: give the name of a folder"),
    (f"--workdir={LONG}", f"workdir={LONG} is not possible (File name too long): give another path"),
    (f"--pretrained={LONG}", f"pretrained={LONG} is not possible (File name too long): give another path"),
    (f"--mode=eval --workdir={LONG}", f"workdir={LONG} is not possible (File name too long): give another path"),
    ("--cpu_devices=257", "flag --cpu_devices=257: 257 is not an integer in the range [1, 256]"),
    ("--pretrained=", "pretrained= is empty: give a name or a path, or leave it out"),
    ("--config=default", "--config is given twice: give it once"),
    (
        "--mode=parity --pretrained=omniglot_5way",
        "mode=parity does not use pretrained, which is for train, eval, predict and demo",
    ),
    ("--mode=benchmark --distributed", "mode=benchmark does not use distributed, which is for train and eval"),
    ("--flagfile=nowhere", "Unable to open flagfile"),
    (f"--flagfile={runs.RESULTS / 'omniglot_5way' / 'weights.safetensors'}", "flagfile= is not a text file"),
    ("--mode=eval", "runs/quickstart holds no checkpoint: name a workdir"),
    ("--mode=eval --workdir=omniglot_5way", "omniglot_5way holds no checkpoint: name a workdir"),
    ("--pretrained=~nobody-here", "~nobody-here holds no checkpoint: name a workdir"),
    ("--pretrained=nowhere", "nowhere holds no checkpoint: name a workdir"),
    (
        "--pretrained=omniglot_5wya",
        f"weights file, or what is shipped ({', '.join(sorted(runs.WITH_WEIGHTS))}); did you mean omniglot_5way?",
    ),
]


@pytest.mark.parametrize(("given", "message"), TABLE, ids=[given for given, _ in TABLE])
def test_one_line_and_nothing_written(tmp_path, given, message):
    arguments = [word if word.startswith("--") or "=" not in word else f"--config.{word}" for word in given.split()]
    refused(typed("--config=quickstart", *arguments, cwd=tmp_path), message)
    assert not list(tmp_path.iterdir())


def refused(failed, message):
    assert failed.returncode == 1 and failed.stdout == ""
    assert failed.stderr.startswith("error: ") and failed.stderr.count("\n") == 1, failed.stderr
    assert message in failed.stderr and "Traceback" not in failed.stderr


WITHOUT_A_CONFIG = [
    ("--config=", "config= is empty"),
    ("--config", "Missing value for flag --config"),
    (f"--config={LONG}", f"config={LONG} is not possible (File name too long): give another path"),
    (
        f"--mode=predict --pretrained=omniglot_5way --support=a --queries=b --queries={LONG}",
        f"queries={LONG} is not possible (File name too long)",
    ),
    ("--config=quikstart", "config=quikstart is neither a file nor a config: did you mean quickstart?"),
    ("--config=omniglot_fast", "a config: did you mean omniglot_fast_20way or omniglot_fast_5way?"),
    ("--config=omniglot_5way", "config=omniglot_5way names trained weights: give --pretrained=omniglot_5way to use"),
    (f"--config={runs.RESULTS / 'omniglot_fast_5way' / 'config.json'}:1", "config.json:1 is not a Python file"),
    ("quickstart", "unexpected argument quickstart: did you mean --config=quickstart?"),
    ("help --config.classes=5", "unexpected argument help: flags are written --name=value"),
    ("--helpp", "Unknown command line flag 'helpp': --help lists the flags"),
    ("--mode=eval --workdir=x", "workdir=x holds neither a run nor an evaluation: give --pretrained=WEIGHTS"),
    (
        "--config=nowhere.py",
        "config=nowhere.py is neither a file nor a config: give PATH.py, or a name that --help lists",
    ),
    ("--config=~nobody-here/x.py", "config=~nobody-here/x.py is neither a file nor a config"),
    ("--config=quickstart:5", "config=quickstart:5 takes no argument: leave out the colon and what follows it"),
    ("--config=gradient_combinations", "give one of sum1, sum2, mean2, last2"),
    ("--config.classes=5", "no config is given: give --config=NAME, such as --config=quickstart"),
    ("--mode=train --pretrained=omniglot_5way", "no config is given: give --config=NAME"),
    ("--mode=eval", "mode=eval has nothing to evaluate: give --pretrained=WEIGHTS, or --workdir=DIR of a run"),
    ("--wrokdir=x", "Unknown command line flag 'wrokdir'. Did you mean: workdir"),
    ("--mode=eval --pretrained=omniglot_5wya", "omniglot_5wya holds no checkpoint: name a workdir that was trained in"),
    (f"--mode=eval --pretrained={MAIN}", "main.py holds no checkpoint: name a workdir that was trained in"),
    ("--mode=eval --pretrained=nowhere.safetensors", "nowhere.safetensors cannot be read as a safetensors file"),
]


@pytest.mark.parametrize(("given", "message"), WITHOUT_A_CONFIG, ids=[given for given, _ in WITHOUT_A_CONFIG])
def test_what_is_missing_is_said(tmp_path, given, message):
    refused(typed(*given.split(), cwd=tmp_path), message)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("given", ["", "--help", "--config=quickstart --config.classes=1", "--mode=eval --workdir=x"])
def test_in_this_process_is_as_in_a_process_of_its_own(tmp_path, given):
    started, here = run(*given.split(), config=None, cwd=tmp_path), typed(*given.split(), cwd=tmp_path)
    assert (started.returncode, started.stdout, started.stderr) == (here.returncode, here.stdout, here.stderr)
    assert not list(tmp_path.iterdir())


def test_nothing_typed_says_what_to_type(tmp_path):
    failed = typed(cwd=tmp_path)
    assert failed.returncode == 1 and failed.stderr.count("\n") < 10
    for shown in (
        "--config=quickstart trains",
        "--config=omniglot_fast_5way trains",
        "--config=omniglot_5shot_5way is the published 5-way run",
        "--mode=eval --pretrained=omniglot_5way evaluates",
        "--help lists every",
    ):
        assert f"python main.py {shown}" in " ".join(failed.stderr.split())


@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help_lists_modes_configs_and_flags_as_their_files_say(tmp_path, flag):
    shown = typed("--config=quickstart", flag, cwd=tmp_path)
    assert shown.returncode == 0 and shown.stderr == ""
    lines = [line.split() for line in shown.stdout.splitlines()]
    listed = {words[0]: " ".join(words[1:]) for words in lines if words}
    files = {file.stem: file for file in (MAIN.parent / "configs").glob("*.py")}
    for name, file in files.items():
        first = file.read_text().split('"""')[1].split("\n")[0]
        assert listed["gradient_combinations:NAME" if name == "gradient_combinations" else name] == first
    for mode in ("train", "eval", "parity", "benchmark"):
        assert len(listed[mode].split()) > 3
    for name in ("config", "mode", "workdir", "pretrained", "distributed", "num_processes"):
        assert len(listed[f"--{name}"].split()) > 3


SAME_CONFIG = ["quickstart", "quickstart.py", "configs/quickstart.py", str(MAIN.parent / "configs" / "quickstart.py")]


@pytest.mark.parametrize("named", SAME_CONFIG)
def test_a_config_by_its_bare_name_and_from_another_folder(tmp_path, named):
    """The config's own fields are loaded, because the error depends on one of them."""
    refused(typed(f"--config={named}", "--config.eval_shots=(20,)", cwd=tmp_path), "eval_shots=20 and one query exceed")
    (tmp_path / "quickstart").mkdir()  # a folder of that name is not a config
    refused(typed(f"--config={named}", "--config.classes=151", cwd=tmp_path), "150 test classes of glyphs")


def test_a_config_of_ones_own_by_a_relative_path(tmp_path):
    own = tmp_path / "own.py"
    own.write_text("from configs import quickstart\ndef get_config():\n return quickstart.get_config()\n")
    (tmp_path / "elsewhere").mkdir()
    for named, folder in (("own.py", tmp_path), ("../own.py", tmp_path / "elsewhere"), (str(own), tmp_path)):
        refused(typed(f"--config={named}", "--config.classes=151", cwd=folder), "150 test classes of glyphs")


def test_the_config_of_a_run(tmp_path):
    """Flags before and after it apply, too; false, true and lists are in JSON."""
    file = runs.RESULTS / "omniglot_5way" / "config.json"
    for given in ([f"--config={file}", "--config.classes=424"], ["--config.classes=424", f"--config={file}"]):
        refused(typed(*given, cwd=tmp_path), "classes=424 exceeds the 423 test classes of omniglot")
    (tmp_path / "config.json").write_text(file.read_text()[:100])
    refused(typed("--config=config.json", cwd=tmp_path), "config.json has no config of a run")


FILES = {
    "def get_config(": "cannot be loaded (SyntaxError: '(' was never closed (own.py, line 1)): correct",
    "import nowhere": "cannot be loaded (ModuleNotFoundError: No module named 'nowhere'): correct",
    "x = 1": "has no function get_config: write one like those in configs/",
    "def get_config(): return 5": "get_config returns 5: return configs/default.py's config with your changes",
    "def get_config(name): pass": "takes an argument: give --config=",
    "from ml_collections import ConfigDict as C\ndef get_config(): return C()": "is missing: begin with configs",
    "from configs import default as d\ndef get_config():\n c = d.get_config()\n c.x = 0\n return c": "x is not a field",
    "from configs import default as d\ndef get_config():\n c = d.get_config()\n del c.eval_shots\n c.eval_shots = 5\n"
    " return c": "eval_shots=5 is not possible: give shot counts of at least 1, such as (1, 5)",
    "def get_config(): raise ValueError('these are its words')": "own.py: these are its words",
}


@pytest.mark.parametrize("content", FILES)
def test_a_config_file_that_is_none(tmp_path, content):
    """The error is one line, not a traceback."""
    (tmp_path / "own.py").write_text(content)
    refused(typed(f"--config={tmp_path / 'own.py'}", cwd=tmp_path), FILES[content])
    assert {path.name for path in tmp_path.iterdir()} <= {"own.py", "__pycache__"}


def test_a_saved_config_that_is_none(tmp_path):
    workdir = tmp_path / "run"
    absent = "no config is given, and there is no run/config.json: give --config=NAME"
    refused(typed("--workdir", "run", cwd=tmp_path), absent)
    workdir.mkdir()
    for content in ("", "[]", "{}", '{"eval_shots": 5}', '{"eval_shots": [1], "data": 5}'):
        (workdir / "config.json").write_text(content)
        refused(typed("--workdir", "run", cwd=tmp_path), "run has no config of a run")


@pytest.mark.parametrize(
    ("given", "advice"),
    [
        (
            "--config.tasks_at_once=all",
            "tasks_at_once=one, or a smaller inner_batch, meta_batch, eval_batch, shots, num_seeds",
        ),
        ("--config.tasks_at_once=one", "a smaller inner_batch, eval_batch, shots, num_seeds or classes"),
        ("--mode=eval --config.tasks_at_once=one", "a smaller eval_batch, shots, num_seeds or classes"),
        ("--mode=predict --pretrained=omniglot_5way --support=a --queries=b", "fewer classes or images in support, or"),
    ],
)
def test_too_little_memory_is_blamed_on_what_takes_it(tmp_path, monkeypatch, given, advice):
    def exhausted(*_, **__):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 1 byte.\nand more")

    monkeypatch.setattr(reptile_jax.run.train, "mesh_of", exhausted)
    monkeypatch.setattr(reptile_jax.predict.folder, "predict", exhausted)
    needed = given.split() if given.startswith("--mode=predict") else ["--config=quickstart", *given.split()]
    refused(
        typed(*needed, cwd=tmp_path),
        f"does not fit into the memory (RESOURCE_EXHAUSTED: Out of memory allocating 1 byte.): give {advice}",
    )


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("else/file", "No space left on device: else/file: make room and give access there"),
        ("e/file", "workdir=e: No space left on device: e/file: make room and write access there, or name another"),
        ("e", "workdir=e: No space left on device: e: make room and write access there, or name another workdir"),
    ],
)
def test_a_full_disk_is_blamed_on_the_folder_that_is_full(tmp_path, monkeypatch, file, message):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device", file)

    monkeypatch.setattr(reptile_jax.run.train, "mesh_of", full)
    refused(typed("--config=quickstart", "--workdir=e", cwd=tmp_path), message)
