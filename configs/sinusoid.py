"""Sine waves as in the authors' short script: regression from ten points, with three seeds in less than a minute.

    python main.py --config=configs/sinusoid.py

A training task is one pass over 50 evenly spaced points in [-5, 5], in five mini-batches. In evaluation, the network
sees ten of these points as one batch (paper, section 4.1). The mean squared error after 32 steps is 0.125 ± 0.003, and
2.47 ± 0.12 from untrained weights, without meta-learning (1,000 test waves of each of three seeds, ± the standard
deviation over seeds). --config.foml=True uses first-order MAML instead of Reptile. Takes 16 seconds on two CPU cores,
curves and evaluation included (`time`).
"""

from ml_collections import ConfigDict

from configs import default


def get_config() -> ConfigDict:
    """Returns the config of the run."""
    config = default.get_config()
    config.num_seeds = 3
    config.data.name = "sinusoid"
    config.data.size, config.data.channels, config.data.rotations = 1, 1, False
    config.model.name = "perceptron"
    config.classes = 1
    config.shots = 10
    config.train_shots = 50
    config.inner_batch = 10
    config.inner_iters = 5
    config.sgd = True
    config.learning_rate = 0.02
    config.meta_batch = 1
    config.meta_iters = 30_000
    config.meta_step = 0.1
    config.meta_step_final = 0.0
    config.eval_batch = 10
    config.eval_iters = 32
    config.eval_samples = 1000
    config.eval_shots = (10,)
    config.eval_train = False
    config.eval_untrained = True
    config.eval_interval = 100
    config.checkpoint_interval = 10_000
    return config
