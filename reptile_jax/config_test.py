import pytest

from configs import (
    default,
    gradient_combinations,
    images,
    miniimagenet_1shot_5way,
    miniimagenet_1shot_5way_transductive,
    miniimagenet_5shot_5way,
    miniimagenet_5shot_5way_transductive,
    omniglot_1shot_5way,
    omniglot_1shot_5way_transductive,
    omniglot_1shot_20way,
    omniglot_5shot_5way,
    omniglot_5shot_20way,
    omniglot_fast_5way,
    omniglot_fast_20way,
    omniglot_foml_5way,
    quickstart,
)
from reptile_jax import config as config_lib
from reptile_jax.config import ConfigError, differences, eval_sets, eval_shots, train_shots, validate
from reptile_jax.testing.small_images import write_folder

RUNS = {
    omniglot_1shot_5way: (5, 1, 10, 10, 5, 1e-3, 100_000, 5, False),
    omniglot_1shot_5way_transductive: (5, 1, 10, 10, 5, 1e-3, 100_000, 5, True),
    omniglot_5shot_5way: (5, 5, 10, 10, 5, 1e-3, 100_000, 5, False),
    omniglot_1shot_20way: (20, 1, 10, 20, 10, 5e-4, 200_000, 10, False),
    omniglot_5shot_20way: (20, 5, 10, 20, 10, 5e-4, 200_000, 10, False),
}


SUMS = {"sum": [0.25, 0.25, 0.25, 0.25], "mean": [None, 0.125, 0.08325, 0.0625], "last": [None, 0.25, 0.25, 0.25]}


@pytest.mark.parametrize("name", gradient_combinations.COMBINATIONS)
def test_gradient_combinations(name):
    kind, terms = name[:-1], int(name[-1])
    config = gradient_combinations.get_config(name)
    validate(config)
    assert (config.inner_iters, config.train_shots, config.meta_step) == (terms, 5 * terms, SUMS[kind][terms - 1])
    assert (config.foml, config.sgd, config.meta_batch, config.shots) == (kind == "last", True, 1, 5)
    assert len(gradient_combinations.COMBINATIONS) == 10


def test_first_order_maml_differs_from_reptile_in_its_tail_alone():
    reptile, foml = omniglot_1shot_5way.get_config(), omniglot_foml_5way.get_config()
    validate(foml)
    changed = {name for name in reptile if reptile[name] != foml[name]}
    assert changed == {"foml", "foml_tail", "train_shots"}
    assert foml.train_shots - foml.foml_tail == reptile.train_shots


@pytest.mark.parametrize(
    ("published", "fast", "further"),
    [(omniglot_5shot_5way, omniglot_fast_5way, {}), (omniglot_5shot_20way, omniglot_fast_20way, {"eval_batch": 20})],
    ids=lambda each: getattr(each, "__name__", ""),
)
def test_a_fast_run_differs_from_the_published_one_in_few_fields(published, fast, further):
    published, fast = published.get_config(), fast.get_config()
    validate(fast)
    changed = {name: fast[name] for name in published if published[name] != fast[name]}
    assert changed == {"learning_rate": 2e-3, "balanced": True, "zero_head": True, "meta_iters": 20_000,
                       "eval_interval": 50, "eval_train": False, **further}  # fmt: skip


@pytest.mark.parametrize("module", RUNS, ids=lambda module: module.__name__)
def test_published_runs(module):
    config = module.get_config()
    validate(config)
    fields = (
        "classes",
        "shots",
        "train_shots",
        "inner_batch",
        "inner_iters",
        "learning_rate",
        "meta_iters",
        "eval_batch",
    )
    assert (*(config[field] for field in fields), config.transductive) == RUNS[module]
    assert (config.meta_step, config.meta_step_final, config.meta_batch, config.eval_iters) == (1.0, 0.0, 5, 50)
    assert (config.seed, config.eval_samples, config.eval_interval, config.weight_decay) == (0, 10_000, 10, 1.0)
    assert not (config.replacement or config.sgd or config.foml or config.foml_tail or config.data.validation_classes)
    assert not (config.balanced or config.zero_head)


