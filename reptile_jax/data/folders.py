"""Lists a folder of images: its sets, classes and files, and what is wrong with them. Opens no image.

A folder holds CLASS/*, or train/ and test/ (and val/), each with CLASS/*. Each of the three may be a zip file, such as
train.zip.
"""

import functools
import hashlib
import json
import os
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from reptile_jax.data.images import DataError, Description
from reptile_jax.files import expanded

ALIKE = ("train", "training", "val", "valid", "validation", "test", "testing")  # what people call sets
SET_FOLDERS = {"train": "train", "val": "validation", "test": "test"}  # name of the folder -> of the set
LARGEST_MEMBER = 2**30  # bytes of one image in a zip file; a small zip file can hold a far larger member
_OF_SYSTEMS = ("__macosx", "thumbs.db", "ehthumbs.db", "desktop.ini", "$recycle.bin", "@eadir")


class Part(NamedTuple):
    """One set of classes.

    Attributes:
        place: the folder or zip file.
        classes: class -> its images, as paths inside `place`; both sorted by name.
        state: names, sizes and times of the files (of a zip file, and its checksums), to detect changes.
    """

    place: Path
    classes: dict[str, tuple[str, ...]]
    state: list[Any]


class Listing(NamedTuple):
    """What a folder of images holds.

    Attributes:
        parts: "train", "validation" (if there is one) and "test"; or only "", whose classes a seed splits.
        state: SHA-256 of the names, sizes and times of all files.
    """

    parts: dict[str, Part]
    state: str


_described: dict[Path, str] = {}  # the state of each folder when this process described it last


def describe(data: ConfigDict) -> Description:
    """Returns the classes of the folder `data.dir`, and how many images each has.

    Raises:
        DataError: what `folder_of` and `listing` raise.
    """
    folder = folder_of(data)
    found = listing(folder)
    _described[folder] = found.state
    return description(counted(found.parts))


def folder_of(data: ConfigDict) -> Path:
    """Returns the folder that a config's `data` names.

    Raises:
        DataError: `data` names no folder.
    """
    if not data.dir:
        raise DataError("data.dir is empty: name the folder of the images with --config.data.dir=DIR")
    return expanded(data.dir)


def counted(parts: dict[str, Part]) -> dict[str, dict[str, int]]:
    """Returns the number of images by set and class."""
    return {name: {label: len(files) for label, files in part.classes.items()} for name, part in parts.items()}


def description(sets: dict[str, dict[str, int]]) -> Description:
    """Returns the description of a data set from the number of images by set and class."""
    names = tuple(name for classes in sets.values() for name in classes)
    counts = tuple(count for classes in sets.values() for count in classes.values())
    if list(sets) == [""]:
        return Description(names, counts)
    place = {label: number for number, label in enumerate(names)}
    return Description(names, counts, {name: tuple(map(place.__getitem__, classes)) for name, classes in sets.items()})


def listed_again(folder: Path) -> Listing:
    """Lists a folder as `listing` does, and checks that it has not changed since it was described.

    Raises:
        DataError: what `listing` raises, or the folder has changed.
    """
    found = listing(folder)
    if _described.get(folder, found.state) != found.state:
        raise DataError(f"{folder} changed after its classes were counted: start again when it stays as it is")
    return found


def listing(directory: Path) -> Listing:
    """Lists a folder of images.

    Raises:
        DataError: there is no such folder, something in it cannot be read or does not belong there, a set has no
            classes, a class has no images or is in two sets, or a zip file is damaged or has paths that leave it.
    """
    try:
        places = _places(directory) if directory.is_dir() else None
    except OSError as error:  # for example, the name is too long
        raise DataError(f"data.dir={str(directory)!r} cannot be read ({error.strerror}): give another") from error
    if places is None:
        raise DataError(
            f"data.dir={str(directory)!r} is not a folder: give the folder that holds the classes' folders, or "
            f"train/ and test/ with them"
        )
    parts = {name: part_of(place) for name, place in places.items()}
    seen: dict[str, Path] = {}
    for part in parts.values():
        for name, files in part.classes.items():
            if not files:
                raise DataError(f"the class {part.place / name} has no images: put some there, or remove it")
            if name in seen:
                raise DataError(f"the class {name!r} is in {seen[name]} and in {part.place}: leave it in one of them")
            seen[name] = part.place
    state = json.dumps([(name, part.place.name, part.state) for name, part in parts.items()])
    return Listing(parts, hashlib.sha256(state.encode()).hexdigest())


