"""Servers that are killed at any moment, or asked to stop, while clients ask.

    python -m tests.kill --rounds 50

After each: the port is free, no file of the archive is torn, and the next server starts on what the
last one left. Whoever was asked to stop has ended every stream with an event, archived what was
said, and gone with exit code 0.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import signal
import socket
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import httpx

from protocol import record
from protocol.archive import NAME
from tests import demo
from tests.oracle import events
from tests.serving import PATIENCE_S, Running, start

Json = dict[str, Any]
SIGNALS = (signal.SIGKILL, signal.SIGTERM)
FLAGS = ("--conversation-ttl", "0.2", "--drain", "0.3", "--log-level", "warning")


class Load:
    """Clients that ask until nobody answers, and remember what they were told."""

    def __init__(self, url: str, num_clients: int = 6) -> None:
        self.completed: list[str] = []
        """Ids of responses that were told to their end."""
        self.faults: list[str] = []
        self._url = url
        self._threads = [
            threading.Thread(target=self._ask, args=(number,)) for number in range(num_clients)
        ]
        for thread in self._threads:
            thread.start()

    def join(self) -> None:
        """Wait until all have found that nobody answers any more."""
        for thread in self._threads:
            thread.join(PATIENCE_S)

    def _ask(self, number: int) -> None:
        chooser = random.Random(number)
        with httpx.Client(base_url=self._url, timeout=30) as http:
            while True:
                try:
                    chooser.choice([self._chat, self._respond, self._respond])(http)
                except httpx.TransportError:
                    return
                except Exception as error:  # all else is the server's fault
                    self.faults.append(f"{type(error).__name__}: {error}"[:300])
                    return

    def _chat(self, http: httpx.Client) -> None:
        asked = {"messages": [{"role": "user", "content": "Tell me a story."}], "max_tokens": 200}
        body = {**asked, "logit_bias": demo.NEVER_END, "stream": True}
        answer = http.post("/v1/chat/completions", json=body)
        if answer.status_code != 503:
            assert events(answer.text)[-1] == "[DONE]", "a stream just stopped"

    def _respond(self, http: httpx.Client) -> None:
        answer = http.post("/v1/responses", json={"input": "Hello!", "max_output_tokens": 20})
        if answer.status_code == 200:
            self.completed.append(answer.json()["id"])
        else:
            assert answer.status_code == 503, answer.text


def one_round(folder: Path, number: int, chooser: random.Random) -> list[str]:
    """Start a server, let clients ask, end it. Returns what was not as it should be."""
    how = SIGNALS[number % 2]
    server = start(folder, *FLAGS)
    load = Load(server.base_url)
    time.sleep(chooser.random() * 2)
    server.process.send_signal(how)
    code = server.process.wait(PATIENCE_S)
    load.join()
    faults = [*load.faults, *_left_behind(folder), *_still_bound(server)]
    if how == signal.SIGTERM:
        faults += _unclean(server, code, folder, load)
    return [f"round {number}, {how.name}: {fault}" for fault in faults]


def _unclean(server: Running, code: int, folder: Path, load: Load) -> list[str]:
    archived = {id for tree in _trees(folder) for id in tree.names()}
    lost = set(load.completed) - archived
    faults = [f"exit code {code}"] if code else []
    faults += [f"{len(lost)} responses are not archived"] if lost else []
    return faults + (["a traceback"] if "Traceback" in server.log.read_text() else [])


def _trees(folder: Path) -> list[Any]:
    files = (folder / "conversation_logs").glob("[!.]*.json")
    return [record.parse(path.read_bytes())[0] for path in files]


def _left_behind(folder: Path) -> list[str]:
    faults = []
    for path in (folder / "conversation_logs").glob("*.json"):
        if not NAME.fullmatch(path.name):
            faults.append(f"a file {path.name}")
            continue
        try:
            record.parse(path.read_bytes())
        except (record.Malformed, json.JSONDecodeError) as error:
            faults.append(f"{path.name} is torn: {error}")
    return faults


def _still_bound(server: Running) -> list[str]:
    port = int(server.base_url.rpartition(":")[2])
    with contextlib.closing(socket.socket()) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            return [f"port {port} is still bound: {error}"]
    return []


def rounds(folder: Path, number: int, seed: int = 0) -> list[str]:
    """So many rounds on one folder, and one more server that finds what they left."""
    chooser = random.Random(seed)
    faults = [fault for i in range(number) for fault in one_round(folder, i, chooser)]
    server = start(folder, *FLAGS)
    try:
        if list((folder / "conversation_logs").glob(".*.tmp")):
            faults.append("what was half-written is still there")
        faults += [] if server.health().json()["archive"] == "ok" else ["the archive is not well"]
    finally:
        server.stop()
    return faults


def main() -> int:
    """Kill servers in a folder of one's own, and print what came of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=50)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        faults = rounds(Path(folder), asked.rounds)
        num_files = len(_trees(Path(folder)))
    print(f"{asked.rounds} rounds, {num_files} conversations archived, {len(faults)} faults")
    print("\n".join(faults))
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
