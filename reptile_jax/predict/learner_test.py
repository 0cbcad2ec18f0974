"""Tests how a person uses a trained initialisation, and the weights file that carries it."""

import errno
import os
import re
import shutil
import subprocess
import sys
import textwrap
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import random
from PIL import Image

from configs import images
from reptile_jax.config import ConfigError
from reptile_jax.data import DATA_SETS, DataError, glyphs, split
from reptile_jax.devices import mesh_of
from reptile_jax.meta.episodes import Examples, class_batches, mini_batches
from reptile_jax.meta.inner_loop import inner_step
from reptile_jax.predict.learner import Learner, _batch_rows
from reptile_jax.predict.pictures import pixels_of
from reptile_jax.run import pretrained, weights_file
from reptile_jax.run.checkpoint import CheckpointError
from reptile_jax.run.programs import inner_loop_of, network_of
from reptile_jax.run.train import train_and_evaluate
from reptile_jax.testing.small_runs import MAIN, SMALL, run_here, same_bits, small


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "run"
    train_and_evaluate(small(meta_iters=200, checkpoint_interval=200), folder)
    return folder


@pytest.fixture(scope="module")
def file(workdir):
    path = workdir.parent / "weights.safetensors"
    pretrained.export(workdir, path)
    return path


def held_out_characters():
    """Returns characters of glyphs that seed 0 does not train on: uint8 [characters, drawings, 28, 28]."""
    images = DATA_SETS["glyphs"].load(small().data)
    chosen = split(images, glyphs.TRAIN_CHARACTERS, 0, 0)["test"]
    return images.pixels[images.first[chosen][:, None] + np.arange(glyphs.DRAWINGS)][..., 0]


@pytest.fixture(scope="module")
def drawings():
    """Returns drawings of three test characters: five of each to learn from, and ten to predict."""
    images = held_out_characters()[:3]
    return images[:, :5].reshape(-1, 28, 28), images[:, 5:15].reshape(-1, 28, 28)


def drawn(number):
    """Returns so many images with ink on paper."""
    return np.tile(np.eye(28), (number, 1, 1))


LABELS = np.repeat([2, 0, 1], 5)  # not in the order of the characters


def test_it_learns_the_classes_it_is_given(workdir, drawings):
    support, queries = drawings
    adapted = Learner(workdir).adapt(support, LABELS)
    for transductive in (False, True):
        predicted = adapted.predict(queries, transductive)
        assert predicted.shape == (30,) and predicted.dtype == LABELS.dtype
        assert np.mean(predicted == np.repeat([2, 0, 1], 10)) > 0.6
    others = Learner(workdir).adapt(support, np.repeat([0, 1, 2], 5)).predict(queries)
    assert np.mean(others == np.repeat([2, 0, 1], 10)) < 0.2


def test_it_is_the_evaluation_step_by_step(workdir, drawings):
    """Compares with a plain loop over the inner steps from the trained second moment, and one query at a time."""
    config, states = pretrained.load(workdir)
    params, opt_state = jax.tree.map(lambda x: x[0], (states.params, states.opt_state))
    rows = Examples(np.arange(15, dtype=np.int32), LABELS.astype(np.int32))
    batches = mini_batches(random.key(3), jax.tree.map(jnp.asarray, rows), config.eval_batch, config.eval_iters, False)
    support, queries = (jnp.asarray(x, jnp.float32)[..., None] for x in drawings)
    loop = inner_loop_of(config, (support, None))
    step, apply = jax.jit(partial(inner_step, loop)), jax.jit(network_of(config).apply)
    for batch in zip(*batches, strict=True):
        params, opt_state, _ = step(params, opt_state, Examples(*batch))
    each = [apply(params, jnp.concatenate([support, query[None]]))[-1] for query in queries]
    adapted = Learner(workdir).adapt(drawings[0], LABELS, seed=3)
    np.testing.assert_array_equal(adapted.predict(drawings[1]), jnp.stack(each).argmax(-1))
    outputs = apply(params, queries)
    np.testing.assert_array_equal(adapted.predict(drawings[1], transductive=True), outputs.argmax(-1))
    for transductive, expected in ((False, jnp.stack(each)), (True, outputs)):
        expected = np.exp(expected) / np.exp(expected).sum(-1, keepdims=True)
        np.testing.assert_allclose(adapted.predict_probabilities(drawings[1], transductive), expected, atol=1e-4)
        others = Learner(workdir).adapt(drawings[0], LABELS, seed=4).predict_probabilities(drawings[1], transductive)
        assert np.abs(others - expected).max() > 1e-3, "a check that cannot fail"


