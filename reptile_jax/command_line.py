"""Reads the command line: defines the flags, checks them, and prints help that lists the modes and configs."""

import ast
import difflib
import importlib.util
import inspect
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from absl import flags
from ml_collections import ConfigDict, config_flags

from reptile_jax.config import ConfigError, field_names, get_field
from reptile_jax.devices import MOST_CPU_DEVICES
from reptile_jax.files import expanded
from reptile_jax.run import saved_config
from reptile_jax.run.checkpoint import CheckpointError
from reptile_jax.run.pretrained import SHIPPED, name_of
from reptile_jax.run.weights_file import WeightsError

PACKAGE = Path(__file__).parent
IN_WHEEL = (PACKAGE / "configs").is_dir()
CONFIGS = (PACKAGE if IN_WHEEL else PACKAGE.parent) / "configs"
SEVERAL = ("coordinator_address", "num_processes", "process_id")  # flags that need --distributed
RUNS = ("train", "eval", "parity", "benchmark")
EXAMPLES = {"pretrained": "omniglot_5way", "support": "DIR", "queries": "DIR"}  # values of these flags
PATHS = ("config", "workdir", "pretrained", "support", "queries", "output")
NO_NUMBER = re.compile(r"invalid literal for int\(\) with base 10: '.*'")  # what absl says
NEEDED = {"predict": ("pretrained", "support", "queries"), "demo": ("pretrained",)}  # flags that a mode requires
ONLY_IN = {  # flag -> the modes that have it
    "config": RUNS, "workdir": RUNS, "pretrained": ("train", "eval", "predict", "demo"),
    "distributed": ("train", "eval"), "host": ("demo",), "port": ("demo",),
    "support": ("predict",), "queries": ("predict",), "output": ("predict",), "top": ("predict",),
    "cpu_devices": ("train", "eval", "benchmark"), "rounds": ("benchmark",),
}  # fmt: skip
FIELD = re.compile(r"--?(?:no)?config\.([^=]*)")
KINDS = {bool: "true or false", int: "a whole number", float: "a number", tuple: "whole numbers, such as (1,5)"}


class Asked(NamedTuple):
    """The task that the flags describe.

    Attributes:
        mode: a key of the modes that `parse` was given.
        config: the run's config; None in a mode that chooses its own.
        workdir: the folder for results.
        name: the name of the config, or of the run whose config it is.
        pretrained: trained weights, as `pretrained.load` names them.
        distributed: whether this is one of several processes.
        coordinator_address: HOST:PORT of process 0; None if JAX gets it from the cluster.
        num_processes: number of processes; None if JAX gets it from the cluster.
        process_id: number of this process; None if JAX gets it from the cluster.
        support: folder of the classes that mode=predict learns.
        queries: files and folders to classify.
        output: file for the predictions; None for the terminal.
        top: number of classes to name for each query.
        host: name or address that mode=demo listens on; None for this machine alone.
        port: port that mode=demo listens on.
        cpu_devices: XLA devices to divide the CPU into; None: chosen for the run.
        rounds: how often mode=benchmark takes each measurement.
    """

    mode: str
    config: ConfigDict | None
    workdir: Path
    name: str
    pretrained: str | None
    distributed: bool
    coordinator_address: str | None
    num_processes: int | None
    process_id: int | None
    support: str | None
    queries: list[str] | None
    output: str | None
    top: int | None
    cpu_devices: int | None
    rounds: int | None
    host: str | None
    port: int | None


def parse(argv: Sequence[str], modes: Mapping[str, Callable[..., Any]]) -> Asked:
    """Reads the command line.

    Args:
        argv: the program's name and its arguments.
        modes: functions by the name for --mode; the first line of their docstrings is their help.

    Raises:
        SystemExit: with the help, or with one line that says what is wrong and how to correct it.
    """
    program = "python main.py" if argv[0].endswith(".py") else Path(argv[0]).name
    if len(argv) == 1:
        sys.exit(_first_steps(program))
    given = _flags(modes)
    if {"-h", "-help", "--help", "--helpfull", "--helpshort"} & set(argv):
        print(_help(program, modes, given))
        sys.exit(0)
    try:
        given.set_gnu_getopt(True)
        rest = given(argv, known_only=True)
        for arg in rest[1:]:
            if arg.startswith("-") and not FIELD.match(arg):
                given([argv[0], arg])  # raises an error, because the flag is unknown
        if given["workdir"].value:
            given["workdir"].value = str(expanded(given["workdir"].value))
        _check(given)
        config, name = _config(given, rest[1:])
        if config is not None:
            config = _overridden(given, config, rest)
        elif fields := list(filter(FIELD.match, rest[1:])):
            _unexpected(fields[0])
        elif given["mode"].value == "predict":
            given["queries"].value = [*(given["queries"].value or []), *rest[1:]]  # as a shell expands *.png
        elif len(rest) > 1:
            _unexpected(rest[1])
    except UnicodeDecodeError as error:
        sys.exit(f"error: flagfile= is not a text file ({error.reason}): write one flag per line into it")
    except flags.UnrecognizedFlagError as error:
        sys.exit(f"error: {error}{'' if 'Did you mean' in str(error) else ': --help lists the flags'}")
    except (flags.Error, ConfigError, CheckpointError, WeightsError) as error:
        text = NO_NUMBER.sub("give a whole number", " ".join(str(error).removeprefix("ERROR:: ").split()))
        sys.exit(f"error: {text}")
    workdir = Path(given["workdir"].value or Path("runs") / name)
    own = {field: given[field].value for field in Asked._fields if field in given}
    return Asked(**own | {"config": config, "workdir": workdir, "name": name})


