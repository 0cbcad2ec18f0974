"""Your own images: 5 classes to tell apart, from 5 images of each.

    python main.py --config=configs/images.py --config.data.dir=DIR

DIR holds a folder for each class, with its images in it: PNG, JPEG, WebP, BMP or GIF, of any size and colours. Of the
classes, 80 % train and the rest test; both have to be 5 or more, each with 10 images at least, so DIR has 25 classes.
Of fewer, say how many train and how many a task has: twelve classes, for instance, with
--config.data.train_classes=7. DIR may instead say itself what is for what: train/ and test/ (and val/, for tuning),
with the classes' folders in them, or train.zip and test.zip.
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
    config.shots = 5
    config.train_shots = 10
    config.inner_batch = 10
    config.inner_iters = 8
    config.meta_step = 1.0
    config.meta_step_final = 0.0
    config.meta_batch = 5
    config.meta_iters = 2000
    config.eval_batch = 15
    config.eval_samples = 200
    config.eval_interval = 50
    config.checkpoint_interval = 100
    return config
