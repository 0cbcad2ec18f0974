"""Tests the wheel: builds it, installs it in a separate environment and uses it there."""

import ast
import email
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from importlib.metadata import packages_distributions

import pytest

from reptile_jax.testing.small_runs import MAIN, SMALL

ROOT = MAIN.parent
PARTS = ("main.py", "setup.py", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE", "configs", "reptile_jax")


def quietly(*command, cwd, **options):
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=600, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    source = tmp_path_factory.mktemp("source")
    for name in PARTS:  # a copy, because building leaves files
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, source / name)
    pip = (sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation")
    quietly(*pip, "--wheel-dir=made", ".", cwd=source)
    (made,) = (source / "made").glob("*.whl")
    return made


@pytest.fixture(scope="module")
def scripts(wheel, tmp_path_factory):
    """Returns the folder of programs of an environment with the wheel, which gets its dependencies from this one."""
    folder = tmp_path_factory.mktemp("environment")
    quietly(sys.executable, "-m", "venv", "--without-pip", "env", cwd=folder)
    python = folder / "env" / "bin" / "python"
    install = (sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", "--no-index")
    quietly(*install, wheel, cwd=folder)
    (site,) = (folder / "env" / "lib").glob("python*/site-packages")
    (site / "needed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python.parent


def test_it_holds_what_runs_and_no_tests(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    assert not [name for name in names if "_test.py" in name or "/testing/" in name]
    assert {name.split("/")[0].split("-")[0] for name in names} == {"reptile_jax"}  # and its metadata
    for file in (ROOT / "configs").glob("[!_]*.py"):
        assert f"reptile_jax/configs/{file.name}" in names
    for needed in (
        "reptile_jax/main.py",
        "reptile_jax/results/omniglot_5way/weights.safetensors",
        "reptile_jax/demo/static/page.js",
    ):
        assert needed in names
    assert not {"reptile_jax/results/tables.py", "reptile_jax/results/__main__.py"} & names


def imports_of(tree):
    """Yields the top-level packages that a module imports, anywhere in it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module.split(".")[0]


def test_what_it_imports_is_what_it_requires(wheel):
    """The environment of the other tests has more packages than the wheel asks for, so that they cannot show this."""
    normal = lambda name: re.sub("[-_.]+", "-", name).lower()  # noqa: E731
    with zipfile.ZipFile(wheel) as opened:
        (metadata,) = (opened.read(name) for name in opened.namelist() if name.endswith(".dist-info/METADATA"))
        trees = [ast.parse(opened.read(name)) for name in opened.namelist() if name.endswith(".py")]
    lines = email.message_from_bytes(metadata).get_all("Requires-Dist")
    lines = [line for line in lines if "extra ==" not in line or re.search("extra == .demo", line)]
    required = {normal(re.match(r"[\w.-]+", line)[0]) for line in lines}
    own = {"reptile_jax", "configs", "parity_tests"}  # the last is in a checkout only, as main.py says
    imported = {name for tree in trees for name in imports_of(tree)} - own - sys.stdlib_module_names
    packages = packages_distributions()
    assert {name for name in imported if not required & set(map(normal, packages[name]))} == set()
    assert {"jax", "PIL", "starlette", "tensorflow_datasets"} <= imported
    assert "pytest" in packages and "pytest" not in required  # a package that would be found missing


def test_the_command_is_the_program(scripts, tmp_path):
    command = scripts / "reptile-jax"
    nothing = subprocess.run([command], cwd=tmp_path, capture_output=True, text=True)
    assert nothing.returncode == 1 and "  reptile-jax --config=quickstart " in nothing.stderr
    assert "omniglot_5shot_5way " in quietly(command, "--help", cwd=tmp_path)
    (tmp_path / "own.py").write_text(
        "from configs import quickstart\ndef get_config():\n return quickstart.get_config()\n"
    )
    fields = [f"--config.{name}={value}" for name, value in (SMALL | {"meta_iters": 4}).items()]
    shown = [quietly(command, f"--config={named}", *fields, cwd=tmp_path) for named in ("quickstart", "own.py")]
    assert shown[0] == shown[1] and "3-way, after 4 meta-iterations" in shown[0]
    assert (tmp_path / "runs" / "quickstart" / "results.json").exists()
    assert quietly(command, "--mode=eval", "--workdir=runs/own", cwd=tmp_path) == shown[0]


def test_the_package_is_the_library(scripts, tmp_path):
    code = "import reptile_jax; print(reptile_jax.__file__, reptile_jax.Learner('omniglot_5way').classes)"
    file, classes = quietly(scripts / "python", "-c", code, cwd=tmp_path).split()
    assert file.startswith(str(scripts.parent)) and classes == "5"
