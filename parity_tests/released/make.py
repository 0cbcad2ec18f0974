"""Makes golden.json again with the released code itself: `python -m parity_tests.released.make CHECKOUT FILE`.

CHECKOUT is a clone of https://github.com/openai/supervised-reptile, and the environment has NumPy and TensorFlow
2.15, the last version with the layers of version 1, on Python 3.10 or 3.11. JAX and PyTorch are not needed. The graph,
the loss, the optimiser, the weight decay and the meta-update are the checkout's. This script supplies the weights, the
tasks and the mini-batches, and replaces placeholders of float32 by placeholders of float64.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from parity_tests.released import record
from parity_tests.released.record import Arrays, Case, Results

LAYERS = [("conv", "kernel"), ("conv", "bias"), ("norm", "scale"), ("norm", "bias")]
VARIABLES = [f"{layer}_{i}/{name}" for i in range(4) for layer, name in LAYERS] + ["dense/kernel", "dense/bias"]


def released_modules(checkout: Path) -> tuple[Any, Any, Any, Any]:
    """Returns TensorFlow 1 and the checkout's modules models, reptile and variables, which use it."""
    try:
        import tensorflow
    except ModuleNotFoundError:
        sys.exit("error: the released code needs TensorFlow: pip install 'tensorflow==2.15.*'")

    tf = sys.modules["tensorflow"] = tensorflow.compat.v1
    tf.disable_v2_behavior()
    sys.path.insert(0, str(checkout))
    from supervised_reptile import models, reptile, variables

    return tf, models, reptile, variables


def loaded(tf: Any, session: Any, weights: Arrays) -> dict[str, Any]:
    """Gives the variables of the session's graph their first values, and returns those that `weights` has, by name."""
    session.run(tf.global_variables_initializer())  # the convolutions' biases are zero and have no effect
    in_order = zip(VARIABLES, tf.trainable_variables(), strict=True)
    variables = {name: variable for name, variable in in_order if name in weights}
    for name, variable in variables.items():
        variable.load(weights[name], session)
    return variables


def compute(modules: tuple[Any, Any, Any, Any], case: Case) -> Results:
    """Computes a case with the released code."""
    tf, models, reptile, variables = modules
    given, rate = record.inputs(case), case["learning_rate"]
    with tf.Graph().as_default(), tf.Session() as session:
        if case["optimiser"] == "adam":
            optimizer = tf.train.AdamOptimizer(rate, beta1=0, beta2=record.BETA2, epsilon=record.EPSILON)
        else:
            optimizer = tf.train.GradientDescentOptimizer(rate)
        placeholder = tf.placeholder
        tf.placeholder = lambda dtype, shape: placeholder(tf.float64 if dtype == tf.float32 else dtype, shape)
        model = models.OmniglotModel(case["ways"], optimizer=lambda: optimizer)
        tf.placeholder = placeholder
        learner = (reptile.FOML if case["foml"] else reptile.Reptile)(
            session, pre_step_op=variables.weight_decay(case["weight_decay"])
        )
        weights = loaded(tf, session, given.weights)

        queries = list(given.queries)
        batches = [queries, *([*given.support, query] for query in queries)]
        transductive, *inductive = (session.run(model.logits, {model.input_ph: batch}) for batch in batches)
        logits = {"transductive": transductive, "inductive": np.stack([batch[-1] for batch in inductive])}

        updates = []
        for images, labels in zip(given.images, given.labels, strict=True):
            tasks = zip(images, labels, strict=True)  # of each task [steps, batch, 28, 28] and [steps, batch]
            reptile._sample_mini_dataset = lambda *_, tasks=tasks: next(tasks)
            reptile._mini_batches = lambda task, *_: [
                list(zip(*batch, strict=True)) for batch in zip(*task, strict=True)
            ]
            before = session.run(weights)
            learner.train_step(
                dataset=None,
                input_ph=model.input_ph,
                label_ph=model.label_ph,
                minimize_op=model.minimize_op,
                num_classes=case["ways"],
                num_shots=None,
                inner_batch_size=case["batch"],
                inner_iters=case["steps"],
                replacement=False,
                meta_step_size=case["meta_step"],
                meta_batch_size=case["tasks"],
            )
            after = session.run(weights)
            updates.append({name: after[name] - before[name] for name in weights})
        moments = {name: optimizer.get_slot(variable, "v") for name, variable in weights.items()}
        return Results(logits, updates, session.run(moments) if case["optimiser"] == "adam" else {})


def main() -> None:
    """Makes the file, and prints how much it differs from the file beside this script."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkout", type=Path)
    parser.add_argument("file", type=Path)
    arguments = parser.parse_args()
    modules, cases = released_modules(arguments.checkout), record.load()
    made = {name: record.recorded(x["case"], compute(modules, x["case"])) for name, x in cases.items()}
    arguments.file.write_text(json.dumps(made, indent=1) + "\n")
    for name in cases:
        print(f"{name}: {record.difference(made[name], cases[name]):.1e} from {record.GOLDEN.name}")


if __name__ == "__main__":
    main()
