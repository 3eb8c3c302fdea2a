"""Servers that are killed at any moment, or asked to stop, while clients ask.

    python -m tests.kill --rounds 50

After each: the port is free, no file of the archive is torn, and the next server starts on what the
last one left. Whoever was asked to stop has ended every stream with an event, archived what was
said, and gone with exit code 0.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
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
from tests.serving import PATIENCE_S, Running, launch, start

Json = dict[str, Any]
SIGNALS = (signal.SIGKILL, signal.SIGTERM)
FLAGS = ("--conversation-ttl", "0.2", "--drain", "0.3", "--log-level", "warning")


LOADING_S = 3.0
"""Seconds in which a server is on its way from the first import to its banner."""


class Load:
    """Clients that ask until nobody answers, and remember what they were told."""

    def __init__(self, url: str, num_clients: int = 6) -> None:
        self.completed: list[str] = []
        """Ids of responses that were told to their end."""
        self.cut: list[str] = []
        """Answers that had begun when their connection ended: only a kill may do that."""
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
        if any(thread.is_alive() for thread in self._threads):
            self.faults.append("a client still waits")

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
        status, text = self._post(http, "/v1/chat/completions", body)
        if status != 503:
            assert status == 200, text
            assert events(text)[-1] == "[DONE]", "a stream just stopped"

    def _respond(self, http: httpx.Client) -> None:
        asked = {"input": "Hello!", "max_output_tokens": 20}
        status, text = self._post(http, "/v1/responses", asked)
        if status == 200:
            self.completed.append(json.loads(text)["id"])
        else:
            assert status == 503, text

    def _post(self, http: httpx.Client, path: str, body: Json) -> tuple[int, str]:
        """Ask. From the first byte of an answer on, its end must come."""
        with http.stream("POST", path, json=body) as answer:
            try:
                return answer.status_code, answer.read().decode()
            except httpx.TransportError as error:
                self.cut.append(f"{path} was cut: {error}"[:200])
                raise


def one_round(folder: Path, number: int, chooser: random.Random) -> list[str]:
    """Start a server, let clients ask, end it. Returns what was not as it should be."""
    how = SIGNALS[number % 2]
    if number % 5 == 4:
        faults = _while_loading(folder, how, chooser)
    else:
        faults = _under_load(folder, how, chooser)
    return [f"round {number}, {how.name}: {fault}" for fault in (*faults, *_left_behind(folder))]


def _under_load(folder: Path, how: signal.Signals, chooser: random.Random) -> list[str]:
    server = start(folder, *FLAGS)
    load = Load(server.base_url)
    time.sleep(chooser.random() * 2)
    server.process.send_signal(how)
    code = server.process.wait(PATIENCE_S)
    load.join()
    faults = [*load.faults, *_still_bound(server)]
    return faults + (_unclean(server, code, folder, load) if how == signal.SIGTERM else [])


def _while_loading(folder: Path, how: signal.Signals, chooser: random.Random) -> list[str]:
    server = launch(folder, *FLAGS)
    time.sleep(chooser.random() * LOADING_S)
    server.process.send_signal(how)
    code = server.process.wait(PATIENCE_S)
    # Python has a say in it only when it has come so far.
    faults = [f"exit code {code} while loading"] if code not in (0, -how) else []
    return faults + server.complaints()


def _unclean(server: Running, code: int, folder: Path, load: Load) -> list[str]:
    archived = {id for tree in _trees(folder) for id in tree.names()}
    lost = set(load.completed) - archived
    faults = [f"exit code {code}"] if code else []
    faults += [f"{len(lost)} responses are not archived"] if lost else []
    return faults + load.cut + server.complaints()


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
    return [] if server.is_port_free() else [f"{server.base_url} is still bound"]


def rounds(folder: Path, number: int, seed: int = 0) -> list[str]:
    """So many rounds on one folder, and one more server that finds what they left."""
    chooser = random.Random(seed)
    faults = [fault for i in range(number) for fault in one_round(folder, i, chooser)]
    server = start(folder, *FLAGS)
    try:
        if list((folder / "conversation_logs").glob(".*.tmp")):
            faults.append("what was half-written is still there")
        health = server.health().json()
        faults += [] if health["archive"] == "ok" else ["the archive is not well"]
        faults += [] if health["failed_steps"] == 0 else ["steps have failed"]
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
