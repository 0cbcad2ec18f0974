"""Measures how long a running server takes from a stroke to the answer:

python -m reptile_jax.demo.measure [WEIGHTS]

prints the medians and the slowest times, for the shipped 5-way weights if no others are named.
"""

import http.client
import io
import json
import statistics
import sys
import time
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from reptile_jax.config import ConfigError
from reptile_jax.demo.answers import EXAMPLES, Answers
from reptile_jax.demo.server import app, running
from reptile_jax.devices import keep_compiled
from reptile_jax.run.checkpoint import CheckpointError
from reptile_jax.run.weights_file import WeightsError

ROUNDS = 20


def measure(named: str) -> None:
    """Prints a line for each number of examples of five classes.

    For a query, its image is prepared and a question is asked with examples that the server knows. For an example, one
    example is replaced, so that the network learns again. All requests go through a socket.

    Args:
        named: trained weights, as `pretrained.load` takes them.

    Raises:
        CheckpointError, WeightsError, ConfigError: as `Answers`.
    """
    answers, rng = Answers(named), np.random.default_rng(0)
    with running(app(answers, None, "127.0.0.1")) as port:
        connection = http.client.HTTPConnection("127.0.0.1", port)
        print("examples of each class | query drawn: median, slowest | example added: median, slowest")
        for examples in range(1, EXAMPLES + 1):
            drawn = [[_prepared(connection, rng) for _ in range(examples)] for _ in range(answers.classes)]
            query = _prepared(connection, rng)
            times: list[list[float]] = [[], []]
            for _ in range(ROUNDS):
                for kind in (0, 1):
                    began = time.perf_counter()
                    new = _prepared(connection, rng)
                    drawn[0][-1], query = (new, query) if kind else (drawn[0][-1], new)
                    body = json.dumps({"page": "measure", "support": drawn, "queries": [query]})
                    _post(connection, "/api/answer", "application/json", body.encode())
                    times[kind].append(time.perf_counter() - began)
            print(examples, *(f"| {statistics.median(x):.3f} s, {max(x):.3f} s" for x in times), flush=True)


def _prepared(connection: http.client.HTTPConnection, rng: np.random.Generator) -> str:
    """Returns a drawing of random lines, which is sent as the page sends one, and which the server has prepared."""
    image = Image.new("L", (280, 280), 255)
    ImageDraw.Draw(image).line([tuple(x) for x in rng.integers(20, 260, (6, 2)).tolist()], 0, 15)
    file = io.BytesIO()
    image.save(file, "PNG")
    return _post(connection, "/api/prepare", "image/png", file.getvalue())["pixels"]


def _post(connection: http.client.HTTPConnection, path: str, kind: str, body: bytes) -> Any:
    connection.request("POST", path, body, {"Content-Type": kind})
    response = connection.getresponse()
    content = json.loads(response.read())
    if response.status != 200:
        raise ConfigError(content["error"])
    return content


if __name__ == "__main__":
    if len(sys.argv) > 2:
        sys.exit("usage: python -m reptile_jax.demo.measure [WEIGHTS]")
    keep_compiled()
    try:
        measure(sys.argv[1] if len(sys.argv) == 2 else "omniglot_5way")
    except (CheckpointError, ConfigError, WeightsError) as error:
        sys.exit(f"error: {error}")
