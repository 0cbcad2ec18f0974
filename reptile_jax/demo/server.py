"""The page's server: it serves static files, and answers requests as JSON; threads compute the answers."""

import asyncio
import base64
import binascii
import contextlib
import json
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from reptile_jax.config import ConfigError
from reptile_jax.demo import characters
from reptile_jax.demo.answers import EXAMPLES, QUERIES, Answers, Question, RefusedError, silence_warnings
from reptile_jax.demo.limits import Guard, refused
from reptile_jax.run.pretrained import find

STATIC = Path(__file__).parent / "static"
FILE_BYTES = 20 * 2**20  # size of the largest image file
IMAGE_TYPES = ("image/png", "image/jpeg", "image/webp", "image/bmp", "image/gif")
SECONDS = 10.0  # the time in which a request's body must arrive
THREADS, WAITING = 2, 16  # requests that are computed at once, and requests that are accepted
RATE, BURST = 60.0, 120  # requests from one address, per second and at once


class Server:
    """Answers the requests of all pages."""

    def __init__(self, answers: Answers, test_characters: characters.TestCharacters | None) -> None:
        """Takes the weights that answer, and the characters that pages can load; None: there are no characters."""
        self._answers, self._characters = answers, test_characters
        self._threads = ThreadPoolExecutor(THREADS)
        self._let_in = 0
        self._asking: set[str] = set()  # pages that wait for an answer
        values = int(np.prod(answers.shape))
        self._most_bytes = 10_000 + (answers.classes * EXAMPLES + QUERIES) * (values * 4 // 3 + 10)

    async def about(self, _: Request) -> Response:
        """GET: what the page needs to know about the weights."""
        size, _, channels = self._answers.shape
        return JSONResponse(
            {
                "weights": self._answers.name, "classes": self._answers.classes, "examples": EXAMPLES,
                "queries": QUERIES, "steps": self._answers.steps, "size": size, "channels": channels,
                "drawings": self._answers.drawings, "characters": self._characters and self._characters.label,
            }
        )  # fmt: skip

    async def characters(self, request: Request) -> Response:
        """GET ?seed=: test characters, each with its `name` and `drawings`."""
        seed = request.query_params.get("seed", "")
        if not seed.isdecimal() or len(seed) > 10:
            raise RefusedError(400, f"seed={seed[:20]} is not a number: give one of at most ten digits.")
        if self._characters is None:
            raise RefusedError(404, "These weights are for photographs, so there are no characters to load.")
        some = await self._in_thread(self._characters.some, self._answers.classes, int(seed))
        return JSONResponse([x | {"drawings": [_text(drawing) for drawing in x["drawings"]]} for x in some])

    async def prepare(self, request: Request) -> Response:
        """POST an image file: returns its prepared `pixels`."""
        file = await _body(request, IMAGE_TYPES, FILE_BYTES)
        return JSONResponse({"pixels": _text(await self._in_thread(self._answers.prepare, file))})

    async def answer(self, request: Request) -> Response:
        """POST {page, support, queries}: returns what `Answers.answer` returns. A page asks one question at a time."""
        body = await _body(request, ("application/json",), self._most_bytes)
        question = parsed(body, self._answers)
        if question.page in self._asking:
            raise RefusedError(429, "This page has a question that is not answered yet: wait for the answer.")
        self._asking.add(question.page)
        try:
            return JSONResponse(await self._in_thread(self._answers.answer, question))
        finally:
            self._asking.discard(question.page)

    async def _in_thread(self, function: Callable[..., Any], *arguments: Any) -> Any:
        if self._let_in >= WAITING:
            raise RefusedError(503, f"The server already has {WAITING} requests to compute: ask again in a second.")
        self._let_in += 1
        work = self._threads.submit(function, *arguments)
        loop = asyncio.get_running_loop()
        work.add_done_callback(lambda _: loop.call_soon_threadsafe(self._let_out))
        return await asyncio.shield(asyncio.wrap_future(work))  # the thread goes on even if the client has left

    def _let_out(self) -> None:
        self._let_in -= 1


def parsed(body: bytes, answers: Answers) -> Question:
    """Reads a question.

    Args:
        body: JSON with `page`, the name by which the page identifies itself; `support`, a list of images for each
            class; and `queries`, a list of images. An image is its prepared pixels in base64.
        answers: the weights, which set the limits.

    Raises:
        RefusedError: 400: something is missing, has another type or size, or there is too much of it.
    """
    try:
        found = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise RefusedError(400, "The body is not JSON: send an object with page, support and queries.") from error
    if not isinstance(found, dict) or found.keys() != {"page", "support", "queries"}:
        raise RefusedError(400, "The body is another object: send page, support and queries.")
    page, support = found["page"], found["support"]
    if not isinstance(page, str) or not 1 <= len(page) <= 64:
        raise RefusedError(400, "page is not a text of 1 to 64 characters: send the same text with every question.")
    if not isinstance(support, list) or not 2 <= len(support) <= answers.classes:
        raise RefusedError(
            400, f"support is not a list of 2 to {answers.classes} classes: send a list of images for each class."
        )
    of_classes = [_images(f"support[{i}]", images, EXAMPLES, answers) for i, images in enumerate(support)]
    return Question(page, of_classes, _images("queries", found["queries"], QUERIES, answers))


def _images(field: str, texts: Any, most: int, answers: Answers) -> np.ndarray:
    if not isinstance(texts, list) or not 1 <= len(texts) <= most:
        raise RefusedError(400, f"{field} is not a list of 1 to {most} images: send one.")
    return np.stack([_pixels(f"{field}[{i}]", text, answers) for i, text in enumerate(texts)])


def _pixels(field: str, text: Any, answers: Answers) -> np.ndarray:
    values = int(np.prod(answers.shape))
    try:
        pixels = np.frombuffer(base64.b64decode(text, validate=True), np.uint8)
    except (TypeError, ValueError, binascii.Error) as error:
        raise RefusedError(400, f"{field} is not base64: send what /api/prepare gives.") from error
    if pixels.size != values:
        raise RefusedError(400, f"{field} has {pixels.size} values instead of {values}: send what /api/prepare gives.")
    if answers.drawings and not (pixels.min() == 0 and pixels.max() == 1):
        raise RefusedError(400, f"{field} is not ink (0) on paper (1): send what /api/prepare gives.")
    return pixels.reshape(answers.shape)


def _text(pixels: np.ndarray) -> str:
    return base64.b64encode(np.ascontiguousarray(pixels).tobytes()).decode()


async def _body(request: Request, types: tuple[str, ...], most: int) -> bytes:
    """Reads a body that has one of the types and at most `most` bytes."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind not in types:
        raise RefusedError(415, f"The content type {kind[:60]!r} is not accepted: send {' or '.join(types)}.")
    too_large = RefusedError(413, f"The body is larger than {most:,} bytes: send less.")
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length[:20]) > most:
        raise too_large
    body = bytearray()
    try:
        async with asyncio.timeout(SECONDS):
            async for chunk in request.stream():
                body += chunk
                if len(body) > most:
                    raise too_large
    except TimeoutError as error:
        raise RefusedError(408, f"The body has not arrived in {SECONDS:g} seconds: send it again.") from error
    return bytes(body)


def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    sentence = f"{error.detail}."
    if error.status_code == 405:
        allowed = sorted((error.headers or {}).get("Allow", "GET, HEAD").split(", "))
        sentence = f"{request.method} is not possible at this address: send {' or '.join(allowed)}."
    return refused(error.status_code, sentence, error.headers)


def app(
    answers: Answers,
    test_characters: characters.TestCharacters | None,
    host: str,
    rate: float = RATE,
    burst: int = BURST,
) -> Starlette:
    """Returns the application; `host`, `rate` and `burst` are as in `Guard`."""
    server = Server(answers, test_characters)
    return Starlette(
        routes=[
            Mount(
                "/api",
                routes=[
                    Route("/about", server.about),
                    Route("/characters", server.characters),
                    Route("/prepare", server.prepare, methods=["POST"]),
                    Route("/answer", server.answer, methods=["POST"]),
                ],
            ),
            Mount("/", StaticFiles(directory=STATIC, html=True)),
        ],
        middleware=[Middleware(Guard, host=host, rate=rate, burst=burst)],
        exception_handlers={
            RefusedError: lambda _, error: refused(error.status, str(error)),
            HTTPException: _http_error,
            ClientDisconnect: lambda *_: Response(status_code=400),  # nobody will read it
            Exception: lambda *_: refused(500, "The server could not compute this: the reason is in its terminal."),
        },
    )


def serve(named: str, host: str, port: int) -> None:
    """Serves the page until a signal ends it.

    Args:
        named: trained weights, as `pretrained.load` takes them.
        host: the name or address to bind to.
        port: the port to listen on.

    Raises:
        ConfigError: the server cannot listen on this address, or the weights are not for images.
        CheckpointError, WeightsError: there are no such weights, or they are damaged.
    """
    silence_warnings()
    with contextlib.closing(bound(host, port)) as listening:
        find(named)  # an error about the name comes before the line that asks to wait
        print(f"Loading {named} and compiling for every number of examples", flush=True)
        answers = Answers(named)
        application = app(answers, characters.load(answers.learner.config), host)
        shown = f"[{host}]" if ":" in host else host
        print(f"Open http://{shown}:{port} in a browser; Ctrl-C ends it", flush=True)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)  # uvicorn handles it, and raises it again at its end
        _server(application).run(sockets=[listening])


@contextlib.contextmanager
def running(application: Starlette) -> Iterator[int]:
    """Serves an application in a thread, only on this machine, and yields the port."""
    with contextlib.closing(bound("127.0.0.1", 0)) as listening:
        server = _server(application)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            yield listening.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join()


def _server(application: Starlette) -> uvicorn.Server:
    config = uvicorn.Config(
        application, lifespan="off", http="h11", ws="none", log_level="warning", access_log=False,
        server_header=False, proxy_headers=False, timeout_graceful_shutdown=2,
    )  # fmt: skip
    return uvicorn.Server(config)


def bound(host: str, port: int) -> socket.socket:
    """Returns a socket that is bound to an address; port 0 means any free port.

    Raises:
        ConfigError: the address is in use, or it is not an address of this machine.
    """
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address[:2], family=family)
    except (OSError, OverflowError, UnicodeError) as error:
        reason = (getattr(error, "strerror", None) or str(error)).partition(" (while")[0]
        raise ConfigError(
            f"the server cannot listen on host={host} port={port} ({reason}): give another --port or --host"
        ) from error
