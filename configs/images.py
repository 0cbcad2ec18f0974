"""Your own images: 5 classes to tell apart, from 5 images of each.

    python main.py --config=configs/images.py --config.data.dir=DIR

DIR holds one folder per class, with its images: PNG, JPEG, WebP, BMP or GIF, of any size and colours. 80 % of the
classes are for training and the others for testing. Both sets need at least 5 classes with at least 10 images each, so
DIR needs at least 23 classes. If there are fewer, set the number of training classes, for instance with
--config.data.train_classes=7 for twelve classes. Instead, DIR may hold train/ and test/ (and val/, for tuning) with
class folders, or train.zip and test.zip.
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