@pytest.mark.parametrize("replacement", [False, True])
def test_the_mini_batches_are_those_of_an_evaluation(replacement):
    config = small(eval_batch=4, eval_iters=7, replacement=replacement)
    for examples in range(4 if replacement else 2, 40):
        rows, targets = jnp.arange(examples, dtype=jnp.int32), np.zeros(examples, np.int64)
        expected = mini_batches(random.key(5), rows, config.eval_batch, config.eval_iters, replacement)
        np.testing.assert_array_equal(_batch_rows(config, targets, 5), expected)
    assert (_batch_rows(config, targets, 6) != expected).any(), "a check that cannot fail"


@pytest.mark.parametrize("replacement", [False, True])
def test_balanced_mini_batches_are_those_of_an_evaluation(replacement):
    config = small(eval_batch=6, eval_iters=7, replacement=replacement, balanced=True)  # of 3 classes
    for shots in range(2, 20):
        rows = jnp.arange(3 * shots, dtype=jnp.int32).reshape(3, shots)
        expected = class_batches(random.key(5), rows, 6, 7, replacement, balanced=True)
        np.testing.assert_array_equal(_batch_rows(config, np.repeat(np.arange(3), shots), 5), expected.rows)


def test_balanced_mini_batches_of_fewer_classes_of_unequal_size():
    """The classes that are there have their usual share of every mini-batch."""
    config, targets = small(eval_batch=6, eval_iters=10, balanced=True), np.array([0, 1, 1, 1, 1])
    rows = _batch_rows(config, targets, 5)
    assert rows.shape == (10, 4)
    assert (targets[rows] == [0, 0, 1, 1]).all()
    assert np.bincount(rows[:, 2:].ravel()).tolist() == [0, 5, 5, 5, 5]


def test_the_steps_are_those_of_shorter_adaptations(workdir, drawings):
    learner = Learner(workdir)
    trace = learner.trace(drawings[0], LABELS, (0, 1, 3))
    found = [adapted.predict_probabilities(drawings[1]) for adapted in trace]
    np.testing.assert_array_equal(found[-1], learner.adapt(drawings[0], LABELS).predict_probabilities(drawings[1]))
    assert same_bits(trace[0]._phi, learner._start.params)
    loop = inner_loop_of(learner.config, (jnp.asarray(drawings[0], jnp.float32)[..., None], None))
    rows = _batch_rows(learner.config, LABELS, 0)[0]
    first = Examples(jnp.asarray(rows), jnp.asarray(LABELS[rows], jnp.int32))
    phi, _, _ = inner_step(loop, learner._start.params, learner._start.opt_state, first)
    jax.tree.map(partial(np.testing.assert_allclose, atol=1e-5), trace[1]._phi, phi)
    assert min(np.abs(found[i] - found[i + 1]).max() for i in range(2)) > 1e-3
    for steps in ((), (1, 0), (1, 1), (-1, 2), (0, 4)):
        with pytest.raises(ValueError, match="give rising numbers from 0 to 3"):
            learner.trace(drawings[0], LABELS, steps)


def test_one_example_more_compiles_nothing(workdir, drawings, compilations):
    images, learner = drawings[0].reshape(3, 5, 28, 28), Learner(workdir)

    def ask(classes, shots, queries):
        labels = np.repeat(np.arange(classes), shots)
        for adapted in learner.trace(images[:classes, :shots].reshape(-1, 28, 28), labels, (0, 1, 3)):
            for transductive in (False, True):
                adapted.predict_probabilities(drawings[1][:queries], transductive)
        return len(compilations)

    ask(3, 5, 1)
    before = ask(2, 1, 1)
    for shots in range(1, 6):
        for classes in (2, 3):
            assert ask(classes, shots, 1 + shots) == before
    assert ask(3, 5, 9) == before, "nine queries use the same size as the largest support set"
    learner.adapt(np.tile(images.reshape(-1, 28, 28), (3, 1, 1)), np.tile(LABELS, 3))
    assert len(compilations) > before, "a check that cannot fail"


