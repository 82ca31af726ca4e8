"""A stand-in for the Hugging Face hub on this machine: its API, its redirects to a CDN, its errors."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

COMMIT = "0123456789abcdef0123456789abcdef01234567"
#: Larger files are "LFS": served by redirect to the CDN.
LFS_BYTES = 1000


@dataclass
class FakeHub:
    """One repository and how the hub behaves.

    Attributes
    ----------
    files : dict
        Path -> content.
    error : tuple, optional
        Answer every request with this status and these headers.
    token : str, optional
        Refuse requests without this token.
    interruptions : int
        How many CDN transfers to interrupt.
    requests : list of tuple
        Method, path and Range header of every request so far.
    """

    repo_id: str
    files: dict[str, bytes]
    error: tuple[int, dict[str, str]] | None = None
    token: str | None = None
    interruptions: int = 0
    requests: list[tuple[str, str, str | None]] = field(default_factory=list)
    endpoint: str = ""
    cdn: str = ""

    def paths(self, method: str) -> list[str]:
        """The paths requested with one method."""
        return [path for made, path, _ in self.requests if made == method]

    def downloaded(self) -> list[str]:
        """The files whose content was sent, CDN or not."""
        prefixes = (f"/{self.repo_id}/resolve/{COMMIT}/", "/cdn/")
        gets = self.paths("GET")
        names = [path.removeprefix(prefix) for path in gets for prefix in prefixes if path.startswith(prefix)]
        return sorted(set(names))


@contextmanager
def serve(hub: FakeHub) -> Iterator[FakeHub]:
    """Run a hub until the end of the block."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    # Another host name: redirects within a host are followed before their headers are checked.
    hub.endpoint, hub.cdn = (
        f"http://{host}:{server.server_address[1]}" for host in ("127.0.0.1", "localhost")
    )
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def isolate(monkeypatch: pytest.MonkeyPatch, directory: Path) -> None:
    """Hide the user's settings: no token, no offline mode, and a cache in ``directory``."""
    import huggingface_hub.constants

    for name in ("HF_HUB_OFFLINE", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    for constant, value in (
        ("HF_TOKEN_PATH", str(directory / "no-token")),
        ("HF_HUB_CACHE", str(directory / "hub")),
        ("HF_HUB_OFFLINE", False),
        ("DOWNLOAD_CHUNK_SIZE", 1024),
    ):
        monkeypatch.setattr(huggingface_hub.constants, constant, value)


class _Handler(BaseHTTPRequestHandler):
    hub: FakeHub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append((self.command, path, self.headers.get("Range")))
        api, resolve = f"/api/models/{self.hub.repo_id}", f"/{self.hub.repo_id}/resolve/"
        authorized = self.hub.token is None or self.headers.get("Authorization") == f"Bearer {self.hub.token}"
        if path.startswith("/cdn/"):
            self._send_range(self.hub.files[path.removeprefix("/cdn/")])
        elif self.hub.error is not None:
            self._send(self.hub.error[0], b"", self.hub.error[1])
        elif not authorized or not path.startswith((api, resolve)):
            self._send(401, b"", {"X-Error-Code": "RepoNotFound"})
        elif path.startswith(resolve):
            self._resolve(*path.removeprefix(resolve).split("/", 1))
        else:
            self._api(path.removeprefix(api).strip("/").split("/"))

    def _api(self, parts: list[str]) -> None:
        revision = parts[1] if len(parts) > 1 else "main"
        if revision not in ("main", COMMIT):
            self._send(404, b"", {"X-Error-Code": "RevisionNotFound"})
        elif parts[0] == "tree":
            self._send_json([_tree_entry(name, content) for name, content in self.hub.files.items()])
        else:
            siblings = [{"rfilename": name} for name in self.hub.files]
            repo_id = self.hub.repo_id
            self._send_json(
                {"id": repo_id, "modelId": repo_id, "sha": COMMIT, "siblings": siblings, "tags": []}
            )

    def _resolve(self, revision: str, name: str) -> None:
        if revision not in ("main", COMMIT) or name not in self.hub.files:
            self._send(404, b"", {"X-Error-Code": "EntryNotFound"})
            return
        content = self.hub.files[name]
        headers = {"X-Repo-Commit": COMMIT, "ETag": f'"{_etag(content)}"'}
        if len(content) > LFS_BYTES:
            linked = {"X-Linked-ETag": headers.pop("ETag"), "X-Linked-Size": str(len(content))}
            self._send(302, b"", {**headers, **linked, "Location": f"{self.hub.cdn}/cdn/{name}"})
        else:
            self._send(200, content, headers)

    def _send_range(self, content: bytes) -> None:
        header = self.headers.get("Range")
        start = int(header.removeprefix("bytes=").partition("-")[0]) if header else 0
        self.send_response(206 if header else 200)
        self.send_header("Content-Length", str(len(content) - start))
        if header:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        if self.hub.interruptions:
            self.hub.interruptions -= 1
            self.wfile.write(content[start : (start + len(content)) // 2])
            self.close_connection = True
        elif self.command == "GET":
            self.wfile.write(content[start:])

    def _send_json(self, value: Any) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)


def _etag(content: bytes) -> str:
    return (
        hashlib.sha256(content).hexdigest() if len(content) > LFS_BYTES else hashlib.sha1(content).hexdigest()
    )


def _tree_entry(name: str, content: bytes) -> dict[str, Any]:
    entry: dict[str, Any] = {"type": "file", "path": name, "size": len(content), "oid": _etag(content)[:40]}
    if len(content) > LFS_BYTES:
        entry["lfs"] = {"oid": _etag(content), "size": len(content), "pointerSize": 134}
    return entry