def _flags(modes: Mapping[str, Callable[..., Any]]) -> flags.FlagValues:
    """Returns the flags before parsing, without those for the config's fields."""
    given = flags.FlagValues()
    text = "A file of configs/ by its name, a config of your own (PATH.py), or a run's config.json."
    flags.DEFINE_string("config", None, text, given)
    flags.DEFINE_enum("mode", "train", list(modes), "What to do. The default is train.", given)
    text = "Folder of the run. The default is runs/NAME, with the name of the config or of the evaluated run."
    flags.DEFINE_string("workdir", None, text, given)
    shipped = ", ".join(sorted(SHIPPED))
    text = f"Weights to evaluate or to start from: a workdir, a checkpoint, a weights file, or {shipped}."
    flags.DEFINE_string("pretrained", None, text, given)
    text = "This is one of several processes of a run. JAX gets the flags below from the cluster if they are missing."
    flags.DEFINE_bool("distributed", False, text, given)
    flags.DEFINE_string("coordinator_address", None, "HOST:PORT of process 0, for --distributed.", given)
    flags.DEFINE_integer("num_processes", None, "Number of processes, for --distributed.", 1, flag_values=given)
    text = "Number of this process from 0, for --distributed."
    flags.DEFINE_integer("process_id", None, text, 0, flag_values=given)
    text = "Folder with one folder of images per class, for --mode=predict."
    flags.DEFINE_string("support", None, text, given)
    text = "Images to classify: files or folders. More of them may follow."
    flags.DEFINE_multi_string("queries", None, text, given)
    text = "File for the predictions, *.csv or *.jsonl. By default, they are printed."
    flags.DEFINE_string("output", None, text, given)
    text = "Number of classes to name for each query, the most probable one first. The default is 1."
    flags.DEFINE_integer("top", None, text, 1, flag_values=given)
    text = "Address for --mode=demo. The default is 127.0.0.1, this machine alone; 0.0.0.0 is every network."
    flags.DEFINE_string("host", None, text, given)
    flags.DEFINE_integer("port", None, "Port for --mode=demo. The default is 8000.", 1, 65535, flag_values=given)
    text = "XLA devices to divide the CPU into. The default is the number of cores, or fewer if they train as fast."
    flags.DEFINE_integer("cpu_devices", None, text, 1, MOST_CPU_DEVICES, flag_values=given)
    text = "How often --mode=benchmark takes each measurement. The default is 7; 1 is a first look."
    flags.DEFINE_integer("rounds", None, text, 1, flag_values=given)
    return given


def _check(given: flags.FlagValues) -> None:
    """Raises ConfigError if a flag is empty or flags do not go together."""
    mode = given["mode"].value
    for name in (*PATHS, "host"):
        if given[name].value in ("", [""]):
            raise ConfigError(f"{name}= is empty: give a name or a path, or leave it out")
    for name in PATHS:
        value = given[name].value or []
        for path in [value] if isinstance(value, str) else value:
            try:
                (expanded(path) / "x").stat()
            except (FileNotFoundError, NotADirectoryError):
                pass  # what is wrong with a path that is missing is said where it is used
            except OSError as error:  # for example, the name is too long, or its folder may not be searched
                raise ConfigError(f"{name}={path} is not possible ({error.strerror}): give another path") from error
    if (workdir := given["workdir"].value) and Path(workdir).is_file():
        raise ConfigError(f"workdir={workdir} is a file: give the name of a folder")
    for name in SEVERAL:
        if given[name].present and not given["distributed"].value:
            raise ConfigError(f"{name}={given[name].value} is for several processes: give --distributed with it")
    for name, known in ONLY_IN.items():
        if given[name].value and mode not in known:
            modes = " and ".join(filter(None, (", ".join(known[:-1]), known[-1])))
            raise ConfigError(f"mode={mode} does not use {name}, which is for {modes}: leave it out")
    if given["config"].present > 1:
        raise ConfigError("--config is given twice: give it once")


