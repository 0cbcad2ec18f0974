"""Finds the READMEs of the project."""

from reptile_jax.testing.small_runs import MAIN

ROOT = MAIN.parent
ROOMS = ("configs", "parity_tests", "reptile_jax", "reptile_torch_ref")


def readmes():
    """Returns the text of every README, by its path from the root of the project."""
    files = [ROOT / "README.md", *(file for room in ROOMS for file in sorted((ROOT / room).rglob("README.md")))]
    return {file.relative_to(ROOT).as_posix(): file.read_text() for file in files}
