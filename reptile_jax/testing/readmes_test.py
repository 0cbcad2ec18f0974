"""Checks the READMEs: links, length, and that every config and rung is described."""

import re

import pytest

from configs import default
from parity_tests.ladder import RUNGS
from reptile_jax import command_line
from reptile_jax.config import field_names
from reptile_jax.testing.readmes import ROOT, readmes

CODE = re.compile(r"(?ms)^```.*?^```|(?<=\n\n)(?: {4}[^\n]*\n|\n(?= {4}))+|`[^`]+`")
LINK = re.compile(r"\]\(([^)\s]+)\)|\b(?:src|href)=\"([^\"]+)\"")


def targets(text):
    """Returns the targets of the links and pictures of a text."""
    return [a or b for a, b in LINK.findall(CODE.sub("", text))]


def anchors(text):
    """Returns the anchors that GitHub gives the headings of a text."""
    headings = re.findall(r"(?m)^#+ (.*)$", re.sub(r"(?ms)^```.*?^```", "", text))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def broken(place, text):
    """Returns the relative links of a README that lead nowhere."""
    found = []
    for target in targets(text):
        if target.startswith("https://"):
            continue
        path, _, anchor = target.partition("#")
        file = (ROOT / place).parent / path if path else ROOT / place
        inside = file.resolve().is_relative_to(ROOT.resolve())
        heading = not anchor or (file.is_file() and anchor in anchors(text if not path else file.read_text()))
        if not (inside and file.exists() and heading):
            found.append(target)
    return found


@pytest.mark.parametrize("place", readmes())
def test_every_link_leads_somewhere(place):
    assert not broken(place, readmes()[place])


@pytest.mark.parametrize(
    "link",
    ["[a](nowhere.md)", "[a](configs/README.md#nowhere)", "[a](#nowhere)", "![a](reptile_jax/nowhere.png)",
     '<img src="nowhere.png">', "[a](../outside)", "[a](http://example.org)"],
)  # fmt: skip
def test_a_broken_link_is_found(link):
    text = readmes()["README.md"]
    assert broken("README.md", f"{text}\n{link}\n") == targets(link) != []
    assert not broken("README.md", f"{text}\n`{link}`\n\n    {link}\n\n```\n{link}\n```\n")  # code is no link


def test_every_room_is_linked_from_the_top():
    text = readmes()["README.md"]
    linked = {target.partition("#")[0] for target in targets(text)}
    rooms = set(readmes()) - {"README.md", "parity_tests/released/README.md"}
    assert rooms <= linked
    assert [anchor for anchor in targets(text) if anchor.startswith("#")]


def test_the_top_is_short_and_lines_are_narrow():
    assert len(readmes()["README.md"].splitlines()) <= 150
    for place, text in readmes().items():
        for line in text.splitlines():
            assert len(line) <= (150 if line.startswith("|") else 130 if line.startswith("![") else 120), (place, line)


def test_every_config_and_field_is_described():
    text = readmes()["configs/README.md"]
    table = text.partition("## Configs")[2].partition("## Fields")[0]
    for name in command_line._configs():
        base = name.removesuffix("_transductive") if name.startswith("miniimagenet") else name.partition(":")[0]
        assert base == "default" or re.search(rf"`{base}[:`]", table), name
    described = set(re.findall(r"`([a-z_.]+)`", text.partition("## Fields")[2]))
    fields = field_names(default.get_config())
    assert described & fields and not {name for name in described if name.startswith("data.")} - fields


def test_every_rung_is_in_the_table():
    table = readmes()["parity_tests/README.md"]
    rows = re.findall(r"(?m)^\| ([^|]+) \| (float\d+|default) \| ([^|]+) \| ([^|]+) \|$", table)
    assert [row[:2] for row in rows] == [(rung.name, rung.precision) for rung in RUNGS]
    for (_, _, tolerance, difference), rung in zip(rows, RUNGS, strict=True):
        assert float(tolerance) == rung.tolerance >= float(difference)


def test_make_targets_and_test_files_that_are_shown_exist():
    makefile = (ROOT / "Makefile").read_text().replace("$(VENV)", ".venv")
    code = "\n".join(code for text in readmes().values() for code in CODE.findall(text))
    targets_shown = set(re.findall(r"(?m)(?:^ *|`|time |=DIR )make ([\w./-]+)", code))
    assert {"quickstart", "soak", ".venv/installed"} <= targets_shown
    assert targets_shown <= set(re.findall(r"(?m)^([\w./-]+):", makefile))
    for place, text in readmes().items():
        for file in re.findall(r"(?:\.\./)*\b[\w/]+_test\.py\b", text):
            assert (ROOT / file).exists() or ((ROOT / place).parent / file).exists(), file