def _config(given: flags.FlagValues, rest: Sequence[str]) -> tuple[ConfigDict | None, str]:
    """Returns the config and its name: from --config, or else from the run to evaluate or continue.

    Raises:
        ConfigError: neither is given; `rest`, the arguments that are not flags, may hold what was meant.
    """
    mode, pretrained = given["mode"].value, given["pretrained"].value
    workdir = given["workdir"].value and Path(given["workdir"].value)
    if mode in NEEDED:
        for name in NEEDED[mode]:
            if not given[name].value:
                raise ConfigError(f"mode={mode} needs {name}: give one, such as --{name}={EXAMPLES[name]}")
        return None, mode
    if given["config"].value:
        return _named(given["config"].value)
    if mode == "eval" and pretrained:
        return saved_config.read(pretrained, _default()), name_of(pretrained)
    left = ["config.json", *(["results.json"] if mode == "eval" else [])]  # from a run, or only from an evaluation
    if workdir and any((workdir / name).is_file() for name in left):
        return saved_config.read(workdir, _default()), name_of(workdir)
    if mode == "benchmark":
        return None, mode
    if mode == "parity":
        return _named("quickstart")[0], "quickstart"
    if rest and not FIELD.match(rest[0]):
        _unexpected(rest[0])
    if mode == "eval":
        wrong = (
            f"workdir={workdir} holds neither a run nor an evaluation"
            if workdir
            else "mode=eval has nothing to evaluate"
        )
        raise ConfigError(f"{wrong}: give --pretrained=WEIGHTS, or --workdir=DIR of a run")
    if workdir:
        raise ConfigError(f"no config is given, and there is no {workdir}/config.json: give --config=NAME")
    raise ConfigError("no config is given: give --config=NAME, such as --config=quickstart; --help lists all")


def _named(named: str) -> tuple[ConfigDict, str]:
    """Loads the config that --config names.

    Raises:
        ConfigError: there is no such config, or it cannot be loaded.
    """
    path, _, argument = named.partition(":")
    file = expanded(path)
    if not file.is_file() and file.parent in (Path(), Path("configs")):
        file = CONFIGS / f"{file.name.removesuffix('.py')}.py"  # by its bare name, or from another folder
    if not file.is_file():
        if named in SHIPPED:
            raise ConfigError(
                f"config={named} names trained weights: give --pretrained={named} to use them, or a config that --help "
                f"lists to train"
            )
        stem, known = Path(path).stem, list(_configs())
        near = [name for name in known if stem and name.startswith(stem)] or difflib.get_close_matches(stem, known)
        meant = f"did you mean {' or '.join(near)}?" if near else "give PATH.py, or a name that --help lists"
        raise ConfigError(f"config={named} is neither a file nor a config: {meant}")
    if file.suffix == ".json" and not argument:
        try:
            text = file.read_text(errors="replace")
        except OSError as error:
            raise ConfigError(f"config={named} cannot be read ({error.strerror}): give another file") from error
        return saved_config.parse(text, file, _default()), name_of(file.absolute().parent)
    return _loaded(file, argument, named), "_".join(filter(None, (file.stem, argument)))


