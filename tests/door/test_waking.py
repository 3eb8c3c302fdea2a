"""A model that sleeps: who asks hears at once that it is being loaded, then the answer."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import httpx
import pytest
from websockets.sync.client import connect

from door.settings import Settings
from inference.engine import Engine
from parts import Unavailable
from server import create_app
from tests import serving
from tests.door.asking import Json, create, kinds
from tests.inference.conftest import tokenizer  # noqa: F401
from tests.inference.scripted import Script, scripted_model
from tests.scripted import ScriptedEngine, says
from tests.serving import wait_until

SAID = {"input": "hi", "messages": [{"role": "user", "content": "hi"}]}
PATHS = ("chat/completions", "responses")


@pytest.fixture
def wake(engine: ScriptedEngine) -> asyncio.Event:
    """The model sleeps, and is loaded when this is set."""
    engine.phase, engine.may_wake = "sleeping", asyncio.Event()
    return engine.may_wake


def told(lines: Iterator[str]) -> Iterator[Json]:
    for line in lines:
        if line.startswith("data: {"):
            yield json.loads(line.removeprefix("data: "))


def text_of(told: list[Json]) -> str:
    """The text in chunks or in events."""
    if "choices" not in told[0]:
        return str(told[-1]["response"]["output"][0]["content"][0]["text"])
    return "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in told)


@pytest.mark.parametrize("path", PATHS)
def test_a_stream_begins_before_the_model_is_there(
    scripted_url: str, engine: ScriptedEngine, wake: asyncio.Event, path: str
) -> None:
    body = {**SAID, "stream": True, "return_progress": True}
    with httpx.stream("POST", f"{scripted_url}/v1/{path}", json=body) as answer:
        events = told(answer.iter_lines())
        seen = [next(events), next(events)]
        assert not engine.prompts
        assert httpx.get(f"{scripted_url}/health").json()["status"] == "sleeping"
        while "waking" not in json.dumps(seen[-1]):
            seen.append(next(events))
        engine.go_on(wake)
        seen += events
    assert text_of(seen) == "Hello"
    assert [event.get("sequence_number", at) for at, event in enumerate(seen)] == [
        *range(len(seen))
    ]


@pytest.mark.parametrize("path", PATHS)
def test_a_refusal_comes_as_an_event_then(
    scripted_url: str, engine: ScriptedEngine, wake: asyncio.Event, path: str
) -> None:
    engine.refusal = Unavailable("The files are gone.")
    with httpx.stream("POST", f"{scripted_url}/v1/{path}", json={**SAID, "stream": True}) as answer:
        assert answer.status_code == 200
        lines = answer.iter_lines()
        next(lines)
        engine.go_on(wake)
        rest = "\n".join(lines)
    assert "The files are gone." in rest and rest.strip().endswith("data: [DONE]")


@pytest.mark.parametrize("path", PATHS)
def test_a_whole_answer_keeps_its_status(
    scripted_url: str, engine: ScriptedEngine, path: str
) -> None:
    engine.phase, engine.refusal = "sleeping", Unavailable("The files are gone.")
    answer = httpx.post(f"{scripted_url}/v1/{path}", json=SAID)
    assert (answer.status_code, answer.json()["error"]["message"]) == (503, "The files are gone.")


@pytest.mark.parametrize("path", PATHS)
def test_who_leaves_meanwhile_is_not_answered(
    scripted_url: str, engine: ScriptedEngine, wake: asyncio.Event, path: str
) -> None:
    engine.script = says(asyncio.Event())
    with httpx.stream("POST", f"{scripted_url}/v1/{path}", json={**SAID, "stream": True}) as answer:
        next(answer.iter_lines())
    engine.go_on(wake)
    wait_until(lambda: engine.answers and engine.answers[0].is_cancelled, "it is given up")


def test_a_response_in_the_background_is_queued(
    scripted_url: str, engine: ScriptedEngine, wake: asyncio.Event
) -> None:
    made = create(scripted_url, "hi", background=True)
    assert made["status"] == "queued" and not engine.prompts
    engine.go_on(wake)
    address = f"{scripted_url}/v1/responses/{made['id']}"
    wait_until(lambda: httpx.get(address).json()["status"] == "completed", "it is answered")


def test_a_socket_hears_of_it_too(
    scripted_url: str, engine: ScriptedEngine, wake: asyncio.Event
) -> None:
    address = scripted_url.replace("http", "ws") + "/v1/responses"
    with connect(address) as socket:
        socket.send(json.dumps({"type": "response.create", "input": "hi"}))
        seen = [json.loads(socket.recv(30)) for _ in range(2)]
        assert kinds(seen) == ["created", "queued"] and not engine.prompts
        engine.go_on(wake)
        while seen[-1]["type"] != "response.completed":
            seen.append(json.loads(socket.recv(30)))
    assert text_of(seen) == "Hello"


def test_an_idle_engine_says_that_it_sleeps_and_wakes_under_a_stream(tokenizer: Any) -> None:  # noqa: F811
    may_load = threading.Event()
    may_load.set()

    def load() -> Any:
        assert may_load.wait(30)
        return replace(scripted_model(Script(), tokenizer), release=may_load.clear)

    engine = Engine(load, idle_unload=0.01)
    with serving.serving(create_app(Settings(no_conversation_logs=True), engine)) as url:

        def health() -> Json:
            answer = httpx.get(f"{url}/health")
            return answer.json() if answer.status_code == 200 else {"status": "not yet"}

        wait_until(lambda: health()["status"] == "sleeping" and not may_load.is_set(), "it sleeps")
        body = {**SAID, "stream": True}
        with httpx.stream("POST", f"{url}/v1/chat/completions", json=body, timeout=30) as answer:
            events = told(answer.iter_lines())
            seen = [next(events)]
            assert seen[0]["choices"][0]["delta"]["role"] == "assistant"
            assert health()["status"] == "sleeping"
            may_load.set()
            seen += events
        assert text_of(seen) == "hi"