def test_only_what_it_was_taught_is_predicted(workdir, drawings):
    support, queries = drawings
    adapted = Learner(workdir).adapt(support[5:], LABELS[5:])  # 0 and 1
    for transductive in (False, True):
        predicted = adapted.predict(np.random.default_rng(0).integers(0, 2, (200, 28, 28)), transductive)
        assert set(predicted.tolist()) <= {0, 1}
    everything = Learner(workdir).adapt(support, LABELS)
    assert 2 in everything.predict(queries), "a check that cannot fail"


def test_what_is_alone_is_predicted_as_among_others(workdir, drawings):
    support, queries = drawings
    adapted = Learner(workdir).adapt(support, LABELS)
    together = adapted.predict(queries)
    np.testing.assert_array_equal([adapted.predict(query[None])[0] for query in queries[:6]], together[:6])


@pytest.mark.parametrize(
    ("images", "labels", "words"),
    [
        (np.zeros((3, 105, 105)), [0, 1, 2], r"\(3, 105, 105\): give \[n, 28, 28\]"),
        (np.zeros((0, 28, 28)), [], "give"),
        (np.full((3, 28, 28), 255), [0, 1, 2], "go from 255 to 255: give ink as 0 and paper as 1"),
        (np.full((3, 28, 28), np.nan), [0, 1, 2], "give ink as 0"),
        (
            np.concatenate([drawn(2), np.zeros((1, 28, 28))]),
            [0, 1, 2],
            r"images\[2\] has one colour everywhere: give an image",
        ),
        (
            np.concatenate([np.ones((1, 28, 28)), drawn(2)]),
            [0, 1, 2],
            r"images\[0\] has one colour everywhere: give an image",
        ),
        (drawn(3), [0, 1], "give a whole number or a name for each image"),
        (drawn(3), [0.0, 1.0, 2.0], "give a whole number or a name for each image"),
        (drawn(3), None, "there are no labels"),
        (drawn(3), [1, 1, 1], "1 is the only class: give at least two"),
        (drawn(4), [0, 1, 2, 3], "4 classes are more than the 3 that these weights tell apart"),
    ],
)
def test_wrong_drawings_and_labels(workdir, images, labels, words):
    with pytest.raises(ValueError, match=words):
        Learner(workdir).adapt(images, labels)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_a_photograph_of_one_colour_is_refused(tmp_path, dtype):
    config, brightest = images.get_config(), 255 if dtype == np.uint8 else 1
    photographs = np.full((2, config.data.size, config.data.size, 3), brightest, dtype)
    photographs[..., 2] = 0  # of every pixel
    photographs[0, 0, 0] = 0
    with pytest.raises(ValueError, match=r"images\[1\] has one colour everywhere: give an image"):
        pixels_of(config, photographs)
    files = [tmp_path / f"{i}.png" for i in range(2)]
    for file, image in zip(files, photographs, strict=True):
        Image.fromarray((image / brightest * 255).astype(np.uint8)).save(file)
    with pytest.raises(DataError, match=r"1\.png cannot be read \(it has one colour everywhere\): replace"):
        pixels_of(config, files)
    photographs[1, 0] = 0
    np.testing.assert_array_equal(pixels_of(config, photographs)[:, -1, -1], [[255, 255, 0]] * 2)
    assert pixels_of(config, files[0]).shape == (1, *photographs.shape[1:])


def test_the_readme_shows_how(tmp_path, monkeypatch, capsys):
    """Runs the README's code as it is, on characters that no weights were trained on."""
    section = (MAIN.parent / "reptile_jax" / "predict" / "README.md").read_text().partition("## In Python\n")[2]
    code = textwrap.dedent(re.search(r"(?m)^    from .*\n(?:    .*\n|\n)*", section)[0])
    first, second = held_out_characters()[:2]
    files = {"a1": first[0], "a2": first[1], "b1": second[0], "b2": second[1]}
    monkeypatch.chdir(tmp_path)
    for which, label in ((first[2], "a"), (second[2], "b")):
        for name, drawing in (files | {"which": which}).items():
            Image.fromarray(255 * np.kron(drawing, np.ones((4, 4), np.uint8))).save(f"{name}.png")
        exec(code, {})
        assert capsys.readouterr().out == f"[{label!r}]\n"


