"""Reads the two original archives of Omniglot, and checks that every drawing is there and undamaged.

This file defines what an archive must hold and how a drawing becomes 28x28 pixels. It reads the zip files without
unpacking them, and does not use TFDS.
"""

import io
import re
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
from PIL import Image

from reptile_jax.data.characters import SIZE
from reptile_jax.data.images import DataError

DRAWINGS = 20  # of each character, by 20 different hands
_ORIGINAL_SIZE = (105, 105)  # pixels


class Archive(NamedTuple):
    """One of the original zip files and what it must hold.

    Attributes:
        folder: its top folder; the file is called `folder`.zip.
        url: the address of the original.
        alphabets: number of characters of each alphabet.
    """

    folder: str
    url: str
    alphabets: Mapping[str, int]

    @property
    def file_name(self) -> str:
        """Returns the name of the file, such as "images_background.zip"."""
        return f"{self.folder}.zip"

    def characters(self) -> list[tuple[str, str]]:
        """Returns (alphabet, character) of every character, sorted; the first one of an alphabet is "character01"."""
        return [
            (alphabet, f"character{number:02d}")
            for alphabet, count in sorted(self.alphabets.items())
            for number in range(1, count + 1)
        ]


def read_archive(path: Path, archive: Archive, cure: str) -> dict[str, np.ndarray]:
    """Reads every drawing of an archive.

    A drawing is scaled as in the released code, with Pillow's `resize` of a one-bit image, whose only filter is nearest
    neighbour.

    Args:
        path: the zip file.
        archive: what it must hold.
        cure: what the reader of an error message should do about a bad file.

    Returns:
        "Alphabet/character01" -> uint8 [20, 28, 28], ink 0, paper 1, drawings sorted by file name. The characters are
        sorted by (alphabet, character), whatever their order in the file.

    Raises:
        DataError: the file is missing or is not an undamaged zip file; a drawing is missing, damaged, or has another
            size or kind; or the file holds something that does not belong there.

    Source: https://github.com/openai/supervised-reptile, `Character._read_image`.
    """
    try:
        with zipfile.ZipFile(path) as file:
            members = _members(file, archive)
            return {
                character: np.stack([_drawing(file, drawings[number]) for number in sorted(drawings)])
                for character, drawings in members.items()
            }
    except FileNotFoundError:
        raise DataError(f"there is no {path}: {cure}") from None
    except _Problem as error:
        raise DataError(f"{path}: {error}: {cure}") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror or error}): {cure}") from None
    # The exception that zipfile raises for a damaged directory depends on the damaged field.
    except (zipfile.BadZipFile, ValueError, NotImplementedError, RuntimeError, IndexError, OverflowError) as error:
        raise DataError(f"{path} is not a zip file, or is cut short or damaged ({error}): {cure}") from None


class _Problem(Exception):
    """Something inside an archive is wrong."""


def _members(file: zipfile.ZipFile, archive: Archive) -> dict[str, dict[int, zipfile.ZipInfo]]:
    """Returns the members by character and drawing (1 to 20), after a check that there is nothing else."""
    pattern = re.compile(rf"{re.escape(archive.folder)}/([^/]+/character\d\d)/\d+_(\d\d)\.png")
    found: dict[str, dict[int, zipfile.ZipInfo]] = {"/".join(name): {} for name in archive.characters()}
    for member in file.infolist():
        name = member.filename
        if PurePosixPath(name).is_absolute() or "\\" in name or ".." in PurePosixPath(name).parts:
            raise _Problem(f"member {name!r} leads out of the archive's folder")
        if not (match := pattern.fullmatch(name)):
            continue  # folders, and files that an operating system adds
        character, number = match[1], int(match[2])
        if character not in found:
            raise _Problem(f"{character} is not a character of this archive")
        if number in found[character] or not 1 <= number <= DRAWINGS:
            raise _Problem(f"{character} has a drawing {number:02d} too many, {name!r}")
        found[character][number] = member
    for character, drawings in found.items():
        if not drawings:
            raise _Problem(f"{character} is missing")
        for number in range(1, DRAWINGS + 1):
            if number not in drawings:
                raise _Problem(f"drawing {number:02d} of {character} is missing")
    return found


def _drawing(file: zipfile.ZipFile, member: zipfile.ZipInfo) -> np.ndarray:
    """Returns a drawing, uint8 [28, 28]; ink is 0, paper is 1."""
    try:
        data = file.read(member)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise _Problem(f"{member.filename} is damaged ({error})") from None
    try:
        with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
            if image.mode != "1" or image.size != _ORIGINAL_SIZE:
                depth = "one-bit" if image.mode == "1" else f"mode {image.mode}"
                raise _Problem(f"{member.filename} is {depth} {image.width}x{image.height}, not one-bit 105x105")
            return np.asarray(image.resize((SIZE, SIZE)), np.uint8)
    except _Problem:
        raise
    except Exception:  # a decoder may raise anything for bytes that are not a picture
        raise _Problem(f"{member.filename} is not a PNG image, or is damaged") from None


BACKGROUND = Archive(
    folder="images_background",
    url="https://github.com/brendenlake/omniglot/raw/master/python/images_background.zip",
    alphabets={
        "Alphabet_of_the_Magi": 20,
        "Anglo-Saxon_Futhorc": 29,
        "Arcadian": 26,
        "Armenian": 41,
        "Asomtavruli_(Georgian)": 40,
        "Balinese": 24,
        "Bengali": 46,
        "Blackfoot_(Canadian_Aboriginal_Syllabics)": 14,
        "Braille": 26,
        "Burmese_(Myanmar)": 34,
        "Cyrillic": 33,
        "Early_Aramaic": 22,
        "Futurama": 26,
        "Grantha": 43,
        "Greek": 24,
        "Gujarati": 48,
        "Hebrew": 22,
        "Inuktitut_(Canadian_Aboriginal_Syllabics)": 16,
        "Japanese_(hiragana)": 52,
        "Japanese_(katakana)": 47,
        "Korean": 40,
        "Latin": 26,
        "Malay_(Jawi_-_Arabic)": 40,
        "Mkhedruli_(Georgian)": 41,
        "N_Ko": 33,
        "Ojibwe_(Canadian_Aboriginal_Syllabics)": 14,
        "Sanskrit": 42,
        "Syriac_(Estrangelo)": 23,
        "Tagalog": 17,
        "Tifinagh": 55,
    },
)

EVALUATION = Archive(
    folder="images_evaluation",
    url="https://github.com/brendenlake/omniglot/raw/master/python/images_evaluation.zip",
    alphabets={
        "Angelic": 20,
        "Atemayar_Qelisayer": 26,
        "Atlantean": 26,
        "Aurek-Besh": 26,
        "Avesta": 26,
        "Ge_ez": 26,
        "Glagolitic": 45,
        "Gurmukhi": 45,
        "Kannada": 41,
        "Keble": 26,
        "Malayalam": 47,
        "Manipuri": 40,
        "Mongolian": 30,
        "Old_Church_Slavonic_(Cyrillic)": 45,
        "Oriya": 46,
        "Sylheti": 28,
        "Syriac_(Serto)": 23,
        "Tengwar": 25,
        "Tibetan": 42,
        "ULOG": 26,
    },
)
