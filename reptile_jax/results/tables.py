"""The published runs: keeps them in results/, and writes the README's tables and plots from what is kept.

    python -m reptile_jax.results            # tables and plots anew
    python -m reptile_jax.results WORKDIR    # keeps the run of a workdir first, under its name

A kept run is its config.json, its results.json and its metrics.jsonl, thinned to means over equal parts; those whose
weights are shipped have a weights file, too, and some have pictures.
"""

import importlib
import json
import re
import shlex
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from configs import default
from reptile_jax.files import replace_text
from reptile_jax.run import saved_config
from reptile_jax.run.metrics import read_rows, smoothed
from reptile_jax.run.plots import accuracy_curves
from reptile_jax.run.pretrained import export

README = Path(__file__).parents[2] / "README.md"
RESULTS = Path(__file__).parent
ROWS = 100  # of a kept run's metrics
WINDOW = 10  # rows that a point of the plots is the mean of
WITH_WEIGHTS = ("omniglot_5way", "omniglot_20way")  # runs whose weights are kept, too
PICTURES = dict.fromkeys(WITH_WEIGHTS, ("tasks.png",)) | {"sinusoid": ("tasks.png", "learning_curve.png")}

WAVES = {  # runs on sine waves: config and title
    "sinusoid": ("sinusoid", "Reptile"),
    "sinusoid_foml": ("sinusoid", "first-order MAML"),
    "sinusoid_relu": ("sinusoid_relu", "Reptile, ReLU"),
}

# In per cent, of the paper's table 2 and of four re-runs of its released code: (classes, protocol, shots) -> both.
PUBLISHED = {
    (5, "transductive", 1): ("97.68 ± 0.04", "97.61 to 97.79"),
    (5, "inductive", 1): ("95.39 ± 0.09", "95.20 to 95.56"),
    (5, "transductive", 5): ("99.48 ± 0.06", "99.49 to 99.53"),
    (5, "inductive", 5): ("98.90 ± 0.10", "98.89 to 99.15"),
    (20, "transductive", 1): ("89.43 ± 0.14", "89.13 to 89.73"),
    (20, "inductive", 1): ("88.14 ± 0.15", "87.93 to 88.12"),
    (20, "transductive", 5): ("97.12 ± 0.32", "96.99 to 97.55"),
    (20, "inductive", 5): ("96.65 ± 0.33", "96.47 to 96.60"),
}
COMBINATIONS = {  # in per cent, final accuracies of the paper's figure 3
    **{"sum1": 33.4, "sum2": 91.7, "sum3": 95.6, "sum4": 96.7},
    **{"mean2": 89.9, "mean3": 93.8, "mean4": 95.0},
    **{"last2": 93.3, "last3": 93.0, "last4": 94.3},
}


SETTINGS = {  # of the runs that are not in the paper: protocol and shots -> name
    (protocol, shots): f"5-way {shots}-shot, {protocol}"
    for shots in (1, 5)
    for protocol in ("transductive", "inductive")
}
FACTS = ["tasks", "meta-iterations", "training", "command"]


class Run(NamedTuple):
    """A kept run.

    Attributes:
        config: every field.
        results: as in results.json.
        rows: means over equal parts of the run, as in metrics.jsonl; `step` is the last of a part.
    """

    config: ConfigDict
    results: dict[str, Any]
    rows: list[dict[str, float]]

    def hours(self) -> str:
        """How long the meta-iterations took, curves and evaluation apart."""
        steps = np.diff([0, *(row["step"] for row in self.rows)])
        hours = np.sum(steps / np.array([row["meta_iters_per_second"] for row in self.rows])) / 3600
        return f"{hours:.1f} h" if hours >= 1 else f"{60 * hours:.0f} min"

    def command(self, file: str) -> str:
        """The command that repeats it: a file of configs/, and every field that differs from it."""
        module, colon, argument = file.partition(":")
        given = importlib.import_module(f"configs.{module}").get_config(*([argument] if argument else []))
        before, now = _flat(given), _flat(self.config)
        changed = [f"--config.{name}={now[name]}".replace(" ", "") for name in now if before[name] != now[name]]
        named = f"--config=configs/{module}.py{colon}{argument}"
        return f"`main.py {shlex.join([named, *changed])}`"

    def facts(self, file: str) -> list[str]:
        """Cells that say what was run, as in `FACTS`."""
        return [f"{self.config.eval_samples:,}", f"{self.config.meta_iters:,}", self.hours(), self.command(file)]

    def accuracy(self, protocol: str, shots: int) -> str:
        """On test characters, in per cent, with its 95% interval, or the standard deviation of several seeds."""
        result = self.results["test"][protocol][str(shots)]
        return f"{100 * result['accuracy']:.2f} ± {100 * result['std' if 'std' in result else 'ci95']:.2f}"


def keep(workdir: Path) -> None:
    """Keeps the run of a workdir under its name.

    Raises:
        ValueError: it was evaluated by another config than it has.
    """
    folder = RESULTS / workdir.name
    measured = json.loads((workdir / "results.json").read_text())["test"]
    samples = saved_config.read(workdir, default.get_config()).eval_samples
    for result in (result for by_shots in measured.values() for result in by_shots.values()):
        for of_seed in result.get("seeds", {"": result}).values():
            if of_seed["tasks"] != samples:
                raise ValueError(f"{workdir}: {of_seed['tasks']} tasks were evaluated, and eval_samples={samples}")
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("config.json", "results.json"):
        shutil.copy(workdir / name, folder / name)
    for picture in PICTURES.get(workdir.name, ()):
        shutil.copy(workdir / picture, folder / picture)
    if workdir.name in WITH_WEIGHTS:
        export(workdir, folder / "weights.safetensors")
    rows = thinned(read_rows(workdir / "metrics.jsonl"), ROWS)
    replace_text(folder / "metrics.jsonl", "".join(json.dumps(row) + "\n" for row in rows))


