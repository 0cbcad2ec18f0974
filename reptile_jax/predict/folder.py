"""Predictions for image files: learns a class from each folder, and writes the class of every query."""

import csv
import io
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from reptile_jax.config import ConfigError
from reptile_jax.data import DATA_SETS
from reptile_jax.files import expanded, replace_text
from reptile_jax.predict.learner import Adapted, Learner
from reptile_jax.predict.pictures import query_files, support_files


class Row(NamedTuple):
    """One class of one query, and its probability."""

    file: str
    label: str
    probability: float


def predict(pretrained: str, support: str, queries: Sequence[str], output: str | None = None, top: int = 1) -> None:
    """Learns the classes of a folder and prints the most probable ones of every query, or writes them to a file.

    Args:
        pretrained: trained weights, as `pretrained.load` names them.
        support: a folder that holds a folder of images for each class.
        queries: image files, and folders of image files.
        output: a file, *.csv or *.jsonl, that gets the rows instead of the terminal; no other file is written.
        top: the number of classes to show for every query, the most probable one first.

    Raises:
        ConfigError: the output cannot be written, or the weights cannot learn these classes.
        DataError: a folder is missing or empty, or a file is not an image.
        CheckpointError, WeightsError: there are no such weights, or they are damaged.
    """
    file = _output(output)
    wanted = query_files(queries)
    examples, labels = support_files(support)
    learner = Learner(pretrained)
    adapted = learner.adapt(examples, labels)
    counts = ", ".join(f"{name} ({labels.count(name)})" for name in adapted.classes)
    data = learner.config.data
    preparation = DATA_SETS[data.name].preparation.format(size=data.size, channels=data.channels)
    print(f"{pretrained} learned {counts}; images prepared {preparation}")
    if file is None:
        widths = [max(len(str(name)) for name in names) for names in (wanted, adapted.classes)]
        for row in rows(adapted, wanted, top):
            print(f"{row.file:{widths[0]}}  {row.label:{widths[1]}}  {100 * row.probability:6.2f} %", flush=True)
        return
    text = _text(rows(adapted, wanted, top), file.suffix)
    try:
        replace_text(file, text)
    except OSError as error:
        raise ConfigError(f"output={output} cannot be written ({error.strerror}): name another file") from error
    print(f"{len(wanted)} images; their classes are in {output}")


def rows(adapted: Adapted, files: Sequence[Path], top: int) -> Iterator[Row]:
    """Yields the most probable classes of every file, file by file, the most probable one first."""
    for file in files:
        probabilities = adapted.predict_probabilities(file)[0]
        for i in np.argsort(-probabilities, kind="stable")[:top]:
            yield Row(str(file), str(adapted.classes[i]), round(float(probabilities[i]), 6))


def _output(output: str | None) -> Path | None:
    """Returns the file to write, and checks it before anything is computed."""
    if output is None:
        return None
    file = expanded(output)
    if file.suffix not in (".csv", ".jsonl"):
        raise ConfigError(f"output={output} has an ending that is not known: name it *.csv or *.jsonl")
    if file.is_dir() or not file.parent.is_dir() or not os.access(file.parent, os.W_OK):
        raise ConfigError(f"output={output} cannot be written: name a file in a folder that can be written to")
    return file


def _text(found: Iterator[Row], ending: str) -> str:
    """Returns the rows as CSV with a header, or as one JSON object per line."""
    names = ("file", "class", "probability")
    if ending == ".jsonl":
        return "".join(f"{json.dumps(dict(zip(names, row, strict=True)), ensure_ascii=False)}\n" for row in found)
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([names, *found])
    return text.getvalue()
