"""What a client sees of a fault in the engine, and what is left of it: the whole server over HTTP.

The real engine steps a scripted model that echoes its prompts, and fails where a test says so.
"""

from __future__ import annotations

import functools
import itertools
import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import httpx
import pytest

from door.settings import Settings
from inference.detokenizer import Detokenizer
from inference.engine import Engine, LoadedModel
from inference.parser import Markers, Parser
from parts import Part
from server import create_app
from tests import serving
from tests.inference.scripted import Call, Script, letters, scripted_model
from tests.serving import wait_until

TEXTS = ("abc", "once upon a time", "x", "hello there", "1 2 3 4 5")


class Fault(Script):
    """A script that fails at the how-manieth call of a kind, before or after its work."""

    def __init__(self, name: str, count: int, error: BaseException, *, is_late: bool) -> None:
        super().__init__(self._look)
        self._at, self._error, self._is_late = (name, count), error, is_late
        self._is_due = False
        self.num_fired = 0

    def _look(self, call: Call) -> None:
        self._is_due = (call.name, call.count) == self._at
        if self._is_due and not self._is_late:
            self._fire()

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
            self._is_due = False
            self._fire()

    def _fire(self) -> None:
        self.num_fired += 1
        raise self._error


def unchanged(model: LoadedModel) -> LoadedModel:
    return model


@contextmanager
def served(
    script: Script,
    tokenizer: Any,
    *,
    make_parser: Callable[[], Parser] | None = None,
    change: Callable[[LoadedModel], LoadedModel] = unchanged,
    **options: Any,
) -> Iterator[httpx.Client]:
    engine = Engine(lambda: change(scripted_model(script, tokenizer, make_parser)), **options)
    app = create_app(Settings(no_conversation_logs=True), engine)
    with serving.serving(app) as url, httpx.Client(base_url=url, timeout=30) as client:
        yield client


def ask(client: httpx.Client, text: str, *, is_stream: bool = False, **rest: Any) -> str | int:
    """The text of an answer, or the status of its failure; a stream must end as streams end."""
    body = {"messages": [{"role": "user", "content": text}], "stream": is_stream, **rest}
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


def ask_until(client: httpx.Client, has_happened: Callable[[], object]) -> list[str | int]:
    """Ask for all, again and again: steps for several at once are fewer."""
    found: list[str | int] = []
    for _ in range(20):
        found += ask_all(client)
        if has_happened():
            return found
    raise AssertionError("the fault was never made")


def assert_well(client: httpx.Client, *, failed_steps: int = 0) -> None:
    health = client.get("/health")
    assert (health.status_code, health.json()["status"]) == (200, "ok")
    assert health.json()["failed_steps"] == failed_steps
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
    fault = Fault(name, count, error, is_late=is_late)
    with served(fault, tokenizer) as client:
        found = ask_until(client, lambda: fault.num_fired)
        failed = [outcome for outcome in found if isinstance(outcome, int)]
        # A prompt that fails takes its one answer with it, a step takes none.
        assert failed == ([500] if name == "prefill" else [])
        for outcome, text in zip(found, itertools.cycle(TEXTS), strict=False):
            assert outcome in (text, 500)
        assert fault.num_fired == 1
        assert_well(client, failed_steps=int(name != "prefill"))


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


class Broken(Parser):
    """A parser that fails at the how-manieth call of one of its methods."""

    def __init__(self, tokenizer: Any, at: tuple[str, int], counts: Counter[str]) -> None:
        super().__init__(Detokenizer(tokenizer), Markers.of(tokenizer))
        self._broken_at, self._calls = at, counts

    def _called(self, name: str) -> None:
        self._calls[name] += 1
        if (name, self._calls[name]) == self._broken_at:
            raise ValueError("what a client said")

    def add(self, token: int) -> list[Part]:
        self._called("add")
        return super().add(token)

    def flush(self, *, is_cut: bool = False) -> list[Part]:
        self._called("flush")
        return super().flush(is_cut=is_cut)


@pytest.mark.parametrize(
    "at", [("add", 1), ("add", 3), ("add", 20), ("flush", 1), ("flush", 4)], ids=str
)
def test_an_answer_that_cannot_be_read_ends_alone(tokenizer: Any, at: tuple[str, int]) -> None:
    counts: Counter[str] = Counter()
    make = functools.partial(Broken, tokenizer, at, counts)
    with served(Script(), tokenizer, make_parser=make) as client:
        found = ask_until(client, lambda: counts[at[0]] >= at[1])
        assert found.count(500) == 1
        assert all(said in (text, 500) for said, text in zip(found, itertools.cycle(TEXTS)))
        assert_well(client)


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("seam", ["render", "make_parser", "make_guide"])
def test_a_prompt_that_cannot_be_prepared_ends_alone(
    tokenizer: Any, caplog: pytest.LogCaptureFixture, seam: str, count: int
) -> None:
    calls = itertools.count(1)

    def broken(model: LoadedModel) -> LoadedModel:
        work = getattr(model, seam)

        def fail(*arguments: Any) -> Any:
            if next(calls) == count:
                raise ValueError(str(arguments))
            return work(*arguments)

        return replace(model, **{seam: fail})

    guided = {"max_reasoning_tokens": 5}
    with served(Script(), tokenizer, change=broken) as client:
        found = [ask(client, "zebra", **guided) for _ in range(4)]
        assert found == [500 if number == count else "zebra" for number in range(1, 5)]
        assert_well(client)
    assert "ValueError" in caplog.text
    assert "zebra" not in caplog.text


def test_a_step_that_is_slow_does_not_fail(tokenizer: Any) -> None:
    goes_on, is_slow = threading.Event(), threading.Event()

    def wait(call: Call) -> None:
        if (call.name, call.count) == ("decode", 2):
            is_slow.set()
            goes_on.wait(30)

    with (
        served(Script(wait), tokenizer, stall_timeout=60) as client,
        ThreadPoolExecutor(1) as pool,
    ):
        asked = pool.submit(ask_all, client)
        assert is_slow.wait(30)
        health = client.get("/health").json()
        assert (health["status"], health["failed_steps"]) == ("ok", 0)
        assert health["queue"]["running"] + health["queue"]["waiting"] >= 1
        wait_until(lambda: client.get("/health").json()["stalled_s"] > 0, "health says how long")
        goes_on.set()
        assert asked.result() == list(TEXTS)
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
