"""The inputs of a case and its recorded results, in pure NumPy, because TensorFlow's environment imports this file."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

GOLDEN = Path(__file__).parent / "golden.json"
FILTERS = 64
BETA2, EPSILON = 0.5, 2.0**-27  # of Adam; exact in float32, as are the powers of beta2 in the released graph

Case = dict[str, Any]  # seed, ways, meta_iterations, tasks, steps, batch, optimiser, learning_rate, ...
Arrays = dict[str, np.ndarray]  # by name, "conv_0/kernel", in TensorFlow's layouts


class Inputs(NamedTuple):
    """Everything that a case is computed from.

    Attributes:
        weights: theta before the first meta-iteration, float64.
        images: [meta_iterations, tasks, steps, batch, 28, 28], 0 and 1.
        labels: [meta_iterations, tasks, steps, batch].
        support: [ways, 28, 28].
        queries: [ways, 28, 28].
    """

    weights: Arrays
    images: np.ndarray
    labels: np.ndarray
    support: np.ndarray
    queries: np.ndarray


class Results(NamedTuple):
    """The results of an implementation.

    Attributes:
        logits: the logits of the queries at the first weights, "transductive" and "inductive", [ways, ways] each.
        updates: the change of theta in each meta-iteration.
        second_moment: Adam's second moment at the end; empty with SGD.
    """

    logits: Arrays
    updates: list[Arrays]
    second_moment: Arrays


def load() -> dict[str, Any]:
    """Returns the recorded cases by name."""
    return json.loads(GOLDEN.read_text())


def inputs(case: Case) -> Inputs:
    """Draws the inputs of a case; the order of the draws is part of the record."""
    rng, ways, weights = np.random.default_rng(case["seed"]), case["ways"], {}
    for i in range(4):
        ins = FILTERS if i else 1
        limit = np.sqrt(6 / (9 * ins + 9 * FILTERS))
        weights[f"conv_{i}/kernel"] = rng.uniform(-limit, limit, (3, 3, ins, FILTERS))
        weights[f"norm_{i}/scale"] = rng.uniform(0.5, 1.5, FILTERS)
        weights[f"norm_{i}/bias"] = rng.uniform(-0.5, 0.5, FILTERS)
    limit = np.sqrt(6 / (4 * FILTERS + ways))
    weights["dense/kernel"] = rng.uniform(-limit, limit, (4 * FILTERS, ways))
    weights["dense/bias"] = rng.uniform(-0.5, 0.5, ways)
    batches = tuple(case[name] for name in ("meta_iterations", "tasks", "steps", "batch"))
    images, labels = rng.integers(0, 2, (*batches, 28, 28)), rng.integers(0, ways, batches)
    support, queries = (rng.integers(0, 2, (ways, 28, 28)) for _ in range(2))
    return Inputs(weights, images, labels, support, queries)


def recorded(case: Case, results: Results) -> dict[str, Any]:
    """Returns what the file contains: the logits, and the L2 norm and eight entries of each larger array."""
    record = {
        "case": case,
        "logits_before": {name: x.tolist() for name, x in results.logits.items()},
        "updates": [_summaries(update) for update in results.updates],
    }
    return record | ({"second_moment": _summaries(results.second_moment)} if results.second_moment else {})


def _summaries(arrays: Arrays) -> dict[str, Any]:
    summaries = {}
    for name, x in arrays.items():
        at = np.linspace(0, x.size - 1, 8).astype(int)
        summaries[name] = {"l2": float(np.linalg.norm(x)), "at": at.tolist(), "values": x.ravel()[at].tolist()}
    return summaries


def difference(ours: dict[str, Any], theirs: dict[str, Any]) -> float:
    """Returns the worst relative L2 difference of two records, over their norms and their lists of entries.

    The difference is infinite if it is not finite, or if one record has an array, an entry or a meta-iteration that the
    other one lacks.
    """
    ours, theirs = ({name: x for name, x in record.items() if name != "case"} for record in (ours, theirs))
    return _difference(ours, theirs)


def _difference(ours: Any, theirs: Any) -> float:
    if isinstance(theirs, dict):
        if ours.keys() != theirs.keys():
            return float("inf")
        return max(_difference(ours[name], theirs[name]) for name in theirs)
    if isinstance(theirs, list) and isinstance(theirs[0], dict):
        if len(ours) != len(theirs):
            return float("inf")
        return max(map(_difference, ours, theirs))
    if np.shape(ours) != np.shape(theirs):
        return float("inf")
    ratio = float(np.linalg.norm(np.subtract(ours, theirs)) / np.linalg.norm(theirs))
    return ratio if np.isfinite(ratio) else float("inf")  # max(0.0, nan) would be 0.0
