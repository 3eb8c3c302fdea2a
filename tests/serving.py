"""Servers for tests: the real process on a free port, or an application on a thread of this one."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import uvicorn

from door.wire import Wire

ROOT = Path(__file__).resolve().parent.parent
PATIENCE_S = 60
"""Seconds after which a server that says nothing is taken for dead."""


@dataclass
class Running:
    """A server in a process of its own."""

    base_url: str
    process: subprocess.Popen[bytes]
    log: Path

    def health(self) -> httpx.Response:
        return httpx.get(f"{self.base_url}/health", timeout=10)

    def wait_until_idle(self) -> dict[str, int]:
        """Wait until nothing runs and nothing waits."""
        return wait_until(lambda: self._idle_queue(), "the queue is empty")

    def _idle_queue(self) -> dict[str, int] | None:
        queue: dict[str, int] = self.health().json()["queue"]
        return queue if not any(queue.values()) else None

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(PATIENCE_S)

    def complaints(self) -> list[str]:
        """The errors in its log, and what follows them."""
        return complaints(self.log.read_text(errors="replace"))

    def is_port_free(self) -> bool:
        """Whether somebody else could listen where it listened."""
        with contextlib.closing(socket.socket()) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", int(self.base_url.rpartition(":")[2])))
            except OSError:
                return False
        return True


QUIET_LINE = re.compile(r"\d\d:\d\d:\d\d [DIW] ")


def complaints(log: str) -> list[str]:
    """What a log has of errors: their lines, and whatever is no line of the log's own.

    A traceback is told without that word, as lines of its own; so is all that other programs and
    the interpreter print. The banner, which ends with an empty line, is no complaint.
    """
    lines = [line for line in log.splitlines() if line.strip() and not QUIET_LINE.match(line)]
    return [line for line in lines if "File " in line or not line.startswith("  ")]


def run(argv: list[str], cwd: Path) -> str:
    """Run a program to its end, this environment's tools before others; what it printed."""
    done = subprocess.run(
        argv,
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def wait_until(look: Any, what: str) -> Any:
    """Look again and again, with a deadline that only a broken server reaches."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        if found := look():
            return found
        time.sleep(0.01)
    raise AssertionError(f"waited in vain: {what}")


def launch(
    folder: Path,
    *flags: str,
    env: Mapping[str, str] | None = None,
    model: str | Path | None = None,
    program: Path = ROOT / "server.py",
) -> Running:
    """Start `server.py`, or a program like it, on a free port that is not known yet."""
    log = folder / f"server-{time.monotonic_ns()}.log"
    chosen = ["--conversation-logs", str(folder / "conversation_logs")]
    chosen += [] if model is None else ["--model", str(model)]
    with log.open("wb") as stderr:
        process = subprocess.Popen(
            [sys.executable, str(program), "--port", "0", *chosen, *flags],
            stdout=stderr,
            stderr=stderr,
            cwd=folder,
            env={**os.environ, **(env or {})},
        )
    return Running("", process, log)


def start(folder: Path, *flags: str, **options: Any) -> Running:
    """Start a server as `launch` does; return when it can serve."""
    server = launch(folder, *flags, **options)

    def ready() -> str | None:
        text = server.log.read_text(errors="replace")
        found = re.search(r'(?:OPENAI_BASE_URL=|"url": ")(http://[^/\s"]+)', text)
        assert found or server.process.poll() is None, f"the server ended: {text}"
        return found and found[1]

    server.base_url = wait_until(ready, "the banner")
    return server


@contextlib.contextmanager
def running(folder: Path, *flags: str, **options: Any) -> Iterator[Running]:
    """A server that ends with the block."""
    server = start(folder, *flags, **options)
    try:
        yield server
    finally:
        server.process.kill()
        server.process.wait()


@contextlib.contextmanager
def serving(app: Any) -> Iterator[str]:
    """Serve an application over a real socket, on a thread of this process."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    config = uvicorn.Config(app, http=Wire, log_config=None, timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        wait_until(lambda: server.started, "the application is up")
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
        listener.close()
