"""The published runs: copies them into results/ (see `runs`), and writes the tables and plots of the READMEs.

python -m reptile_jax.results            # writes tables and plots from the runs in results/
python -m reptile_jax.results WORKDIR    # first copies the run of a workdir into results/, under its name
"""

import json
import re
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from reptile_jax.files import replace_text
from reptile_jax.results.runs import RESULTS, Run, config_of, keep, kept
from reptile_jax.results.search import VARIANTS
from reptile_jax.run.metrics import smoothed
from reptile_jax.run.plots import accuracy_curves

BENCHMARK = RESULTS.parents[1] / "parity_tests" / "measured"  # what the benchmark wrote
READMES = (RESULTS.parents[1] / "README.md", RESULTS / "README.md")  # the files with tables
WINDOW = 10  # rows that each point of a plot averages
WIDTH = 116  # characters in a line of a shown command

WAVES = {  # runs on sine waves -> config and title
    "sinusoid": ("sinusoid", "Reptile"),
    "sinusoid_foml": ("sinusoid", "first-order MAML"),
    "sinusoid_relu": ("sinusoid_relu", "Reptile, ReLU"),
}

Published = dict[tuple[int, str, int], tuple[str, str]]

# Per cent: the paper's table 2, and the range over four re-runs of its released code, by (classes, protocol, shots).
PUBLISHED: Published = {
    (5, "transductive", 1): ("97.68 ± 0.04", "97.61 to 97.79"),
    (5, "inductive", 1): ("95.39 ± 0.09", "95.20 to 95.56"),
    (5, "transductive", 5): ("99.48 ± 0.06", "99.49 to 99.53"),
    (5, "inductive", 5): ("98.90 ± 0.10", "98.89 to 99.15"),
    (20, "transductive", 1): ("89.43 ± 0.14", "89.13 to 89.73"),
    (20, "inductive", 1): ("88.14 ± 0.15", "87.93 to 88.12"),
    (20, "transductive", 5): ("97.12 ± 0.32", "96.99 to 97.55"),
    (20, "inductive", 5): ("96.65 ± 0.33", "96.47 to 96.60"),
}
# The paper's table 1, and the range over independent re-runs of its released code, by (classes, protocol, shots).
PUBLISHED_MINI: Published = {
    (5, "transductive", 1): ("49.97 ± 0.32", "49.23 to 50.19"),
    (5, "inductive", 1): ("47.07 ± 0.26", "46.27 to 47.15"),
    (5, "transductive", 5): ("65.99 ± 0.58", "65.80 to 66.55"),
    (5, "inductive", 5): ("62.74 ± 0.37", "62.85 to 64.47"),
}
COMBINATIONS = {  # in per cent, final accuracies of the paper's figure 3
    **{"sum1": 33.4, "sum2": 91.7, "sum3": 95.6, "sum4": 96.7},
    **{"mean2": 89.9, "mean3": 93.8, "mean4": 95.0},
    **{"last2": 93.3, "last3": 93.0, "last4": 94.3},
}
SETTINGS = {  # (protocol, shots) -> title, for runs that the paper does not have
    (protocol, shots): f"{shots}-shot, {protocol}" for shots in (1, 5) for protocol in ("transductive", "inductive")
}
FAST = {"omniglot_5way": "omniglot_fast_5way", "omniglot_20way": "omniglot_fast_20way"}  # run -> fast run and config
OMNIGLOT = {"omniglot_5way": "omniglot_5shot_5way", "omniglot_20way": "omniglot_5shot_20way"}  # run -> config
MINI = "miniimagenet_5way"  # the run on Mini-ImageNet
MINI_EVALUATIONS = {1: "miniimagenet_1shot_5way", 5: "miniimagenet_5shot_5way"}  # shots -> evaluation, and its config
MINI_CONFIG = MINI_EVALUATIONS[5]
PACES = {  # run -> file and setting of the benchmark; a meta-iteration of a fast run has the same work
    **dict.fromkeys(("omniglot_5way", "omniglot_fast_5way"), ("omniglot.json", "5way")),
    **dict.fromkeys(("omniglot_20way", "omniglot_fast_20way"), ("omniglot.json", "20way")),
    MINI: ("miniimagenet.json", "miniimagenet_1shot_5way"),
}
FOML = {  # run -> config and title
    "omniglot_5way_reptile": ("omniglot_1shot_5way", "Reptile"),
    "omniglot_5way_foml": ("omniglot_foml_5way", "first-order MAML"),
}
ORDERS = {  # run -> config and title
    "omniglot_20way": ("omniglot_5shot_20way", "released order"),
    "omniglot_20way_averaged": ("omniglot_5shot_20way", "at the same time"),
}


