"""Checks that the READMEs show the kept runs, and that a kept run is the run of its workdir."""

import json
import os
import re
import shutil

import numpy as np
import pytest

from configs import gradient_combinations
from reptile_jax.results import tables
from reptile_jax.run import pretrained
from reptile_jax.run.metrics import read_rows
from reptile_jax.run.pretrained import SHIPPED
from reptile_jax.testing.small_runs import SMALL, run

ARCHIVES = os.environ.get("REPTILE_OMNIGLOT")


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    done = run("--workdir=omniglot_5way_seeds", cwd=folder, **SMALL | {"eval_shots": "(1,5)", "num_seeds": 2})
    assert done.returncode == 0, done.stderr
    return folder / "omniglot_5way_seeds"


@pytest.fixture
def results(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "RESULTS", tmp_path / "results")
    return tmp_path / "results"


def test_the_readmes_show_what_is_kept():
    shown = []
    for readme in tables.READMES:
        text = readme.read_text()
        assert tables.with_tables(text) == text
        names = re.findall(r"<!-- (\w+) -->\n\| ", text)
        for name in names:
            for other in ("", "| 0"):  # a missing table, and a table with another content
                changed = re.sub(f"(?s)(?<=<!-- {name} -->\n).*?(?=<!-- end of {name})", other, text)
                assert changed != text and tables.with_tables(changed) == text
        shown += names
    assert shown == list(tables.TABLES)


def test_a_long_command_is_wrapped_and_means_the_same():
    command = tables.kept("omniglot_20way").command("omniglot_5shot_20way")
    lines = tables._wrapped(command).split(" \\\n")
    assert len(lines) > 1 and all(len(line) <= tables.WIDTH and line.startswith("    ") for line in lines)
    assert " ".join(line.strip() for line in lines) == f".venv/bin/python {command}"


def agree(a, b):
    """Returns whether accuracies differ by at most four standard errors."""
    return abs(a["accuracy"] - b["accuracy"]) <= 4 * np.hypot(a["ci95"], b["ci95"]) / 1.96


@pytest.mark.skipif(not ARCHIVES, reason="real Omniglot: REPTILE_OMNIGLOT=DIR names the folder of its archives")
@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_weights_are_as_good_as_the_readme_says(tmp_path, name):
    fields = {"data__archives": ARCHIVES, "data__dir": "tfds", "eval_samples": 500}
    done = run("--mode=eval", f"--pretrained={name}", config=None, cwd=tmp_path, **fields)
    assert done.returncode == 0, done.stderr
    measured, said = json.loads((tmp_path / "runs" / name / "results.json").read_text()), tables.kept(name).results
    assert measured["meta_iters"] == said["meta_iters"]
    for protocol in ("transductive", "inductive"):
        for shots in ("1", "5"):
            kept = said["test"][protocol][shots]
            kept = kept["seeds"]["0"] if "seeds" in kept else kept
            assert agree(measured["test"][protocol][shots], kept)
    assert not agree(measured["test"]["inductive"]["1"], kept), "a check that cannot fail"  # 5-shot


def test_shipped_weights_are_of_the_kept_runs():
    assert sorted(SHIPPED) == sorted(tables.WITH_WEIGHTS)
    for name in SHIPPED:
        config, states = pretrained.load(name)
        kept = tables.kept(name)
        assert json.loads(config.to_json()) == json.loads(kept.config.to_json()) | {"num_seeds": 1}  # the first seed
        assert int(states.iteration[0]) == kept.config.meta_iters == kept.results["meta_iters"]
    assert sum(file.stat().st_size for file in SHIPPED.values()) < 4e6


def test_kept_and_shown(workdir, results):
    tables.keep(workdir)
    whole, kept = read_rows(workdir / "metrics.jsonl"), tables.kept("omniglot_5way_seeds")
    assert kept.results == json.loads((workdir / "results.json").read_text()) and kept.config.num_seeds == 2
    measured = kept.results["test"]["transductive"]["5"]
    shown = f"| {100 * measured['accuracy']:.2f} ± {100 * measured['std']:.2f} |"
    text = "a\n<!-- seeds -->\nold\n<!-- end of seeds -->\nb\n<!-- other -->\n"
    new = tables.with_tables(text)
    assert shown in new and "old" not in new and new.startswith("a\n<!-- seeds -->\n| 1-shot, transductive |")
    assert new.endswith("\n<!-- end of seeds -->\nb\n<!-- other -->\n") and tables.with_tables(new) == new
    assert [row["step"] for row in kept.rows] == [row["step"] for row in whole]
    other = shutil.copytree(workdir, results / "other")
    (other / "results.json").write_text(json.dumps(kept.results).replace('"tasks": 12', '"tasks": 7'))
    with pytest.raises(ValueError, match=r"7 tasks were evaluated, but eval_samples=12"):
        tables.keep(other)


def test_the_hours_of_a_run_are_those_of_its_meta_iterations():
    rows = [{"step": 900, "meta_iters_per_second": 1.0}, {"step": 1500, "meta_iters_per_second": 2.0}]
    assert tables.Run(None, {}, rows).hours() == "20 min"  # 900 s and 300 s
    assert tables.Run(None, {}, rows[:1]).hours() == "15 min"
    assert tables.Run(None, {}, [{"step": 90, "meta_iters_per_second": 4.5}]).hours() == "20 s"
    assert tables.Run(None, {}, [{"step": 9000, "meta_iters_per_second": 1.0}]).hours() == "2.5 h"


def test_thinned_rows_are_means_of_equal_parts():
    rng = np.random.default_rng(0)
    rows = [
        {"step": 10 * i, "test_accuracy": float(rng.random()), "meta_iters_per_second": float(rng.uniform(1, 9))}
        for i in range(1, 31)
    ]
    thin = tables.thinned(rows, 6)
    assert [row["step"] for row in thin] == [50, 100, 150, 200, 250, 300]
    for i, row in enumerate(thin):
        inside = rows[5 * i : 5 * i + 5]
        assert row["test_accuracy"] == pytest.approx(sum(r["test_accuracy"] for r in inside) / 5)
        assert 50 / row["meta_iters_per_second"] == pytest.approx(sum(10 / r["meta_iters_per_second"] for r in inside))
    assert tables.thinned(rows[:3], 6) == rows[:3]


def test_the_command_names_what_differs(workdir, results):
    tables.keep(workdir)
    command = tables.kept("omniglot_5way_seeds").command("quickstart")
    assert command.startswith("main.py --config=configs/quickstart.py --config.")
    fields = dict(re.findall(r"--config\.(\w+)=([^ `']+)", command))
    assert fields.pop("num_seeds") == "2" and fields.pop("eval_shots") == "(1,5)" and len(fields) > 5
    assert all(str(SMALL[name]) == value for name, value in fields.items())
    own = tables.Run(gradient_combinations.get_config("sum2"), {}, []).command("gradient_combinations:sum2")
    assert own == "main.py --config=configs/gradient_combinations.py:sum2"
    narrow = gradient_combinations.get_config("sum2")
    narrow.model.filters = 32
    assert tables.Run(narrow, {}, []).command("gradient_combinations:sum2") == f"{own} --config.model.filters=32"


def test_the_paces_of_the_figures_are_those_of_the_benchmark():
    shown = (tables.RESULTS.parents[1] / "parity_tests" / "README.md").read_text()
    for figure, pace in tables.PACES.items():
        section = shown.split(f"### {figure.removeprefix('fast_').replace('w', '-w')}\n")[1].split("\n### ")[0]
        assert f"| train, meta-iterations/s | {pace} (" in section
