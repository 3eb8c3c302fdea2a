"""Liveness on the wire: headers and the first event at once, then how far the prompt is."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator

import httpx
import openai
import pytest

from parts import Progress, Text, Unavailable
from tests.door.asking import Json, kinds
from tests.scripted import ScriptedEngine, says
from tests.serving import wait_until

FIRST, SECOND = Progress(2, 0, 500, stage="waiting"), Progress(0, 340, 500, 100)


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("door.progress.EVERY_S", 0.01)


@pytest.fixture
def begin(engine: ScriptedEngine) -> asyncio.Event:
    """The answer waits for this, and is two places from the front."""
    event = asyncio.Event()
    engine.script = says(event, Text("Hello"), Text(" you"))
    engine.first_progress = FIRST
    return event


def told(lines: Iterator[str]) -> Iterator[Json]:
    for line in lines:
        if line.startswith("data: {"):
            yield json.loads(line.removeprefix("data: "))


def test_a_response_says_how_far_it_is_until_it_begins(
    scripted_url: str, engine: ScriptedEngine, begin: asyncio.Event
) -> None:
    body = {"input": "hi", "stream": True, "return_progress": True}
    with httpx.stream("POST", f"{scripted_url}/v1/responses", json=body) as answer:
        events = told(answer.iter_lines())
        seen = [next(events), next(events), next(events)]
        engine.answers[0].progress = SECOND
        seen.append(next(events))
        engine.go_on(begin)
        seen += events
    assert kinds(seen)[:6] == [
        "created",
        "queued",
        "progress",
        "progress",
        "in_progress",
        "output_item.added",
    ]
    assert "progress" not in kinds(seen)[4:]
    assert [event["sequence_number"] for event in seen] == list(range(len(seen)))
    keys = ("stage", "num_ahead", "processed", "total", "cached")
    assert [[event[key] for key in keys] for event in seen[2:4]] == [
        ["waiting", 2, 0, 500, 0],
        ["reading", 0, 340, 500, 100],
    ]
    assert seen[-1]["response"]["output"][0]["content"][0]["text"] == "Hello you"


def test_a_chat_says_it_as_llama_cpp_does_and_the_sdk_reads_on(
    scripted_url: str, engine: ScriptedEngine, begin: asyncio.Event
) -> None:
    with openai.OpenAI(base_url=f"{scripted_url}/v1", api_key="none") as client:
        stream = client.chat.completions.create(
            model="m",
            messages=[{"role": "user", "content": "hi"}],
            stream=True,
            extra_body={"return_progress": True},
        )
        opening, waiting = next(stream), next(stream)
        first = opening.choices[0].delta
        assert (first.role, first.content) == ("assistant", "")
        engine.answers[0].progress = SECOND
        reading = next(stream)
        engine.go_on(begin)
        text = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
    assert text == "Hello you"
    shown = [chunk.model_extra["prompt_progress"] for chunk in (waiting, reading)]
    assert [each.pop("time_ms") >= 0 for each in shown] == [True, True]
    assert shown == [
        {"total": 500, "cache": 0, "processed": 0, "stage": "waiting", "num_ahead": 2},
        {"total": 500, "cache": 100, "processed": 340, "stage": "reading", "num_ahead": 0},
    ]


@pytest.mark.parametrize("path", ["chat/completions", "responses"])
def test_without_being_asked_the_head_comes_at_once_and_no_progress(
    scripted_url: str, engine: ScriptedEngine, begin: asyncio.Event, path: str
) -> None:
    body = {"input": "hi", "messages": [{"role": "user", "content": "hi"}], "stream": True}
    with httpx.stream("POST", f"{scripted_url}/v1/{path}", json=body) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        events = told(answer.iter_lines())
        first = next(events)
        engine.go_on(begin)
        rest = list(events)
    assert first.get("type") == "response.created" or first["choices"][0]["delta"]["role"]
    assert "processed" not in json.dumps([first, *rest])


@pytest.mark.parametrize("path", ["chat/completions", "responses"])
def test_an_answer_that_fails_before_its_first_word_says_so(
    scripted_url: str, engine: ScriptedEngine, path: str
) -> None:
    engine.script = says(Unavailable("The engine is gone."))
    body = {"input": "hi", "messages": [{"role": "user", "content": "hi"}], "stream": True}
    answer = httpx.post(f"{scripted_url}/v1/{path}", json={**body, "return_progress": True})
    assert "The engine is gone." in answer.text and answer.text.endswith("data: [DONE]\n\n")


@pytest.mark.parametrize("path", ["chat/completions", "responses"])
def test_a_client_who_leaves_while_waiting_frees_its_place(
    scripted_url: str, engine: ScriptedEngine, begin: asyncio.Event, path: str
) -> None:
    body = {"input": "hi", "messages": [{"role": "user", "content": "hi"}], "stream": True}
    body["return_progress"] = True
    with httpx.stream("POST", f"{scripted_url}/v1/{path}", json=body) as answer:
        next(answer.iter_lines())
    wait_until(lambda: engine.answers[0].is_cancelled, "the answer is given up")


def test_a_whole_answer_has_nothing_to_report(scripted_url: str) -> None:
    body = {"messages": [{"role": "user", "content": "hi"}], "return_progress": True}
    answer = httpx.post(f"{scripted_url}/v1/chat/completions", json=body)
    assert answer.status_code == 200 and "progress" not in answer.text
