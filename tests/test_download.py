"""The real Kaggle client against a server on the loopback interface: what arrives, what is refused."""

import os
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from ferkit import DataError, download


@pytest.fixture
def kaggle(tmp_path, monkeypatch):
    """A stand-in for Kaggle: serves `kaggle.body` for every download; the client is sent to it."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            body = b"{}" if "GetDatasetMetadata" in self.path else server.body
            self.send_response(200 if body else 403)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("ETag", '"1"')
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST

        def log_message(self, *arguments):
            server.calls.append(self.path)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.body, server.calls = b"", []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    for name in [n for n in os.environ if n.lower().endswith("_proxy") or n.startswith("KAGGLE")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("KAGGLE_API_ENVIRONMENT", "LOCALHOST")
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    yield server
    server.shutdown()


def packed(tmp_path, data: bytes) -> bytes:
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as file:
        file.writestr("fer2013.csv", data)
    return (tmp_path / "x.zip").read_bytes()


def credentials(monkeypatch):
    monkeypatch.setenv("KAGGLE_USERNAME", "someone")
    monkeypatch.setenv("KAGGLE_KEY", "0" * 32)


def test_without_credentials_the_two_ways_are_named(kaggle, tmp_path):
    with pytest.raises(DataError, match="KAGGLE_API_TOKEN(.|\n)*kaggle.json"):
        download.download("msambare/fer2013", tmp_path)
    assert not kaggle.calls


def test_unknown_source_lists_the_choices(tmp_path):
    with pytest.raises(ValueError, match="unknown source.*msambare/fer2013"):
        download.download("someone/else", tmp_path)


def test_a_download_is_verified_by_checksum_and_counts(kaggle, tmp_path, sample, monkeypatch):
    credentials(monkeypatch)
    data = sample.csv(tmp_path / "fer2013.csv").read_bytes()
    kaggle.body = packed(tmp_path, data)
    with pytest.raises(DataError, match="fer2013.csv has MD5 .*The file was removed"):
        download.download("deadskull7/fer2013", tmp_path)
    assert not list((tmp_path / "deadskull7-fer2013").glob("*.zip"))
    monkeypatch.setattr(download, "OFFICIAL_MD5", {})
    with pytest.raises(DataError, match=r"\[2, 2, 2, 2, 2, 2, 2\] images a class in split 0"):
        download.download("deadskull7/fer2013", tmp_path)
    monkeypatch.setattr(download, "OFFICIAL_COUNTS", [[2] * 7] * 3)
    path = download.download("deadskull7/fer2013", tmp_path)
    assert path.read_bytes() == kaggle.body and any("DownloadDataset" in call for call in kaggle.calls)


def test_a_refusal_is_reported(kaggle, tmp_path, monkeypatch):
    credentials(monkeypatch)
    with pytest.raises(DataError, match="could not fetch challenge.*403"):
        download.download("challenge", tmp_path)