def headline_table() -> str:
    """Returns the accuracy of the trained networks, and of the fast runs, beside the paper's."""
    fast = {run.config.classes: run for run in map(kept, FAST.values())}
    rows = []
    for (classes, protocol, shots), (title, paper, _, here) in zip(PUBLISHED, _omniglot(), strict=True):
        rows.append([title, paper, here, fast[classes].accuracy(protocol, shots)])
    for title, paper, _, here in _mini():
        rows.append([f"Mini-ImageNet, {title}", paper, here, ""])
    return _table(["setting", "paper", "here", "fast run"], rows)


def runs_table() -> str:
    """Returns how long the runs take, and one result of each."""
    rows = []
    runs = [(fast, fast, fast) for fast in FAST.values()]  # run, config, and what measured the accuracy
    runs += [(run, file, run) for run, file in OMNIGLOT.items()] + [(MINI, MINI_CONFIG, MINI_CONFIG)]
    for name, file, evaluation in runs:
        run = kept(name)
        result = f"{kept(evaluation).accuracy('inductive', run.config.shots)} % ({run.config.shots}-shot, inductive)"
        own = run.config.inner_state == "sequential"  # the benchmark trains the tasks at the same time
        seconds = run.seconds() if own else run.config.meta_iters / pace(name)
        per_seed = f" for each of {run.config.num_seeds} seeds" if run.config.num_seeds > 1 else ""
        state = f', `inner_state="{run.config.inner_state}"`' if own else ""
        rows.append([f"`{file}`{state}", _length(run, file), _duration(seconds) + per_seed, result])
    waves = kept("sinusoid")
    error = f"squared error {_errors(waves.results)[-1]}"
    duration = f"{_duration(waves.seconds())} for {waves.config.num_seeds} seeds"
    rows.append(["`sinusoid`", _length(waves, "sinusoid"), duration, error])
    return _table(["config", "meta-iterations", "training", "result on test tasks"], rows)


def results_table() -> str:
    """Returns the trained networks beside the paper's and four re-runs of its released code."""
    table = _table(["setting", "paper", "re-runs", "here"], _omniglot())
    runs = {f"{kept(name).config.classes}-way": (kept(name), file) for name, file in OMNIGLOT.items()}
    return f"{table}\n\n{_commands(runs)}"


def mini_table() -> str:
    """Returns the accuracy on Mini-ImageNet's test classes beside the paper's and re-runs of its released code."""
    table = _table(["setting", "paper", "re-runs", "here"], _mini())
    runs = {"training": (kept(MINI), MINI_CONFIG)}
    runs |= {f"{shots}-shot": (kept(name), name) for shots, name in MINI_EVALUATIONS.items()}
    return f"{table}\n\n{_commands(runs)}"


def mini_sets_table() -> str:
    """Returns the accuracy on Mini-ImageNet's training, validation and test classes after training."""
    run = kept(MINI)
    settings = [(protocol, shots) for protocol, shots in SETTINGS if shots == run.config.shots]
    sets = ("train", "validation", "test")
    rows = [[name, *(run.accuracy(*setting, of=name) for setting in settings)] for name in sets]
    return _table(["classes", *(SETTINGS[setting] for setting in settings)], rows)


def seeds_table() -> str:
    """Returns the mean and standard deviation over seeds."""
    run = kept("omniglot_5way_seeds")
    table = _table(list(SETTINGS.values()), [[run.accuracy(*setting) for setting in SETTINGS]])
    return f"{table}\n\n{_commands({'three seeds': (run, 'omniglot_5shot_5way')})}"


def fast_table() -> str:
    """Returns the fast runs beside the published ones."""
    rows, runs = [], {}
    for names in FAST.items():
        for title, name in zip(("published", "fast"), names, strict=True):
            run = kept(name)
            title = f"{run.config.classes}-way, {title}"
            rows.append([title, f"{run.config.meta_iters:,}", *(run.accuracy(*setting) for setting in SETTINGS)])
        runs[title] = run, name  # the fast run, which was the last
    return f"{_table(['run', 'meta-iterations', *SETTINGS.values()], rows)}\n\n{_commands(runs)}"


