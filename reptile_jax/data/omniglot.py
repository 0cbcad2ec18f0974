"""Loads Omniglot through TFDS, without TensorFlow: prepares it once from the original archives, and reads one array.

This file has the TFDS builder, and decides where the prepared copy is and how it stays whole: one run at a time writes
it beside its final place and then renames it.

Reference: B. Lake, R. Salakhutdinov, J. Tenenbaum, "Human-level concept learning through probabilistic program
induction", Science 350 (2015).
"""

import contextlib
import io
import logging
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import requests
import tensorflow_datasets as tfds
from etils import epath
from tensorflow_datasets.core.download import download_manager, downloader, util

from reptile_jax.data.characters import SIZE, Characters
from reptile_jax.data.images import DataError
from reptile_jax.data.omniglot_archive import BACKGROUND, DRAWINGS, EVALUATION, read_archive
from reptile_jax.files import expanded, lock

_DESCRIPTION = """
Omniglot: 1,623 handwritten characters of 50 alphabets, each drawn once by 20 people. One example is a character with
its 20 drawings, scaled to 28x28 one-bit pixels by nearest neighbour (ink 0, paper 1).
"""
_CITATION = """
@article{lake2015human,
  title={Human-level concept learning through probabilistic program induction},
  author={Lake, Brenden M. and Salakhutdinov, Ruslan and Tenenbaum, Joshua B.},
  journal={Science},
  volume={350},
  number={6266},
  pages={1332--1338},
  year={2015},
  publisher={American Association for the Advancement of Science}
}
"""

SILENCE = 20  # seconds in which a server may say nothing


class OmniglotCharacters(tfds.core.GeneratorBasedBuilder):
    """TFDS builder of Omniglot, one example per character, in two splits: `background` and `evaluation`.

    Attributes:
        ARCHIVES: split -> upstream's archive.
        archives: folder to read the archives from; "" means that they are downloaded.
    """

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First version."}  # noqa: RUF012  (TFDS's own interface)
    ARCHIVES = {"background": BACKGROUND, "evaluation": EVALUATION}  # noqa: RUF012
    archives = ""
    # The folder of checksums.tsv. TFDS would find it with importlib_resources, which it uses but does not require.
    code_path = epath.Path(__file__)

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description=_DESCRIPTION,
            features=tfds.features.FeaturesDict(
                {
                    "alphabet": tfds.features.Text(),
                    "character": tfds.features.Text(),
                    "drawings": tfds.features.Tensor(shape=(DRAWINGS, SIZE, SIZE), dtype=np.uint8, encoding="bytes"),
                }
            ),
            homepage="https://github.com/brendenlake/omniglot",
            citation=_CITATION,
            license="MIT",
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        # Both archives are read and checked before anything is written.
        drawings = {}
        for split, archive in self.ARCHIVES.items():
            if self.archives:
                path = expanded(self.archives) / archive.file_name
                cure = (
                    f"put upstream's archive there ({archive.url}), or leave --config.data.archives out to download it"
                )
            else:
                path = _download(dl_manager, archive.url)
                cure = "delete it, and the next run downloads it again"
            drawings[split] = read_archive(path, archive, cure)
        return {split: self._generate_examples(characters) for split, characters in drawings.items()}

    def _generate_examples(self, characters: dict[str, np.ndarray]) -> Iterator[tuple[str, dict[str, Any]]]:
        for name, drawings in characters.items():
            alphabet, character = name.split("/")
            yield name, {"alphabet": alphabet, "character": character, "drawings": drawings}


def is_prepared(data_dir: str = "") -> bool:
    """Returns whether the copy that `load` reads is on the disk, so that nothing is downloaded."""
    return _copy_in(expanded(_folder(data_dir)), OmniglotCharacters).exists()


def load(
    data_dir: str = "", archives: str = "", builder_class: type[OmniglotCharacters] = OmniglotCharacters
) -> Characters:
    """Loads all characters of Omniglot from the prepared copy, and makes the copy first if there is none.

    Args:
        data_dir: TFDS's folder for prepared data; "" means TFDS_DATA_DIR if it is set, else ~/tensorflow_datasets.
        archives: folder with images_background.zip and images_evaluation.zip; "" means that they are downloaded.
            Neither is needed once the copy is prepared.
        builder_class: the TFDS builder; tests give a builder with other archives.

    Returns:
        1,623 characters of 20 drawings: uint8 [1623, 20, 28, 28], ink 0, paper 1.

    Raises:
        DataError: an archive is missing, damaged or cannot be downloaded, or the prepared copy is damaged or cannot be
            written.
    """
    folder = _folder(data_dir)
    try:
        folder = folder.expanduser()
        copy = _copy_in(folder, builder_class)
        if not copy.exists():
            _prepare(folder, copy, archives, builder_class)
    except (OSError, RuntimeError) as error:  # the latter is how ArrayRecord says that the disk is full
        raise DataError(
            f"Omniglot cannot be prepared in {folder} ({_reason(error)}): "
            "make room and write access there, or choose another folder with --config.data.dir"
        ) from error
    try:
        return _read(builder_class(data_dir=folder))
    except Exception as error:  # TFDS and ArrayRecord raise anything for a damaged file
        raise DataError(
            f"the prepared copy of Omniglot cannot be read ({_reason(error)}): delete {copy} and start again"
        ) from error


