"""Tests the page's server through real sockets: its answers, and that bad requests are refused without harm."""

import base64
import http.client
import io
import json
import socket
import threading
from concurrent.futures import ThreadPoolExecutor

import jax
import numpy as np
import pytest
from PIL import Image, ImageDraw

from reptile_jax.config import ConfigError
from reptile_jax.data import DATA_SETS, DataError, glyphs, split
from reptile_jax.demo import answers as questions
from reptile_jax.demo import characters, server
from reptile_jax.demo.answers import Answers, Question
from reptile_jax.predict.learner import Learner
from reptile_jax.run import pretrained, weights_file
from reptile_jax.run.checkpoint import CheckpointError

JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def answers():
    return Answers("omniglot_5way")


@pytest.fixture(scope="module")
def port(answers, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("TFDS_DATA_DIR", str(tmp_path_factory.mktemp("nothing")))
        found = characters.load(answers.learner.config)
    with server.running(server.app(answers, found, "127.0.0.1", rate=1e6, burst=10**6)) as port:
        yield port


@pytest.fixture(scope="module")
def drawings():
    """Returns held-out glyphs: uint8 [5, 20, 28, 28, 1]."""
    images = DATA_SETS["glyphs"].load(None)
    chosen = split(images, glyphs.TRAIN_CHARACTERS, 0, 0)["test"][:5]
    return images.pixels[images.first[chosen][:, None] + np.arange(glyphs.DRAWINGS)]


def ask(port, method, path, body=None, **headers):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
    response = connection.getresponse()
    content = response.read()
    kind = response.headers["Content-Type"] or ""
    return response.status, json.loads(content) if kind.startswith("application/json") else content, response.headers


def text(pixels):
    return base64.b64encode(pixels.tobytes()).decode()


def question(drawings, examples=1, queries=2, page="p"):
    support = [[text(x) for x in images[:examples]] for images in drawings]
    return {"page": page, "support": support, "queries": [text(x) for x in drawings[0, 10 : 10 + queries]]}


def png(image):
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def house():
    image = Image.new("L", (280, 280), 255)
    ImageDraw.Draw(image).line([(50, 250), (50, 120), (140, 30), (230, 120), (230, 250), (50, 250)], 0, 12)
    return image


def test_the_answer_is_the_learners(port, answers, drawings):
    status, found, _ = ask(port, "POST", "/api/answer", json.dumps(question(drawings, 3)), **JSON)
    assert status == 200 and found["steps"] == [0, 1, 5, 20, 50]
    adapted = Learner("omniglot_5way").adapt(drawings[:, :3].reshape(-1, 28, 28), np.repeat(np.arange(5), 3))
    queries = drawings[0, 10:12, ..., 0]
    for name, transductive in (("alone", False), ("together", True)):
        assert np.shape(found[name]) == (2, 5, 5)
        expected = adapted.predict_probabilities(queries, transductive)
        np.testing.assert_allclose(np.array(found[name])[:, -1], expected, atol=1e-3)
        assert np.abs(np.array(found[name])[:, 0] - expected).max() > 0.1
    one = ask(port, "POST", "/api/answer", json.dumps(question(drawings, 3, 1)), **JSON)[1]
    assert one["together"] is None and np.allclose(one["alone"], found["alone"][:1], atol=1e-3)


def test_the_image_is_prepared_as_files_are(port):
    status, found, headers = ask(port, "POST", "/api/prepare", png(house()), Content_Type="image/png")
    assert status == 200 and headers["Content-Security-Policy"].startswith("default-src 'none'")
    assert base64.b64decode(found["pixels"]) == DATA_SETS["omniglot"].prepare(house(), None).tobytes()


def test_test_characters_of_glyphs_where_there_is_no_omniglot(port):
    some = [ask(port, "GET", f"/api/characters?seed={seed}")[1] for seed in (3, 3, 4)]
    images = DATA_SETS["glyphs"].load(None)
    tested = {images.names[i] for i in split(images, glyphs.TRAIN_CHARACTERS, 0, 0)["test"]}
    assert some[0] == some[1] != some[2] and len({x["name"] for x in some[0]} & tested) == 5
    for character in some[0]:
        first = images.first[images.names.index(character["name"])]
        of_it = {x.tobytes() for x in images.pixels[first : first + glyphs.DRAWINGS]}
        assert len(character["drawings"]) == 10 and {base64.b64decode(x) for x in character["drawings"]} <= of_it
    assert ask(port, "GET", "/api/about")[1]["characters"] == "glyphs (synthetic)"


def test_a_damaged_copy_of_omniglot_is_not_replaced_by_glyphs(answers, monkeypatch):
    def damaged(_):
        raise DataError("the copy is damaged")

    monkeypatch.setattr(characters, "_omniglot_is_there", lambda _: True)
    monkeypatch.setitem(DATA_SETS, "omniglot", DATA_SETS["omniglot"]._replace(load=damaged))
    with pytest.raises(DataError, match="the copy is damaged"):
        characters.load(answers.learner.config)


@pytest.mark.parametrize("host", ["no.such.host.invalid", "a..b", "a" * 64])
def test_an_address_that_is_none(host):
    with pytest.raises(ConfigError, match=f"the server cannot listen on host={host} port=0"):
        server.bound(host, 0)


def test_a_wrong_name_is_told_before_the_line_that_asks_to_wait(capsys):
    with pytest.raises(CheckpointError, match="omniglot_5wya"):
        server.serve("omniglot_5wya", "127.0.0.1", 0)
    assert capsys.readouterr().out == ""


BAD = [
    ("GET", "/nothing", None, {}, 404, "Not Found"),
    ("GET", "/../server.py", None, {}, 404, "Not Found"),
    ("GET", "/api/nothing", None, {}, 404, "Not Found"),
    ("GET", "/api/answer", None, {}, 405, "GET is not possible at this address: send POST"),
    ("POST", "/api/about", b"", {}, 405, "POST is not possible at this address: send GET or HEAD"),
    ("POST", "/", b"", {}, 405, "POST is not possible at this address: send GET or HEAD"),
    ("GET", "/api/characters", None, {}, 400, "seed= is not a number"),
    ("GET", "/api/characters?seed=-1", None, {}, 400, "seed=-1 is not a number"),
    ("POST", "/api/prepare", b"?", {"Content_Type": "text/html"}, 415, "'text/html' is not accepted: send image/png"),
    ("POST", "/api/prepare", b"?", {}, 415, "'' is not accepted"),
    ("POST", "/api/prepare", b"", {"Content_Type": "image/png"}, 400, "not a PNG, JPEG, WebP, BMP or GIF image"),
    ("POST", "/api/prepare", png(house())[:300], {"Content_Type": "image/png"}, 400, "cannot be used"),
    ("POST", "/api/prepare", png(Image.new("L", (9, 9))), {"Content_Type": "image/png"}, 400, "only one brightness"),
    ("POST", "/api/prepare", png(Image.new("1", (9000, 9000))), {"Content_Type": "image/png"}, 413, "of at most"),
    ("POST", "/api/prepare", bytes(21 * 2**20), {"Content_Type": "image/png"}, 413, "larger than 20,971,520 bytes"),
    ("POST", "/api/answer", b"{}", {"Content_Type": "image/png"}, 415, "send application/json"),
    ("POST", "/api/answer", b"{", JSON, 400, "not JSON"),
    ("POST", "/api/answer", b"[" * 30000, JSON, 400, "not JSON"),
    ("POST", "/api/answer", b"\xff\xfe", JSON, 400, "not JSON"),
    ("POST", "/api/answer", b"[1]", JSON, 400, "another object"),
    ("POST", "/api/answer", bytes(2**20), JSON, 413, "The body is larger than"),
]  # fmt: skip


@pytest.mark.parametrize("case", BAD, ids=[f"{case[1]} {case[5]}" for case in BAD])
def test_what_is_refused_is_said_in_a_sentence(port, case):
    method, path, body, headers, status, words = case
    found = ask(port, method, path, body, **{name.replace("-", "_"): value for name, value in headers.items()})
    assert found[0] == status and words in found[1]["error"] and found[1]["error"].endswith(".")


def test_questions_of_another_shape(port, drawings):
    good = question(drawings)
    one = good["support"][0][0]
    for change, words in (
        ({"page": ""}, "page is not a text of 1 to 64 characters"), ({"page": 3}, "page is not a text"),
        ({"support": [[one]]}, "support is not a list of 2 to 5 classes"), ({"support": 6 * [[one]]}, "2 to 5 classes"),
        ({"support": {"a": [one]}}, "2 to 5 classes"), ({"support": [[one], []]}, "support[1] is not a list of 1 to 5"),
        ({"support": [[one], 6 * [one]]}, "support[1] is not a list of 1 to 5 images"),
        ({"queries": []}, "queries is not a list of 1 to 8 images"), ({"queries": 9 * [one]}, "1 to 8 images"),
        ({"queries": [one[:-4]]}, "queries[0] has 783 values instead of 784"), ({"queries": ["é"]}, "is not base64"),
        ({"queries": [7]}, "queries[0] is not base64"), ({"queries": [None]}, "is not base64"),
        ({"queries": [text(np.full(784, 255, np.uint8))]}, "queries[0] is not ink (0) on paper (1)"),
        ({"queries": [text(np.ones(784, np.uint8))]}, "is not ink (0) on paper (1)"),
        ({"more": 1}, "another object"),
    ):  # fmt: skip
        status, found, _ = ask(port, "POST", "/api/answer", json.dumps(good | change), **JSON)
        assert status == 400 and words in found["error"], (change, found)
    assert ask(port, "POST", "/api/answer", json.dumps(good), **JSON)[0] == 200


def test_bytes_at_random_break_nothing(port, drawings):
    rng, good = np.random.default_rng(0), json.dumps(question(drawings)).encode()
    for _ in range(60):
        broken = bytearray(good)
        for place in rng.integers(0, len(good), 3):
            broken[place] = rng.integers(0, 256)
        assert ask(port, "POST", "/api/answer", bytes(broken), **JSON)[0] in (200, 400)
    picture = png(house())
    for _ in range(60):
        broken = bytearray(picture)
        for place in rng.integers(0, len(picture), 3):
            broken[place] = rng.integers(0, 256)
        assert ask(port, "POST", "/api/prepare", bytes(broken), Content_Type="image/png")[0] in (200, 400, 413)


def test_other_sites_are_refused(port):
    own = f"127.0.0.1:{port}"
    for host, origin, status in (
        (own, f"http://{own}", 200), (f"localhost:{port}", f"http://localhost:{port}", 200), (own, None, 200),
        (f"[::1]:{port}", None, 200), ("evil.example", None, 403), (f"evil.example:{port}", "http://evil.example", 403),
        (own, "http://evil.example", 403), (own, "null", 403), (own, f"https://{own}", 403), ("[", None, 403),
        ("127.0.0.1.evil.example", None, 403),
    ):  # fmt: skip
        headers = {"Host": host} | ({"Origin": origin} if origin else {})
        found = ask(port, "GET", "/api/about", **headers)
        assert found[0] == status, (host, origin, found)
        assert status == 200 or found[1]["error"].endswith(".")


def test_too_many_requests(answers):
    with server.running(server.app(answers, None, "127.0.0.1", rate=1e-6, burst=5)) as port:
        found = [ask(port, "GET", "/api/about") for _ in range(7)]
        assert [x[0] for x in found] == 5 * [200] + 2 * [429]
        assert found[-1][2]["Retry-After"] == "1" and "too many requests" in found[-1][1]["error"]
        assert ask(port, "GET", "/api/characters?seed=1")[0] == 429


def test_clients_that_leave_or_say_no_http(port, drawings):
    body = json.dumps(question(drawings)).encode()
    head = f"POST /api/answer HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\n"
    for sent in (
        f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body[:100],
        f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body,
        f"{head}Content-Length: -5\r\n\r\n".encode(), f"{head}Transfer-Encoding: chunked\r\n\r\nzz\r\n".encode(),
        b"\x16\x03\x01 no HTTP\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n", b"",
    ):  # fmt: skip
        with socket.create_connection(("127.0.0.1", port)) as connection:
            connection.sendall(sent)
    body = json.dumps(question(drawings, page="another"))  # the answer for the first page may still be in progress
    assert ask(port, "POST", "/api/answer", body, **JSON)[0] == 200


class Waiting(Answers):
    """Answers only when the test allows it."""

    def __init__(self, answers):
        self.__dict__.update(answers.__dict__)
        self.may, self.begun = threading.Event(), threading.Semaphore(0)

    def answer(self, question):
        self.begun.release()
        assert self.may.wait(60)
        return super().answer(question)


def test_one_question_of_a_page_at_a_time_and_several_pages(answers, drawings):
    waiting = Waiting(answers)
    with (
        server.running(server.app(waiting, None, "127.0.0.1")) as port,
        ThreadPoolExecutor(server.WAITING) as pages,
    ):

        def asked(page):
            return ask(port, "POST", "/api/answer", json.dumps(question(drawings, page=page)), **JSON)

        first = [pages.submit(asked, f"page {i}") for i in range(server.WAITING)]
        for _ in range(server.THREADS):  # several are computed at once
            assert waiting.begun.acquire(timeout=60)
        while True:  # until all the other requests are accepted
            status, found, _ = asked("page 0")
            assert status == 429 and "a question that is not answered yet" in found["error"]
            status, found, headers = ask(port, "POST", "/api/prepare", png(house()), Content_Type="image/png") if (
                sum(x.running() for x in first) == server.WAITING) else (0, None, None)  # fmt: skip
            if status == 503:
                break
        assert headers["Retry-After"] == "1" and "16 requests to compute" in found["error"]
        assert ask(port, "GET", "/api/about")[0] == 200  # the event loop is free
        waiting.may.set()
        assert [x.result()[0] for x in first] == server.WAITING * [200]
        assert asked("page 0")[0] == 200


def test_no_question_compiles_anything(answers, drawings, compilations):
    for classes in range(2, 6):
        for examples in range(1, 6):
            queries = 1 + (classes + examples) % questions.QUERIES
            answers.answer(Question("", list(drawings[:classes, :examples]), drawings[0, :queries]))
    uneven = [drawings[0, :1], drawings[1, :5], drawings[2, :2]]
    answers.answer(Question("", uneven, drawings[0, : questions.QUERIES]))
    assert not compilations
    jax.jit(lambda x: x * 3 + 1)(np.zeros(7))
    assert compilations, "a check that cannot fail"


def test_the_steps_of_weights_that_take_fewer(tmp_path):
    config, states = pretrained.load("omniglot_5way")
    config.eval_iters = 6
    weights_file.save(tmp_path / "six.safetensors", jax.tree.map(lambda x: x[0], states), config, "f")
    assert Answers(str(tmp_path / "six.safetensors")).steps == [0, 1, 5, 6]