def test_the_weights_file_is_the_checkpoint(workdir, file, drawings):
    of_file, of_workdir = pretrained.load(file), pretrained.load(workdir)
    assert of_file.config == of_workdir.config and same_bits(of_file.states, of_workdir.states)
    support, queries = drawings
    predicted = [Learner(named).adapt(support, LABELS).predict(queries) for named in (file, workdir)]
    np.testing.assert_array_equal(*predicted)


def test_evaluated_and_trained_from_a_weights_file(workdir, file, tmp_path):
    fields = SMALL | {"eval_shots": "(1,2)"}
    outputs = []
    for named in (file, workdir):
        done = run_here("--mode=eval", f"--workdir={named.stem}", f"--pretrained={named}", cwd=tmp_path, **fields)
        assert done.returncode == 0, done.stderr
        outputs.append(done.stdout)
    assert outputs[0] == outputs[1] and "after 200 meta-iterations" in outputs[0]
    still = {"meta_iters": 1, "meta_step": 0.0, "meta_step_final": 0.0}  # changes the second moment, not the weights
    done = run_here(f"--pretrained={file}", "--workdir=train", cwd=tmp_path, **fields | still)
    assert done.returncode == 0 and "after 1 meta-iterations" in done.stdout, done.stderr
    start, end = pretrained.load(file).states, pretrained.load(tmp_path / "train").states
    assert same_bits(start.params, end.params) and not same_bits(start.opt_state, end.opt_state)
    counts = [int(optax.tree.get(states.opt_state, "count")[0]) for states in (start, end)]
    assert counts[1] - counts[0] == SMALL["inner_iters"]


def test_without_a_config_it_is_that_of_the_weights(workdir, file, tmp_path):
    """A folder with the name of shipped weights is not a run."""
    (tmp_path / "omniglot_5way").mkdir()
    assert pretrained.load("omniglot_5way").config.classes == 5
    for named, name in ((file, "weights"), (workdir, "run"), (workdir / "checkpoints" / "200", "run_at_200")):
        folder = tmp_path / "runs" / name
        done = run_here("--mode=eval", f"--pretrained={named}", config=None, cwd=tmp_path)
        assert done.returncode == 0 and "3-way, after 200 meta-iterations" in done.stdout, done.stderr
        assert (folder / "results.json").exists()
        (folder / "results.json").unlink()


def test_of_several_seeds_one_is_chosen(tmp_path, drawings):
    train_and_evaluate(small(meta_iters=2, num_seeds=2, eval_samples=2), tmp_path / "seeds")
    named = str(tmp_path / "seeds")
    for seed, message in ((None, f"{named} has several seeds"), (2, f"seed=2 is not a seed of {named}")):
        with pytest.raises(ValueError, match=f"{message}: give one of 0, 1 to Learner"):
            Learner(named, seed)
    starts = [Learner(named, seed)._start for seed in (0, 1)]
    states = pretrained.load(named).states
    for index, start in enumerate(starts):
        assert same_bits(start, jax.tree.map(lambda x, index=index: x[index], states))
        pretrained.export(named, tmp_path / "one.safetensors", index)
        exported = Learner(tmp_path / "one.safetensors")
        assert same_bits(start, exported._start) and (exported.config.seed, exported.config.num_seeds) == (index, 1)
    assert not same_bits(*starts)


def test_a_learner_prints_nothing(workdir):
    """The absl logging has its default settings, as in a person's program."""
    code = f"from reptile_jax import Learner, __version__; Learner({str(workdir)!r}); print(__version__.count('.'))"
    done = subprocess.run([sys.executable, "-c", code], cwd=MAIN.parent, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "2\n", "")


def test_an_export_into_a_folder_that_is_not_there(workdir, tmp_path):
    with pytest.raises(weights_file.WeightsError, match=r"there is no folder .*/missing: make it"):
        pretrained.export(workdir, tmp_path / "missing" / "a.safetensors")


def test_an_export_of_a_run_whose_config_is_damaged(workdir, tmp_path):
    """The cure in the message works."""
    config = pretrained.load(workdir).config
    damaged = shutil.copytree(workdir, tmp_path / "run")
    (damaged / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"run has a damaged config.json: give the command that trained"):
        pretrained.export(damaged, tmp_path / "a.safetensors")
    train_and_evaluate(config, damaged)
    pretrained.export(damaged, tmp_path / "a.safetensors")
    assert pretrained.load(tmp_path / "a.safetensors").config == config


