"""The dashboard's stream: what it tells, to whom, and what it costs when nobody looks."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from door import dashboard
from door.log import Story
from door.settings import Settings
from parts import Counts, Memory, Text
from server import create_app
from tests.oracle import assert_envelope
from tests.scripted import ScriptedEngine, says
from tests.serving import serving, wait_until

CHAT = {"messages": [{"role": "user", "content": "a secret"}]}
Events = Iterator[dict[str, Any]]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dashboard, "SAMPLE_S", 0.02)


@contextlib.contextmanager
def looking(url: str, **headers: str) -> Iterator[Events]:
    """A page that looks: its events."""
    with httpx.stream("GET", f"{url}/dashboard/events", headers=headers, timeout=20) as answer:
        assert answer.status_code == 200, answer.read()
        assert "access-control-allow-origin" not in answer.headers
        lines = answer.iter_lines()
        yield (json.loads(line[6:]) for line in lines if line.startswith("data: "))


def first(events: Events, kind: str) -> dict[str, Any]:
    return next(event for event in events if event["type"] == kind)


def chat(url: str, **headers: str) -> None:
    body = {**CHAT, "model": "any-name"}
    httpx.post(f"{url}/v1/chat/completions", json=body, headers={"user-agent": "me/1", **headers})


def test_a_page_is_told_what_was_and_what_is_new(scripted_url: str, engine: ScriptedEngine) -> None:
    engine.script = says(Text("an answer"))
    chat(scripted_url)
    with looking(scripted_url) as events:
        past = next(events)
        assert past["type"] == "past"
        (told,) = past["requests"]
        assert (
            told.items()
            >= {
                "endpoint": "/v1/chat/completions",
                "model": "any-name",
                "source": "me/1",
                "status": 200,
                "prompt_tokens": 7,
                "cached_tokens": 2,
                "completion_tokens": 5,
                "finish_reason": "stop",
            }.items()
        )
        assert told["first_token_s"] > 0 and told["tokens_per_s"] > 0
        httpx.get(f"{scripted_url}/v1/models")  # not for an answer, and it did not fail
        httpx.get(f"{scripted_url}/v1/nothing")
        chat(scripted_url)
        statuses = [first(events, "request")["request"]["status"] for _ in range(2)]
        assert statuses == [404, 200]
    assert "secret" not in json.dumps(past) and "an answer" not in json.dumps(past)


def test_samples_hold_the_engines_figures(scripted_url: str, engine: ScriptedEngine) -> None:
    engine.num_waiting = 3
    engine.memory = Memory(limit=1000, active=600, kv_caches=250, prefix_cache=50)
    engine.counts = Counts(steps=5, completion_tokens=40)
    with looking(scripted_url) as events:
        sample = first(events, "sample")["sample"]
    assert (sample["running"], sample["waiting"], sample["kv_use"]) == (0, 3, 0.25)
    assert sample["memory"]["limit"] == 1000 and sample["memory"]["weights"] == 0
    assert sample["counts"]["completion_tokens"] == 40


def test_pages_share_the_samples_and_nobody_samples_when_none_looks(
    engine: ScriptedEngine,
) -> None:
    app = create_app(Settings(no_conversation_logs=True), engine)
    board = app.state.board
    with serving(app) as url:
        assert board._sampling is None
        with looking(url) as one, looking(url) as other:
            sample = first(one, "sample")["sample"]
            assert sample in next(other)["samples"] or sample == first(other, "sample")["sample"]
            task = board._sampling
            assert task is not None
        wait_until(lambda: task.done() and not board._pages, "the last page is closed")
        assert board._sampling is None
        with looking(url) as again:
            assert next(again)["samples"]


def test_the_stream_ends_when_the_server_stops(scripted_url: str, engine: ScriptedEngine) -> None:
    with looking(scripted_url) as events:
        first(events, "sample")
        engine.phase = "draining"
        assert list(events)[-1]["sample"]["phase"] == "draining"


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://elsewhere"},
        {"origin": "null"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
    ],
)
def test_other_pages_get_nothing(scripted_url: str, headers: dict[str, str]) -> None:
    answer = httpx.get(f"{scripted_url}/dashboard/events", headers=headers)
    assert answer.status_code == 403
    assert assert_envelope(answer.json())["code"] == "forbidden_origin"
    assert "access-control-allow-origin" not in answer.headers


def test_our_own_page_gets_its_events(scripted_url: str) -> None:
    own = {"sec-fetch-site": "same-origin", "origin": scripted_url}
    with looking(scripted_url, **own) as events:
        assert next(events)["type"] == "past"


def test_the_key_is_asked_for(engine: ScriptedEngine) -> None:
    with serving(create_app(Settings(api_key="s3cret"), engine)) as url:
        assert httpx.get(f"{url}/dashboard").status_code == 200
        assert httpx.get(f"{url}/dashboard/events").status_code == 401
        with looking(url, authorization="Bearer s3cret") as events:
            assert next(events)["type"] == "past"


def test_only_the_last_requests_are_kept(engine: ScriptedEngine) -> None:
    app = create_app(Settings(no_conversation_logs=True), engine)
    for number in range(60):
        app.state.stories.end(Story(id=f"id-{number}", status=200, finish="stop"))
    kept = [request["id"] for request in app.state.board._requests]
    assert kept == [f"id-{number}" for number in range(10, 60)]