def combinations_table() -> str:
    """Returns the final accuracies of the gradient combinations beside the paper's."""
    runs = {name: kept(f"gradient_combinations_{name}") for name in COMBINATIONS}
    rows = [[name, f"{COMBINATIONS[name]:.1f}", run.accuracy("inductive", 5)] for name, run in runs.items()]
    lines = {
        f"    # NAME: {run.config.meta_iters:,} meta-iterations, {run.config.eval_samples:,} test tasks\n"
        + _wrapped(run.command(f"gradient_combinations:{name}").replace(f":{name}", ":NAME"))
        for name, run in runs.items()
    }
    table = _table(["NAME", "paper, 40,000 meta-iterations", "here"], rows)
    return "\n\n".join([table, *sorted(lines)])


def waves_table() -> str:
    """Returns the errors on sine waves, with Reptile, with first-order MAML and without meta-learning."""
    columns: dict[str, dict[str, Any]] = {}
    for name, (_, title) in WAVES.items():
        results = kept(name).results
        columns[title] = results
        if title.startswith("Reptile"):
            columns[title.replace("Reptile", "untrained")] = results["untrained"]
    steps = [after.removeprefix("after ").split()[0] for after in next(iter(columns.values()))["test"]]
    rows = zip(steps, *map(_errors, columns.values()), strict=True)
    table = _table(["inner steps", *columns], [list(row) for row in rows])
    return f"{table}\n\n{_commands({title: (kept(name), file) for name, (file, title) in WAVES.items()})}"


def _beside(named: dict[str, tuple[str, str]]) -> str:
    """Returns runs beside each other: {run: (config, title)}."""
    runs = {title: (kept(name), file) for name, (file, title) in named.items()}
    rows = [[title, *(run.accuracy(*setting) for setting in SETTINGS)] for title, (run, _) in runs.items()]
    return f"{_table(['', *SETTINGS.values()], rows)}\n\n{_commands(runs)}"


def _searched(ways: int) -> str:
    """Returns what was tried for tasks of `ways` classes."""
    found = [row for row in _search_rows() if VARIANTS[row["variant"]].ways == ways and row["seed"] == 0]
    ((meta_iters, tasks),) = {(row["meta_iters"], row["tasks"]) for row in found}  # otherwise rows cannot be compared

    def interval(shots: int) -> str:
        halves = [row[f"{shots}-shot {protocol}"][1] for row in found for protocol in ("transductive", "inductive")]
        return f"{min(halves):.1f} to {max(halves):.1f} points for {shots}-shot"

    rows = []
    for row in found:
        cells = [f"{row[f'{shots}-shot {protocol}'][0]:.1f}" for protocol, shots in SETTINGS]
        change = ", evaluated with ".join(filter(None, [row["variant"].removeprefix("20-way "), row["evaluation"]]))
        rows.append([change, *cells])
    facts = f"{meta_iters:,} meta-iterations, {tasks} validation tasks"
    half = f"Half the 95% interval over tasks is {interval(1)},\nand {interval(5)}."
    return f"{_table(['change', *SETTINGS.values()], rows)}\n\n{ways}-way, {facts}. {half}"


def search_seeds_table() -> str:
    """Returns what was tried with several seeds: the means, and the standard deviations over the seeds."""
    by_variant: dict[str, list[dict[str, Any]]] = {}
    for row in _search_rows():
        if not row["evaluation"]:
            by_variant.setdefault(row["variant"], []).append(row)
    rows = []
    for name, found in by_variant.items():
        values = [[row[f"{shots}-shot {protocol}"][0] for row in found] for protocol, shots in SETTINGS]
        if len(found) > 1:
            rows.append([name, *(f"{np.mean(x):.1f} ± {np.std(x, ddof=1):.1f}" for x in values)])
    return _table(["change", *SETTINGS.values()], rows)


def _search_rows() -> list[dict[str, Any]]:
    return [json.loads(line) for line in (RESULTS / "search.jsonl").read_text().splitlines()]


def _omniglot() -> list[list[str]]:
    return _accuracies(PUBLISHED, lambda classes, _: f"omniglot_{classes}way")


def _mini() -> list[list[str]]:
    return _accuracies(PUBLISHED_MINI, lambda _, shots: MINI_EVALUATIONS[shots])


def _accuracies(published: Published, evaluation: Callable[[int, int], str]) -> list[list[str]]:
    """Returns setting, the paper's accuracy, the re-runs' range and the accuracy here, for each published setting.

    `evaluation` returns the name of the run that measured a number of classes and shots.
    """
    return [
        [
            f"{classes}-way {shots}-shot, {protocol}",
            *texts,
            f"**{kept(evaluation(classes, shots)).accuracy(protocol, shots)}**",
        ]
        for (classes, protocol, shots), texts in published.items()
    ]


