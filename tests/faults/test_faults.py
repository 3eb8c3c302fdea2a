"""What a client sees of a fault in the engine, and what is left of it: the whole server over HTTP.

The real engine steps a scripted model that echoes its prompts, and fails where a test says so.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import httpx
import pytest

from door.settings import Settings
from inference.engine import Engine
from server import create_app
from tests import serving
from tests.inference.scripted import Call, Script, letters, scripted_model

TEXTS = ("abc", "once upon a time", "x", "hello there", "1 2 3 4 5")


class Fault(Script):
    """A script that fails at the how-manieth call of a kind, before or after its work."""

    def __init__(self, name: str, count: int, error: BaseException, *, is_late: bool) -> None:
        super().__init__(self._look)
        self._at, self._error, self._is_late = (name, count), error, is_late
        self._is_due = False

    def _look(self, call: Call) -> None:
        self._is_due = (call.name, call.count) == self._at
        if self._is_due and not self._is_late:
            raise self._error

    def prefill(self, sequences: Any, max_tokens: int) -> bool:
        is_computed = super().prefill(sequences, max_tokens)
        self._fail_late()
        return is_computed

    def decode(self) -> Any:
        step = super().decode()
        self._fail_late()
        return step

    def join(self) -> None:
        super().join()
        self._fail_late()

    def remove(self, leaving: Any) -> None:
        super().remove(leaving)
        self._fail_late()

    def _fail_late(self) -> None:
        if self._is_due and self._is_late:
            raise self._error


@contextmanager
def served(script: Script, tokenizer: Any, **options: Any) -> Iterator[httpx.Client]:
    engine = Engine(lambda: scripted_model(script, tokenizer), **options)
    app = create_app(Settings(no_conversation_logs=True), engine)
    with serving.serving(app) as url, httpx.Client(base_url=url, timeout=30) as client:
        yield client


def ask(client: httpx.Client, text: str, *, is_stream: bool = False) -> str | int:
    """The text of an answer, or the status of its failure; a stream must end as streams end."""
    body = {"messages": [{"role": "user", "content": text}], "stream": is_stream}
    reply = client.post("/v1/chat/completions", json=body)
    if not is_stream:
        if reply.status_code == 200:
            return str(reply.json()["choices"][0]["message"]["content"])
        assert set(reply.json()["error"]) == {"message", "type", "param", "code"}
        return reply.status_code
    events = [line[6:] for line in reply.text.splitlines() if line.startswith("data: ")]
    assert events[-1] == "[DONE]"
    said = [json.loads(event) for event in events[:-1]]
    if "error" in said[-1]:
        assert said[-1]["error"]["code"] == "server_error"
        return 500
    return "".join(c["delta"].get("content") or "" for one in said for c in one["choices"])


def ask_all(client: httpx.Client) -> list[str | int]:
    with ThreadPoolExecutor(len(TEXTS)) as pool:
        asked = [
            pool.submit(ask, client, text, is_stream=bool(i % 2)) for i, text in enumerate(TEXTS)
        ]
        return [one.result() for one in asked]


def assert_well(client: httpx.Client) -> None:
    health = client.get("/health")
    assert (health.status_code, health.json()["status"]) == (200, "ok")
    assert health.json()["queue"] == {"running": 0, "waiting": 0}
    assert ask(client, "and now?") == "and now?"


FAILURE = RuntimeError("the device has gone away")
NO_MEMORY = MemoryError("[malloc] Unable to allocate")


@pytest.mark.parametrize(
    ("error", "is_late"),
    [(FAILURE, False), (FAILURE, True), (NO_MEMORY, False)],
    ids=["before", "after", "no memory"],
)
@pytest.mark.parametrize("count", [1, 2, 5])
@pytest.mark.parametrize("name", ["prefill", "join", "decode", "remove"])
def test_a_fault_harms_at_most_the_one_it_was_made_for(
    tokenizer: Any, name: str, count: int, is_late: bool, error: BaseException
) -> None:
    with served(Fault(name, count, error, is_late=is_late), tokenizer) as client:
        found = ask_all(client)
        failed = [outcome for outcome in found if isinstance(outcome, int)]
        assert failed in ([], [500])
        assert not failed or name == "prefill"
        for outcome, text in zip(found, TEXTS, strict=True):
            assert outcome in (text, 500)
        assert_well(client)


@pytest.mark.parametrize("is_stream", [False, True])
@pytest.mark.parametrize("num_generated", [0, 2])
def test_an_answer_without_numbers_is_a_500_and_its_neighbour_goes_on(
    tokenizer: Any, num_generated: int, is_stream: bool
) -> None:
    bad = tuple(letters(tokenizer, "bad"))

    class Numberless(Script):
        def decode(self) -> Any:
            return [
                (s, -1 if tuple(s.prompt) == bad and len(s.generated) >= num_generated else t, p)
                for s, t, p in super().decode()
            ]

    with served(Numberless(), tokenizer) as client, ThreadPoolExecutor(1) as pool:
        neighbour = pool.submit(ask, client, "a good neighbour")
        assert ask(client, "bad", is_stream=is_stream) == 500
        assert neighbour.result() == "a good neighbour"
        assert_well(client)


def failing_always(name: str) -> Callable[[Call], None]:
    def on_call(call: Call) -> None:
        if call.name == name:
            raise RuntimeError("the device has gone away")

    return on_call


def test_a_device_that_is_gone_is_said_by_health_and_nobody_waits(tokenizer: Any) -> None:
    with served(Script(failing_always("decode")), tokenizer) as client:
        assert set(ask_all(client)) <= {500, 503}  # whoever comes late comes when all is over
        while client.get("/health").status_code == 200:
            assert ask(client, "again") in (500, 503)
        assert client.get("/health").json()["reason"] == "steps keep failing"
        assert ask(client, "too late") == 503


def test_a_step_that_hangs_is_said_by_health_and_nobody_waits(tokenizer: Any) -> None:
    is_over = threading.Event()

    def hang(call: Call) -> None:
        if (call.name, call.count) == ("decode", 2):
            is_over.wait(30)

    with served(Script(hang), tokenizer, stall_timeout=0.2) as client:
        assert ask_all(client) == [500] * len(TEXTS)
        health = client.get("/health")
        assert (health.status_code, health.json()["reason"]) == (503, "a step hangs")
        is_over.set()