@pytest.fixture
def empty_images(tmp_path):
    """Makes folders of images, with which a config is checked without opening any image."""

    def made(classes_of_sets, images):
        for name, classes in classes_of_sets.items():
            files = [f"{n:02d}{name}/{i}.jpg" for n in range(classes) for i in range(images)]
            write_folder(tmp_path / name, dict.fromkeys(files, b""))
        return str(tmp_path)

    return made


MINIIMAGENET = {
    miniimagenet_1shot_5way: (1, 5, False),
    miniimagenet_1shot_5way_transductive: (1, 5, True),
    miniimagenet_5shot_5way: (5, 15, False),
    miniimagenet_5shot_5way_transductive: (5, 15, True),
}


@pytest.mark.parametrize("module", MINIIMAGENET, ids=lambda module: module.__name__)
def test_published_runs_of_mini_imagenet(module, empty_images):
    config = module.get_config()
    config.data.dir = empty_images({"train": 64, "val": 16, "test": 20}, 20)
    validate(config)
    assert (config.shots, config.eval_batch, config.transductive) == MINIIMAGENET[module]
    assert (config.classes, config.train_shots, config.inner_batch, config.inner_iters) == (5, 15, 10, 8)
    assert (config.meta_step, config.meta_step_final, config.meta_batch, config.meta_iters) == (1.0, 0.0, 5, 100_000)
    assert (config.learning_rate, config.eval_iters, config.eval_samples) == (1e-3, 50, 10_000)
    assert (config.data.size, config.data.channels, config.data.rotations) == (84, 3, False)
    assert (config.model.name, config.model.filters) == ("miniimagenet", 32)
    assert eval_sets(config) == ["train", "test", "validation"]


def test_own_images(empty_images):
    config = images.get_config()
    config.data.dir = empty_images({"": 25}, 10)
    validate(config)
    assert eval_sets(config) == ["train", "test"]


def test_twelve_classes_of_ones_own(empty_images):
    config = images.get_config()
    config.data.dir = empty_images({"": 12}, 30)
    with pytest.raises(ConfigError, match=r"the 2 test classes of images: give fewer, or data\.train_classes=7$"):
        validate(config)
    config.data.train_classes = 7
    validate(config)


