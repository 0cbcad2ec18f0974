"""Checks that the READMEs show the kept runs."""

import json
import re
import shutil

from reptile_jax.results import runs, tables


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


def test_a_table_shows_a_run_that_is_kept_now(tmp_path, monkeypatch):
    shutil.copytree(runs.RESULTS / "omniglot_5way_seeds", tmp_path / "omniglot_5way_seeds")
    monkeypatch.setattr(runs, "RESULTS", tmp_path)
    measured = runs.kept("omniglot_5way_seeds").results
    measured["test"]["transductive"]["5"] |= {"accuracy": 0.1234, "std": 0.0567}
    (tmp_path / "omniglot_5way_seeds" / "results.json").write_text(json.dumps(measured))
    text = "a\n<!-- seeds -->\nold\n<!-- end of seeds -->\nb\n<!-- other -->\n"
    new = tables.with_tables(text)
    assert "| 12.34 ± 5.67 |" in new and "old" not in new
    assert new.startswith("a\n<!-- seeds -->\n| 1-shot, transductive |")
    assert new.endswith("\n<!-- end of seeds -->\nb\n<!-- other -->\n") and tables.with_tables(new) == new


def test_a_long_command_is_wrapped_and_means_the_same():
    command = tables.kept("omniglot_20way").command("omniglot_5shot_20way")
    lines = tables._wrapped(command).split(" \\\n")
    assert len(lines) > 1 and all(len(line) <= tables.WIDTH and line.startswith("    ") for line in lines)
    assert " ".join(line.strip() for line in lines) == f".venv/bin/python {command}"


def test_durations_in_words():
    wanted = {20: "20 s", 60: "1 min", 900: "15 min", 5000: "83 min", 9000: "2.5 h", 35_000: "9.7 h"}
    assert {seconds: tables._duration(seconds) for seconds in wanted} == wanted
