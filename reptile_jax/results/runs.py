"""The kept runs: what is copied of a workdir into results/, and read from there.

A kept run consists of its config.json, its results.json and its metrics.jsonl, averaged over equal parts of the run.
Runs with shipped weights also have a weights file, and some runs have pictures. A kept evaluation of shipped weights
consists of its results.json. The paths of the data are left out.
"""

import importlib
import json
import shlex
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from configs import default
from reptile_jax.config import field_names, get_field
from reptile_jax.files import replace_text
from reptile_jax.run import saved_config, weights_file
from reptile_jax.run.metrics import read_rows
from reptile_jax.run.pretrained import SHIPPED, is_run, load

RESULTS = Path(__file__).parent
ROWS = 100  # rows that a kept run has in metrics.jsonl
WITH_WEIGHTS = (  # kept with weights
    "omniglot_5way", "omniglot_20way", "omniglot_fast_5way", "omniglot_fast_20way", "miniimagenet_5way"
)  # fmt: skip
PICTURES = dict.fromkeys(WITH_WEIGHTS, ("tasks.png",)) | {"sinusoid": ("tasks.png", "learning_curve.png")}


class Run(NamedTuple):
    """A kept run, or a kept evaluation of shipped weights.

    Attributes:
        config: every field.
        results: as in results.json.
        rows: means over equal parts of the run, as in metrics.jsonl; `step` is the last of a part. An evaluation has
            none.
    """

    config: ConfigDict
    results: dict[str, Any]
    rows: list[dict[str, float]]

    def seconds(self) -> float:
        """Returns how long the meta-iterations took, without learning curves and evaluation."""
        steps = np.diff([0, *(row["step"] for row in self.rows)])
        return float(np.sum(steps / np.array([row["meta_iters_per_second"] for row in self.rows])))

    def command(self, file: str) -> str:
        """Returns the command that repeats it: a file of configs/, and every field that differs from it."""
        before, now = config_of(file), self.config
        names = [name for name in field_names(now) if get_field(before, name) != get_field(now, name)]
        changed = [f"--config.{name}={get_field(now, name)}".replace(" ", "") for name in names]
        if now.data.name == "images":
            changed.append("--config.data.dir=DIR")
        source = self.results.get("weights", {}).get("source")  # which older results do not name
        evaluation = ["--mode=eval", f"--pretrained={source}"] if source in SHIPPED else []
        module, colon, argument = file.partition(":")
        return f"main.py {shlex.join([*evaluation, f'--config=configs/{module}.py{colon}{argument}', *changed])}"

    def facts(self) -> str:
        """Returns what was run, in words."""
        tasks, iterations = f"{self.config.eval_samples:,} test tasks", f"{self.config.meta_iters:,} meta-iterations"
        return f"{iterations}, {tasks}" if self.rows else tasks

    def accuracy(self, protocol: str, shots: int, of: str = "test") -> str:
        """Returns the accuracy on a set in per cent, ± its 95% interval or the standard deviation over seeds."""
        result = self.results[of][protocol][str(shots)]
        return f"{100 * result['accuracy']:.2f} ± {100 * result['std' if 'std' in result else 'ci95']:.2f}"


def keep(workdir: Path) -> None:
    """Copies the run of a workdir, or the evaluation of shipped weights there, into results/, under its name.

    Weights are copied without the fingerprint of their data, so that they can be used with another copy of the images,
    such as one that was compressed in another way.

    Raises:
        ValueError: the run was evaluated with other fields than its config's; or the evaluation is not of shipped
            weights, or would replace a kept run.
    """
    workdir = workdir.resolve()  # "." has no name
    folder, config = RESULTS / workdir.name, saved_config.read(workdir, default.get_config())
    results = json.loads((workdir / "results.json").read_text())
    if not is_run(workdir):
        if (source := results["weights"]["source"]) not in SHIPPED:
            raise ValueError(f"{workdir} holds an evaluation of {source}: evaluate shipped weights")
        if (folder / "config.json").exists():
            raise ValueError(f"{workdir} holds an evaluation alone, and {folder} a run: give the workdir another name")
    evaluated = saved_config.parse(json.dumps(results["config"]), workdir, default.get_config())
    for each in (config, evaluated):
        each.data.dir = each.data.archives = ""
    if fields := [name for name in field_names(config) if get_field(evaluated, name) != get_field(config, name)]:
        raise ValueError(f"{workdir} was evaluated with other fields than those of its config: {', '.join(fields)}")
    if "test" not in results:
        raise ValueError(f"{workdir} was not evaluated on test classes: evaluate it with --config.eval_set=test")
    for result in (result for by_shots in results["test"].values() for result in by_shots.values()):
        for of_seed in result.get("seeds", {"": result}).values():
            if (tasks := of_seed["tasks"]) != config.eval_samples:
                raise ValueError(f"{workdir}: {tasks} tasks were evaluated, but eval_samples={config.eval_samples}")
    folder.mkdir(parents=True, exist_ok=True)
    results["config"] = json.loads(config.to_json())
    replace_text(folder / "results.json", json.dumps(results, indent=2) + "\n")
    if not is_run(workdir):
        return
    replace_text(folder / "config.json", config.to_json(indent=2) + "\n")
    for picture in PICTURES.get(workdir.name, ()):
        shutil.copy(workdir / picture, folder / picture)
    if workdir.name in WITH_WEIGHTS:
        state = jax.tree.map(lambda x: x[0], load(workdir).states)  # of the first seed
        config.num_seeds = 1
        weights_file.save(folder / "weights.safetensors", state, config)
    rows = thinned(read_rows(workdir / "metrics.jsonl"), ROWS)
    replace_text(folder / "metrics.jsonl", "".join(json.dumps(row) + "\n" for row in rows))


def kept(name: str) -> Run:
    """Reads a kept run or evaluation."""
    folder = RESULTS / name
    config = saved_config.read(folder, default.get_config())
    return Run(config, json.loads((folder / "results.json").read_text()), read_rows(folder / "metrics.jsonl"))


def thinned(rows: list[dict[str, Any]], count: int) -> list[dict[str, float]]:
    """Averages rows over `count` equal parts, or fewer if there are fewer rows; rates are averaged as times."""
    means = []
    for part in np.array_split(np.arange(len(rows)), min(count, len(rows))):
        inside = [rows[i] for i in part]
        mean = {name: float(np.mean([row[name] for row in inside])) for name in inside[0]}
        mean["meta_iters_per_second"] = len(inside) / sum(1 / row["meta_iters_per_second"] for row in inside)
        means.append(mean | {"step": inside[-1]["step"]})
    return means


def config_of(file: str) -> ConfigDict:
    """Returns a config by its file in configs/ and, after a colon, its argument."""
    module, _, argument = file.partition(":")
    return importlib.import_module(f"configs.{module}").get_config(*([argument] if argument else []))