def pace(run: str) -> float:
    """Returns the meta-iterations/s of a run in the benchmark."""
    file, setting = PACES[run]
    return json.loads((BENCHMARK / file).read_text())[setting]["train"]["jax"]


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _length(run: Run, file: str) -> str:
    """Returns the meta-iterations of a run, and those of its config where they differ."""
    whole = config_of(file).meta_iters
    return f"{run.config.meta_iters:,}" + ("" if whole == run.config.meta_iters else f" of {whole:,}")


def _errors(results: dict[str, Any]) -> list[str]:
    cells = (by_shots["10"] for by_shots in results["test"].values())
    return [f"{each['squared_error']:.3f} ± {each['std']:.3f}" for each in cells]


TABLES = {
    "headline": headline_table,
    "runs": runs_table,
    "results": results_table,
    "mini": mini_table,
    "mini_sets": mini_sets_table,
    "fast": fast_table,
    "search_5way": lambda: _searched(5),
    "search_20way": lambda: _searched(20),
    "search_seeds": search_seeds_table,
    "seeds": seeds_table,
    "orders": lambda: _beside(ORDERS),
    "foml": lambda: _beside(FOML),
    "combinations": combinations_table,
    "waves": waves_table,
}

FIGURES = {  # file -> title, and the run and characters of each curve
    "learning_curves": (
        "Omniglot, Reptile, 5-shot, inductive",
        {
            f"{ways}-way, {characters} characters": (f"omniglot_{ways}way", characters)
            for ways in (5, 20)
            for characters in ("train", "test")
        },
    ),
    "miniimagenet": (
        "Mini-ImageNet, Reptile, 5-way 5-shot, inductive",
        {f"{classes} classes": (MINI, classes) for classes in ("train", "test")},
    ),
    **{
        fast.removeprefix("omniglot_"): (
            f"Omniglot, {published.removeprefix('omniglot_').replace('w', '-w')} 5-shot, inductive, test characters",
            {"published": (published, "test"), "fast": (fast, "test")},
        )
        for published, fast in FAST.items()
    },
    "first_order_maml": (
        "Omniglot, 5-way 1-shot, inductive, test characters",
        {"Reptile": ("omniglot_5way_reptile", "test"), "first-order MAML": ("omniglot_5way_foml", "test")},
    ),
    "gradient_combinations": (
        "Omniglot, 5-way 5-shot, inductive, test characters",
        {name: (f"gradient_combinations_{name}", "test") for name in COMBINATIONS},
    ),
}


def with_tables(text: str) -> str:
    """Replaces every table of a README between `<!-- NAME -->` and `<!-- end of NAME -->`."""
    for name, table in TABLES.items():
        marked = re.compile(rf"(?<=<!-- {name} -->\n).*?(?=<!-- end of {name} -->)", re.DOTALL)
        if marked.search(text):
            text = marked.sub(f"{table()}\n", text)
    return text


def draw() -> None:
    """Draws every figure whose runs are all kept."""
    for figure, (title, curves) in FIGURES.items():
        if all((RESULTS / name).is_dir() for name, _ in curves.values()):
            drawn, fast = {}, f"omniglot_{figure}"
            rate = pace(fast) if fast in PACES else None
            for label, (name, characters) in curves.items():
                rows = kept(name).rows
                accuracies = smoothed(np.array([row[f"{characters}_accuracy"] for row in rows]), WINDOW)
                drawn[label] = [row["step"] / (60 * rate if rate else 1) for row in rows], list(accuracies)
            axis = f"minutes at {rate:.3g} meta-iterations/s" if rate else "meta-iterations"
            accuracy_curves(drawn, title, RESULTS / f"{figure}.png", axis)


def _table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _commands(runs: dict[str, tuple[Run, str]]) -> str:
    """Returns a block of code with the facts and the command of each run, by title."""
    return "\n\n".join(
        f"    # {title}: {run.facts()}\n{_wrapped(run.command(file))}" for title, (run, file) in runs.items()
    )


def _wrapped(command: str) -> str:
    """Returns a command as indented lines that end in a backslash where it goes on."""
    wrapper = textwrap.TextWrapper(WIDTH, initial_indent=" " * 4, subsequent_indent=" " * 8, break_on_hyphens=False)
    return " \\\n".join(wrapper.wrap(f".venv/bin/python {command}"))


def main(workdirs: list[str]) -> None:
    """Copies the runs of the workdirs into results/, then writes every table and plot."""
    for each in workdirs:
        keep(Path(each))
    draw()
    for readme in READMES:
        replace_text(readme, with_tables(readme.read_text()))
