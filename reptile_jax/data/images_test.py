import random
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image

from reptile_jax.data.characters import Characters, as_images
from reptile_jax.data.images import DataError, Images, only, split, turned, with_turns


def characters(count=10, drawings=3, seed=0):
    """Returns random drawings of ten characters, whose alphabets sort differently as plain strings and as pairs."""
    names = sorted((alphabet, f"character{n:02d}") for n in range(1, count // 2 + 1) for alphabet in ("Ab", "Ab-c"))
    images = np.random.default_rng(seed).integers(0, 2, (len(names), drawings, 28, 28), np.uint8)
    return Characters(images, tuple("/".join(name) for name in names))


class Part(NamedTuple):
    images: np.ndarray  # [classes, drawings, 28, 28]
    names: tuple[str, ...]


def parts(chars, num_train, seed, validation_classes):
    """Returns the three sets: rotated training characters, and upright other characters."""
    images = as_images(chars)
    sets = split(images, num_train, validation_classes, seed)
    sets["train"], images = turned(images, sets["train"]), with_turns(images)
    return [
        Part(
            np.stack([images.pixels[images.first[i] :][: images.counts[i], ..., 0] for i in classes])
            if len(classes) else np.zeros((0, *chars.images.shape[1:]), np.uint8),
            tuple(images.names[i] for i in classes),
        )
        for classes in sets.values()
    ]  # fmt: skip


def without_rotation(name):
    return name.rsplit("/rot", 1)[0]


@pytest.mark.parametrize("seed", [0, 1, 7])
def test_split_is_the_released_codes(seed):
    chars = characters()
    # The released code shuffles the sorted list itself.
    shuffled = sorted(chars.names, key=lambda name: name.split("/"))
    random.Random(seed).shuffle(shuffled)
    train, validation, test = parts(chars, 7, seed, 0)
    assert list(test.names) == shuffled[7:]
    assert list(train.names) == [f"{name}/rot{degrees:03d}" for name in shuffled[:7] for degrees in range(0, 360, 90)]
    assert validation.names == ()
    for name, images in zip(test.names, test.images, strict=True):
        np.testing.assert_array_equal(images, chars.images[chars.names.index(name)])


def test_names_are_sorted_as_pairs_not_as_strings():
    names = characters().names
    assert list(names) != sorted(names)


def test_split_does_not_depend_on_the_order_of_the_characters():
    chars = characters()
    order = np.random.default_rng(3).permutation(len(chars.names))
    listed_otherwise = Characters(chars.images[order], tuple(chars.names[i] for i in order))
    assert listed_otherwise.names != chars.names
    for expected, actual in zip(parts(chars, 6, 0, 2), parts(listed_otherwise, 6, 0, 2), strict=True):
        assert actual.names == expected.names
        np.testing.assert_array_equal(actual.images, expected.images)


def test_another_seed_is_another_split():
    assert parts(characters(), 6, 0, 0)[2].names != parts(characters(), 6, 1, 0)[2].names


def test_train_validation_and_test_are_disjoint_and_complete():
    chars = characters(count=40)
    train, validation, test = parts(chars, 30, 5, 4)
    groups = [{without_rotation(name) for name in part.names} for part in (train, validation, test)]
    assert [len(group) for group in groups] == [26, 4, 10]
    assert set.union(*groups) == set(chars.names)  # 26 + 4 + 10 = 40: nothing is in two of them
    # By their pictures too: random drawings never repeat.
    seen = [{image.tobytes() for image in part.images.reshape(-1, 28, 28)} for part in (train, validation, test)]
    assert not seen[0] & seen[1] and not seen[0] & seen[2] and not seen[1] & seen[2]


def test_validation_is_the_end_of_training_and_changes_nothing_else():
    chars = characters()
    whole, _, test = parts(chars, 7, 0, 0)
    train, validation, same_test = parts(chars, 7, 0, 3)
    assert same_test.names == test.names and train.names == whole.names[: 4 * 4]
    assert validation.names == tuple(without_rotation(name) for name in whole.names[4 * 4 :: 4])
    np.testing.assert_array_equal(validation.images, whole.images[4 * 4 :: 4])  # unrotated


def test_rotations_are_pillows():
    train = parts(characters(), 6, 0, 0)[0]
    for number, name in enumerate(train.names):
        degrees = int(name[-3:])
        upright = train.images[number - degrees // 90]
        for image, original in zip(train.images[number], upright, strict=True):
            rotated = Image.fromarray(original * 255).convert("1").rotate(degrees)  # as the released code does
            np.testing.assert_array_equal(image, np.asarray(rotated, np.uint8))
    clockwise = np.asarray(Image.fromarray(train.images[0, 0]).rotate(-90))
    assert not np.array_equal(train.images[1, 0], clockwise)


@pytest.mark.parametrize(
    ("num_train", "validation_classes", "words"),
    [
        (10, 0, "10 training classes"),
        (0, 0, "0 training classes"),
        (6, 6, "validation_classes=6"),
        (6, -1, "validation_classes=-1"),
    ],
)
def test_impossible_splits_are_one_clear_line(num_train, validation_classes, words):
    with pytest.raises(DataError, match=words) as error:
        split(as_images(characters()), num_train, validation_classes, 0)
    assert "\n" not in str(error.value)


def test_the_fingerprint_is_of_names_pixels_and_the_division_into_classes():
    chars = characters()
    print_of = lambda images, names=chars.names: as_images(Characters(images, names)).fingerprint  # noqa: E731
    first = print_of(chars.images)
    assert print_of(chars.images.copy()) == first
    one_pixel = chars.images.copy()
    one_pixel[-1, -1, -1, -1] ^= 1
    others = [
        print_of(one_pixel),
        print_of(chars.images[::-1]),
        print_of(chars.images, ("another", *chars.names[1:])),
        print_of(chars.images.reshape(5, 6, 28, 28), chars.names[:5]),
        print_of(chars.images.reshape(10, 3, 14, 56)),
    ]
    assert len({first, *others}) == 1 + len(others)


@pytest.mark.parametrize("classes", [[0, 2], [1], [2, 0]])
def test_only_some_classes_keep_their_images(classes):
    pixels = np.random.default_rng(0).integers(0, 256, (9, 4, 4, 3), np.uint8)
    first, counts = np.array([0, 2, 5], np.int32), np.array([2, 3, 4], np.int32)
    images = Images(pixels, ("a", "b", "c"), first, counts, {"train": (0, 1), "test": (2,)}, "fingerprint")
    some = only(images, np.array(classes))
    assert some.names == tuple("abc"[i] for i in classes) and some.fingerprint == "fingerprint"
    assert len(some.pixels) == sum(counts[classes])
    for i, start, count in zip(classes, some.first, some.counts, strict=True):
        np.testing.assert_array_equal(some.pixels[start : start + count], pixels[first[i] :][: counts[i]])
    assert only(images, np.arange(3)) is images
