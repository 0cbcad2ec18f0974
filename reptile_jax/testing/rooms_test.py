"""Tests that sub-packages and modules import each other in one direction, as reptile_jax/README.md says."""

import ast
import re

import pytest

from reptile_jax.testing.small_runs import MAIN

PACKAGE = MAIN.parent / "reptile_jax"
BOTTOM = ("devices", "cores", "files", "figures", "progress")  # modules that all others may import
MAY_IMPORT: dict[str, set[str]] = {
    **{module: set() for module in BOTTOM},
    "config": {"data", "networks"},
    "data": set(),
    "networks": set(),
    "meta": {"data", "networks"},
    "tasks": {"data", "networks", "meta", "config"},
    "run": {"data", "networks", "meta", "tasks", "config"},
    "predict": {"data", "networks", "meta", "tasks", "config", "run"},
    "results": {"data", "networks", "meta", "tasks", "config", "run"},
    "demo": {"data", "networks", "meta", "tasks", "config", "run", "predict"},
}


def imported(file):
    """Returns the sub-packages and modules that a file imports from."""
    names = []
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom):
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
    found = {match[1] for name in names if (match := re.match(r"reptile_jax\.(\w+)", name or ""))}
    return found & (MAY_IMPORT.keys() | {"testing"})


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_imports_go_downwards(room):
    module = PACKAGE / f"{room}.py"
    files = [module] if module.exists() else [*(PACKAGE / room).rglob("*.py")]
    files = [file for file in files if not file.name.endswith("_test.py")]
    assert files
    for file in files:
        assert imported(file) <= MAY_IMPORT[room] | {*BOTTOM, room}, file


def test_an_import_upwards_is_found(tmp_path):
    file = tmp_path / "file.py"
    for text in ("from reptile_jax.run import train", "import reptile_jax.run.train", "from reptile_jax import run"):
        file.write_text(f"def f():\n    {text}\n")
        assert imported(file) == {"run"}


def test_every_room_is_listed():
    rooms = {folder.name for folder in PACKAGE.iterdir() if (folder / "__init__.py").exists()}
    modules = {file.stem for file in PACKAGE.glob("*.py") if not file.stem.endswith("_test")} - {"__init__"}
    assert rooms | modules == MAY_IMPORT.keys() | {"testing", "command_line", "process"}  # these two are main.py's