def test_defaults_are_those_of_the_released_flags():
    config = default.get_config()
    validate(config)
    validate(quickstart.get_config())
    released = dict(
        seed=0, classes=5, shots=5, train_shots=0, inner_batch=5, inner_iters=20, replacement=False, learning_rate=1e-3,
        meta_step=0.1, meta_step_final=0.1, meta_batch=1, meta_iters=400_000, eval_batch=5, eval_iters=50,
        eval_samples=10_000, eval_interval=10, weight_decay=1.0, transductive=False, foml=False, foml_tail=0, sgd=False,
        balanced=False, zero_head=False,
    )  # fmt: skip
    assert {name: config[name] for name in released} == released


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"classes": 1}, "classes=1 is not possible"),
        ({"classes": 424}, "classes=424 exceeds the 423 test classes of omniglot"),
        ({"classes": 151, "data.name": "glyphs"}, "classes=151 exceeds the 150 test classes of glyphs"),
        ({"data.validation_classes": 4}, "classes=5 exceeds the 4 validation classes"),
        ({"data.validation_classes": 1200}, "data.validation_classes=1200 leaves none"),
        ({"data.validation_classes": -1}, "data.validation_classes=-1 is not possible"),
        ({"data.name": "mnist"}, "data.name='mnist' is not possible: give one of omniglot, glyphs"),
        ({"shots": 0}, "shots=0 is not possible"),
        ({"shots": 20}, "shots=20 and one query exceed the 20 examples"),
        ({"eval_shots": (1, 20)}, "eval_shots=20 and one query exceed the 20 examples"),
        ({"eval_shots": (0, 5)}, "eval_shots=(0, 5) is not possible"),
        ({"eval_shots": ()}, "eval_shots=() is not possible"),
        ({"train_shots": 21}, "train_shots=21 exceeds the 20 examples"),
        ({"inner_batch": 0}, "inner_batch=0 is not possible"),
        ({"inner_iters": 0}, "inner_iters=0 is not possible"),
        ({"learning_rate": 0.0}, "learning_rate=0.0 is not possible"),
        ({"learning_rate": float("nan")}, "learning_rate=nan is not possible"),
        ({"meta_step": float("inf")}, "meta_step=inf is not possible"),
        ({"meta_step_final": -0.1}, "meta_step_final=-0.1 is not possible"),
        ({"weight_decay": 0.0}, "weight_decay=0.0 is not possible"),
        ({"inner_state": "carried"}, "inner_state='carried' is not possible: give one of averaged, sequential, reset"),
        ({"seed": -1}, "seed=-1 is not possible"),
        ({"eval_seed": 2**31}, "eval_seed=2147483648 is not possible"),
        ({"meta_batch": 0}, "meta_batch=0 is not possible"),
        ({"meta_iters": 0}, "meta_iters=0 is not possible"),
        ({"eval_samples": 1}, "eval_samples=1 is not possible"),
        ({"eval_interval": 0}, "eval_interval=0 is not possible"),
        ({"checkpoint_interval": 0}, "checkpoint_interval=0 is not possible"),
        ({"foml_tail": 2}, "foml_tail=2 has no meaning without first-order MAML"),
        ({"foml": True, "foml_tail": 5}, "foml_tail=5 leaves no examples of train_shots=5"),
        (
            {"balanced": True, "inner_batch": 12},
            "inner_batch=12 is not possible with balanced=True and classes=5: give",
        ),
        ({"balanced": True, "eval_batch": 3}, "eval_batch=3 is not possible with balanced=True and classes=5: give a"),
        ({"replacement": True, "inner_batch": 26}, "inner_batch=26 exceeds the 25 examples of a training task"),
        ({"replacement": True, "eval_batch": 6}, "eval_batch=6 exceeds the 5 examples of a 1-shot task"),
    ],
)
def test_impossible_config_is_one_line_with_field_value_and_cure(fields, message):
    config = default.get_config()
    for name, value in fields.items():
        config.update_from_flattened_dict({name: value})
    with pytest.raises(ConfigError) as error:
        validate(config)
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value) and ": give" in str(error.value)


def test_shots_stand_in_for_train_shots_of_zero():
    config = default.get_config()
    assert (train_shots(config), eval_shots(config)) == (5, [1, 5])
    config.train_shots, config.shots = 10, 3
    assert (train_shots(config), eval_shots(config)) == (10, [1, 3, 5])


def test_every_field_is_checked():
    names = {
        name if not isinstance(value, dict) else f"{name}.{inner}"
        for name, value in default.get_config().to_dict().items()
        for inner in (value if isinstance(value, dict) else [""])
    }
    assert names == {*config_lib._FIELDS, "eval_shots"}


@pytest.mark.parametrize(
    ("fields", "refused"),
    [
        ({"eval_samples": 7, "eval_interval": 3, "data.archives": "elsewhere", "transductive": True}, []),
        ({"seed": 1}, ["seed: 0 -> 1"]),
        ({"learning_rate": 2e-3, "sgd": True}, ["learning_rate: 0.001 -> 0.002", "sgd: False -> True"]),
        ({"meta_iters": 9}, []),
        ({"meta_iters": 9, "meta_step_final": 0.0}, ["meta_iters: 400000 -> 9", "meta_step_final: 0.1 -> 0.0"]),
        ({"shots": 3}, ["train_shots: 5 -> 3"]),
        ({"shots": 3, "train_shots": 5}, []),
    ],
)
def test_what_may_change_on_resuming(fields, refused):
    saved, config = default.get_config(), default.get_config()
    config.update_from_flattened_dict(fields)
    assert differences(saved, config) == refused
