"""Tests how folders of images are read, and every error that they can cause."""

import os
import stat
import zipfile

import pytest

from reptile_jax.data.folders import files_below, listing
from reptile_jax.data.images import DataError
from reptile_jax.testing.small_images import members, write_folder, write_zip

ANIMALS = {"cat": 3, "ant": 2, "bee": 4}


def below(folder, contents):
    return {f"{folder}/{name}": data for name, data in contents.items()}


def classes_of(folder):
    """Returns set -> class -> number of images."""
    return {
        name: {label: len(files) for label, files in part.classes.items()}
        for name, part in listing(folder).parts.items()
    }


def refused(folder, *words):
    with pytest.raises(DataError) as error:
        listing(folder)
    assert "\n" not in str(error.value)
    for word in words:
        assert word in str(error.value), error.value


@pytest.fixture
def split(tmp_path):
    """Makes train/ and test/, of which each test changes something."""
    write_folder(tmp_path / "train", members({"cat": 3, "ant": 2}))
    return write_folder(tmp_path / "test", members({"bee": 2})).parent


# Valid folders.


def test_classes_to_be_split_by_seed(tmp_path):
    found = classes_of(write_folder(tmp_path, members(ANIMALS)))
    assert found == {"": ANIMALS}
    assert list(found[""]) == ["ant", "bee", "cat"]
    assert listing(tmp_path).parts[""].classes["ant"] == ("ant/000.png", "ant/001.png")


@pytest.mark.parametrize("validation", [False, True])
def test_train_val_test(split, validation):
    if validation:
        write_folder(split / "val", members({"dog": 5}))
    expected = {"train": {"ant": 2, "cat": 3}, "validation": {"dog": 5}, "test": {"bee": 2}}
    if not validation:
        del expected["validation"]
    found = classes_of(split)
    assert found == expected and list(found) == list(expected)


