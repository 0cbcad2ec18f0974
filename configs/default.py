"""All fields of a run with their defaults. Every other config changes some of them.

A field that the released code has, too, has the name and the default of its flag. `main.py --config=configs/default.py
--config.FIELD=VALUE` overrides a field; a name that is not below is an error.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Returns the defaults of every field."""
    config = ConfigDict()
    config.seed = 0  # initial weights, split of the characters, training episodes
    config.num_seeds = 1  # independent runs in one program, their seeds counted up from `seed`

    # Data.
    config.data = ConfigDict()
    config.data.name = "omniglot"  # a key of reptile_jax.data.DATA_SETS
    # Omniglot: where TFDS keeps the prepared copy ("": TFDS_DATA_DIR or ~/tensorflow_datasets). Images: their folder.
    config.data.dir = ""
    config.data.archives = ""  # folder with upstream's two zip files; "": download them
    config.data.size = 28  # pixels, height and width of an image
    config.data.channels = 1  # 1: grey, 3: colours
    config.data.rotations = True  # training classes turned by 0, 90, 180 and 270 degrees, each turn a class of its own
    config.data.train_classes = 0  # classes to train on, of those that a seed splits; 0: as many as the data set says
    # Training classes held out for tuning; while it is not 0, no test class is evaluated, unless eval_set says so.
    config.data.validation_classes = 0

    # Network.
    config.model = ConfigDict()
    config.model.name = "omniglot"  # "omniglot": convolutions with stride 2; "miniimagenet": with max pooling
    config.model.filters = 64  # channels of each convolution; released: 64 for Omniglot, 32 for Mini-ImageNet

    # Tasks.
    config.classes = 5  # ways: classes of a task
    config.shots = 5  # drawings per class in evaluation; in training too where train_shots is 0
    config.train_shots = 0  # drawings per class in training; 0: same as shots

    # Inner loop.
    config.inner_batch = 5  # drawings per inner step
    config.inner_iters = 20  # inner steps per task
    config.replacement = False  # draw every mini-batch afresh instead of cycling through the drawings
    config.balanced = False  # every mini-batch has the same number of drawings of each class, in evaluation too
    config.learning_rate = 1e-3  # of the inner optimiser; in classification, the loss is summed over the mini-batch
    config.sgd = False  # inner optimiser: plain SGD instead of Adam (beta1 = 0)
    config.weight_decay = 1.0  # factor on every weight before each inner step; 1: off
    # Adam's second moment and step count: "averaged" over the meta-batch (tasks in parallel), "sequential" (passed
    # from task to task, as released) or "reset" (zero at every task).
    config.inner_state = "averaged"
    config.zero_head = False  # the dense layer is zero at the start of every task; the meta-update does not change it

    # Meta-update.
    config.meta_batch = 1  # tasks per meta-iteration
    config.meta_iters = 400_000  # meta-iterations of the whole run
    config.meta_step = 0.1  # interpolation factor at the first meta-iteration
    config.meta_step_final = 0.1  # the factor it falls or rises to, linearly
    config.foml = False  # first-order MAML: the last inner step's delta alone
    config.foml_tail = 0  # drawings per class, out of train_shots, for that last step; 0: an ordinary mini-batch

    # Evaluation.
    config.eval_batch = 5  # drawings per inner step
    config.eval_iters = 50  # inner steps per task
    config.eval_samples = 10_000  # tasks
    config.eval_interval = 10  # meta-iterations between the points of the learning curves
    config.eval_set = "auto"  # held-out classes: "test", "validation", or "auto": validation where there is some
    config.eval_train = True  # final accuracies on training classes too, as released; False: in half the time
    config.eval_untrained = False  # final results of the untrained weights too: no meta-learning
    config.eval_shots = (1, 5)  # every shot count to report beside `shots`
    config.eval_seed = 1  # evaluation episodes, however long the training is
    config.transductive = False  # headline protocol: all queries of a task as one batch

    # Checkpoints.
    config.checkpoint_interval = 1000  # meta-iterations between checkpoints

    # How it is computed; the results differ by rounding alone.
    # Tasks (and seeds) of a device: "all" together, "one" after the other, or "auto": one on a CPU, else all.
    config.tasks_at_once = "auto"
    # Convolutions: "matmul", as one matrix product; "lax", XLA's own; "auto": "matmul", but with "miniimagenet" what is
    # fastest for each layer.
    config.convolution = "auto"
    return config
