"""Mini-ImageNet, 5-way 1-shot.

    python main.py --config=configs/miniimagenet_1shot_5way.py --config.data.dir=DIR

DIR holds train/, val/ and test/ (Ravi and Larochelle's 64, 16 and 20 classes), or train.zip, val.zip and test.zip.
Published accuracy on test classes: 47.07 % (paper, table 1).
The four configs train the same weights and differ only in evaluation, so one training serves all of them.
"""

from ml_collections import ConfigDict

from configs import default


def get_config() -> ConfigDict:
    """Returns the config of the run."""
    config = default.get_config()
    config.data.name = "images"
    config.data.size = 84
    config.data.channels = 3
    config.data.rotations = False
    config.model.name = "miniimagenet"
    config.model.filters = 32
    config.classes = 5
    config.shots = 1
    config.eval_shots = (1,)  # the published evaluation with 5 shots has other mini-batches
    config.train_shots = 15
    config.inner_batch = 10
    config.inner_iters = 8
    config.learning_rate = 1e-3
    config.meta_step = 1.0
    config.meta_step_final = 0.0
    config.meta_batch = 5
    config.meta_iters = 100_000
    config.eval_batch = 5
    config.eval_iters = 50
    config.eval_set = "test"
    return config
