"""Tests `main.py --mode=parity` as a person runs it, and that it fails if something is wrong."""

import json
import subprocess
import sys
from pathlib import Path

from parity_tests import ladder, report
from parity_tests.cases import BASE, config_of
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
