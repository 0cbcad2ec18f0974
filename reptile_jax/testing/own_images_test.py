"""Tests main.py on a person's own images: a folder of twelve classes with 30 images each, in mixed formats."""

import csv
import io
import json
import os
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from reptile_jax.run.pretrained import export
from reptile_jax.testing.small_images import FORMATS, encoded, pixels, write_folder
from reptile_jax.testing.small_runs import run_here, typed

MINIIMAGENET = os.environ.get("REPTILE_MINIIMAGENET", "")
FIELDS = {
    "data__size": 20, "data__train_classes": 7, "model__filters": 8, "classes": 5, "shots": 1, "train_shots": 5,
    "inner_iters": 2, "meta_batch": 2, "meta_step_final": 1.0, "eval_iters": 3, "eval_samples": 10, "eval_shots": (1,),
    "checkpoint_interval": 5, "eval_interval": 5,
}  # fmt: skip


def photographs(name):
    """Returns 30 images of a class, from Mini-ImageNet if it is there, otherwise patches in the class's colour."""
    if MINIIMAGENET and Path(MINIIMAGENET, "val.zip").exists():
        with zipfile.ZipFile(Path(MINIIMAGENET, "val.zip")) as archive:
            files = sorted(member for member in archive.namelist() if member.endswith(".jpg"))
            classes = sorted({member.split("/")[-2] for member in files})
            chosen = [member for member in files if member.split("/")[-2] == classes[int(name)]][:30]
            return [np.asarray(Image.open(io.BytesIO(archive.read(member)))) for member in chosen]
    colour = pixels((0, int(name)), 1, 1)
    return [(pixels((1, int(name), number), 24, 24) // 4 + colour // 2).astype(np.uint8) for number in range(30)]


@pytest.fixture(scope="module")
def contents():
    return {
        f"class{name:02d}/{number}.{FORMATS[number % 5]}": encoded(image[: 20 + number], FORMATS[number % 5])
        for name in range(12)
        for number, image in enumerate(photographs(f"{name}"))
    }


@pytest.fixture
def images(tmp_path, contents, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return write_folder(tmp_path / "images", contents)


def main(tmp_path, folder, *flags, **fields):
    return run_here("--workdir=run", *flags, cwd=tmp_path, config="images", **FIELDS | {"data__dir": folder} | fields)


def refused(done, *words):
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    for word in words:
        assert word in done.stderr.splitlines()[-1]


def test_trained_resumed_evaluated_and_predicted_with(tmp_path, images):
    first = main(tmp_path, images, meta_iters=5)
    assert first.returncode == 0, first.stderr
    assert f"Preparing the images of {images}" in first.stderr and "360/360" in first.stderr
    results = (tmp_path / "run" / "results.json").read_text()

    other = shutil.copytree(images, tmp_path / "other")
    write_folder(other, {"class03/5.png": encoded(pixels(0))})
    refused(main(tmp_path, other, meta_iters=10), f"{other} holds other images than run")
    assert (tmp_path / "run" / "results.json").read_text() == results
    refused(main(tmp_path, other, "--pretrained=run", "--workdir=begun"), f"{other} holds other images than run")
    assert not (tmp_path / "begun").exists()
    export(tmp_path / "run", tmp_path / "run.safetensors")
    for flags in (["--mode=eval"], []):
        done = main(tmp_path, other, *flags, "--pretrained=run.safetensors", "--workdir=begun")
        refused(done, f"{other} holds other images than run.safetensors")

    moved = images.rename(tmp_path / "moved")  # the same images, elsewhere
    again = main(tmp_path, moved, meta_iters=10)
    assert again.returncode == 0 and "Resuming run at meta-iteration 5" in again.stderr, again.stderr

    evaluated = main(tmp_path, moved, "--mode=eval", meta_iters=10)
    assert evaluated.returncode == 0, evaluated.stderr
    assert evaluated.stdout.splitlines()[1:] == again.stdout.splitlines()[1:]

    classes = [f"class{name:02d}" for name in range(7, 12)]
    for name in classes:
        for number, file in enumerate(sorted((moved / name).iterdir())):
            place = tmp_path / ("support" if number < 5 else "queries") / name / file.name
            place.parent.mkdir(parents=True, exist_ok=True)
            file.rename(place)
    flags = ("--mode=predict", "--pretrained=run", "--support=support", "--queries=queries", "--output=out.csv")
    predicted = typed(*flags, cwd=tmp_path)
    assert predicted.returncode == 0, predicted.stderr
    rows = list(csv.DictReader(io.StringIO((tmp_path / "out.csv").read_text())))
    assert len(rows) == 5 * 25 and {row["class"] for row in rows} <= set(classes)
    assert all(1 / 5 <= float(row["probability"]) <= 1 for row in rows)


def test_validation_classes_are_for_tuning(tmp_path, images):
    for number, folder in enumerate(sorted(images.iterdir())):
        place = images / ("train" if number < 6 else "val" if number < 9 else "test") / folder.name
        place.parent.mkdir(exist_ok=True)
        folder.rename(place)
    for eval_set, others in (("auto", set()), ("test", {"validation"})):
        done = main(tmp_path, images, meta_iters=5, data__train_classes=0, classes=3, eval_set=eval_set)
        assert done.returncode == 0, done.stderr
        held_out = "validation" if eval_set == "auto" else "test"
        assert done.stdout.splitlines()[-1].startswith(f"{held_out} accuracy")
        results = json.loads((tmp_path / "run" / "results.json").read_text())
        assert {"train", "validation", "test"} & set(results) == {"train", held_out} | others
    fields = {"data__train_classes": 0, "classes": 3, "eval_set": "test", "seed": 1}  # the seed does not split these
    again = main(tmp_path, images, "--mode=eval", "--pretrained=run", "--workdir=again", **fields)
    assert again.returncode == 0 and again.stdout.splitlines()[-1] == done.stdout.splitlines()[-1], again.stderr


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda folder: (folder / "class07" / "x.txt").write_text("x"), ["class07/x.txt is not a PNG"]),
        (lambda folder: (folder / "class12").mkdir(), ["class12 has no images"]),
        (lambda folder: write_folder(folder, {"class12/1.png": encoded(pixels(0))}), ["class12", "exceed"]),
        (lambda folder: (folder / "class07" / "again").symlink_to(folder), ["class07/again is a circular link"]),
        (shutil.rmtree, ["is not a folder"]),
    ],
)
def test_bad_images_are_one_line_and_leave_nothing(tmp_path, images, change, words):
    change(images)
    refused(main(tmp_path, images), "error: ", *words)
    assert not (tmp_path / "run").exists() and not list(tmp_path.glob("cache/reptile_jax/images/*/*/*"))
