"""Omniglot through TFDS: prepared once from upstream's archives, read back as one array. No TensorFlow.

Owns the TFDS builder, and where the prepared copy lies and how it is kept whole: it is written beside its final place
and renamed, one run at a time.

Reference: B. Lake, R. Salakhutdinov, J. Tenenbaum, "Human-level concept learning through probabilistic program
induction", Science 350 (2015).
"""

import contextlib
import fcntl
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from etils import epath

from reptile_jax.data.characters import SIZE, Characters, DataError
from reptile_jax.data.omniglot_archive import BACKGROUND, DRAWINGS, EVALUATION, read_archive

TRAIN_CHARACTERS = 1200

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


class OmniglotCharacters(tfds.core.GeneratorBasedBuilder):
    """TFDS builder of Omniglot, one example per character, in two splits: `background` and `evaluation`.

    Attributes:
        ARCHIVES: split -> upstream's archive.
        archives: folder to read the archives from; "": they are downloaded.
    """

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First version."}  # noqa: RUF012  (TFDS's own interface)
    ARCHIVES = {"background": BACKGROUND, "evaluation": EVALUATION}  # noqa: RUF012
    archives = ""
    # Where checksums.tsv lies. TFDS would find it with importlib_resources, which it uses but does not require.
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
                path = Path(self.archives).expanduser() / archive.file_name
                cure = f"put upstream's archive there ({archive.url}), or leave data.archives empty to download it"
            else:
                path = _download(dl_manager, archive.url)
                cure = "delete it, and the next run downloads it again"
            drawings[split] = read_archive(path, archive, cure)
        return {split: self._generate_examples(characters) for split, characters in drawings.items()}

    def _generate_examples(self, characters: dict[str, np.ndarray]) -> Iterator[tuple[str, dict[str, Any]]]:
        for name, drawings in characters.items():
            alphabet, character = name.split("/")
            yield name, {"alphabet": alphabet, "character": character, "drawings": drawings}


def load(
    data_dir: str = "", archives: str = "", builder_class: type[OmniglotCharacters] = OmniglotCharacters
) -> Characters:
    """Loads all characters of Omniglot, from the prepared copy if there is one, else preparing it first.

    Args:
        data_dir: TFDS's folder for prepared data; "": TFDS_DATA_DIR if set, else ~/tensorflow_datasets.
        archives: folder with images_background.zip and images_evaluation.zip; "": they are downloaded. Neither is
            needed once the copy is prepared.
        builder_class: the TFDS builder.

    Returns:
        1,623 characters of 20 drawings: uint8 [1623, 20, 28, 28], ink 0, paper 1.

    Raises:
        DataError: an archive is missing or unsound, it cannot be downloaded, the prepared copy is damaged, or it
            cannot be written.
    """
    folder = Path(data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser()
    copy = folder / builder_class.name / str(builder_class.VERSION)
    if not copy.exists():
        try:
            _prepare(folder, copy, archives, builder_class)
        except OSError as error:
            raise DataError(
                f"Omniglot cannot be prepared in {folder} ({error.strerror or error}): "
                "make room there, or choose another folder with data.dir"
            ) from None
    try:
        return _read(builder_class(data_dir=folder))
    except Exception as error:  # TFDS and ArrayRecord raise anything for a damaged file
        reason = str(error).strip().split("\n")[0]
        raise DataError(f"the prepared copy of Omniglot is damaged ({reason}): delete {copy} and start again") from None


def _read(builder: OmniglotCharacters) -> Characters:
    """Reads the prepared copy and checks that it is whole."""
    names: list[tuple[str, str]] = []
    drawings = []
    for split, archive in builder.ARCHIVES.items():
        source = builder.as_data_source(split)
        expected = sum(archive.alphabets.values())
        if len(source) != expected:
            raise ValueError(f"{len(source)} instead of {expected} characters in {split}")
        for example in source.__getitems__(range(expected)):
            names.append((example["alphabet"].decode(), example["character"].decode()))
            drawings.append(example["drawings"])
    order = sorted(range(len(names)), key=names.__getitem__)
    return Characters(
        images=np.stack([drawings[index] for index in order]),
        names=tuple("/".join(names[index]) for index in order),
    )


def _prepare(folder: Path, copy: Path, archives: str, builder_class: type[OmniglotCharacters]) -> None:
    """Prepares the copy, unless another run does so first."""
    folder.mkdir(parents=True, exist_ok=True)
    with _only_one_run(folder / f".{builder_class.name}.lock"):
        if copy.exists():
            return
        _sweep(folder, builder_class.name)
        print(f"Preparing Omniglot in {copy}, once", file=sys.stderr)
        builder = builder_class(data_dir=folder)
        builder.archives = archives
        tfds.display_progress_bar(False)
        try:
            with contextlib.redirect_stdout(None):
                builder.download_and_prepare(
                    download_config=tfds.download.DownloadConfig(try_download_gcs=False), file_format="array_record"
                )
        finally:
            tfds.display_progress_bar(True)


@contextlib.contextmanager
def _only_one_run(lock: Path) -> Iterator[None]:
    """Holds a lock that dies with the process that holds it."""
    with lock.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"Another run is preparing the data (it holds {lock}); waiting for it", file=sys.stderr)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _sweep(folder: Path, name: str) -> None:
    """Removes what a killed run left behind: half-written copies and half-finished downloads."""
    for leftover in (*folder.glob(f"{name}/incomplete.*"), *folder.glob(f"downloads/{name}/*.tmp.*")):
        shutil.rmtree(leftover)


def _download(dl_manager: tfds.download.DownloadManager, url: str) -> Path:
    """Downloads a file, or takes it from TFDS's cache, and checks its published checksum."""
    try:
        return Path(dl_manager.download(url))
    except Exception as error:
        raise DataError(repr(error)) from None
