"""What the page asks of trained weights: to prepare one image, and to tell queries apart by a few examples."""

import io
import os
import warnings
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from reptile_jax.config import ConfigError
from reptile_jax.data import DATA_SETS
from reptile_jax.data.prepared import FORMATS
from reptile_jax.predict.learner import Adapted, Learner

STEPS = (0, 1, 5, 20, 50)  # inner steps after which the page shows the probabilities
CLASSES, EXAMPLES, QUERIES = 5, 5, 8  # at most: classes, examples of each, queries
LEARNED = 16  # support sets whose networks are kept, because most questions have the same examples as the one before
PIXELS = 40_000_000  # of the largest image that is prepared


class RefusedError(Exception):
    """A request that is not answered.

    Attributes:
        status: of HTTP.
    """

    def __init__(self, status: int, sentence: str) -> None:
        """Takes the status, and the sentence that the page shows."""
        super().__init__(sentence)
        self.status = status


class Question(NamedTuple):
    """What a page asks.

    Attributes:
        page: what the page calls itself.
        support: prepared pixels of the examples, [classes] of uint8 [examples, size, size, channels].
        queries: uint8 [queries, size, size, channels].
    """

    page: str
    support: list[np.ndarray]
    queries: np.ndarray


class Answers:
    """Trained weights, ready to answer: all of it may be called by several threads at once.

    Attributes:
        name: of the weights.
        learner: the trained initialisation.
        classes: the most that a question can have.
        steps: inner steps after which there are probabilities.
        shape: of a prepared image, [size, size, channels].
        drawings: whether the images are drawings of ink on paper (pixels 0 and 1), and no photographs (0 to 255).
    """

    def __init__(self, named: str) -> None:
        """Loads the weights, and compiles every program that questions need.

        Args:
            named: as `pretrained.load` takes it.

        Raises:
            CheckpointError, WeightsError, ConfigError: what `Learner` raises.
        """
        self.name, self.learner = os.path.basename(os.path.normpath(named)), Learner(named)
        config = self.learner.config
        self.classes = min(CLASSES, self.learner.classes)
        self.steps = sorted({*(step for step in STEPS if step < config.eval_iters), config.eval_iters})
        self.shape = (config.data.size, config.data.size, config.data.channels)
        self.drawings = DATA_SETS[config.data.name].scale == 1
        self._trace = lru_cache(LEARNED)(self._learn)
        noise = np.random.default_rng(0).integers(0, 2, (self.classes, EXAMPLES, *self.shape), np.uint8)
        for examples in (1, 2, EXAMPLES):  # between them every size that a batch is filled up to
            if not config.replacement or self.classes * examples >= config.eval_batch:
                self.answer(Question("", list(noise[:, :examples]), noise[0, :2]))

    def prepare(self, file: bytes) -> np.ndarray:
        """Prepares an image as the weights know images.

        Args:
            file: PNG, JPEG, WebP, BMP or GIF.

        Returns:
            uint8 [size, size, channels].

        Raises:
            RefusedError: 400, the file is no whole image or has nothing on it; 413, it has too many pixels.
        """
        prepare = DATA_SETS[self.learner.config.data.name].prepare
        assert prepare is not None  # `Learner` has seen to it
        try:
            with Image.open(io.BytesIO(file), formats=FORMATS) as image:
                if image.width * image.height > PIXELS:
                    raise RefusedError(413, f"The image has {image.size} pixels: send one of at most {PIXELS:,}.")
                return prepare(image, self.learner.config.data)
        except RefusedError:
            raise
        except Image.UnidentifiedImageError as error:
            raise RefusedError(400, "The file is no PNG, JPEG, WebP, BMP or GIF image: send one of these.") from error
        except Exception as error:  # Pillow raises anything for a damaged file
            reason = " ".join((str(error) or type(error).__name__).split())
            raise RefusedError(400, f"The image cannot be used ({reason}): send another one.") from error

    def answer(self, question: Question) -> dict[str, Any]:
        """Adapts to the examples, and returns the probabilities of the classes after some of the steps.

        Returns:
            `steps`; `alone`, probabilities [queries][steps][classes] that depend on one query and the examples
            (inductive); `together`, those with all queries in one batch (transductive), None where there is one query.

        Raises:
            RefusedError: 400, these weights cannot learn from these examples.
        """
        counts = tuple(len(images) for images in question.support)
        try:
            trace = self._trace(np.concatenate(question.support).tobytes(), counts)
            queries = self._units(question.queries)
            alone = np.stack([adapted.predict_probabilities(queries) for adapted in trace], axis=1)
            together = [adapted.predict_probabilities(queries, transductive=True) for adapted in trace]
        except ConfigError as error:
            raise RefusedError(400, f"{error}.") from error
        return {
            "steps": self.steps,
            "alone": _rounded(alone),
            "together": _rounded(np.stack(together, axis=1)) if len(queries) > 1 else None,
        }

    def _learn(self, support: bytes, counts: tuple[int, ...]) -> list[Adapted]:
        """The network after each of the steps, from all pixels of the examples and how many there are of each class."""
        pixels = np.frombuffer(support, np.uint8).reshape(-1, *self.shape)
        return self.learner.trace(self._units(pixels), np.repeat(np.arange(len(counts)), counts), self.steps)

    def _units(self, pixels: np.ndarray) -> np.ndarray:
        return pixels.astype(np.float32) if self.drawings else pixels


def _rounded(probabilities: np.ndarray) -> list[Any]:
    return np.round(probabilities.astype(np.float64), 4).tolist()


def silence_warnings() -> None:
    """Leaves out what Pillow has to say of other people's images."""
    warnings.filterwarnings("ignore", module="PIL")
