"""Servers under test: each a real process on a free port, with its log kept when it fails."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
HOST = "127.0.0.1"
START_S = 600
"""Seconds that a server gets to load its model."""
STOP_S = 8
JOB_S = 900
"""Seconds after which a measure is given up."""

Json = dict[str, Any]


class Failed(Exception):
    """A process that did not do what it was started for."""


class Server:
    """A server that runs, and the clients that are sent to it."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, log: Path) -> None:
        self.process = process
        self.port = port
        self.log = log
        self.has_failed = False
        """Whether a measure went wrong, so that somebody will want to read the log."""

    def clients(self, plan: str, **job: Any) -> Json:
        """What clients found who carried out a plan. Raises `Failed`."""
        job |= {"plan": plan, "host": HOST, "port": self.port}
        if self.process.poll() is not None:
            raise Failed(f"the server has ended with {self.process.returncode}")
        found: Json = program("clients.py", job)[-1]
        return found

    @contextlib.contextmanager
    def watching(self, every_s: float = 0.01) -> Iterator[Json]:
        """Ask for /health while the block runs; what was found is there when it has ended."""
        found: Json = {}
        job = {"plan": "health", "host": HOST, "port": self.port, "every_s": every_s}
        process = subprocess.Popen(
            [sys.executable, str(ROOT / "benchmarks" / "clients.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdin and process.stdout
        process.stdin.write(json.dumps(job) + "\n")
        process.stdin.flush()
        try:
            yield found
            out, _ = process.communicate(timeout=60)
            found.update(json.loads(out))
        finally:
            process.kill()
            process.wait()

    def get(self, path: str) -> tuple[int, str]:
        """Status and body; 0 when nobody answers."""
        try:
            with urllib.request.urlopen(f"http://{HOST}:{self.port}{path}", timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, ""
        except OSError:
            return 0, ""

    def kv_cache_bytes(self) -> float | None:
        """What the running requests' caches take, if the server tells."""
        _, text = self.get("/metrics")
        found = re.search(r"^\S*memory_kv_cache_bytes(?:\{.*\})? (\S+)$", text, re.MULTILINE)
        return float(found[1]) if found else None


def program(name: str, job: Json) -> list[Json]:
    """Run one of our programs in a process of its own; the objects it told. Raises `Failed`."""
    try:
        done = subprocess.run(
            [sys.executable, str(ROOT / "benchmarks" / name)],
            input=json.dumps(job) + "\n",
            capture_output=True,
            text=True,
            timeout=JOB_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise Failed(f"{name} took more than {JOB_S} s") from None
    if done.returncode:
        raise Failed(f"{name} failed:\n{done.stderr[-2000:]}")
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def ours(model: str, flags: list[str]) -> list[str]:
    """The command of this server. It takes in all that the measures send."""
    chosen = ["--max-queue", "1024", "--max-batch", "64", "--no-conversation-logs"]
    return [sys.executable, str(ROOT / "server.py"), "--model", model, *chosen, *flags]


def peer(model: str) -> list[str]:
    """The command of mlx-lm's own server."""
    return [sys.executable, "-m", "mlx_lm", "server", "--model", model, "--log-level", "ERROR"]


@contextlib.contextmanager
def running(command: list[str]) -> Iterator[Server]:
    """A server that ends with the block. Raises `Failed` when it does not come up."""
    port = _free_port()
    folder = Path(tempfile.mkdtemp(prefix="bench-"))
    log = folder / "server.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [*command, "--host", HOST, "--port", str(port)],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            cwd=folder,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
    server = Server(process, port, log)
    is_well = False
    try:
        _wait_until_ready(server)
        yield server
        is_well = process.poll() is None and not server.has_failed
    finally:
        _stop(process)
        if is_well:
            shutil.rmtree(folder, ignore_errors=True)
        else:
            tail = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
            print(f"the server's log is kept: {log}\n{tail}", file=sys.stderr, flush=True)


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind((HOST, 0))
        port: int = listener.getsockname()[1]
    return port


def _wait_until_ready(server: Server) -> None:
    deadline = time.monotonic() + START_S
    while server.get("/health")[0] != 200:
        if server.process.poll() is not None or time.monotonic() > deadline:
            told = server.log.read_text(errors="replace")[-2000:]
            raise Failed(f"the server did not come up:\n{told}")
        time.sleep(0.1)


def _stop(process: subprocess.Popen[bytes]) -> None:
    for number in (signal.SIGINT, signal.SIGKILL):
        process.send_signal(number)
        try:
            process.wait(STOP_S)
            return
        except subprocess.TimeoutExpired:
            continue


class Watched:
    """Looks at something again and again on a thread, and keeps the largest number it saw."""

    def __init__(self, look: Any, every_s: float = 0.05) -> None:
        self.largest: float | None = None
        self._look, self._every_s = look, every_s
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def _watch(self) -> None:
        while not self._is_over.wait(self._every_s):
            seen = self._look()
            if seen is not None:
                self.largest = max(seen, self.largest or 0)

    def __enter__(self) -> Watched:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._is_over.set()
        self._thread.join()
