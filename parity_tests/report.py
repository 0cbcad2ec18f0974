"""`main.py --mode=parity`: runs the ladder on this machine and its device, and prints it as a table."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import torch
from ml_collections import ConfigDict
from tqdm import tqdm

from parity_tests import bridge
from parity_tests.ladder import RUNGS
from parity_tests.measures import precision
from reptile_jax.config import ConfigError

SIZE, FILTERS = 20, 8  # of photographs in float32
ROW = "{:<20} {:<9} {:>9} {:>16}  {}"


def run(config: ConfigDict, workdir: Path) -> bool:
    """Measures every rung in the setting of a config, prints a row for each, and writes parity.json in the workdir.

    The run is made small: at most two tasks of four inner steps, and five steps in evaluation. The step size falls from
    1 to 0 in 64 meta-iterations, so that every value is exact in float32, in which the JAX program computes it. In
    float32, photographs have at most `SIZE` pixels and the network `FILTERS` filters: with larger sums, there is more
    rounding than the tolerances allow, and values that are equal except for rounding are frequent.
    Predictions are compared and no accuracy is measured, so `data.validation_classes` is ignored.

    Args:
        config: a run's config.
        workdir: the folder for parity.json.

    Returns:
        Whether no rung failed. Rungs in float64 do not run on a device without float64.

    Raises:
        ConfigError: the config is impossible, or says what cannot be compared.
        DataError: the data is missing or damaged.
    """
    bridge.check(config)
    if config.classes > bridge.HELD_OUT_CLASSES:
        raise ConfigError(f"classes={config.classes}: parity compares at most {bridge.HELD_OUT_CLASSES}")
    if config.data.name != "images" and (config.data.train_classes or not config.data.rotations):
        raise ConfigError("data.train_classes and data.rotations: parity compares characters with the defaults alone")
    config = _small(config)
    workdir.mkdir(parents=True, exist_ok=True)  # before the measurements, which take minutes
    device = jax.devices()[0]
    float64 = device.platform != "tpu"
    print(f"JAX {jax.__version__} on {device.device_kind}, PyTorch {torch.__version__} on the CPU, {config.data.name}")
    print(ROW.format("rung", "precision", "tolerance", "worst difference", "verdict"))
    rows = []
    for rung in tqdm(RUNGS, desc="parity", leave=False, disable=None):
        difference, verdict = None, "not run"
        if float64 or rung.dtype == "float32":
            with precision(rung.precision):
                smaller = _with_small_images(config) if rung.dtype == "float32" else config
                difference = rung.measure(bridge.setup(smaller, jnp.dtype(rung.dtype)))
            verdict = "agrees" if difference <= rung.tolerance else "FAILS"
        shown = "-" if difference is None else f"{difference:.1e}"
        tqdm.write(ROW.format(rung.name, rung.precision, f"{rung.tolerance:g}", shown, verdict))
        row = rung._asdict() | {"difference": difference, "verdict": verdict}
        rows.append({name: value for name, value in row.items() if name != "measure"})
    versions = {"jax": jax.__version__, "torch": torch.__version__}
    results = {
        "device": device.device_kind,
        "versions": versions,
        "config": json.loads(config.to_json()),
        "rungs": rows,
    }
    (workdir / "parity.json").write_text(json.dumps(results, indent=2) + "\n")
    return all(row["verdict"] != "FAILS" for row in rows)


def _with_small_images(config: ConfigDict) -> ConfigDict:
    """Returns the config with smaller photographs and a narrower network for them; drawings stay as they are."""
    small = config.copy_and_resolve_references()
    if config.data.name == "images":
        with small.unlocked():
            small.data.size, small.model.filters = min(config.data.size, SIZE), min(config.model.filters, FILTERS)
    return small


def _small(config: ConfigDict) -> ConfigDict:
    """Returns the config with smaller sizes, which an ordinary machine computes in minutes."""
    small = config.copy_and_resolve_references()
    with small.unlocked():
        small.data.validation_classes, small.num_seeds = 0, 1
        small.meta_batch = min(config.meta_batch, 2)
        small.inner_iters = min(max(config.inner_iters, 2), 4)  # 2: one step before the tail of first-order MAML
        small.eval_iters = min(config.eval_iters, 5)
        small.meta_iters, small.meta_step, small.meta_step_final = 64, 1.0, 0.0
    return small
