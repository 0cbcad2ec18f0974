"""What trained weights do for the page: they prepare an image, and classify queries by a few examples."""

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
CLASSES, EXAMPLES, QUERIES = 5, 5, 8  # the largest numbers of classes, of examples of each class, and of queries
LEARNED = 16  # number of support sets whose networks are kept, because most questions repeat the previous examples
PIXELS = 40_000_000  # in the largest image that is prepared


class RefusedError(Exception):
    """A request that is refused.

    Attributes:
        status: the HTTP status.
    """

    def __init__(self, status: int, sentence: str) -> None:
        """Takes the status, and the sentence that the page shows."""
        super().__init__(sentence)
        self.status = status


class Question(NamedTuple):
    """A question from a page.

    Attributes:
        page: the name by which the page identifies itself.
        support: prepared pixels of the examples, [classes] of uint8 [examples, size, size, channels].
        queries: uint8 [queries, size, size, channels].
    """

    page: str
    support: list[np.ndarray]
    queries: np.ndarray


class Answers:
    """Trained weights that are ready to answer; several threads can call all methods at once.

    Attributes:
        name: the name of the weights.
        learner: the trained initialisation.
        classes: the largest number of classes in a question.
        steps: the inner steps after which there are probabilities.
        shape: the shape of a prepared image, [size, size, channels].
        drawings: whether the images are drawings of ink on paper (pixels 0 and 1) and not photographs (0 to 255).
    """

    def __init__(self, named: str) -> None:
        """Loads the weights, and compiles every program that questions need.

        Args:
            named: the weights, as `pretrained.load` takes them.

        Raises:
            CheckpointError, WeightsError, ConfigError: as `Learner`.
        """
        self.name, self.learner = os.path.basename(os.path.normpath(named)), Learner(named)
        config = self.learner.config
        self.classes = min(CLASSES, self.learner.classes)
        self.steps = sorted({*(step for step in STEPS if step < config.eval_iters), config.eval_iters})
        self.shape = (config.data.size, config.data.size, config.data.channels)
        self.drawings = DATA_SETS[config.data.name].scale == 1
        self._trace = lru_cache(LEARNED)(self._learn)
        noise = np.random.default_rng(0).integers(0, 2, (self.classes, EXAMPLES, *self.shape), np.uint8)
        for examples in (1, 2, EXAMPLES):  # together, these have every size to which a batch is padded
            if not config.replacement or self.classes * examples >= config.eval_batch:
                self.answer(Question("", list(noise[:, :examples]), noise[0, :2]))

    def prepare(self, file: bytes) -> np.ndarray:
        """Prepares an image like those that the weights were trained on.

        Args:
            file: the bytes of a PNG, JPEG, WebP, BMP or GIF file.

        Returns:
            uint8 [size, size, channels].

        Raises:
            RefusedError: 400: the file is not an image, is damaged or has nothing on it; 413: it has too many pixels.
        """
        prepare = DATA_SETS[self.learner.config.data.name].prepare
        assert prepare is not None  # `Learner` has checked it
        try:
            with Image.open(io.BytesIO(file), formats=FORMATS) as image:
                if image.width * image.height > PIXELS:
                    raise RefusedError(
                        413, f"The image has {image.width}x{image.height} pixels: send one of at most {PIXELS:,}."
                    )
                return prepare(image, self.learner.config.data)
        except RefusedError:
            raise
        except Image.UnidentifiedImageError as error:
            raise RefusedError(
                400, "The file is not a PNG, JPEG, WebP, BMP or GIF image: send one of these."
            ) from error
        except Exception as error:  # Pillow raises anything for a damaged file
            reason = " ".join((str(error) or type(error).__name__).split())
            raise RefusedError(400, f"The image cannot be used ({reason}): send another one.") from error

    def answer(self, question: Question) -> dict[str, Any]:
        """Adapts to the examples, and returns the probabilities of the classes after each of `steps`.

        Returns:
            `steps`; `alone`, probabilities [queries][steps][classes], each from one query and the examples (inductive);
            `together`, probabilities with all queries in one batch (transductive), or None if there is only one query.

        Raises:
            RefusedError: 400: these weights cannot learn from these examples.
        """
        counts = tuple(len(images) for images in question.support)
        try:
            trace = self._trace(np.concatenate(question.support).tobytes(), counts)
            queries = self._units(question.queries)
            alone = np.stack([adapted.predict_probabilities(queries) for adapted in trace], axis=1)
            together = None
            if len(queries) > 1:
                together = np.stack([x.predict_probabilities(queries, transductive=True) for x in trace], axis=1)
        except ConfigError as error:
            raise RefusedError(400, f"{error}.") from error
        return {
            "steps": self.steps,
            "alone": _rounded(alone),
            "together": together if together is None else _rounded(together),
        }

    def _learn(self, support: bytes, counts: tuple[int, ...]) -> list[Adapted]:
        """Returns the network after each of `steps`, from the pixels of all examples and their number in each class."""
        pixels = np.frombuffer(support, np.uint8).reshape(-1, *self.shape)
        return self.learner.trace(self._units(pixels), np.repeat(np.arange(len(counts)), counts), self.steps)

    def _units(self, pixels: np.ndarray) -> np.ndarray:
        return pixels.astype(np.float32) if self.drawings else pixels


def _rounded(probabilities: np.ndarray) -> list[Any]:
    return np.round(probabilities.astype(np.float64), 4).tolist()


def silence_warnings() -> None:
    """Hides Pillow's warnings about the images that people send."""
    warnings.filterwarnings("ignore", module="PIL")
