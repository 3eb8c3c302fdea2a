"""The process when its device fails for good, and when the system gives it little."""

from __future__ import annotations

import contextlib
import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from server import ENGINE_FAILED
from tests.oracle import assert_envelope, events
from tests.serving import PATIENCE_S, Running, running, wait_until

PROGRAM = Path(__file__).parent / "failing_server.py"
FEW_FILES = Path(__file__).parent / "few_files_server.py"


@pytest.mark.parametrize(
    ("fault", "reason"), [("fail", "steps keep failing"), ("hang", "a step hangs")]
)
def test_a_device_that_fails_for_good_ends_the_process_and_its_streams(
    tmp_path: Path, fault: str, reason: str
) -> None:
    flags = ("--stall-timeout", "1")
    with running(tmp_path, *flags, program=PROGRAM, env={"FAULT": fault}) as server:
        while (told := ask(server.base_url)) is not None:
            *_, error, done = events(told)  # each that was begun is told why it ends
            assert assert_envelope(error)["code"] == "server_error"
            assert done == "[DONE]"
        assert server.process.wait(PATIENCE_S) == ENGINE_FAILED
        assert server.is_port_free()
        assert f"the engine has failed: {reason}" in server.log.read_text()


def ask(url: str) -> str | None:
    """All of a stream; None when nobody answers any more."""
    body = {"messages": [{"role": "user", "content": "hello"}], "stream": True}
    is_begun = False
    try:
        where = f"{url}/v1/chat/completions"
        with httpx.stream("POST", where, json=body, timeout=PATIENCE_S) as answer:
            if answer.status_code != 200:
                return None
            is_begun = True
            return answer.read().decode()
    except httpx.TransportError:
        assert not is_begun, "a stream just stopped"
        return None


# Few files


@contextlib.contextmanager
def connections(server: Running, number: int) -> Iterator[list[socket.socket]]:
    """Connections on which nobody asks for anything."""
    with contextlib.ExitStack() as held:
        address = ("127.0.0.1", int(server.base_url.rpartition(":")[2]))
        yield [
            held.enter_context(socket.create_connection(address, timeout=PATIENCE_S))
            for _ in range(number)
        ]


def told(connection: socket.socket) -> bytes:
    """What is said on a connection until it is closed."""
    said = b""
    with contextlib.suppress(ConnectionResetError):
        while piece := connection.recv(4096):
            said += piece
    return said


def test_more_clients_than_files_are_turned_away_and_the_rest_is_served(tmp_path: Path) -> None:
    num_files = 40
    with running(tmp_path, program=FEW_FILES, env={"FILES": str(num_files)}) as server:
        process = psutil.Process(server.process.pid)
        with connections(server, 200) as held:
            refused = told(held[-1])
            assert b" 503 " in refused.splitlines()[0]
            assert b"retry-after: 2" in refused
            assert_envelope(json.loads(refused.partition(b"\r\n\r\n")[2]))
            before = sum(process.cpu_times()[:2])
            time.sleep(1)  # long enough to see that it does not run in circles
            assert sum(process.cpu_times()[:2]) - before < 0.5
            assert process.num_fds() < num_files
        wait_until(lambda: is_well(server), "it is well again")
        body = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 1}
        asked = httpx.post(f"{server.base_url}/v1/chat/completions", json=body, timeout=PATIENCE_S)
        assert asked.status_code == 200
        made = httpx.post(
            f"{server.base_url}/v1/responses",
            json={"input": "hi", "max_output_tokens": 1},
            timeout=PATIENCE_S,
        )
        assert made.status_code == 200
        assert server.stop() == 0
        assert not server.complaints()
        assert server.log.read_text().count("turned away") == 1
        assert list((tmp_path / "conversation_logs").glob("*.json"))  # there was a file for it


def is_well(server: Running) -> bool:
    try:
        return server.health().status_code == 200
    except httpx.TransportError:
        return False


# Large bodies

LIMIT = 16 * 2**20


class Memory:
    """What a server's process takes, in bytes."""

    def __init__(self, server: Running) -> None:
        self._folder = Path("/proc") / str(server.process.pid)

    def _said(self, name: str) -> int:
        lines = (self._folder / "status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith(name)).split()[1]) * 1024

    @property
    def now(self) -> int:
        return self._said("VmRSS")

    @property
    def most(self) -> int:
        """Since it was last forgotten."""
        return self._said("VmHWM")

    def forget(self) -> None:
        (self._folder / "clear_refs").write_text("5")


def in_chunks(body: bytes) -> Iterator[bytes]:
    for start in range(0, len(body), 2**16):
        yield body[start : start + 2**16]


def filled(body: dict[str, Any], size: int) -> bytes:
    """A body of so many bytes, white space at its end."""
    return json.dumps(body, ensure_ascii=False).encode().ljust(size)


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux tells")
def test_a_body_takes_less_than_four_times_its_limit_and_gives_it_back(tmp_path: Path) -> None:
    words = "some words " * (LIMIT // 11 - 20)
    messages = [{"role": "user", "content": "w" * (LIMIT // 9_000 - 40)}] * 9_000
    sent = [
        ("/v1/chat/completions", {"messages": messages}, LIMIT, 400),
        ("/v1/chat/completions", {"messages": messages}, 2 * LIMIT, 413),
        ("/v1/responses", {"input": words}, LIMIT, 400),
        ("/v1/conversations", {"unknown": words}, LIMIT, 200),
    ]
    kind = {"content-type": "application/json"}
    with running(tmp_path, "--max-body", "16M") as server:
        memory = Memory(server)
        at_first = memory.now
        for path, body, size, status in sent:
            text = filled(body, size)
            for content in (text, in_chunks(text)):
                memory.forget()
                before = memory.now
                url = server.base_url + path
                asked = httpx.post(url, content=content, headers=kind, timeout=PATIENCE_S)
                assert asked.status_code == status
                assert memory.most - before < 4 * LIMIT
        assert memory.now - at_first < 4 * LIMIT