def _folder(data_dir: str) -> Path:
    return Path(data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets")


def _copy_in(folder: Path, builder_class: type[OmniglotCharacters]) -> Path:
    return folder / builder_class.name / str(builder_class.VERSION)


def _read(builder: OmniglotCharacters) -> Characters:
    """Reads the prepared copy and checks that it is whole; ArrayRecord checks its bytes with its own hashes."""
    drawings = {}
    for split, archive in builder.ARCHIVES.items():
        source = builder.as_data_source(split)
        examples = source.__getitems__(range(len(source)))
        found = {(e["alphabet"].decode(), e["character"].decode()): e["drawings"] for e in examples}
        if sorted(found) != archive.characters() or len(examples) != len(found):
            raise ValueError(f"{split} does not hold its {len(archive.characters())} characters")
        drawings.update(found)
    names = sorted(drawings)
    return Characters(
        images=np.stack([drawings[name] for name in names]), names=tuple("/".join(name) for name in names)
    )


def _prepare(folder: Path, copy: Path, archives: str, builder_class: type[OmniglotCharacters]) -> None:
    """Prepares the copy, unless another run has prepared it in the meantime."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f".{builder_class.name}.lock"

    def waiting(holder: str) -> None:
        print(f"Another run is preparing Omniglot ({holder}): waiting for it", file=sys.stderr)

    with lock(file, waiting):
        if copy.exists():
            return
        print(f"Preparing Omniglot in {copy}, once", file=sys.stderr)
        builder = builder_class(data_dir=folder)
        builder.archives = archives
        # TFDS would draw a bar for each of several steps of a second, and print "Unknown size" four times.
        tfds.display_progress_bar(False)
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                builder.download_and_prepare(
                    download_config=tfds.download.DownloadConfig(try_download_gcs=False), file_format="array_record"
                )
        finally:
            tfds.display_progress_bar(True)
            _sweep(folder, builder_class.name)


def _sweep(folder: Path, name: str) -> None:
    """Removes the unfinished copies and downloads of failed and killed runs."""
    for leftover in (*folder.glob(f"{name}/incomplete.*"), *folder.glob(f"downloads/{name}/*.tmp.*")):
        shutil.rmtree(leftover, ignore_errors=True)


def _download(dl_manager: tfds.download.DownloadManager, url: str) -> Path:
    """Downloads a file, or takes it from TFDS's cache, and checks its published checksum."""
    print(f"Downloading {url}", file=sys.stderr)
    warnings = logging.getLogger("urllib3.connectionpool")
    level = warnings.level
    warnings.setLevel(logging.ERROR)  # one per retry
    try:
        with (
            mock.patch.object(downloader, "MAX_RETRIES", 3),  # TFDS's ten take over three minutes, silently
            mock.patch.object(requests.adapters, "HTTPAdapter", _Impatient),
        ):
            return Path(dl_manager.download(url))
    except (OSError, util.DownloadError, download_manager.NonMatchingChecksumError) as error:
        if getattr(error, "errno", None):
            raise  # it is the disk; what the network raises has no number of its own
        reason = _reason(error)
        if isinstance(error, download_manager.NonMatchingChecksumError):
            reason = "its size or checksum is not the published one"
        raise DataError(
            f"cannot download {url} ({reason}): try again later, or put both archives into a folder DIR and give "
            "--config.data.archives=DIR"
        ) from error
    finally:
        warnings.setLevel(level)


class _Impatient(requests.adapters.HTTPAdapter):
    """Opens connections for TFDS with a time limit, because TFDS would wait for a silent server for ever."""

    def send(self, *args: Any, **kwargs: Any) -> requests.Response:
        return super().send(*args, **kwargs | {"timeout": SILENCE})


def _reason(error: BaseException) -> str:
    """Returns the message of an exception in one line."""
    while error.args and isinstance(inner := getattr(error.args[0], "reason", error.args[0]), Exception):
        error = inner  # requests wraps urllib3's exceptions twice
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(text.split())
