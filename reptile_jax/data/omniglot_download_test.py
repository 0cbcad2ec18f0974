"""Tests downloading Omniglot, with TFDS's own code and a server on the loopback address."""

import hashlib
import http.server
import socket
import threading
from pathlib import Path

import pytest
import tensorflow_datasets as tfds

from reptile_jax.testing.small_omniglot import ARCHIVES, URL, SmallOmniglot, digest, load, refused, write_archives


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves `files`: name -> (status, announced length, content)."""

    files = {}  # noqa: RUF012

    def do_GET(self):
        status, length, content = self.files[Path(self.path).name]
        self.send_response(status)
        self.send_header("Content-Length", str(length))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def archives(tmp_path_factory):
    return write_archives(tmp_path_factory.mktemp("archives"))


@pytest.fixture
def server(archives, monkeypatch):
    """Serves the small archives; `files` can be changed. The builder knows their addresses and checksums."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        urls = f"http://127.0.0.1:{server.server_port}/"
        served = {split: archive._replace(url=urls + archive.file_name) for split, archive in ARCHIVES.items()}
        files, checksums = {}, {}
        for archive in served.values():
            content = (archives / archive.file_name).read_bytes()
            files[archive.file_name] = (200, len(content), content)
            checksums[archive.url] = tfds.download.checksums.UrlInfo(
                size=len(content), checksum=hashlib.sha256(content).hexdigest(), filename=archive.file_name
            )
        monkeypatch.setattr(Handler, "files", files)
        monkeypatch.setattr(SmallOmniglot, "ARCHIVES", served)
        monkeypatch.setattr(SmallOmniglot, "url_infos", checksums, raising=False)
        yield server
        server.shutdown()


def test_downloaded(server, archives, tmp_path, capfd):
    assert digest(load(tmp_path / "downloaded")) == digest(load(tmp_path / "local", archives))
    out, err = capfd.readouterr()
    assert out == ""
    assert [line.split()[0] for line in err.splitlines()] == ["Preparing", "Downloading", "Downloading", "Preparing"]


def test_a_download_is_kept_for_the_next_start(server, archives, tmp_path):
    good = Handler.files["images_evaluation.zip"]
    Handler.files["images_evaluation.zip"] = (404, 0, b"")
    refused(tmp_path)
    Handler.files.update({"images_evaluation.zip": good, "images_background.zip": (404, 0, b"")})
    load(tmp_path)


def bad_download(status, length, content, words, server, tmp_path):
    good = Handler.files["images_background.zip"]
    Handler.files["images_background.zip"] = (status, length, content)
    text = refused(tmp_path)
    assert f"cannot download {SmallOmniglot.ARCHIVES['background'].url} (" in text
    assert words in text and "--config.data.archives=DIR" in text
    Handler.files["images_background.zip"] = good
    load(tmp_path)


def test_a_download_with_the_wrong_checksum(server, tmp_path):
    content = bytearray(Handler.files["images_background.zip"][2])
    content[1000] ^= 1
    bad_download(200, len(content), bytes(content), "checksum is not the published one", server, tmp_path)


def test_a_download_that_is_another_file(server, tmp_path):
    bad_download(200, 9, b"<html/>\n\n", "checksum is not the published one", server, tmp_path)


def test_a_download_that_breaks_off(server, tmp_path):
    content = Handler.files["images_background.zip"][2]
    bad_download(200, len(content), content[:5000], "IncompleteRead", server, tmp_path)


@pytest.mark.parametrize("status", [404, 403, 503])
def test_a_download_that_is_refused(status, server, tmp_path):
    bad_download(status, 0, b"", str(status), server, tmp_path)


def test_no_network(tmp_path, caplog):
    text = refused(tmp_path)  # nothing listens at URL
    assert f"cannot download {URL}images_background.zip (" in text
    assert "Connection refused" in text and "--config.data.archives=DIR" in text
    assert "Retrying" not in caplog.text


def test_no_name_resolution(tmp_path, monkeypatch):
    def refuse(*_args, **_kwargs):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    assert "Name or service not known" in refused(tmp_path)
