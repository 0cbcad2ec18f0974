"""Tests errors in Omniglot's data with the real program; the tests in data/ have more errors of each kind."""

import http.server
import os
import signal
import ssl
import subprocess
import threading
import time
import zipfile
from pathlib import Path

import pytest
import trustme

from reptile_jax.data.omniglot_archive import BACKGROUND, EVALUATION
from reptile_jax.testing.small_omniglot import png
from reptile_jax.testing.small_runs import SMALL, command, limit, prepared

REAL = os.environ.get("REPTILE_OMNIGLOT", "")
real = pytest.mark.skipif(not REAL, reason="REPTILE_OMNIGLOT=DIR, the folder of Omniglot's two archives, is not set")
DRAWING = f"{BACKGROUND.folder}/Balinese/character05/0112_07.png"


def start(folder, archives="", workdir="run", first="pass"):
    """Starts a short run, which prepares Omniglot in `folder / "data"`, after a line of Python."""
    fields = {"meta_iters": 1, "data__name": "omniglot", "data__dir": folder / "data", "data__archives": archives}
    output = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(prepared(first, command(f"--workdir={workdir}", **SMALL | fields)), cwd=folder, **output)


def left(folder):
    """Returns what a run leaves in its folder, except the lock and complete downloads."""
    inside = [*folder.iterdir(), *folder.glob("data/*/*")]
    return [path for path in inside if path != folder / "data" and path.parent != folder / "data" / "downloads"]


def refused(process, folder, *words):
    """Checks that a run ends with one line that holds the words, and leaves nothing unfinished."""
    _, stderr = process.communicate(timeout=300)
    last = stderr.splitlines()[-1]
    assert process.returncode == 1 and last.startswith("error: ") and "Traceback" not in stderr, stderr
    assert stderr.count("error: ") == 1 and all(word in last for word in words), last
    assert left(folder) == []


# Archives.


@pytest.fixture(scope="module")
def members():
    """Returns the files of the first archive: name -> bytes."""
    with zipfile.ZipFile(Path(REAL, BACKGROUND.file_name)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def cut(content):
    return content[: len(content) // 2]


def flipped(content):
    return content[:1_000_000] + bytes([content[1_000_000] ^ 1]) + content[1_000_001:]


FILES = {
    "missing": (None, ["there is no", BACKGROUND.file_name, "put upstream's archive there"]),
    "truncated": (cut, ["cut short"]),
    "with a flipped byte": (flipped, ["is damaged"]),
}
MEMBERS = {
    "with a path that leads out": ({"../evil.png": b"x"}, ["'../evil.png' leads out"]),
    "with a drawing that is not a PNG": ({DRAWING: b"none"}, [f"{DRAWING} is not a PNG image"]),
    "with a drawing of another size": ({DRAWING: png(0, size=(28, 28))}, [DRAWING, "28x28, not one-bit 105x105"]),
    "short of a drawing": ({DRAWING: None}, ["drawing 07 of Balinese/character05 is missing"]),
}


@real
@pytest.mark.parametrize("problem", [*FILES, *MEMBERS])
def test_an_unsound_archive(problem, members, tmp_path):
    archives = tmp_path / "data" / "downloads"  # where `left` does not look
    archives.mkdir(parents=True)
    (archives / EVALUATION.file_name).symlink_to(Path(REAL, EVALUATION.file_name))
    path = archives / BACKGROUND.file_name
    if problem in FILES:
        change, words = FILES[problem]
        if change:
            path.write_bytes(change(Path(REAL, BACKGROUND.file_name).read_bytes()))
    else:
        change, words = MEMBERS[problem]
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in (members | change).items():
                if content is not None:
                    archive.writestr(name, content)
    refused(start(tmp_path, archives), tmp_path, *words, "--config.data.archives")


@real
def test_no_space_for_the_prepared_copy_and_then_two_runs_prepare_at_once(tmp_path):
    words = f"Omniglot cannot be prepared in {tmp_path / 'data'} (", "make room", "--config.data.dir"
    refused(start(tmp_path, REAL, first=limit(1_000_000)), tmp_path, *words)
    both = [start(tmp_path, REAL, workdir=name) for name in ("run", "other")]
    outputs = [process.communicate(timeout=600) for process in both]
    assert [process.returncode for process in both] == [0, 0], outputs
    assert outputs[0][0] == outputs[1][0] != ""
    assert sum("Preparing" in stderr for _, stderr in outputs) == 1


# Downloads by TFDS, for which the loopback address stands in for github.com.


class Upstream(http.server.BaseHTTPRequestHandler):
    """A proxy that answers for github.com: `answer` is a status, an announced length and the bytes that are sent."""

    answer = tls = None

    def do_CONNECT(self):
        self.send_response(200)
        self.end_headers()
        self.connection = self.tls.wrap_socket(self.connection, server_side=True)
        self.rfile, self.wfile = self.connection.makefile("rb"), self.connection.makefile("wb", 0)
        self.close_connection = False

    def do_GET(self):
        status, length, content = self.answer
        self.send_response(status)
        self.send_header("Content-Length", str(length))
        self.end_headers()
        self.wfile.write(content)
        if status == 200 and length == STALLS:
            time.sleep(300)
        self.close_connection = True

    def log_message(self, *_):
        pass


STALLS = 9_464_212  # bytes announced by the server that stops sending; any number is possible


@pytest.fixture
def upstream(tmp_path, tmp_path_factory, monkeypatch):
    """Serves `answer`, which a test sets, to the programs that it starts."""
    authority, keys = trustme.CA(), tmp_path_factory.mktemp("keys")
    authority.cert_pem.write_to_path(keys / "authority.pem")
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("github.com").configure_cert(tls)
    monkeypatch.setattr(Upstream, "tls", tls)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Upstream) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(keys / "authority.pem"))
        yield Upstream
        server.shutdown()


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ((404, 0, b""), ["404"]),
        ((200, 1_000_000, b"PK" * 1000), ["IncompleteRead"]),
        ((200, 2000, b"PK" * 1000), ["its size or checksum is not the published one"]),
        ((200, STALLS, b"PK" * 1000), ["Read timed out"]),
    ],
    ids=["refused", "breaks off", "is another file", "stalls"],
)
def test_a_download_that_fails(upstream, tmp_path, monkeypatch, answer, words):
    monkeypatch.setattr(upstream, "answer", answer)
    refused(start(tmp_path), tmp_path, f"cannot download {BACKGROUND.url} (", *words, "--config.data.archives=DIR")


def test_a_signal_while_a_download_stalls(upstream, tmp_path, monkeypatch):
    monkeypatch.setattr(upstream, "answer", (200, STALLS, b"PK" * 1000))
    process = start(tmp_path)
    while "Downloading" not in process.stderr.readline():
        assert process.poll() is None
    time.sleep(2)
    process.send_signal(signal.SIGTERM)
    _, stderr = process.communicate(timeout=10)
    assert process.returncode == 143 and stderr.splitlines()[-1].startswith("interrupted: the same command")
