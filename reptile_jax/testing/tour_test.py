"""Executes the notebook from start to end, and checks what is committed of it."""

import re

import nbformat
import pytest
from nbclient.exceptions import CellExecutionError

from reptile_jax.testing.tour import TOUR, executed


@pytest.fixture(scope="module")
def notebook():
    return nbformat.read(TOUR, as_version=4)


def kinds(notebook):
    """Returns the kinds of output of each cell of code."""
    return [[each.output_type for each in cell.outputs] for cell in notebook.cells if cell.cell_type == "code"]


def test_it_runs_from_start_to_end_and_shows_what_is_committed(notebook, monkeypatch):
    monkeypatch.setenv("REPTILE_OMNIGLOT", "")
    again = executed(notebook)
    assert kinds(again) == kinds(notebook)
    assert "stream" in str(kinds(again)) and "display_data" in str(kinds(again))


def test_an_error_in_a_cell_fails(notebook):
    cells = [nbformat.v4.new_code_cell(source) for source in ("x = 1", "assert x == 2", "print(x)")]
    with pytest.raises(CellExecutionError, match="AssertionError"):
        executed(nbformat.v4.new_notebook(cells=cells, metadata=notebook.metadata))


def test_what_is_committed_is_whole_small_and_of_no_machine(notebook):
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert 15 <= len(notebook.cells) <= 25
    text = TOUR.read_text()
    assert len(text) < 500_000
    assert not re.search(r"/(home|root|tmp|usr|Users|work)/|stderr", re.sub(r'"image/png": "[^"]*"', "", text))
