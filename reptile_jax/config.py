"""Checks a config before anything is loaded, and decides which fields may change when a run is resumed."""

from collections.abc import Callable, Iterator, KeysView
from typing import Any

from ml_collections import ConfigDict

from reptile_jax.data import DATA_SETS, num_train, set_sizes
from reptile_jax.data.images import SETS
from reptile_jax.networks import NETWORKS
from reptile_jax.networks.layers import CONVOLUTIONS

TASKS_AT_ONCE = ("auto", "one", "all")
LARGEST = 3.4e38  # in float32
INNER_STATES = ("averaged", "sequential", "reset")

# Fields that change neither the weights of a run nor the classes that it is trained on.
FREE_FIELDS = frozenset(
    {
        "data.dir",
        "data.archives",
        "shots",
        "eval_batch",
        "eval_iters",
        "eval_samples",
        "eval_interval",
        "eval_seed",
        "eval_set",
        "eval_train",
        "eval_untrained",
        "transductive",
        "checkpoint_interval",
        "tasks_at_once",
        "convolution",
    }
)


class ConfigError(ValueError):
    """An impossible config; the message is one line that names the field, its value and the cure."""


def train_shots(config: ConfigDict) -> int:
    """Returns the drawings per class in training: `train_shots`, or `shots` if that is 0."""
    return config.train_shots or config.shots


def seeds_of(config: ConfigDict) -> range:
    """Returns the seeds of the run: `seed` and the following ones, `num_seeds` in all."""
    return range(config.seed, config.seed + config.num_seeds)


def eval_shots(config: ConfigDict) -> list[int]:
    """Returns every number of shots to evaluate, including `shots`, in ascending order."""
    return sorted({config.shots, *config.eval_shots})


def eval_sets(config: ConfigDict) -> list[str]:
    """Returns the sets of classes that a run uses: "train", the held-out set of curves and headline, and others.

    The held-out set is `eval_set`. With "auto" it is the validation classes if there are any, else the test classes. A
    run on test classes also reports validation classes if the data set has some, as the released code does.
    """
    held_out = config.eval_set
    sizes = _sizes(config)
    if held_out == "auto":
        held_out = "validation" if "validation" in sizes else "test"
    others = ["validation"] if held_out == "test" and "validation" in sizes else []
    return ["train", held_out, *others]


def _sizes(config: ConfigDict) -> dict[str, int]:
    """Returns the number of classes of every set, before rotation makes more of them."""
    described = DATA_SETS[config.data.name].describe(config.data)
    return set_sizes(described, num_train(config.data, len(described.names)), config.data.validation_classes)


def validate(config: ConfigDict) -> None:
    """Checks every field and every combination.

    Raises:
      ConfigError: at the first problem.
    """
    for problem in _problems(config):
        raise ConfigError(problem)


def _whole(low: int, high: int = 2**31 - 1) -> tuple[Callable[[Any], bool], str]:
    return lambda x: isinstance(x, int) and not isinstance(x, bool) and low <= x <= high, (
        f"a whole number from {low} to {high}"
    )


def _number(low: float, strict: bool) -> tuple[Callable[[Any], bool], str]:
    def holds(x: Any) -> bool:
        return (
            isinstance(x, (int, float))
            and not isinstance(x, bool)
            and abs(x) <= LARGEST  # which is false for NaN, too
            and (x > low if strict else x >= low)
        )

    return holds, f"a finite number {'above' if strict else 'of at least'} {low:g}"


def _among(*values: Any) -> tuple[Callable[[Any], bool], str]:
    return lambda x: x in values, "one of " + ", ".join(map(str, values))


