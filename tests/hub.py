"""A small model hub on this machine, which speaks what huggingface_hub asks of the real one."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"
LARGE = ".safetensors"


@dataclass
class Hub:
    """Repositories by name, each with its files, and what was asked for."""

    repos: dict[str, dict[str, bytes]] = field(default_factory=dict)
    gated: set[str] = field(default_factory=set)
    sizes: dict[str, int] = field(default_factory=dict)
    """What is claimed of a file's size, by its name."""
    asked: list[tuple[str, str, str]] = field(default_factory=list)
    """Method, path and range of every request."""
    held: threading.Event | None = None
    """What a large file's last bytes wait for."""
    begun: threading.Event = field(default_factory=threading.Event)
    url: str = ""

    @property
    def elsewhere(self) -> str:
        """The same machine by another name, which makes it another host to a client."""
        return self.url.replace("127.0.0.1", "localhost")

    def entries(self, repo: str) -> list[dict[str, Any]]:
        found = []
        for name, content in self.repos[repo].items():
            size = self.sizes.get(name, len(content))
            entry: dict[str, Any] = {"size": size, **_ids(name, content)}
            found.append({"name": name, **entry})
        return found


def _ids(name: str, content: bytes) -> dict[str, Any]:
    sha1 = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    if not name.endswith(LARGE):
        return {"oid": sha1}
    return {"oid": sha1, "lfs": {"oid": hashlib.sha256(content).hexdigest()}}


@contextlib.contextmanager
def running() -> Iterator[Hub]:
    """A hub that ends with the block."""
    hub = Hub()
    answering = type("Answering", (_Answering,), {"hub": hub})
    server = _Listening(("127.0.0.1", 0), answering)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield hub
    finally:
        if hub.held:
            hub.held.set()
        server.shutdown()
        thread.join()
        server.server_close()


class _Listening(ThreadingHTTPServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: a client that was killed is no failure."""


class _Answering(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""

    def _answer(self) -> None:
        path = urlsplit(self.path).path
        self.hub.asked.append((self.command, path, self.headers.get("range", "")))
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)(/tree/.*|/revision/.*|)", path):
            self._describe(found[1], is_tree=found[2].startswith("/tree"))
        elif found := re.fullmatch(r"/([^/]+/[^/]+)/resolve/[^/]+/(.*)", path):
            self._resolve(found[1], found[2])
        elif found := re.fullmatch(r"/elsewhere/([^/]+/[^/]+)/(.*)", path):
            self._deliver(self.hub.repos[found[1]][found[2]], {}, is_large=True)
        else:
            self._refuse(404, "EntryNotFound")

    def _describe(self, repo: str, *, is_tree: bool) -> None:
        if repo not in self.hub.repos:
            return self._refuse(401, "RepoNotFound")
        entries = self.hub.entries(repo)
        if is_tree:
            body: Any = [_in_tree(entry) for entry in entries]
        else:
            gated = repo in self.hub.gated
            siblings = [_sibling(entry) for entry in entries]
            body = {"id": repo, "sha": COMMIT, "gated": gated, "siblings": siblings}
        self._send(200, json.dumps(body).encode(), {"content-type": "application/json"})

    def _resolve(self, repo: str, name: str) -> None:
        if repo in self.hub.gated:
            return self._refuse(403, "GatedRepo")
        content = self.hub.repos.get(repo, {}).get(name)
        if content is None:
            return self._refuse(404, "EntryNotFound")
        ids = _ids(name, content)
        headers = {"x-repo-commit": COMMIT}
        if "lfs" not in ids:
            return self._deliver(content, headers | {"etag": f'"{ids["oid"]}"'})
        headers["x-linked-etag"] = f'"{ids["lfs"]["oid"]}"'
        headers["x-linked-size"] = str(self.hub.sizes.get(name, len(content)))
        # As on the real hub, what is large lies with somebody else.
        headers["location"] = f"{self.hub.elsewhere}/elsewhere/{repo}/{name}"
        self._send(302, b"", headers)

    def _deliver(self, content: bytes, headers: dict[str, str], *, is_large: bool = False) -> None:
        found = re.fullmatch(r"bytes=(\d+)-", self.headers.get("range", ""))
        if not found:
            return self._send(200, content, headers, is_large=is_large)
        begin = int(found[1])
        headers["content-range"] = f"bytes {begin}-{len(content) - 1}/{len(content)}"
        self._send(206, content[begin:], headers, is_large=is_large)

    def _refuse(self, status: int, code: str) -> None:
        self._send(status, b"{}", {"x-error-code": code, "x-error-message": code})

    def _send(
        self, status: int, body: bytes, headers: dict[str, str], *, is_large: bool = False
    ) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self._write(body, is_large=is_large)

    def _write(self, body: bytes, *, is_large: bool) -> None:
        if is_large and self.hub.held:
            middle = len(body) // 2
            self.wfile.write(body[:middle])
            self.hub.begun.set()
            self.hub.held.wait(60)
            body = body[middle:]
        with contextlib.suppress(OSError):
            self.wfile.write(body)


def _sibling(entry: dict[str, Any]) -> dict[str, Any]:
    found = {"rfilename": entry["name"], "size": entry["size"], "blobId": entry["oid"]}
    if "lfs" in entry:
        found["lfs"] = {"sha256": entry["lfs"]["oid"], "size": entry["size"], "pointerSize": 130}
    return found


def _in_tree(entry: dict[str, Any]) -> dict[str, Any]:
    found = {"type": "file", "path": entry["name"], "size": entry["size"], "oid": entry["oid"]}
    if "lfs" in entry:
        found["lfs"] = {"oid": entry["lfs"]["oid"], "size": entry["size"], "pointerSize": 130}
    return found
