"""A running server, as a command talks to it: JSON in, JSON out, and streams of events."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from door.settings import ROOT, Settings, arguments_of, environment_name
from parts import ServerError, Unavailable

LOADING_S = 600
"""Seconds in which a model must be loaded; large ones come from slow disks."""


@dataclass(frozen=True, slots=True)
class Remote:
    """A server at an address."""

    url: str
    api_key: str | None = None

    def get(self, path: str, *, timeout: float = 10) -> Any:
        """What is at a path. Raises `ServerError`."""
        with self._opened(path, None, timeout) as answer:
            return json.load(answer)

    def events(self, path: str, body: Mapping[str, Any]) -> Generator[dict[str, Any]]:
        """The events of a streamed answer, up to its end. Raises `ServerError`."""
        with self._opened(path, {**body, "stream": True}, None) as answer:
            for line in answer:
                data = line.removeprefix(b"data: ").strip()
                if data == b"[DONE]":
                    return
                if line.startswith(b"data: "):
                    event = json.loads(data)
                    if error := event.get("error"):
                        raise ServerError(error["message"])
                    yield event

    def model(self, *, timeout: float = 3) -> dict[str, Any]:
        """The model that is served: its id, its context window, what it can do."""
        entry: dict[str, Any] = self.get("/v1/models", timeout=timeout)["data"][0]
        return entry

    @contextlib.contextmanager
    def _opened(
        self, path: str, body: Mapping[str, Any] | None, timeout: float | None
    ) -> Iterator[http.client.HTTPResponse]:
        data = None if body is None else json.dumps(body).encode()
        headers = {"content-type": "application/json", "user-agent": "mlx-server"}
        if self.api_key:
            headers["authorization"] = f"Bearer {self.api_key}"
        request = urllib.request.Request(self.url + path, data, headers)
        try:
            with _OPENER.open(request, timeout=timeout) as answer:
                yield answer
        except urllib.error.HTTPError as error:
            raise ServerError(_reason(error)) from error
        except (OSError, ValueError, http.client.HTTPException) as error:
            raise Unavailable(f"Nothing answers at {self.url}: is the server running?") from error


# No proxy stands between a program and its own machine.
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def _reason(error: urllib.error.HTTPError) -> str:
    if error.code == 401:
        return f"The server wants its key: --api-key, or {environment_name('--api-key')}."
    with contextlib.suppress(ValueError, KeyError, TypeError):
        return str(json.load(error)["error"]["message"])
    return f"The server answered {error.code} {error.reason}."


def at(settings: Settings) -> Remote:
    """The server that these settings describe, whether it runs or not."""
    host = "127.0.0.1" if settings.host in ("0.0.0.0", "::") else settings.host
    host = f"[{host}]" if ":" in host else host
    return Remote(f"http://{host}:{settings.port}", settings.api_key)


def is_there(remote: Remote, *, timeout: float = 2) -> bool:
    """Whether something that speaks our language answers."""
    try:
        return "queue" in remote.get("/health", timeout=timeout)
    except Unavailable:
        return False
    except ServerError:  # it is there, and cannot serve yet
        return True


@contextlib.contextmanager
def reached(settings: Settings) -> Iterator[Remote]:
    """The running server, or one that is started for as long as the block lasts.

    Raises:
        Unavailable: it cannot be started; the sentence is the server's own.
    """
    remote = at(settings)
    if is_there(remote):
        _wait_until_loaded(remote)
        yield remote
        return
    from inference.repository import locate

    # Here, where it can be seen: what the server itself says goes to a file.
    locate(settings.model, is_forced=settings.force)
    with tempfile.TemporaryDirectory(prefix="mlx-server-") as folder:
        log = Path(folder) / "log"
        process = _start(replace(settings, host="127.0.0.1", port=_free_port()), log)
        try:
            yield _awaited(process, log, settings.api_key)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait()


def _wait_until_loaded(remote: Remote) -> None:
    deadline = time.monotonic() + LOADING_S
    while "context_window" not in remote.model() and time.monotonic() < deadline:
        time.sleep(0.1)


def _start(settings: Settings, log: Path) -> subprocess.Popen[bytes]:
    print(f"Starting a server with {settings.model_name}.", file=sys.stderr, flush=True)
    key = {environment_name("--api-key"): settings.api_key} if settings.api_key else {}
    with log.open("wb") as stderr:
        return subprocess.Popen(
            [sys.executable, str(ROOT / "server.py"), *arguments_of(settings)],
            stdout=subprocess.DEVNULL,
            stderr=stderr,
            env={**os.environ, **key},
            start_new_session=True,
        )


def _awaited(process: subprocess.Popen[bytes], log: Path, api_key: str | None) -> Remote:
    deadline = time.monotonic() + LOADING_S
    mark = "export OPENAI_BASE_URL="
    while time.monotonic() < deadline:
        text = log.read_text(errors="replace")
        if mark in text:
            return Remote(text.partition(mark)[2].split()[0].removesuffix("/v1"), api_key)
        if process.poll() is not None:
            raise Unavailable(text.strip().rpartition("\n")[2] or "The server ended at once.")
        time.sleep(0.05)
    raise Unavailable(f"The model was not loaded within {LOADING_S} seconds.")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
