"""Executes the notebook reptile_jax/tour.ipynb.

python -m reptile_jax.testing.tour    # writes the notebook with new outputs
"""

import nbformat
from nbclient import NotebookClient

from reptile_jax.testing.small_runs import MAIN

TOUR = MAIN.parent / "reptile_jax" / "tour.ipynb"
KEPT = {"kernelspec", "language_info"}  # metadata of the notebook; the rest names versions of this machine


def executed(notebook):
    """Returns the notebook with the outputs of every cell, from the first to the last.

    Raises:
        CellExecutionError: a cell raises an error.
    """
    notebook = nbformat.from_dict(notebook)
    NotebookClient(notebook, timeout=600, record_timing=False, resources={"metadata": {"path": MAIN.parent}}).execute()
    notebook.metadata = {name: notebook.metadata[name] for name in KEPT}
    notebook.metadata.language_info = {"name": "python"}
    return notebook


if __name__ == "__main__":
    nbformat.write(executed(nbformat.read(TOUR, as_version=4)), TOUR)
