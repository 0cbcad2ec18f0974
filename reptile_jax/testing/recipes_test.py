"""Follows the recipes of reptile_jax/README.md exactly, in a copy of the program."""

import json
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest

from reptile_jax.data import glyphs
from reptile_jax.testing.small_runs import MAIN, SMALL

README = (MAIN.parent / "reptile_jax" / "README.md").read_text()
BLOCK = re.compile(r"<!-- (file|line): (\S+) -->\n```python\n(.*?)```", re.DOTALL)


@pytest.fixture
def copy(tmp_path):
    """Copies the program without tests and results."""
    ignored = shutil.ignore_patterns("*_test.py", "results", "older_run", "__pycache__")
    for folder in ("reptile_jax", "configs"):
        shutil.copytree(MAIN.parent / folder, tmp_path / folder, ignore=ignored)
    shutil.copy(MAIN, tmp_path)
    return tmp_path


def follow(copy, section):
    """Writes the files of a section, and adds its import and its line to the module of the dictionary."""
    blocks = BLOCK.findall(README.partition(f"## {section}\n")[2].partition("\n## ")[0])
    assert [kind for kind, *_ in blocks] == ["file", "line", "file"]
    for kind, name, text in blocks:
        path = copy / name
        if kind == "file":
            assert not path.exists()
            path.write_text(text)
        else:
            imported, line = text.split("\n\n")
            assert imported.startswith("from ") and line.count("\n") == 1
            before = path.read_text()
            after = re.sub(r"(?m)^((?:DATA_SETS|NETWORKS)[^\n]* = \{\n)", rf"\1{line}", before)
            assert after.count("\n") == before.count("\n") + 1
            path.write_text(re.sub(r"(?m)^from ", f"{imported}\nfrom ", after, count=1))


def run(copy, *flags):
    fields = [f"--config.{name}={value}" for name, value in (SMALL | {"meta_iters": 10}).items()]
    command = [sys.executable, "main.py", *flags, *fields, "--workdir=run"]
    return subprocess.run(command, cwd=copy, capture_output=True, text=True, timeout=600)


def test_a_data_set_is_a_file_a_line_and_a_config(copy):
    characters = glyphs.load()
    np.savez(copy / "mine.npz", images=characters.images[:40], names=np.array(characters.names[:40]))
    unknown = run(copy, "--config=my_drawings", "--config.data.dir=mine.npz")
    assert unknown.returncode != 0 and "my_drawings" in unknown.stderr
    follow(copy, "Add a data set")
    done = run(copy, "--config=my_drawings", "--config.data.dir=mine.npz")
    assert done.returncode == 0, done.stderr
    assert json.loads((copy / "run" / "results.json").read_text())["data"] == "my drawings"


def test_a_network_is_a_file_a_line_and_a_config(copy):
    follow(copy, "Add a network")
    done = run(copy, "--config=two_layers")
    assert done.returncode == 0, done.stderr
    assert json.loads((copy / "run" / "config.json").read_text())["model"]["name"] == "two_layers"
