"""Types every command that the READMEs, the configs and the modules show, and every beginning of each command.

A command that ends in an error runs as it is. A command that works is stopped where its work begins, before it reads
data.
"""

import ast
import contextlib
import re
import shlex
from unittest import mock

import pytest

import parity_tests.benchmark
import parity_tests.report
import reptile_jax.demo.server
import reptile_jax.results.tables
import reptile_jax.run.train
from reptile_jax import command_line
from reptile_jax.testing.readmes import readmes
from reptile_jax.testing.small_runs import MAIN, run_module, typed

ROOT = MAIN.parent
PROGRAM = re.compile(r"main\.py(?! [a-z])|-m (?:reptile_jax|reptile_torch_ref|parity_tests)[\w.]*")
UNTYPED = {  # commands that would work for minutes or write into the project
    ("-m", "reptile_jax.testing.soak", "FOLDER"),
    ("-m", "reptile_jax.testing.tour"),
}
INSIDES = re.compile(
    r"Traceback|zip\(|\b[A-Z]\w*(?:Error|Exception)\b|<class|object at 0x|site-packages|config_config|"
    r"(?:reptile_jax|reptile_torch_ref|parity_tests)/[\w/]*\.py|None\b"
)


class Begun(BaseException):
    """The command is correct, and its work begins."""


def docstrings(file):
    nodes = ast.walk(ast.parse(file.read_text()))
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    return "\n\n".join(ast.get_docstring(node) or "" for node in nodes if isinstance(node, documented))


def texts():
    """Yields each text that shows commands, with the place where it stands."""
    yield from readmes().items()
    for file in ROOT.glob("*/**/*.py"):
        if not file.name.endswith("_test.py") and file.relative_to(ROOT).parts[0] in (
            "configs", "reptile_jax", "reptile_torch_ref", "parity_tests"
        ):  # fmt: skip
            yield str(file.relative_to(ROOT)), docstrings(file)
    yield "main.py", docstrings(MAIN)
    yield "first steps", command_line._first_steps("python main.py").replace("  ", "\n")


def commands_in(text):
    """Yields the commands of a text, as words after "python"; a command in quotes may span several lines."""
    text = re.sub(r"(?m)^```.*\n", "", text.replace("\\\n", " "))
    quoted = re.findall(r"`([^`]+)`", text)
    for line in [*(" ".join(span.split()) for span in quoted), *re.sub(r"`[^`]+`", "", text).split("\n")]:
        if match := PROGRAM.search(line):
            command = re.split(r"\s#|;|\"$|\.$|: ", line[match.start() :])[0]
            yield tuple(shlex.split(command))


def shown():
    """Returns every command that is shown, both with and without the brackets around its optional parts."""
    found = {command for _, text in texts() for command in commands_in(text)}
    meant = {tuple(word.strip("[]") for word in command if word.strip("[].")) for command in found}
    return sorted(found | meant)


SHOWN = shown()
BEGINNINGS = sorted({command[:n] for command in SHOWN for n in range(1 + (command[0] == "-m"), len(command) + 1)})


@contextlib.contextmanager
def stopped_where_work_begins():
    def begin(*_, **__):
        raise Begun

    places = [
        (reptile_jax.run.train, "initial_states"), (reptile_jax.run.train, "kind_of"),
        (parity_tests.report, "_small"), (parity_tests.benchmark, "run"), (reptile_jax.results.tables, "draw"),
        (reptile_jax.demo.server, "bound"),
    ]  # fmt: skip
    with contextlib.ExitStack() as stack:
        for module, name in places:
            stack.enter_context(mock.patch.object(module, name, begin))
        stack.enter_context(mock.patch("jax.distributed.initialize", begin))
        yield


def outcome(command, cwd):
    """Returns what a command prints, or "begun" if it is correct."""
    if command[:2] == ("-m", "reptile_torch_ref.train"):  # whose flags can be defined only once in a process
        return run_module(*command[1:], cwd=cwd)
    with stopped_where_work_begins():
        try:
            return typed(*(command if command[0] == "-m" else command[1:]), cwd=cwd)
        except Begun:
            return "begun"


def test_the_commands_are_found():
    by_place = {place: set(commands_in(text)) for place, text in texts()}
    assert ("main.py", "--mode=eval", "--pretrained=omniglot_5way") in by_place["README.md"]
    assert ("main.py", "--config=configs/sinusoid_relu.py") in by_place["reptile_jax/results/README.md"]
    assert ("main.py", "--mode=parity", "[--config=NAME]") in by_place["parity_tests/README.md"]
    assert len([place for place in by_place if place.endswith("README.md")]) == len(readmes())
    assert ("main.py", "--config=quickstart") in by_place["first steps"]
    assert ("-m", "reptile_jax.run.pretrained", "WORKDIR", "FILE", "[SEED]") in by_place[
        "reptile_jax/run/pretrained.py"
    ]
    for file in (ROOT / "configs").glob("[!_]*.py"):
        assert any(file.name in word for words in by_place[f"configs/{file.name}"] for word in words), file
    several = next(words for words in by_place["reptile_jax/run/README.md"] if "--process_id=0" in words)
    assert several[-1] == "--workdir=SHARED/run"  # on the line after the backslash


def test_no_beginning_of_a_command_ends_in_the_insides_of_the_program(tmp_path):
    said, begun = {}, set()
    for command in BEGINNINGS:
        if command in UNTYPED:
            continue
        done = outcome(command, tmp_path)
        if done == "begun":
            begun.add(command)
            continue
        text = done.stdout + done.stderr
        assert not INSIDES.search(text), (command, text)
        assert done.returncode == (0 if "--help" in command else 1) or "usage:" in text, (command, text)
        said[command] = text
    assert not list(tmp_path.iterdir())
    assert ("main.py", "--config=configs/quickstart.py") in begun and len(begun) > 20
    assert said[("main.py",)].startswith("Type one of these:")
    for command, text in said.items():
        if len(command) > 1:
            assert text.startswith(("error: ", "usage: ", "python main.py")), (command, text)


@pytest.mark.parametrize(
    "command",
    ["--config=quickstart --config.eval_samples=500", "--mode=eval --pretrained=omniglot_5way --workdir=runs/mine"],
)
def test_nor_what_is_typed_by_halves(tmp_path, command):
    for end in range(len(command)):
        done = outcome(("main.py", *shlex.split(command[:end])), tmp_path)
        assert done == "begun" or (done.returncode == 1 and not INSIDES.search(done.stderr)), (command[:end], done)
    assert not list(tmp_path.iterdir())


def test_the_check_can_fail():
    for inside in ("error: zip() argument 2 is longer", "ValueError: x", 'File "/a/reptile_jax/run/train.py", line 1'):
        assert INSIDES.search(inside)
