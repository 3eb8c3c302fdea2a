"""Every bad request is answered by a 4xx in the envelope, and the server is well after each."""

from __future__ import annotations

import json
from collections.abc import Iterator

import httpx
import pytest
from websockets.sync.client import ClientConnection, connect

from door.settings import Settings
from server import create_app
from tests.bad_input.malformed import BODIES
from tests.bad_input.table import CHAT, Case, Json, cases
from tests.oracle import assert_envelope
from tests.scripted import ScriptedEngine
from tests.serving import serving

CASES = cases()


@pytest.fixture(scope="module")
def client() -> Iterator[httpx.Client]:
    engine = ScriptedEngine()
    app = create_app(Settings(no_conversation_logs=True), engine)
    with serving(app) as url, httpx.Client(base_url=url, timeout=30) as client:
        yield client
    assert not any(not answer.is_over.is_set() for answer in engine.answers)


def ask(client: httpx.Client, case: Case) -> httpx.Response:
    headers = {"content-type": case.kind} if case.body is not None and case.kind else {}
    headers |= dict(case.headers)
    return client.request(case.method, case.path, content=case.body, headers=headers)


def check(answer: httpx.Response, case: Case) -> None:
    assert 400 <= answer.status_code < 500, answer.text[:300]
    assert case.status in (None, answer.status_code), answer.text[:300]
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["x-request-id"]
    error = assert_envelope(answer.json())
    assert len(answer.content) < 20_000
    assert len(error["message"]) < 1500
    assert error["code"]
    if case.param is not None:
        assert (error["param"] or "").startswith(case.param), error


def test_there_are_enough_of_them() -> None:
    assert len(CASES) >= 300


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_bad_request_is_refused_by_name(client: httpx.Client, case: Case) -> None:
    check(ask(client, case), case)
    assert client.get("/health").status_code == 200


# What is no JSON


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/responses"])
@pytest.mark.parametrize("body", BODIES, ids=lambda body: repr(body[:30]))
def test_what_is_not_json_is_refused(client: httpx.Client, path: str, body: bytes) -> None:
    case = Case("malformed", "POST", path, body)
    check(ask(client, case), case)


def test_there_are_enough_bodies_that_are_not_json() -> None:
    assert len(set(BODIES)) >= 80


def test_of_a_key_that_is_there_twice_the_last_counts(client: httpx.Client) -> None:
    body = b'{"messages": 7, "messages": [{"role": "user", "content": "hi"}]}'
    case = Case("twice", "POST", "/v1/chat/completions", body)
    assert ask(client, case).status_code == 200


def test_what_may_be_deep_is_read(client: httpx.Client) -> None:
    deep = b"[" * 126 + b"]" * 126
    body = json.dumps(CHAT).encode()[:-1] + b', "unknown": ' + deep + b"}"
    case = Case("deep", "POST", "/v1/chat/completions", body)
    assert ask(client, case).status_code == 200


# The same over a socket


def test_a_bad_frame_is_refused_by_name_and_the_socket_goes_on(client: httpx.Client) -> None:
    address = str(client.base_url.join("/v1/responses")).replace("http", "ws", 1)
    with connect(address, max_size=None, open_timeout=20) as socket:
        for case in CASES:
            if (frame := _frame(case)) is not None:
                error = refused(socket, frame)
                assert (error["param"] or "").startswith(case.param or ""), case.name
        for body in BODIES:
            refused(socket, body)
        socket.send(json.dumps({"type": "response.create", "input": "hi"}))
        assert json.loads(socket.recv(20))["type"] == "response.created"


def refused(socket: ClientConnection, frame: str | bytes) -> Json:
    """The error that a frame meets."""
    socket.send(frame)
    told = json.loads(socket.recv(20))
    assert told["type"] == "error", frame[:200]
    assert 400 <= told["status"] < 500, frame[:200]
    return assert_envelope({"error": told["error"]})


def _frame(case: Case) -> str | None:
    """The frame that asks for what a case asks for, if there is one."""
    if case.path != "/v1/responses" or case.status == 415 or case.body is None:
        return None
    try:
        body = json.loads(case.body)
    except RecursionError:
        return None
    return json.dumps({"type": "response.create", **body}) if isinstance(body, dict) else None