def _loaded(file: Path, argument: str, named: str) -> ConfigDict:
    """Runs a config file.

    Raises:
        ConfigError: the file fails in any way.
    """
    arguments = [argument] if argument else []
    if IN_WHEEL:  # configs import each other as configs.NAME, and so do a person's own configs
        sys.modules["configs"] = importlib.import_module("reptile_jax.configs")
    try:
        spec = importlib.util.spec_from_file_location("configs.loaded", file)
        if spec is None or spec.loader is None:
            raise ConfigError(f"config={named} is not a Python file: give a file of configs/ by its name, or PATH.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        if not hasattr(module, "get_config"):
            raise ConfigError(f"config={named} has no function get_config: write one like those in configs/")
        try:
            inspect.signature(module.get_config).bind(*arguments)
        except TypeError as error:
            cure = "leave out the colon and what follows it" if argument else f"give --config={named}:ARGUMENT"
            raise ConfigError(f"config={named} takes {'no' if argument else 'an'} argument: {cure}") from error
        config = module.get_config(*arguments)
    except ConfigError:
        raise
    except ValueError as error:  # the message is the config's own
        raise ConfigError(f"config={named}: {error}") from error
    except Exception as error:  # a config is a program, and can fail in any way
        raise ConfigError(
            f"config={named} cannot be loaded ({type(error).__name__}: {error}): correct {file}"
        ) from error
    if not isinstance(config, ConfigDict):
        raise ConfigError(
            f"config={named}: get_config returns {config!r}: return configs/default.py's config with your changes"
        )
    return config


def _overridden(given: flags.FlagValues, config: ConfigDict, rest: list[str]) -> ConfigDict:
    """Applies every --config.FIELD=VALUE among the remaining arguments, and locks the config.

    Raises:
        ConfigError, flags.Error: a field does not exist, a value is of the wrong type, or a flag is unknown.
    """
    fields = {match[1] for arg in rest if (match := FIELD.match(arg))}
    names = field_names(config)
    for field in sorted(fields - names):
        if inner := sorted(name for name in names if name.startswith(f"{field}.")):
            likely = f"{field}.name" if f"{field}.name" in inner else inner[0]
            raise ConfigError(f"{field} is a group of fields, {', '.join(inner)}: give one, as --config.{likely}=VALUE")
        near = difflib.get_close_matches(field, names, n=1)
        meant = f"did you mean {near[0]}?" if near else "give another one."
        raise ConfigError(f"the config has no field {field!r}: {meant} Its fields are those of configs/default.py")
    delattr(given, "config")
    config_flags.DEFINE_config_dict("config", config, flag_values=given, lock_config=True, sys_argv=rest)
    try:
        left = given(rest)
    except flags.IllegalFlagValueError as error:
        match = re.match(r"flag --config\.([^=]*)=(.*?): ", str(error))
        if match is None:
            raise
        kind = KINDS.get(type(get_field(config, match[1])), "another value")
        raise ConfigError(f"{match[1]}={match[2]} is not possible: give {kind}") from error
    if len(left) > 1:
        _unexpected(left[1])
    return config


def _unexpected(argument: str) -> NoReturn:
    meant = f"did you mean --config={argument}?" if argument in _configs() else "flags are written --name=value"
    raise ConfigError(f"unexpected argument {argument}: {meant}")


def _default() -> ConfigDict:
    return _named("default")[0]


def _configs() -> dict[str, str]:
    """Returns the first line of each config's docstring by the config's name, NAME or NAME:ARGUMENT."""
    found = {}
    for file in sorted(CONFIGS.glob("[!_]*.py")):
        tree = ast.parse(file.read_text())
        functions = (node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "get_config")
        arguments = [f":{argument.arg.upper()}" for function in functions for argument in function.args.args]
        found["".join([file.stem, *arguments])] = (ast.get_docstring(tree) or "").partition("\n")[0]
    return found


def _first_steps(program: str) -> str:
    """Returns the text that shows what to type if there are no arguments."""
    rows = {
        "--config=quickstart": "trains and evaluates on built-in synthetic drawings, without a download",
        "--config=images --config.data.dir=DIR": "trains on your own images, in one folder per class",
        "--config=omniglot_fast_5way": "trains on Omniglot in a fifth of the published time; downloads Omniglot",
        "--config=omniglot_5shot_5way": "is the published 5-way run, which takes hours; downloads Omniglot",
        "--mode=eval --pretrained=omniglot_5way": "evaluates trained weights on test characters; downloads Omniglot",
        "--mode=demo --pretrained=omniglot_5way": "serves a page to draw on",
        "--help": "lists every mode, config and flag",
    }
    return "\n".join(["Type one of these:", "", *_columns({f"{program} {flag}": text for flag, text in rows.items()})])


def _help(program: str, modes: Mapping[str, Callable[..., Any]], given: flags.FlagValues) -> str:
    """Returns the text of --help: flags, modes and configs, read from the places that define them."""
    first = {name: (inspect.getdoc(mode) or "").partition("\n")[0] for name, mode in modes.items()}
    of_absl = ";\n    repeat this option to specify a list of values"
    own = {f"--{name}": (given[name].help or "").removesuffix(of_absl) for name in given if name in Asked._fields}
    default = CONFIGS / "default.py" if IN_WHEEL else "configs/default.py"
    return "\n".join(
        [
            f"{program} --config=NAME [--config.FIELD=VALUE ...] [--mode=MODE] [--workdir=DIR] [--pretrained=WEIGHTS]",
            *("", "Flags:", *_columns({flag: text for flag, text in own.items() if text})),
            *("", "Modes (--mode=MODE):", *_columns(first)),
            *("", "Configs (--config=NAME):", *_columns(_configs())),
            *("", f"Fields (--config.FIELD=VALUE): {default} lists them with defaults and comments."),
        ]
    )


def _columns(rows: Mapping[str, str]) -> list[str]:
    width = max(map(len, rows))
    return [f"  {name.ljust(width)}  {text}" for name, text in rows.items()]