def kept(name: str) -> Run:
    """Reads a kept run."""
    folder = RESULTS / name
    config = saved_config.read(folder, default.get_config())
    return Run(config, json.loads((folder / "results.json").read_text()), read_rows(folder / "metrics.jsonl"))


def thinned(rows: list[dict[str, Any]], count: int) -> list[dict[str, float]]:
    """Averages rows over `count` equal parts, or as many as there are rows; rates so that times add up."""
    means = []
    for part in np.array_split(np.arange(len(rows)), min(count, len(rows))):
        inside = [rows[i] for i in part]
        mean = {name: float(np.mean([row[name] for row in inside])) for name in inside[0]}
        mean["meta_iters_per_second"] = len(inside) / sum(1 / row["meta_iters_per_second"] for row in inside)
        means.append(mean | {"step": inside[-1]["step"]})
    return means


def results_table() -> str:
    """The trained networks beside the paper's."""
    rows = []
    for name, file in (("omniglot_5way", "omniglot_5shot_5way"), ("omniglot_20way", "omniglot_5shot_20way")):
        run = kept(name)
        for (classes, protocol, shots), published in PUBLISHED.items():
            if classes == run.config.classes:
                setting = f"{classes}-way {shots}-shot, {protocol}"
                rows.append([setting, *published, f"**{run.accuracy(protocol, shots)}**", *run.facts(file)])
    return _table(["setting", "paper", "re-runs", "here", *FACTS], rows)


def seeds_table() -> str:
    """Mean and standard deviation over seeds."""
    run = kept("omniglot_5way_seeds")
    cells = [run.accuracy(protocol, shots) for protocol, shots in SETTINGS]
    return _table([*SETTINGS.values(), *FACTS], [[*cells, *run.facts("omniglot_5shot_5way")]])


def foml_table() -> str:
    """First-order MAML beside Reptile."""
    rows = []
    for title, name, file in (
        ("Reptile", "omniglot_5way_reptile", "omniglot_1shot_5way"),
        ("first-order MAML", "omniglot_5way_foml", "omniglot_foml_5way"),
    ):
        run = kept(name)
        cells = [run.accuracy(protocol, shots) for protocol, shots in SETTINGS]
        rows.append([title, *cells, *run.facts(file)])
    return _table(["", *SETTINGS.values(), *FACTS], rows)


def combinations_table() -> str:
    """Final accuracies of the gradient combinations, and the paper's."""
    rows = []
    for name, paper in COMBINATIONS.items():
        run = kept(f"gradient_combinations_{name}")
        facts = run.facts(f"gradient_combinations:{name}")
        rows.append([name, f"{paper:.1f}", run.accuracy("inductive", 5), *facts])
    return _table(["gradients", "paper, 40,000 meta-iterations", "here", *FACTS], rows)


def waves_table() -> str:
    """Errors on sine waves, of Reptile, first-order MAML and no meta-learning."""
    rows = []
    for name, (file, title) in WAVES.items():
        run = kept(name)
        rows.append([title, *_errors(run.results), run.command(file)])
        if title.startswith("Reptile"):
            rows.append([title.replace("Reptile", "untrained"), *_errors(run.results["untrained"]), ""])
    steps = kept(next(iter(WAVES))).results["test"]
    return _table(["mean squared error", *steps, "command"], rows)


def _errors(results: dict[str, Any]) -> list[str]:
    cells = (by_shots["10"] for by_shots in results["test"].values())
    return [f"{each['squared_error']:.3f} ± {each['std']:.3f}" for each in cells]


TABLES = {
    "waves": waves_table,
    "results": results_table,
    "seeds": seeds_table,
    "foml": foml_table,
    "combinations": combinations_table,
}


FIGURES = {  # file -> title, and for each curve its run and characters
    "learning_curves": (
        "Omniglot, Reptile, 5-shot, inductive",
        {
            f"{ways}-way, {characters} characters": (f"omniglot_{ways}way", characters)
            for ways in (5, 20)
            for characters in ("train", "test")
        },
    ),
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
    """Replaces every table of a README that stands between `<!-- NAME -->` and `<!-- end of NAME -->`."""
    for name, table in TABLES.items():
        marked = re.compile(rf"(?<=<!-- {name} -->\n).*?(?=<!-- end of {name} -->)", re.DOTALL)
        if marked.search(text):
            text = marked.sub(f"{table()}\n", text)
    return text


def draw() -> None:
    """Draws the figures whose runs are kept."""
    for figure, (title, curves) in FIGURES.items():
        if all((RESULTS / name).is_dir() for name, _ in curves.values()):
            drawn = {}
            for label, (name, characters) in curves.items():
                rows = kept(name).rows
                accuracies = smoothed(np.array([row[f"{characters}_accuracy"] for row in rows]), WINDOW)
                drawn[label] = [row["step"] for row in rows], list(accuracies)
            accuracy_curves(drawn, title, RESULTS / f"{figure}.png")


def _flat(config: ConfigDict) -> dict[str, Any]:
    """The fields by name, "data.name"."""
    inner = {f"data.{name}": value for name, value in config.data.items()}
    return {name: value for name, value in config.items() if name != "data"} | inner


def _table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main(workdirs: list[str]) -> None:
    """Keeps the runs of the workdirs, then writes every table and plot."""
    for each in workdirs:
        keep(Path(each))
    draw()
    replace_text(README, with_tables(README.read_text()))