def _places(directory: Path) -> dict[str, Path]:
    """Returns the folder or zip file of each set, or the whole folder as the set ""."""
    found = {}
    for folder, name in SET_FOLDERS.items():
        both = [place for place in (directory / folder, directory / f"{folder}.zip") if place.exists()]
        if len(both) > 1:
            raise DataError(f"{directory} has both {folder}/ and {folder}.zip: leave one of them there")
        if both:
            found[name] = both[0]
    # A class may have the name "train"; its folder then holds images, not folders.
    split = {"train", "test"} <= set(found) or any(not place.is_dir() or _folders(place) for place in found.values())
    known = {*SET_FOLDERS, *(f"{folder}.zip" for folder in SET_FOLDERS)}
    for place in (directory / entry.name for entry in _entries(directory)):
        name, ending = (place.name, "") if place.is_dir() else (place.stem, place.suffix.lower())
        alike = name.lower() in ALIKE and place.name not in known
        if alike and (ending == ".zip" or (not ending and _folders(place))):
            raise DataError(f"{place} is none of the sets train, val and test, folders or *.zip: rename or remove it")
    if not split:
        return {"": directory}
    for name in ("train", "test"):
        if name not in found:
            there = ", ".join(place.name for place in found.values())
            raise DataError(f"data.dir={directory} has {there} but neither {name}/ nor {name}.zip: add one of them")
    return found


def part_of(place: Path) -> Part:
    """Lists one set of classes."""
    if place.is_dir():
        part = _in_folder(place)
    else:
        status = place.stat()
        part = _in_zip(place, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    if not part.classes:
        raise DataError(f"{place} holds no classes: give each class a folder of its own there, with its images in it")
    return part


def _in_folder(place: Path) -> Part:
    classes, state = {}, []
    for folder in _folders(place):
        _check_circle(place / folder)
        files = []
        for entry in _entries(place / folder):
            path = place / folder / entry.name
            if entry.is_dir():
                _check_circle(path)
                raise DataError(f"{path} is a folder inside a class: a class may hold only images")
            if not entry.is_file():
                raise DataError(f"{path} is not a file: remove it")
            status = entry.stat()
            files.append(entry.name)
            state.append((folder, entry.name, status.st_size, status.st_mtime_ns))
        classes[folder] = tuple(f"{folder}/{name}" for name in files)
    return Part(place, classes, state)


def _check_circle(folder: Path) -> None:
    """Raises DataError if a folder is a link to a folder that contains it."""
    inside = folder.parent.resolve()
    if folder.resolve() in (inside, *inside.parents):
        raise DataError(f"{folder} is a circular link: remove it")


def _folders(place: Path) -> list[str]:
    """Returns the names of the folders in a folder and ignores its files."""
    return [entry.name for entry in _entries(place) if entry.is_dir()]


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    """Returns the entries of a folder, sorted by name, without hidden files; follows every link once."""
    try:
        with os.scandir(folder) as entries:
            found = sorted((entry for entry in entries if not passed_over([entry.name])), key=lambda entry: entry.name)
        for entry in found:
            entry.stat()  # fails for a link to nowhere or in a circle
    except OSError as error:
        raise DataError(f"{error.filename} cannot be read ({error.strerror}): repair or remove it") from error
    return found


@functools.lru_cache(maxsize=3)  # a large one takes half a second
def _in_zip(place: Path, size: int, time: int, _: int) -> Part:
    try:
        with zipfile.ZipFile(place) as archive:
            members = {info.filename: info for info in archive.infolist()}
    except Exception as error:  # zipfile raises anything for a damaged file
        raise DataError(f"{place} cannot be read as a zip file ({error}): replace it by an undamaged one") from error
    for name in members:
        if name.startswith("/") or "\\" in name or ":" in name.split("/")[0] or ".." in name.split("/"):
            raise DataError(f"{place}: {name!r} leads out of the zip file: give one without such a member")
    paths = {name: name.rstrip("/").split("/") for name in members}
    paths = {name: path for name, path in paths.items() if not passed_over(path)}
    if all(path[0] == place.stem for path in paths.values()):  # the zip file contains the folder itself
        paths = {name: path[1:] for name, path in paths.items()}
    classes: dict[str, list[str]] = {}
    for name, path in sorted(paths.items(), key=lambda item: item[1]):
        is_file = not members[name].is_dir()
        if len(path) > 2 or (len(path) == 2 and not is_file):
            raise DataError(f"{place}: {name!r} is inside a class's folder: a class may hold only images")
        if members[name].file_size > LARGEST_MEMBER:
            raise DataError(f"{place}: {name!r} has {members[name].file_size} bytes: give at most {LARGEST_MEMBER}")
        if len(path) == 2:
            classes.setdefault(path[0], []).append(name)
        elif path and not is_file:
            classes.setdefault(path[0], [])
    state = [size, time, [(name, info.CRC) for name, info in members.items()]]
    return Part(place, {name: tuple(files) for name, files in classes.items()}, state)


def files_below(folder: Path) -> Iterator[Path]:
    """Yields the files of a folder and of all folders inside it, except hidden ones; follows links.

    Raises:
        DataError: a folder or a file cannot be read, or a link leads to a folder that contains it.
    """
    for entry in _entries(folder):
        path = folder / entry.name
        if entry.is_dir():
            _check_circle(path)
            yield from files_below(path)
        else:
            yield path


def passed_over(path: Iterable[str]) -> bool:
    """Returns whether a path leads to a hidden file, or to a file that an operating system added."""
    return any(name.startswith(".") or name.lower() in _OF_SYSTEMS for name in path)