_SWITCH = (lambda x: isinstance(x, bool)), "true or false"
_TEXT = (lambda x: isinstance(x, str)), "a text"
_FIELDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "seed": _whole(0),
    "num_seeds": _whole(1),
    "data.name": _among(*DATA_SETS),
    "data.dir": _TEXT,
    "data.archives": _TEXT,
    "data.size": _whole(1, 1024),
    "data.channels": _among(1, 3),
    "data.rotations": _SWITCH,
    "data.train_classes": _whole(0),
    "data.validation_classes": _whole(0),
    "model.name": _among(*NETWORKS),
    "model.filters": _whole(1, 4096),
    "classes": _whole(1),
    "shots": _whole(1),
    "train_shots": _whole(0),
    "inner_batch": _whole(1),
    "inner_iters": _whole(1),
    "replacement": _SWITCH,
    "balanced": _SWITCH,
    "learning_rate": _number(0, strict=True),
    "sgd": _SWITCH,
    "weight_decay": (_number(0, strict=True)[0], "a finite number above 0; 1 is off"),
    "inner_state": _among(*INNER_STATES),
    "zero_head": _SWITCH,
    "meta_batch": _whole(1),
    "meta_iters": _whole(1),
    "meta_step": _number(0, strict=False),
    "meta_step_final": _number(0, strict=False),
    "foml": _SWITCH,
    "foml_tail": _whole(0),
    "eval_batch": _whole(1),
    "eval_iters": _whole(1),
    "eval_samples": _whole(2),
    "eval_interval": _whole(1),
    "eval_seed": _whole(0),
    "eval_set": _among("auto", *SETS[1:]),
    "eval_train": _SWITCH,
    "eval_untrained": _SWITCH,
    "transductive": _SWITCH,
    "checkpoint_interval": _whole(1),
    "tasks_at_once": _among(*TASKS_AT_ONCE),
    "convolution": _among(*CONVOLUTIONS),
}


def _problems(config: ConfigDict) -> Iterator[str]:
    """Yields one line for each problem."""
    if not isinstance(config, ConfigDict):
        yield f"the config is {config!r}: give the ConfigDict of configs/default.py with your changes"
    for name in unknown_fields(config):
        yield f"{name} is {'missing' if name in _FIELDS else 'not a field'}: begin with configs/default.py's config"
    for name, (holds, wanted) in _FIELDS.items():
        value = get_field(config, name)
        if not holds(value):
            yield f"{name}={value!r} is not possible: give {wanted}"
    shots = config.eval_shots
    if not isinstance(shots, tuple | list) or not shots or not all(_whole(1)[0](x) for x in shots):
        yield f"eval_shots={config.eval_shots!r} is not possible: give shot counts of at least 1, such as (1, 5)"
    if seeds_of(config)[-1] > 2**31 - 1:
        yield f"num_seeds={config.num_seeds} from seed={config.seed} goes beyond {2**31 - 1}: give a smaller seed"

    yield from _data_problems(config)
    shots = train_shots(config)
    if config.foml_tail and not config.foml:
        yield f"foml_tail={config.foml_tail} has no meaning without first-order MAML: give foml=True or foml_tail=0"
    if config.foml_tail >= shots:
        yield f"foml_tail={config.foml_tail} leaves no examples of train_shots={shots} for the other steps: give fewer"
    for name in ("inner_batch", "eval_batch") if config.balanced else ():
        if config[name] % config.classes:
            yield (
                f"{name}={config[name]} is not possible with balanced=True and classes={config.classes}: give a "
                f"multiple of {config.classes}"
            )
    if config.replacement:
        fewest = eval_shots(config)[0]
        for name, examples, task in (
            ("inner_batch", config.classes * (shots - config.foml_tail), "training task"),
            ("eval_batch", config.classes * fewest, f"{fewest}-shot task"),
        ):
            if config[name] > examples:
                yield (
                    f"{name}={config[name]} exceeds the {examples} examples of a {task}, which replacement draws "
                    f"without repeating: give at most {examples}"
                )


