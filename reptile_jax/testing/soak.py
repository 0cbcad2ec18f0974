"""Kills real runs with SIGKILL and compares their results: python -m reptile_jax.testing.soak FOLDER.

FOLDER must not exist. REPTILE_OMNIGLOT=DIR, the folder of Omniglot's archives, adds kills in the preparation of the
data.
"""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np

from reptile_jax.devices import mesh_of
from reptile_jax.run import checkpoint
from reptile_jax.run.programs import state_shapes

MAIN = Path(__file__).parents[2] / "main.py"
FIELDS = {
    "classes": 3, "shots": 1, "train_shots": 3, "inner_batch": 4, "inner_iters": 2, "meta_batch": 2,
    "meta_iters": 24000, "eval_batch": 3, "eval_iters": 3, "eval_samples": 3000, "eval_interval": 50,
    "checkpoint_interval": 200, "model.filters": 8,
}  # fmt: skip
KILLS = {"data preparation": 3, "checkpoint write": 6, "training": 8, "evaluation": 3}
AHEAD = {"checkpoint write": 4, "training": 4}  # the largest number of further checkpoints before the kill
DELAYS = {
    "data preparation": 0.3,
    "checkpoint write": 0.1,
    "training": 2,
    "evaluation": 2,
}  # the largest number of further seconds
ATTEMPTS = 10  # at killing a run at a moment


class Soak:
    """One run that is killed, and one that is not.

    Attributes:
        folder: the folder of both runs, `whole` and `part`.
        log: a line for each kill, with the moment and the checkpoints at that time.
    """

    def __init__(self, folder: Path, archives: str | None, fields: dict[str, int], seed: int = 0) -> None:
        """Makes the folder; with `archives`, the data is real Omniglot, which is prepared first."""
        folder.mkdir(parents=True)
        self.folder, self._random = folder, random.Random(seed)
        self.log: list[str] = []
        self._part, self._data = folder / "part", folder / "data"
        data = {"data.name": "omniglot", "data.archives": archives, "data.dir": self._data} if archives else {}
        config = f"--config={MAIN.parent / 'configs' / 'quickstart.py'}"
        self._fields = [config, *(f"--config.{name}={value}" for name, value in (fields | data).items())]
        self._moments: dict[str, Callable[[], bool]] = {
            "data preparation": lambda: any(self._data.glob("*/incomplete.*")),
            "training": lambda: (self._part / "checkpoints").exists() and not self._pictured(),
            "checkpoint write": self._writing,
            "evaluation": lambda: self._pictured() and not (self._part / "results.json").exists(),
        }

    def run(self, workdir: str) -> None:
        """Runs to the end.

        Raises:
            CalledProcessError: the run failed.
        """
        subprocess.run([sys.executable, MAIN, *self._fields, f"--workdir={self.folder / workdir}"], check=True)

    def kill(self, moment: str) -> None:
        """Starts the run and kills it at a moment.

        Raises:
            RuntimeError: every attempt missed the moment. The run is then as it was before.
        """
        for _ in range(ATTEMPTS):
            with tempfile.TemporaryDirectory() as before:
                shutil.copytree(self.folder, before, dirs_exist_ok=True)
                if self._killed(moment):
                    there = sorted(path.name for path in (self._part / "checkpoints").glob("*"))
                    self.log.append(f"{moment}: killed with checkpoints {', '.join(there) or 'none'}")
                    print(self.log[-1], flush=True)
                    return
                shutil.rmtree(self.folder)  # because a run that is past a moment never comes to it again
                shutil.copytree(before, self.folder)
        raise RuntimeError(f"the run was never killed in {moment}")

    def _killed(self, moment: str) -> bool:
        """Starts the run, waits until it ends or is killed, and returns whether the kill hit the moment."""
        if moment == "evaluation":
            (self._part / "learning_curve.png").unlink(missing_ok=True)  # drawn again where evaluation begins
        enough = self._checkpoints() + self._random.randint(0, AHEAD.get(moment, 0))
        command = [sys.executable, str(MAIN), *self._fields, f"--workdir={self._part}"]
        quiet, now = subprocess.DEVNULL, self._moments[moment]
        with subprocess.Popen(command, start_new_session=True, stdout=quiet, stderr=quiet) as process:
            while process.poll() is None:
                if now() and self._checkpoints() >= enough:
                    time.sleep(self._random.uniform(0, DELAYS[moment]))
                    if now():
                        os.killpg(process.pid, signal.SIGKILL)
                        break
                time.sleep(0.0005)
        return process.returncode == -signal.SIGKILL and now()

    def same(self) -> list[str]:
        """Returns what differs between the runs: checkpoints, metrics or results, without times."""
        wholes, parts = (self._contents(self.folder / name) for name in ("whole", "part"))
        return [name for name in wholes if wholes[name] != parts[name]]

    def _contents(self, workdir: Path) -> dict[str, object]:
        """Returns what is compared of a run."""
        checkpoints, iteration = checkpoint.find(workdir)
        config = checkpoints.config(iteration)
        states = checkpoints.restore(iteration, state_shapes(config, mesh_of(config)))
        rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
        return {
            "state": [np.asarray(x).tobytes() for x in jax.tree.leaves(states)],
            "metrics": [{k: v for k, v in row.items() if not k.endswith(("_seconds", "_per_second"))} for row in rows],
            "results": (workdir / "results.json").read_text(),
        }

    def _checkpoints(self) -> int:
        """Returns how many checkpoints the run has written so far, including removed ones."""
        written = [int(path.name) for path in (self._part / "checkpoints").glob("*") if path.name.isdecimal()]
        return max(written, default=0) // FIELDS["checkpoint_interval"]

    def _pictured(self) -> bool:
        return (self._part / "learning_curve.png").exists()

    def _writing(self) -> bool:
        """Returns whether a checkpoint is unfinished or lacks its seal."""
        for path in (self._part / "checkpoints").glob("*"):
            if not path.name.isdecimal() or not (path / checkpoint.SEAL).exists():
                return True
        return False


def soak(folder: Path, kills: dict[str, int], archives: str | None, fields: dict[str, int] = FIELDS) -> Soak:
    """Runs one run without kills and one with so many kills at each moment, both to the end."""
    runs = Soak(folder, archives, fields)
    for moment, count in kills.items():
        if archives or moment != "data preparation":
            for _ in range(count):
                runs.kill(moment)
    runs.run("part")
    runs.run("whole")
    return runs


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m reptile_jax.testing.soak FOLDER")
    soaked = soak(Path(sys.argv[1]), KILLS, os.environ.get("REPTILE_OMNIGLOT"))
    if differences := soaked.same():
        sys.exit(f"error: after {len(soaked.log)} kills, the run differs in {', '.join(differences)}")
    print(f"after {len(soaked.log)} kills, the run has the same results as the run that was never killed")