@pytest.mark.parametrize("top", ["", "train/"])
def test_a_zip_file_in_place_of_a_folder(split, top):
    folder = split / "train"
    contents = members({"cat": 3, "ant": 2})
    for path in sorted(folder.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    folder.rmdir()
    write_zip(split / "train.zip", contents, top)
    assert classes_of(split)["train"] == {"ant": 2, "cat": 3}


def test_a_zip_file_of_a_folder_may_list_folders(split):
    with zipfile.ZipFile(split / "val.zip", "w") as file:
        file.mkdir("val")
        file.mkdir("val/dog")
        file.writestr("val/dog/1.png", b"")
    assert classes_of(split)["validation"] == {"dog": 1}


def test_a_class_may_be_called_train(tmp_path):
    vehicles = {"bus": 2, "train": 3}
    assert classes_of(write_folder(tmp_path, members(vehicles))) == {"": vehicles}


def test_hidden_files_and_what_systems_add_are_passed_over(split):
    others = {name: b"?" for name in (".DS_Store", "Thumbs.db", "desktop.ini", "cat/.DS_Store", "cat/Thumbs.db")}
    others |= {"__MACOSX/cat/._000.png": b"?", ".git/config": b"?", "cat/._000.png": b"?", "README.txt": b"?"}
    before = classes_of(split)
    write_folder(split / "train", others)
    write_folder(split, others | below("other", members({"x": 1})))
    assert classes_of(split) == before
    write_zip(split / "val.zip", members({"dog": 2}) | others)
    # macOS adds __MACOSX beside the folder.
    assert classes_of(split)["validation"]["dog"] == 2


def test_what_finder_packs(split):
    contents = below("val", members({"dog": 2})) | {"__MACOSX/val/dog/._000.png": b"?", "val/.DS_Store": b"?"}
    write_zip(split / "val.zip", contents)
    assert classes_of(split)["validation"] == {"dog": 2}


def test_links_are_followed(tmp_path):
    write_folder(tmp_path / "elsewhere", members(ANIMALS))
    folder = tmp_path / "images"
    folder.mkdir()
    (folder / "cat").symlink_to(tmp_path / "elsewhere" / "cat")
    (folder / "bee").mkdir()
    (folder / "bee" / "1.png").symlink_to(tmp_path / "elsewhere" / "bee" / "001.png")
    assert classes_of(folder) == {"": {"bee": 1, "cat": 3}}


# Changes.


def test_files_below_a_folder(tmp_path):
    """Hidden ones are left out, links are followed, and a circle or a link to nowhere is an error."""
    write_folder(tmp_path / "elsewhere", {"b.png": b"", ".hidden": b""})
    write_folder(tmp_path / "folder", {"a.png": b"", "inside/c.png": b""})
    (tmp_path / "folder" / "link").symlink_to(tmp_path / "elsewhere")
    found = [str(path.relative_to(tmp_path / "folder")) for path in files_below(tmp_path / "folder")]
    assert found == ["a.png", "inside/c.png", "link/b.png"]
    for target, message in ((tmp_path / "folder", "circular link"), (tmp_path / "nowhere", "cannot be read")):
        (tmp_path / "folder" / "inside" / "bad").unlink(missing_ok=True)
        (tmp_path / "folder" / "inside" / "bad").symlink_to(target)
        with pytest.raises(DataError, match=message):
            list(files_below(tmp_path / "folder"))


def test_the_state_changes_with_the_files_and_with_nothing_else(split):
    write_zip(split / "val.zip", members({"dog": 2}))
    states = [listing(split).state]
    assert listing(split).state == states[0]
    image = split / "train" / "cat" / "000.png"
    os.utime(image, ns=(0, 1))
    states.append(listing(split).state)
    image.write_bytes(image.read_bytes() + b"\0")
    os.utime(image, ns=(0, 1))
    states.append(listing(split).state)
    image.rename(image.with_name("zzz.png"))
    states.append(listing(split).state)
    (split / "train" / "cat").rename(split / "train" / "cow")
    states.append(listing(split).state)
    (split / "test" / "bee").rename(split / "train" / "bee")
    write_folder(split / "test", members({"eel": 1}))
    states.append(listing(split).state)
    times = (split / "val.zip").stat()
    write_zip(split / "val.zip", members({"dog": 2}, seed=1))
    os.utime(split / "val.zip", ns=(times.st_atime_ns, times.st_mtime_ns))
    states.append(listing(split).state)
    assert len(set(states)) == 7
    (split / ".DS_Store").write_bytes(b"?")
    assert listing(split).state == states[-1]


# Errors.


def test_no_folder(tmp_path):
    refused(tmp_path / "nowhere", "data.dir", "nowhere", "is not a folder")
    (tmp_path / "file").touch()
    refused(tmp_path / "file", "is not a folder")
    refused(tmp_path / (300 * "a"), "data.dir", "cannot be read (File name too long): give another")


def test_no_classes(tmp_path, split):
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "empty holds no classes")
    write_folder(tmp_path / "flat", {"1.png": b"?"})
    refused(tmp_path / "flat", "flat holds no classes")
    (split / "val").mkdir()
    refused(split, "val holds no classes")
    (split / "val").rmdir()
    write_zip(split / "val.zip", {})
    refused(split, "val.zip holds no classes")


def test_an_empty_class(tmp_path, split):
    (split / "train" / "dog").mkdir()
    (split / "train" / "dog" / ".DS_Store").touch()
    refused(split, f"{split}/train/dog has no images")
    (split / "train" / "dog" / "1.png").touch()
    with zipfile.ZipFile(split / "val.zip", "w") as file:
        file.mkdir("eel")
    refused(split, "val.zip/eel has no images")


def test_a_class_in_two_sets(split):
    write_folder(split / "test", members({"cat": 1}))
    refused(split, "'cat'", f"{split}/train", f"{split}/test")


def test_a_folder_beside_the_sets(split):
    write_folder(split / "validation", members({"owl": 2}))
    refused(split, "validation is none of the sets train, val and test, folders or *.zip: rename or remove it")


@pytest.mark.parametrize("name", ["validation.zip", "Train.ZIP"])
def test_a_zip_file_beside_the_sets(split, name):
    write_zip(split / name, members({"owl": 2}))
    refused(split, f"{name} is none of the sets")


