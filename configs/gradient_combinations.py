"""Omniglot, 5-way 5-shot: combinations of the inner loop's gradients as the meta-update (paper, figure 3).

    python main.py --config=configs/gradient_combinations.py:NAME

NAME is one of `COMBINATIONS`. sumK is the sum of the gradients of K inner steps, which is Reptile with SGD; meanK is
their mean; lastK is the last gradient alone, which is first-order MAML.
"""

from ml_collections import ConfigDict

from configs import default

COMBINATIONS = {
    "sum1": (1, 0.25, False),  # inner steps, meta_step, the last gradient alone
    "sum2": (2, 0.25, False),
    "mean2": (2, 0.125, False),
    "last2": (2, 0.25, True),
    "sum3": (3, 0.25, False),
    "mean3": (3, 0.08325, False),
    "last3": (3, 0.25, True),
    "sum4": (4, 0.25, False),
    "mean4": (4, 0.0625, False),
    "last4": (4, 0.25, True),
}


def get_config(name: str = "") -> ConfigDict:
    """Returns the config of one combination's run.

    Raises:
        ValueError: there is no such combination.
    """
    if name not in COMBINATIONS:
        raise ValueError(f"{name!r} is no combination: give one of {', '.join(COMBINATIONS)}")
    inner_iters, meta_step, last_alone = COMBINATIONS[name]
    config = default.get_config()
    config.sgd = True
    config.learning_rate = 0.003
    config.inner_batch = 25
    config.inner_iters = inner_iters
    config.train_shots = 5 * inner_iters
    config.meta_step = meta_step
    config.meta_step_final = 0.0
    config.meta_iters = 40_000
    config.foml = last_alone
    config.eval_batch = 25
    config.eval_iters = 5
    return config