@pytest.mark.parametrize("arguments", [[], ["nowhere", "a.safetensors"], ["nowhere", "a"]])
def test_the_export_says_what_is_wrong_in_one_line(tmp_path, arguments):
    command = [sys.executable, "-m", "reptile_jax.run.pretrained", *arguments]
    environment = os.environ | {"PYTHONPATH": str(MAIN.parent)}
    failed = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=environment)
    assert failed.returncode == 1 and failed.stderr.count("\n") == 1 and not [*tmp_path.iterdir()], failed.stderr


def test_what_does_not_fit_is_refused(file, tmp_path):
    shutil.copy(file, tmp_path / "good.safetensors")
    (tmp_path / "bad.safetensors").write_bytes(file.read_bytes()[:1000])
    config, states = pretrained.load(file)
    state = jax.tree.map(lambda x: x[0], states)
    weights_file.save(tmp_path / "bare.safetensors", state)
    del config.classes  # which every reader of weights would look for
    weights_file.save(tmp_path / "old.safetensors", state, config)
    for name, fields, message in (
        (
            "good",
            {"classes": 4},
            "classes=4 does not fit good.safetensors, trained with classes=3: give that, or name other weights",
        ),
        ("good", {"seed": 1}, "seed=1 splits the classes differently from seed=0 of good.safetensors"),
        ("old", {}, "old.safetensors was written by another version, whose config differs in classes"),
        ("bad", {}, "bad.safetensors cannot be read as a safetensors file"),
        ("bare", {}, "bare.safetensors does not say which run it comes from"),
        ("absent", {}, "absent.safetensors cannot be read as a safetensors file"),
    ):
        failed = run_here("--mode=eval", f"--pretrained={name}.safetensors", cwd=tmp_path, **SMALL | fields)
        assert failed.returncode == 1 and failed.stderr.startswith(f"error: {message}"), failed.stderr
        assert failed.stderr.count("\n") == 1 and not (tmp_path / "runs").exists()


def test_weights_of_another_version_are_refused_by_every_reader(file, tmp_path):
    config, states = pretrained.load(file)
    del config.convolution
    weights_file.save(tmp_path / "old.safetensors", jax.tree.map(lambda x: x[0], states), config)
    for read in (Learner, pretrained.load, lambda named: pretrained.export(named, tmp_path / "new.safetensors")):
        with pytest.raises(CheckpointError, match="another version, whose config differs in convolution"):
            read(tmp_path / "old.safetensors")


def test_an_export_that_fails_leaves_the_earlier_file(file, tmp_path, monkeypatch):
    earlier = shutil.copy(file, tmp_path / "weights.safetensors")

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(weights_file.WeightsError, match=r"cannot be written \(No space left on device\)"):
        pretrained.export(file, earlier)
    assert earlier.read_bytes() == file.read_bytes()


def test_training_and_evaluation_from_weights_with_a_head_can_start_from_zeros(file):
    for zero_head in (False, True):
        config = pretrained.load(file).config
        config.zero_head = zero_head
        head = pretrained.load_for(config, pretrained.find(file), mesh_of(config)).params["params"]["dense"]
        assert all(bool(np.any(x)) != zero_head for x in jax.tree.leaves(head))


def test_balanced_batches_without_repeating_need_enough_images_of_every_class(file):
    learner, images = Learner(file), drawn(5)
    learner.config.update({"replacement": True, "balanced": True, "eval_batch": 6})  # two of each class
    with pytest.raises(ConfigError, match="class 2 has 1 of the 2 images that a mini-batch needs of each class"):
        learner.adapt(images, [0, 0, 1, 1, 2])


def test_what_cannot_be_exported(tmp_path):
    with pytest.raises(CheckpointError, match="holds no checkpoint"):
        pretrained.export(tmp_path, tmp_path / "file.safetensors")
    train_and_evaluate(small(meta_iters=1, num_seeds=2, eval_samples=2), tmp_path / "two")
    for seed, message in ((None, "two has several seeds"), (2, "seed=2 is not a seed of .*two")):
        with pytest.raises(ConfigError, match=f"{message}: give one of 0, 1 after FILE"):
            pretrained.export(tmp_path / "two", tmp_path / "file.safetensors", seed)
    assert not (tmp_path / "file.safetensors").exists()