def test_sets_in_capitals(tmp_path):
    for name in ("Train", "Test"):
        write_folder(tmp_path / name, members({f"owl{name}": 2}))
    refused(tmp_path, "Test is none of the sets")


def test_a_class_may_be_called_test_in_capitals(tmp_path):
    write_folder(tmp_path, members({"Test": 2, "owl": 3}))
    assert classes_of(tmp_path) == {"": {"Test": 2, "owl": 3}}


def test_both_a_folder_and_a_zip_file(split):
    write_zip(split / "train.zip", members({"dog": 1}))
    refused(split, "both train/ and train.zip")


@pytest.mark.parametrize("missing", ["train", "test"])
def test_a_split_needs_train_and_test(split, missing):
    (split / missing).rename(split / "elsewhere")
    refused(split, f"data.dir={split} has ", f"neither {missing}/ nor {missing}.zip: add one of them")


def test_a_folder_inside_a_class(tmp_path, split):
    write_folder(split / "train" / "cat" / "more", {"1.png": b"?"})
    refused(split, f"{split}/train/cat/more", "folder inside a class")
    write_folder(tmp_path / "flat", below("animals", members(ANIMALS)))
    refused(tmp_path / "flat", "flat/animals/ant", "folder inside a class")


@pytest.mark.parametrize("target", [".", "..", "../.."])
def test_a_link_in_a_circle(split, target):
    link = split / "train" / "cat" / "again"
    link.symlink_to(target)
    refused(split, str(link), "circle")


def test_a_link_to_the_folder_itself_as_a_class(tmp_path):
    write_folder(tmp_path, members(ANIMALS))
    (tmp_path / "dog").symlink_to(tmp_path)
    refused(tmp_path, f"{tmp_path}/dog is a circular link")


@pytest.mark.parametrize("where", ["dog", "cat/1.png"])
def test_links_to_each_other_and_to_nowhere(tmp_path, where):
    link = write_folder(tmp_path, members(ANIMALS)) / where
    other = link.with_name("other")
    link.symlink_to(other)
    refused(tmp_path, str(link), "No such file")
    other.symlink_to(link)
    refused(tmp_path, "Too many levels of symbolic links")


def test_what_is_no_file(tmp_path):
    write_folder(tmp_path, members(ANIMALS))
    os.mkfifo(tmp_path / "cat" / "pipe")  # opening it would block forever
    refused(tmp_path, "cat/pipe is not a file")


@pytest.mark.skipif(os.geteuid() == 0, reason="the administrator may read everything")
def test_a_folder_that_may_not_be_read(tmp_path):
    write_folder(tmp_path, members(ANIMALS))
    (tmp_path / "cat").chmod(0)
    refused(tmp_path, "cat cannot be read (Permission denied)")
    (tmp_path / "cat").chmod(stat.S_IRWXU)


@pytest.mark.parametrize("name", ["../cat/1.png", "cat/../../1.png", "/cat/1.png", "C:/cat/1.png", "..\\cat\\1.png"])
def test_a_zip_file_that_climbs_out(split, name):
    write_zip(split / "val.zip", members({"dog": 1}) | {name: b"?"})
    refused(split, "val.zip", repr(name), "leads out")


def test_folders_inside_a_class_of_a_zip_file(split):
    write_zip(split / "val.zip", below("deep", members({"dog": 1})))
    refused(split, "val.zip", "deep/dog/000.png")


@pytest.mark.parametrize("part", [0, 0.5, 0.99])
def test_a_damaged_zip_file(split, part):
    whole = write_zip(split / "val.zip", members({"dog": 3})).read_bytes()
    (split / "val.zip").write_bytes(whole[: int(part * len(whole))])
    refused(split, "val.zip cannot be read as a zip file")


def test_a_zip_file_with_a_huge_member(split):
    with zipfile.ZipFile(split / "val.zip", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("dog/1.png", b"")
        file.infolist()[0].file_size = 2**31  # the size in the list of contents
    refused(split, "val.zip", "dog/1.png", "bytes")