def _data_problems(config: ConfigDict) -> Iterator[str]:
    """Yields one line for each problem with the data set, and for each field that does not suit it."""
    data, name = config.data, config.data.name
    known = DATA_SETS[name]
    for field, possible in known.values.items():
        if (value := get_field(config, field)) not in possible:
            yield f"{field}={value} is not possible with data.name={name}: give {' or '.join(map(str, possible))}"
    described = known.describe(data)
    if config.classes == 1 and len(described.names) > 1:
        yield f"classes=1 is not possible: give at least 2, which the tasks of {name} tell apart"
    train = num_train(data, len(described.names))
    if described.sets is None and not 0 < train < len(described.names):
        classes = len(described.names)
        yield f"data.train_classes={train} leaves no test class of the {classes} classes of {name}: give fewer"
    if described.sets is None and data.validation_classes >= train:
        yield (
            f"data.validation_classes={data.validation_classes} leaves none of the {train} training classes of {name}: "
            f"give fewer"
        )
    if described.sets is not None and (data.validation_classes or data.train_classes):
        field = "validation_classes" if data.validation_classes else "train_classes"
        yield f"data.{field}={data[field]} is not possible: {name} has its own sets in {data.dir}: give 0"
    sizes, turns = _sizes(config), 4 if data.rotations else 1
    for kind in eval_sets(config):
        classes = sizes.get(kind, 0) * (turns if kind == "train" else 1)
        if config.classes > classes:
            fits = len(described.names) - config.classes  # classes to train on that leave enough for testing
            can_move = described.sets is None and kind == "test" and "data.train_classes" not in known.values
            or_else = f", or data.train_classes={fits}" if can_move and fits > 0 else ""
            yield f"classes={config.classes} exceeds the {classes} {kind} classes of {name}: give fewer{or_else}"
    fewest = min(described.counts)
    where = f"the {fewest} examples of {described.names[described.counts.index(fewest)]}"
    for shots in eval_shots(config):
        if shots + 1 > fewest:
            field = "shots" if shots == config.shots else "eval_shots"
            yield f"{field}={shots} and one query exceed {where}: give at most {fewest - 1}"
    if train_shots(config) > fewest:
        yield f"train_shots={train_shots(config)} exceeds {where}: give at most {fewest}"


def field_names(config: ConfigDict) -> KeysView[str]:
    """Returns the names of all fields, such as "data.name", in the order of the config."""
    return {
        f"{name}.{inner}" if inner else name: None
        for name, value in config.items()
        for inner in (value if isinstance(value, ConfigDict) else [""])
    }.keys()


def unknown_fields(config: ConfigDict) -> list[str]:
    """Returns the names of the fields that are missing in a config, and of those that are not fields."""
    return sorted(field_names(config) ^ {*_FIELDS, "eval_shots"})


def get_field(config: ConfigDict, name: str) -> Any:
    """Returns a field by its name, such as "data.name"."""
    for part in name.split("."):
        config = config[part]
    return config


# The behaviour of older runs whose config lacks a field. It does not depend on the field's current default.
OLDER = {
    "data.size": 28,
    "data.channels": 1,
    "data.rotations": True,
    "data.train_classes": 0,
    "model.name": "omniglot",
    "model.filters": 64,
    "balanced": False,
    "zero_head": False,
    "eval_set": "auto",
    "eval_untrained": False,
}


def completed(saved: ConfigDict) -> ConfigDict:
    """Returns a saved config with the fields that its version did not have, set to the behaviour of that version."""
    whole = saved.to_dict()
    for name, value in OLDER.items():
        section, _, field = name.rpartition(".")
        (whole.setdefault(section, {}) if section else whole).setdefault(field, value)
    return ConfigDict(whole)


def differences(saved: ConfigDict, config: ConfigDict) -> list[str]:
    """Lists the fields that make `config` another run than the one that `saved` began, as "field: saved -> now".

    `meta_iters` may change if the schedule does not depend on it (meta_step equals meta_step_final).
    """
    free = FREE_FIELDS | ({"meta_iters"} if config.meta_step == config.meta_step_final else set())
    names = [name for name in _FIELDS if name not in free]
    before, now = (
        {name: get_field(c, name) for name in names} | {"train_shots": train_shots(c)} for c in (saved, config)
    )
    return [f"{name}: {before[name]!r} -> {now[name]!r}" for name in names if before[name] != now[name]]
