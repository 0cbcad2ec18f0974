"""Evaluates a weights file with the released code: `python -m parity_tests.released.evaluate CHECKOUT DATA WEIGHTS`.

CHECKOUT and the environment are those of `make.py`, with Pillow and safetensors, too. DATA is the folder of alphabets
that the checkout's `fetch_data.sh` makes, and WEIGHTS is one of the files `reptile_jax/results/*/weights.safetensors`.
The split, the tasks, the graph, the optimiser and the evaluation are the checkout's, in float32 as released.
"""

import argparse
import json
import random
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from parity_tests.released.make import loaded, released_modules

PROTOCOLS = "transductive", "inductive"


def accuracies(modules: tuple[Any, Any, Any, Any], drawings: Path, weights: Path, tasks: int) -> Iterator[str]:
    """Yields a line for each shot count and protocol: mean accuracy and half its 95% interval, in per cent."""
    from safetensors import safe_open  # in the environment of TensorFlow, which the tests do not have

    tf, models, reptile, _ = modules
    omniglot = import_module("supervised_reptile.omniglot")
    with safe_open(weights, "numpy") as file:
        config = json.loads(file.metadata()["config"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    if config.get("zero_head") or config.get("balanced"):  # a file of an earlier version lacks these fields
        sys.exit(f"error: {weights} was trained with zero_head or balanced, which the released code does not have")
    with tf.Graph().as_default(), tf.Session() as session:
        optimizer = tf.train.AdamOptimizer(config["learning_rate"], beta1=0)
        model = models.OmniglotModel(config["classes"], optimizer=lambda: optimizer)
        learners = {name: reptile.Reptile(session, transductive=name == "transductive") for name in PROTOCOLS}
        trained = {name.removeprefix("params/"): x for name, x in tensors.items() if name.startswith("params/")}
        for name, variable in loaded(tf, session, trained).items():
            optimizer.get_slot(variable, "v").load(tensors[f"second_moment/{name}"], session)
        optimizer._get_beta_accumulators()[1].load(0.999 ** tensors["count"], session)
        for shots in (1, 5):
            random.seed(config["seed"])  # as at the start of the released program
            _, test = omniglot.split_dataset(omniglot.read_dataset(str(drawings)))
            for name, learner in learners.items():
                correct = [
                    learner.evaluate(
                        test,
                        model.input_ph,
                        model.label_ph,
                        model.minimize_op,
                        model.predictions,
                        num_classes=config["classes"],
                        num_shots=shots,
                        inner_batch_size=config["eval_batch"],
                        inner_iters=config["eval_iters"],
                        replacement=config["replacement"],
                    )
                    for _ in range(tasks)
                ]
                percent = 100 * np.array(correct) / config["classes"]
                yield f"{shots}-shot, {name}: {percent.mean():.2f} ± {1.96 * percent.std() / tasks**0.5:.2f}"


def main() -> None:
    """Prints the accuracies with one and with five shots."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkout", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("weights", type=Path)
    parser.add_argument("--tasks", type=int, default=1000)
    arguments = parser.parse_args()
    for path in (arguments.checkout, arguments.data, arguments.weights):
        if not path.exists():
            parser.error(f"there is no {path}")
    modules = released_modules(arguments.checkout)
    sys.stdout.reconfigure(errors="replace")  # for a terminal that has no ±
    for line in accuracies(modules, arguments.data, arguments.weights, arguments.tasks):
        print(line, flush=True)


if __name__ == "__main__":
    main()
