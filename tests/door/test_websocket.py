"""The Responses API over a WebSocket, with an engine that says what the test tells it to."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import ClientConnection, connect

from door.settings import Settings
from parts import EngineFailed, Message, QueueFull, Text
from server import create_app
from tests.door.asking import Json, create, get, kinds, post, refusal, stream, text_of
from tests.oracle import assert_envelope
from tests.protocol.openai_types import check_event
from tests.scripted import ScriptedEngine, says
from tests.serving import serving, wait_until

CODEX = {"openai-beta": "responses_websockets=2026-02-06"}
LAST = {"response.completed", "response.incomplete", "response.failed"}


@contextmanager
def connected(url: str, **headers: str) -> Iterator[ClientConnection]:
    address = url.replace("http", "ws", 1) + "/v1/responses"
    with connect(address, additional_headers={**CODEX, **headers}, open_timeout=20) as socket:
        yield socket


@pytest.fixture
def socket(scripted_url: str) -> Iterator[ClientConnection]:
    with connected(scripted_url) as socket:
        yield socket


def turn(socket: ClientConnection, input: Any = "hi", **body: Any) -> list[Json]:
    """The events of a turn, to its last."""
    socket.send(json.dumps({"type": "response.create", "input": input, **body}))
    events: list[Json] = []
    while not events or events[-1]["type"] not in LAST:
        events.append(check(socket.recv(20)))
    return events


def check(frame: str | bytes) -> Json:
    event: Json = json.loads(frame)
    check_event(event)
    return event


def response_of(events: list[Json]) -> Json:
    response: Json = events[-1]["response"]
    return response


def refused(socket: ClientConnection, frame: str | bytes) -> tuple[int, str, str | None]:
    """The status, the code and the parameter of the error that a frame meets."""
    socket.send(frame)
    answer = json.loads(socket.recv(20))
    assert set(answer) == {"type", "status", "error"}
    assert answer["type"] == "error"
    error = assert_envelope({"error": answer["error"]})
    return answer["status"], error["code"], error["param"]


def asks(input: Any = "hi", **body: Any) -> str:
    return json.dumps({"type": "response.create", "input": input, **body})


def test_a_turn_is_told_in_the_events_of_a_stream(
    socket: ClientConnection, scripted_url: str
) -> None:
    events = turn(socket)
    assert kinds(events) == kinds(stream(scripted_url))
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    response = response_of(events)
    assert text_of(response) == "Hello"
    assert get(scripted_url, response["id"]).json() == response


def test_turns_continue_each_other_and_what_was_said_elsewhere(
    socket: ClientConnection, scripted_url: str, engine: ScriptedEngine
) -> None:
    first = create(scripted_url, "one")
    second = response_of(turn(socket, "two", previous_response_id=first["id"]))
    create(scripted_url, "three", previous_response_id=second["id"])
    said = [message.content for message in engine.prompts[-1].messages]
    assert said == ["one", "Hello", "two", "Hello", "three"]


def test_frames_sent_during_a_turn_are_answered_in_their_order(
    socket: ClientConnection, engine: ScriptedEngine
) -> None:
    for word in "abc":
        socket.send(asks(word))
    ended = 0
    while ended < 3:
        ended += check(socket.recv(20))["type"] in LAST
    assert [prompt.messages[0].content for prompt in engine.prompts] == ["a", "b", "c"]


def test_a_request_may_be_wrapped(socket: ClientConnection, engine: ScriptedEngine) -> None:
    socket.send(json.dumps({"type": "response.create", "response": {"input": "inner"}}))
    while check(socket.recv(20))["type"] not in LAST:
        pass
    assert engine.prompts[0].messages == (Message("user", "inner"),)


# What is not stored


def test_a_chain_that_is_not_stored_lives_on_its_socket_only(
    socket: ClientConnection, scripted_url: str, engine: ScriptedEngine
) -> None:
    first = response_of(turn(socket, "one", store=False))
    second = response_of(turn(socket, "two", store=False, previous_response_id=first["id"]))
    assert second["store"] is False
    third = response_of(turn(socket, "three", previous_response_id=second["id"]))
    said = [message.content for message in engine.prompts[-1].messages]
    assert said == ["one", "Hello", "two", "Hello", "three"]
    for response in (first, second, third):
        assert get(scripted_url, response["id"]).status_code == 404
        assert get(scripted_url, response["id"], stream="true").status_code == 404
        answer = post(scripted_url, input="hi", previous_response_id=response["id"])
        assert refusal(answer)[:2] == (400, "previous_response_not_found")
    with connected(scripted_url) as other:
        frame = asks(previous_response_id=second["id"])
        assert refused(other, frame)[:2] == (400, "previous_response_not_found")


def test_a_warm_up_says_nothing_and_can_be_continued(
    socket: ClientConnection, engine: ScriptedEngine
) -> None:
    for store in (True, False):
        events = turn(socket, "be ready", generate=False, store=store)
        assert kinds(events) == ["created", "in_progress", "completed"]
        warm = response_of(events)
        assert warm["output"] == []
        assert warm["usage"]["output_tokens"] == 0
        assert engine.params[-1].max_tokens == 1
        turn(socket, [], previous_response_id=warm["id"], store=store)
        assert engine.prompts[-1].messages == (Message("user", "be ready"),)
        assert engine.params[-1].max_tokens > 1


# Failures


def test_a_failed_turn_takes_its_chain_with_it(
    socket: ClientConnection, engine: ScriptedEngine
) -> None:
    gone = (400, "previous_response_not_found", "previous_response_id")
    engine.script = says(Text("Hello"))
    first = response_of(turn(socket, store=False))["id"]
    engine.script = lambda prompt, params: [Text("Hel"), EngineFailed("It broke.")]
    events = turn(socket, store=False, previous_response_id=first)
    assert kinds(events)[-2:] == ["error", "failed"]
    engine.script = says(Text("Hello"))
    failed = response_of(events)["id"]
    assert refused(socket, asks(previous_response_id=first)) == gone
    assert refused(socket, asks(previous_response_id=failed)) == gone
    second = response_of(turn(socket, store=False))["id"]
    engine.refusal = QueueFull("Too many.")
    assert refused(socket, asks(previous_response_id=second))[:2] == (429, "queue_full")
    engine.refusal = None
    assert refused(socket, asks(previous_response_id=second)) == gone


@pytest.mark.parametrize(
    ("frame", "said"),
    [
        ("", (400, "invalid_json", None)),
        ("{", (400, "invalid_json", None)),
        (b"\xff", (400, "invalid_json", None)),
        ("[" * 100_000, (400, "invalid_json", None)),
        ("[]", (400, "invalid_value", "type")),
        ("{}", (400, "invalid_value", "type")),
        ('{"type": "response.destroy"}', (400, "invalid_value", "type")),
        ('{"type": "response.create"}', (400, "missing_required_parameter", "input")),
        (asks(temperature=9), (422, "invalid_value", "temperature")),
        (asks(conversation={"id": 5}), (422, "invalid_type", "conversation")),
        (
            asks(previous_response_id=f"resp_{'0' * 32}"),
            (400, "previous_response_not_found", "previous_response_id"),
        ),
        (asks("\ud800"), (400, "invalid_unicode", "input")),
    ],
)
def test_a_frame_that_cannot_be_served_is_refused_and_the_socket_goes_on(
    socket: ClientConnection, frame: str | bytes, said: Any
) -> None:
    assert refused(socket, frame) == said
    assert response_of(turn(socket))["status"] == "completed"


def test_our_own_fault_is_told_without_a_word_of_why(
    socket: ClientConnection, engine: ScriptedEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def submit(*_: Any, **__: Any) -> Any:
        raise ZeroDivisionError("secret")

    with monkeypatch.context() as patch:
        patch.setattr(engine, "submit", submit)
        assert refused(socket, asks()) == (500, "server_error", None)
    assert response_of(turn(socket))["status"] == "completed"


# Clients


@pytest.mark.parametrize("words", [[], [Text("a")]])
def test_a_client_that_leaves_gives_its_answer_up(
    scripted_url: str, engine: ScriptedEngine, words: list[Any]
) -> None:
    never = asyncio.Event()
    engine.script = lambda prompt, params: [*words, never]
    with connected(scripted_url) as socket:
        socket.send(asks())
        id = check(socket.recv(20))["response"]["id"]
        wait_until(lambda: engine.answers, "the answer has begun")
    wait_until(lambda: engine.answers[0].is_cancelled, "the answer is given up")
    assert get(scripted_url, id).json()["status"] == "cancelled"


def test_the_key_is_asked_for(engine: ScriptedEngine) -> None:
    with serving(create_app(Settings(api_key="k"), engine)) as url:
        for headers in ({}, {"authorization": "Bearer wrong"}):
            with pytest.raises(InvalidStatus), connected(url, **headers):
                pass
        with connected(url, authorization="Bearer k") as socket:
            assert response_of(turn(socket))["status"] == "completed"


def test_a_plain_get_of_the_socket_is_not_allowed(scripted_url: str) -> None:
    answer = httpx.get(f"{scripted_url}/v1/responses")
    assert answer.status_code == 405
    assert_envelope(answer.json())
