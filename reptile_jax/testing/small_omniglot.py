"""A small Omniglot with six characters: archives like upstream's, and the data set that reads them."""

import hashlib
import io
import os
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from reptile_jax.data import omniglot
from reptile_jax.data.images import DataError
from reptile_jax.data.omniglot_archive import Archive

SMALL = Archive("images_small", "https://example.org/images_small.zip", {"Beta": 2, "Alpha": 1})
URL = "http://127.0.0.1:1/python/"  # nothing listens there
ARCHIVES = {
    "background": Archive("images_background", f"{URL}images_background.zip", {"Beta": 2, "Alpha": 3}),
    "evaluation": Archive("images_evaluation", f"{URL}images_evaluation.zip", {"Gamma": 1}),
}


def png(seed, size=(105, 105), mode="1", file_format="PNG"):
    pixels = np.random.default_rng(seed).integers(0, 2, size[::-1], np.uint8) * 255
    file = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(file, file_format)
    return file.getvalue()


def members(archive=SMALL, seed=0):
    """Returns member name -> bytes of a sound archive."""
    return {
        f"{archive.folder}/{alphabet}/{character}/{label:04d}_{number:02d}.png": png((seed, label, number))
        for label, (alphabet, character) in enumerate(archive.characters())
        for number in range(1, 21)
    }


def write_zip(path, contents):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, data in contents.items():
            file.writestr(name, data)
    return path


class SmallOmniglot(omniglot.OmniglotCharacters):
    """A small Omniglot with six characters."""

    ARCHIVES = ARCHIVES

    def _generate_examples(self, characters):
        # For the tests that must catch a run in the middle of its work.
        if gate := os.environ.get("TEST_GATE"):
            Path(gate, "inside").touch()
            while not Path(gate, "go").exists():
                time.sleep(0.01)
        return super()._generate_examples(characters)


def write_archives(folder):
    for seed, archive in enumerate(ARCHIVES.values()):
        write_zip(folder / archive.file_name, members(archive, seed))
    return folder


def load(data_dir, archives=""):
    return omniglot.load(str(data_dir), str(archives), SmallOmniglot)


def copy_in(data_dir):
    return Path(data_dir) / "small_omniglot" / "1.0.0"


def half_done(data_dir):
    """Returns what an interrupted preparation leaves behind."""
    return [*Path(data_dir).glob("small_omniglot/*"), *Path(data_dir).glob("downloads/small_omniglot/*.tmp.*")]


def refused(data_dir, archives=""):
    """Returns the line of the error that loading raises; checks that no copy is left, not even an unfinished one."""
    with pytest.raises(DataError) as error:
        load(data_dir, archives)
    assert "\n" not in str(error.value)
    assert half_done(data_dir) == []
    return str(error.value)


def digest(characters):
    return hashlib.sha256(characters.images.tobytes()).hexdigest()
