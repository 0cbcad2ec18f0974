"""Tests `main.py --mode=parity` as a person runs it, and that it fails if something is wrong."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from configs import images
from parity_tests import ladder, report
from parity_tests.cases import BASE, config_of
from reptile_jax.config import ConfigError
from reptile_jax.testing.small_images import members, write_folder
from reptile_torch_ref import model

MAIN = Path(__file__).parent.parent / "main.py"


def test_the_table_and_parity_json(tmp_path):
    config = config_of(BASE)  # other tests compile the same programs
    names = ("shots", "train_shots", "inner_batch", "inner_iters", "meta_batch", "eval_iters")
    fields = [f"--config.{name}={config[name]}" for name in names]
    command = [sys.executable, MAIN, f"--config={MAIN.parent / 'configs' / 'quickstart.py'}", "--mode=parity", *fields]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "runs" / "quickstart" / "parity.json").read_text())
    assert [row["verdict"] for row in results["rungs"]] == ["agrees"] * len(ladder.RUNGS)
    lines = done.stdout.splitlines()
    assert len(lines) == 2 + len(ladder.RUNGS)
    for line, rung in zip(lines[2:], ladder.RUNGS, strict=True):
        assert line.startswith(f"{rung.name} ") and rung.precision in line and line.endswith("agrees")


def photographs(folder, **fields):
    """Returns the config `images` on a folder of small images of eleven classes."""
    write_folder(folder, members({f"class{i:02d}": 21 for i in range(11)}))
    config = images.get_config()
    config.data.dir = str(folder)
    config.update_from_flattened_dict({"data.size": 20, "data.train_classes": 6, "model.filters": 8} | fields)
    return config


def test_a_folder_of_images(tmp_path, monkeypatch):
    """The tasks have as many images of a class as the config says."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    rungs = [r for r in ladder.RUNGS if r.precision == "float64" and r.name in ("data", "task delta", "predictions")]
    monkeypatch.setattr(report, "RUNGS", rungs)
    assert report.run(photographs(tmp_path / "images"), tmp_path)
    results = json.loads((tmp_path / "parity.json").read_text())
    assert results["config"]["train_shots"] == 10 and len(results["rungs"]) == 3


def test_photographs_are_smaller_in_float32_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    sizes = lambda setup: setup.config.data.size + setup.config.model.filters / 100  # noqa: E731
    rungs = [ladder.Rung(name, name, 0, "", sizes) for name in ("float64", "float32")]
    monkeypatch.setattr(report, "RUNGS", rungs)
    report.run(photographs(tmp_path / "images", **{"data.size": 24, "model.filters": 12}), tmp_path)
    results = json.loads((tmp_path / "parity.json").read_text())
    assert [row["difference"] for row in results["rungs"]] == [24.12, 20.08]


def test_what_cannot_be_compared_is_told_before_anything_is_measured(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    config = photographs(tmp_path / "images", **{"model.name": "perceptron"})
    with pytest.raises(ConfigError, match=r"model\.name=perceptron: the PyTorch implementation has only"):
        report.run(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("fields", [{"data.train_classes": 300}, {"data.rotations": False}])
def test_characters_are_compared_with_the_defaults_alone(tmp_path, fields):
    config = config_of(BASE)
    config.update_from_flattened_dict(fields)
    with pytest.raises(ConfigError, match="parity compares characters with the defaults alone"):
        report.run(config, tmp_path)


def test_a_failure_is_reported(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(report, "RUNGS", ladder.RUNGS[:2])
    monkeypatch.setattr(model, "NORM_EPSILON", 1e-5)
    assert not report.run(config_of(BASE), tmp_path)
    assert "FAILS" in capsys.readouterr().out
    results = json.loads((tmp_path / "parity.json").read_text())
    assert [row["verdict"] for row in results["rungs"]] == ["agrees", "FAILS"]


def test_without_torch_one_line_says_how_to_install_it(tmp_path):
    script = (
        "import runpy, sys; sys.modules['torch'] = None; sys.argv = ['main.py', '--mode=parity'];"
        f"sys.path.insert(0, {str(MAIN.parent)!r}); runpy.run_path({str(MAIN)!r}, run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "error: mode=parity needs torch: pip install -e '.[torch]' in a checkout"
