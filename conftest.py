"""Settings for all tests: no implicit promotion of dtypes or ranks, and a cache of compiled programs."""

import os
import shutil
from pathlib import Path

import jax
import pytest

from reptile_jax.devices import keep_compiled

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_traceback_in_locations_limit", 0)  # lowering takes less time without them
keep_compiled()
# Programs that tests start do the same, with the same cache.
os.environ["JAX_TRACEBACK_IN_LOCATIONS_LIMIT"] = "0"
os.environ["JAX_COMPILATION_CACHE_DIR"] = jax.config.values["jax_compilation_cache_dir"]
# Several test processes, PyTorch among them, share the memory of a GPU, most of which JAX would take at its start.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")


MAPPINGS = Path("/proc/self/maps")  # on Linux: a line for each part of this process's memory
MOST_MAPPINGS = 20_000  # Linux allows 65,530, beyond which XLA ends the process. One module takes up to 31,000.


@pytest.fixture(autouse=True, scope="module")
def room_for_programs():
    """Forgets the compiled programs after a module if there are very many."""
    yield
    if MAPPINGS.exists() and MAPPINGS.read_bytes().count(b"\n") > MOST_MAPPINGS:
        jax.clear_caches()


REAL_DATA = {
    "REPTILE_OMNIGLOT": "the folder of Omniglot's two archives",
    "REPTILE_MINIIMAGENET": "a folder with Mini-ImageNet's train/, val/ and test/, or zip files of them",
}


@pytest.fixture
def x64():
    """Runs a test in float64."""
    with jax.enable_x64(True):
        yield


def pytest_terminal_summary(terminalreporter):
    skipped = len(terminalreporter.stats.get("skipped", []))
    for name, content in REAL_DATA.items():
        if name not in os.environ:
            terminalreporter.write_line(f"{skipped} tests skipped, among them those that need {name}=DIR, {content}")
    if not (shutil.which("chromium") and shutil.which("chromedriver")):
        terminalreporter.write_line(f"{skipped} tests skipped, among them those that need Chromium and its driver")


@pytest.fixture
def compilations():
    """Returns a list that gets the duration of every compilation, also of programs that JAX has in its disk cache."""
    events = []

    def listen(event, duration, **_):
        if event == "/jax/core/compile/backend_compile_duration":
            events.append(duration)

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield events
    jax.monitoring.unregister_event_duration_listener(listen)
