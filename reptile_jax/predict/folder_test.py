"""Compares --mode=predict, run by main.py, with a plain loop and with the learner on arrays."""

import csv
import io
import json
import os
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import random
from PIL import Image

from configs import images as own_images
from reptile_jax.meta.episodes import mini_batches
from reptile_jax.predict.learner import Adapted, Learner
from reptile_jax.run import pretrained
from reptile_jax.run.programs import network_of
from reptile_jax.run.train import train_and_evaluate
from reptile_jax.run.weights_file import WeightsError
from reptile_jax.testing.small_images import FORMATS, encoded, pixels, write_folder
from reptile_jax.testing.small_runs import typed

SIZE = 16


def photographs(names, count, seed):
    """Returns files "NAME/number" in five formats and several sizes, with noise around a colour of the class."""
    contents = {}
    for name in names:
        colour = pixels((7, *name.encode()), 1, 1) // 2
        for number in range(count):
            image = (pixels((seed, *name.encode(), number), 20 + number, 24) // 8 + colour).astype(np.uint8)
            contents[f"{name}/{number}.{FORMATS[number % 5]}"] = encoded(image, FORMATS[number % 5])
    return contents


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Trains a short run on photographs."""
    folder = tmp_path_factory.mktemp("trained")
    write_folder(folder / "images", photographs([f"c{i}" for i in range(9)], 6, 0))
    config = own_images.get_config()
    config.update(
        classes=4, shots=1, train_shots=4, eval_shots=(1,), inner_iters=4, meta_iters=20, meta_step_final=1.0,
        eval_iters=6, eval_samples=4, eval_interval=10, checkpoint_interval=20,
    )  # fmt: skip
    config.data.update(dir=str(folder / "images"), size=SIZE, train_classes=5)
    config.model.filters = 8
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        train_and_evaluate(config, folder / "run")
    shutil.rmtree(folder / "images")  # a prediction does not need them
    return folder / "run"


@pytest.fixture
def place(tmp_path):
    """Writes three classes, one with a comma and one with an umlaut in its name, and queries of each."""
    names = ["apple, green", "bür", "cat"]
    write_folder(tmp_path / "support", photographs(names, 3, 1))
    write_folder(tmp_path / "queries", {f"more/{name}" if name[0] == "c" else name.replace("/", "_"): data
                                        for name, data in photographs(names, 2, 2).items()})  # fmt: skip
    write_folder(tmp_path / "queries", {".hidden": b"?", "Thumbs.db": b"?"})
    return tmp_path


def predict(place, weights, *flags, queries="queries"):
    return typed(
        "--mode=predict", f"--pretrained={weights}", "--support=support", f"--queries={queries}", *flags, cwd=place
    )


def prepared(files):
    """Prepares images with only Pillow: [n, size, size, 3], 0 to 255."""
    return np.stack([np.asarray(Image.open(f).convert("RGB").resize((SIZE, SIZE), Image.BICUBIC)) for f in files])


def by_hand(named, support, labels, queries, outputs):
    """Returns probabilities [queries, outputs] from the formulas of Adam, step by step, and of softmax."""
    config, states = pretrained.load(named)
    apply = jax.jit(network_of(config).apply)
    phi, v, t = (
        jax.tree.map(lambda x: np.asarray(x)[0], x)
        for x in (states.params, *(optax.tree.get(states.opt_state, name) for name in ("nu", "count")))
    )
    support, queries = (jnp.asarray(x / 255, jnp.float32) for x in (support, queries))

    def loss(phi, images, labels):
        return -jnp.sum(jnp.log(jax.nn.softmax(apply(phi, images)))[jnp.arange(len(labels)), labels])

    rate = np.float32(config.learning_rate)
    order = mini_batches(random.key(0), jnp.arange(len(labels)), config.eval_batch, config.eval_iters, False)
    for rows in np.asarray(order):
        gradient = jax.jit(jax.grad(loss))(phi, support[rows], labels[rows])
        t = t + 1
        v = jax.tree.map(lambda v, g: np.float32(0.999) * v + np.float32(0.001) * g * g, v, gradient)
        unbiased = jax.tree.map(lambda v, t=t: np.sqrt(v / np.float32(1 - 0.999 ** int(t))) + np.float32(1e-8), v)
        phi = jax.tree.map(lambda p, g, root: p - rate * g / root, phi, gradient, unbiased)
    logits = np.stack([apply(phi, jnp.concatenate([support, query[None]]))[-1] for query in queries])[:, :outputs]
    return np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)


def test_every_output_is_what_a_plain_loop_and_the_learner_give(place, weights):
    before = sorted(place.rglob("*"))
    printed = predict(place, weights)
    assert printed.returncode == 0, printed.stderr
    assert sorted(place.rglob("*")) == before  # nothing is written
    header, *lines = printed.stdout.splitlines()
    assert f"apple, green (3), bür (3), cat (3); images prepared as photographs: to {SIZE}x{SIZE}x3, bicubic" in header

    found = [sorted((place / "queries").glob("*_*")), sorted((place / "queries" / "more").rglob("*.*"))]
    queries = [file for files in found for file in files]
    support = sorted((place / "support").rglob("*.*"))
    shown, taught = prepared(support), np.repeat([0, 1, 2], 3)
    expected = by_hand(weights, shown, taught, prepared(queries), 3)
    assert np.abs(expected - by_hand(weights, shown, taught[::-1], prepared(queries), 3)).max() > 0.02
    names = np.array(["apple, green", "bür", "cat"])

    written = predict(place, weights, "--top=9", "--output=out.csv")
    assert written.returncode == 0 and written.stdout.splitlines()[1] == "6 images; their classes are in out.csv"
    assert sorted(place.rglob("*")) == sorted([*before, place / "out.csv"])
    rows = list(csv.DictReader(io.StringIO((place / "out.csv").read_text())))
    assert [row["file"] for row in rows[::3]] == [str(file.relative_to(place)) for file in queries]
    for number, probabilities in enumerate(expected):
        three = {row["class"]: float(row["probability"]) for row in rows[3 * number : 3 * number + 3]}
        np.testing.assert_allclose([three[name] for name in names], probabilities, atol=2e-3)
        assert sorted(three.values(), reverse=True) == list(three.values()) and abs(sum(three.values()) - 1) < 1e-5

    done = predict(place, weights, "--output=out.jsonl", *map(str, queries[1:]), queries=queries[0])
    assert done.returncode == 0, done.stderr
    lines_of_json = [json.loads(line) for line in (place / "out.jsonl").read_text().splitlines()]
    best = [(row["class"], float(row["probability"])) for row in rows[::3]]
    assert [(row["class"], row["probability"]) for row in lines_of_json] == best
    for line, row, (label, probability) in zip(lines, rows[::3], best, strict=True):
        assert line.split("  ")[0] == row["file"] and label in line and f"{100 * probability:.2f} %" in line

    adapted = Learner(weights).adapt(shown, names[taught])
    np.testing.assert_array_equal(adapted.predict(prepared(queries)), [label for label, _ in best])
    floats = Learner(weights).adapt((shown / 255).astype(np.float32), names[taught])  # 0 to 1 gives the same
    np.testing.assert_allclose(
        floats.predict_probabilities(prepared(queries) / 255), adapted.predict_probabilities(queries), atol=1e-4
    )


def test_an_adapted_network_is_saved_and_loaded(place, weights):
    adapted = Learner(weights).adapt(place / "support")
    adapted.save(place / "mine.safetensors")
    assert sorted(file.name for file in place.iterdir()) == ["mine.safetensors", "queries", "support"]
    again = Adapted.load(place / "mine.safetensors")
    np.testing.assert_array_equal(again.classes, ["apple, green", "bür", "cat"])
    for transductive in (False, True):
        before, after = (x.predict_probabilities(place / "queries", transductive) for x in (adapted, again))
        assert before.shape == (6, 3) and before.tobytes() == after.tobytes()
    whole = (place / "mine.safetensors").read_bytes()
    (place / "short.safetensors").write_bytes(whole[:-100])
    (place / "other.safetensors").write_bytes(whole.replace(b'\\"filters\\": 8', b'\\"filters\\": 9'))
    for name, message in (
        ("nowhere", "cannot be read as a safetensors file"), ("short", "cannot be read as a safetensors file"),
        ("other", "another network than its config says"),
    ):  # fmt: skip
        with pytest.raises(WeightsError, match=message):
            Adapted.load(place / f"{name}.safetensors")
    with pytest.raises(WeightsError, match="holds no adapted network"):
        Adapted.load(pretrained.SHIPPED["omniglot_5way"])
    with pytest.raises(WeightsError, match=r"name it .*mine\.bin\.safetensors"):
        adapted.save(place / "mine.bin")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        adapted.save(place / "nowhere" / "mine.safetensors")
    (place / "ordinary").touch()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(place))
        adapted.save("~/home.safetensors")
        assert Adapted.load("~/home.safetensors").classes.tolist() == again.classes.tolist()
    assert (place / "mine.safetensors").stat().st_mode == (place / "ordinary").stat().st_mode  # others may read it


def test_a_file_name_that_is_not_unicode(place, weights):
    (place / "queries" / os.fsdecode(b"caf\xe9.png")).write_bytes(next((place / "queries").glob("*_*")).read_bytes())
    for ending in ("csv", "jsonl"):
        done = predict(place, weights, f"--output=out.{ending}")
        assert done.returncode == 0, done.stderr
        assert b"queries/caf\xe9.png" in (place / f"out.{ending}").read_bytes()


WRONG = [
    ((), "", "mode=predict needs pretrained: give one, such as --pretrained=omniglot_5way"),
    (("--pretrained=omniglot_5way",), "", "mode=predict needs support: give one, such as --support=DIR"),
    (("--pretrained=omniglot_5way", "--support=support"), "", "mode=predict needs queries"),
    (("--pretrained=nowhere",), "all", "nowhere holds no checkpoint"),
    (("--support=nowhere",), "all", "support=nowhere is not a folder: give the folder that holds the classes' folders"),
    (("--support=queries/more/cat",), "all", "queries/more/cat holds no classes"),
    (("--support=one",), "all", "apple is the only class: give at least two"),
    (("--support=six",), "all", "6 classes are more than the 4 that these weights tell apart: give fewer, or"),
    (("--support=hollow",), "all", "the class hollow/b has no images: put some there, or remove it"),
    (("--support=torn",), "all", "torn/b/0.png is not a PNG, JPEG, WebP, BMP or GIF image"),
    (("--queries=nowhere.png",), "all", "queries=nowhere.png is neither a file nor a folder"),
    (("--queries=empty",), "all", "queries=empty holds no images: put some there"),
    (("--queries=torn/b",), "all", "torn/b/0.png is not a PNG, JPEG, WebP, BMP or GIF image: replace or remove it"),
    (("--queries=",), "all", "queries= is empty"),
    (("--output=out.txt",), "all", "output=out.txt has an ending that is not known: name it *.csv or *.jsonl"),
    (("--output=no/out.csv",), "all", "output=no/out.csv cannot be written: name a file in a folder"),
    (("--top=0",), "all", "top"),
    (("--workdir=x",), "all", "mode=predict does not use workdir"),
    (("--config=quickstart",), "all", "mode=predict does not use config"),
    (("--config.classes=3",), "all", "unexpected argument --config.classes=3"),
    (("more.png", "--config.classes=3"), "all", "unexpected argument --config.classes=3"),
    (("--mode=train", "--config=quickstart"), "all", "mode=train does not use support, which is for predict"),
]


@pytest.mark.parametrize(("flags", "others", "message"), WRONG, ids=[message for _, _, message in WRONG])
def test_one_line_and_nothing_written(place, weights, flags, others, message):
    image = encoded(pixels(0))
    write_folder(place / "one", {"apple/0.png": image})
    write_folder(place / "six", {f"{name}/0.png": image for name in "abcdef"})
    write_folder(place / "torn", {"a/0.png": image, "b/0.png": b"?"})
    write_folder(place / "hollow", {"a/0.png": image})
    (place / "hollow" / "b").mkdir()
    (place / "empty").mkdir()
    before = sorted(place.rglob("*"))
    defaults = ("--mode=predict", f"--pretrained={weights}", "--support=support")
    given = [flag.split("=")[0] for flag in flags]
    words = [word for word in defaults if word.split("=")[0] not in given] if others else ["--mode=predict"]
    if others and "--queries" not in given:
        words.append("--queries=queries")
    done = typed(*words, *flags, cwd=place)
    assert done.returncode == 1 and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1, done.stderr
    assert message in done.stderr and sorted(place.rglob("*")) == before
