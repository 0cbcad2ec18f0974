"""Provides real data if there is any, and lists the cases at the end of the output."""

import os
from functools import cache

import pytest
import torch

from parity_tests.cases import BASE, CASES, SGD, TRAINED
from reptile_torch_ref import data as torch_data

# PyTorch's threads use the CPU while they wait for each other; on a busy machine, two are slower than one.
torch.set_num_threads(1)
ARCHIVES = os.environ.get("REPTILE_OMNIGLOT", "")
REAL = pytest.mark.skipif(
    not ARCHIVES, reason="REPTILE_OMNIGLOT=DIR, the folder of Omniglot's two archives, is not set"
)
MINIIMAGENET_DIR = os.environ.get("REPTILE_MINIIMAGENET", "")
MINIIMAGENET = pytest.mark.skipif(
    not MINIIMAGENET_DIR, reason="REPTILE_MINIIMAGENET=DIR, a folder with train/, val/ and test/, is not set"
)
DATA_SETS = ["glyphs", pytest.param("omniglot", marks=REAL)]


@pytest.fixture(scope="session")
def prepared(tmp_path_factory):
    """Returns the folder for JAX's prepared copy of Omniglot; PyTorch reads the archives once, in half a minute."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch_data, "load_omniglot", cache(torch_data.load_omniglot))
        yield str(tmp_path_factory.mktemp("omniglot"))


@pytest.fixture(scope="session", params=DATA_SETS)
def data_fields(request, prepared):
    """Returns the fields of a data set, for `cases.config_of`."""
    if request.param == "glyphs":
        return {"data": "glyphs"}
    return {"data": "omniglot", "archives": ARCHIVES, "data_dir": prepared}


def pytest_terminal_summary(terminalreporter):
    reports = [report for kind in ("passed", "failed") for report in terminalreporter.stats.get(kind, [])]
    if any(report.nodeid.startswith("parity_tests/ladder_test.py") for report in reports):
        terminalreporter.write_line("parity: every pair of values occurs in one of these cases")
        for case in [BASE, TRAINED, SGD, *CASES]:
            terminalreporter.write_line(f"  {case}")
