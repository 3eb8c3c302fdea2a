"""Responses on the wire, with an engine that says what the test tells it to: made and streamed."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from door.settings import Settings
from parts import (
    ContextLengthExceeded,
    EngineFailed,
    Finish,
    Message,
    QueueFull,
    Reasoning,
    Text,
    TokenLogprob,
    ToolArguments,
    ToolCall,
    Usage,
)
from protocol.conversations import Store
from server import create_app
from tests.door.asking import (
    WEATHER,
    Json,
    create,
    get,
    kinds,
    post,
    refusal,
    response_of,
    stream,
    text_of,
    told,
)
from tests.oracle import assert_envelope
from tests.scripted import ScriptedEngine, says
from tests.serving import serving, wait_until

TALKATIVE = says(
    Reasoning("I should"),
    Reasoning(" look."),
    Text("Let me "),
    Text("look."),
    ToolCall("call_1", "get_weather"),
    ToolArguments('{"city":'),
    ToolArguments(' "Paris"}'),
    ToolCall("call_2", "grep"),
    ToolArguments('{"input": "x+"}'),
    reason="tool_calls",
)
GREP = {"type": "custom", "name": "grep"}
BROKEN = [Text("Hel"), EngineFailed("It broke.")]


def without_ids(value: Any) -> Any:
    """What two answers to the same request have in common."""
    if isinstance(value, dict):
        names = ("id", "created_at", "completed_at")
        return {k: without_ids(v) for k, v in value.items() if k not in names}
    return [without_ids(v) for v in value] if isinstance(value, list) else value


# The answer


def test_an_answer_says_everything_about_itself(scripted_url: str) -> None:
    response = create(scripted_url, metadata={"k": "v"}, temperature=0.5, user="me")
    assert text_of(response) == "Hello"
    assert response["id"].startswith("resp_")
    assert len(response["id"]) == len("resp_") + 32
    said = {
        "object": "response",
        "status": "completed",
        "background": False,
        "conversation": None,
        "error": None,
        "incomplete_details": None,
        "instructions": None,
        "max_output_tokens": 4096,
        "max_tool_calls": None,
        "metadata": {"k": "v"},
        "model": "demo",
        "parallel_tool_calls": True,
        "previous_response_id": None,
        "prompt_cache_key": None,
        "reasoning": {"effort": None, "summary": None},
        "safety_identifier": None,
        "service_tier": "default",
        "store": True,
        "temperature": 0.5,
        "text": {"format": {"type": "text"}},
        "tool_choice": "auto",
        "tools": [],
        "top_logprobs": 0,
        "top_p": 0.95,
        "truncation": "disabled",
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "user": "me",
    }
    assert {key: response[key] for key in said} == said
    assert set(response) - set(said) == {"id", "created_at", "completed_at", "output", "usage"}
    assert response["usage"] == {
        "input_tokens": 7,
        "input_tokens_details": {"cached_tokens": 2, "cache_write_tokens": 0},
        "output_tokens": 5,
        "output_tokens_details": {"reasoning_tokens": 1},
        "total_tokens": 12,
    }


def test_it_was_completed_when_it_was_completed(engine: ScriptedEngine) -> None:
    began = int(time.time())
    store = Store(now=lambda: 1000.0)
    with serving(create_app(Settings(), engine, store)) as url:
        response = create(url)
    assert response["created_at"] == 1000
    assert response["completed_at"] >= began


def test_the_model_is_called_what_the_client_calls_it(scripted_url: str) -> None:
    assert create(scripted_url, model="gpt-4o")["model"] == "gpt-4o"


# The stream


def test_events_come_in_openais_order(scripted_url: str, engine: ScriptedEngine) -> None:
    engine.script = TALKATIVE
    events = stream(scripted_url, tools=[WEATHER, GREP])
    assert kinds(events) == [
        *("created", "in_progress"),
        *("output_item.added", "reasoning_summary_part.added"),
        *("reasoning_summary_text.delta", "reasoning_summary_text.delta"),
        *("reasoning_summary_text.done", "reasoning_summary_part.done", "output_item.done"),
        *("output_item.added", "content_part.added", "output_text.delta", "output_text.delta"),
        *("output_text.done", "content_part.done", "output_item.done"),
        *("output_item.added", "function_call_arguments.delta", "function_call_arguments.delta"),
        *("function_call_arguments.done", "output_item.done"),
        *("output_item.added", "custom_tool_call_input.delta"),
        *("custom_tool_call_input.done", "output_item.done"),
        "completed",
    ]
    assert events[0]["sequence_number"] == 0
    done = [event["item"] for event in events if event["type"] == "response.output_item.done"]
    assert done == events[-1]["response"]["output"]
    assert [item["type"] for item in done] == [
        *("reasoning", "message", "function_call", "custom_tool_call")
    ]
    assert done[2]["arguments"] == '{"city": "Paris"}'
    assert done[3]["input"] == "x+"
    added = [event for event in events if event["type"] == "response.output_item.added"]
    assert [event["output_index"] for event in added] == [0, 1, 2, 3]
    assert [event["item"]["id"] for event in added] == [item["id"] for item in done]
    assert {event["response"]["id"] for event in events if "response" in event} == {
        events[0]["response"]["id"]
    }


def test_the_last_event_is_what_is_kept_and_what_a_plain_answer_says(
    scripted_url: str, engine: ScriptedEngine
) -> None:
    engine.script = TALKATIVE
    last = stream(scripted_url, tools=[WEATHER, GREP])[-1]["response"]
    assert response_of(get(scripted_url, last["id"])) == last
    assert without_ids(create(scripted_url, tools=[WEATHER, GREP])) == without_ids(last)


def raw_chunks(url: str, body: Json) -> list[bytes]:
    """The pieces in which a server writes an answer, as HTTP's chunks keep them apart."""
    address = urlsplit(url)
    content = json.dumps(body).encode()
    head = (
        "POST /v1/responses HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
    )
    with socket.create_connection((address.hostname, address.port), timeout=20) as client:
        client.sendall(head.encode() + content)
        answer = b""
        while piece := client.recv(65536):
            answer += piece
    rest, chunks = answer.partition(b"\r\n\r\n")[2], []
    while rest:
        size, _, rest = rest.partition(b"\r\n")
        chunks.append(rest[: int(size, 16)])
        rest = rest[int(size, 16) + 2 :]
    return chunks[:-1]


def test_each_event_is_one_write_and_named_like_its_type(
    scripted_url: str, engine: ScriptedEngine
) -> None:
    engine.script = says(Text("a\r\nb\u2028c"), Text(" d"))
    *events, done = raw_chunks(scripted_url, {"input": "hi", "stream": True})
    assert done == b"data: [DONE]\n\n"
    for event in events:
        name, data, *rest = event.split(b"\n")
        assert rest == [b"", b""]
        assert b"\r" not in event
        found = json.loads(data.removeprefix(b"data: "))
        assert name == b"event: " + found["type"].encode()
    assert found["response"]["output"][0]["content"][0]["text"] == "a\r\nb\u2028c d"


def test_a_response_that_has_to_wait_says_so(scripted_url: str, engine: ScriptedEngine) -> None:
    engine.num_waiting = 3
    events = stream(scripted_url)
    assert kinds(events)[:3] == ["created", "queued", "in_progress"]
    assert [event["response"]["status"] for event in events[:3]] == [
        *("queued", "queued", "in_progress")
    ]
    assert create(scripted_url, background=True)["status"] == "queued"


def test_a_cut_answer_is_incomplete_and_says_why(scripted_url: str, engine: ScriptedEngine) -> None:
    engine.script = says(Text("Once upon"), reason="length")
    last = stream(scripted_url, max_output_tokens=2)[-1]
    assert last["type"] == "response.incomplete"
    plain = create(scripted_url, max_output_tokens=2)
    for response in (last["response"], plain, get(scripted_url, plain["id"]).json()):
        assert response["status"] == "incomplete"
        assert response["incomplete_details"] == {"reason": "max_output_tokens"}
        assert response["output"][-1]["status"] == "incomplete"
        assert response["usage"]["output_tokens"] == 5
        assert response["completed_at"] is None
    assert engine.params[0].max_tokens == 2


def test_logprobs_and_sealed_thoughts_come_when_they_are_included(
    scripted_url: str, engine: ScriptedEngine
) -> None:
    top = TokenLogprob("é", b"\xc3\xa9", -0.1)
    token = TokenLogprob("é", b"\xc3\xa9", -0.1, (top,))
    engine.script = says(Reasoning("hm"), Text("é", (token,)))
    include = ["message.output_text.logprobs", "reasoning.encrypted_content"]
    thought, message = create(scripted_url, include=include, top_logprobs=1)["output"]
    assert message["content"][0]["logprobs"][0]["top_logprobs"][0]["token"] == "é"
    assert thought["encrypted_content"]
    sealed = {**thought, "content": [], "summary": []}
    create(scripted_url, [sealed, message, {"role": "user", "content": "so?"}])
    assert engine.prompts[-1].messages[0] == Message("assistant", "é", "hm")
    thought, message = create(scripted_url)["output"]
    assert (thought["encrypted_content"], message["content"][0]["logprobs"]) == (None, [])


# Failures


def test_a_failure_in_mid_stream_is_told_then_done(
    scripted_url: str, engine: ScriptedEngine
) -> None:
    engine.script = lambda prompt, params: BROKEN
    *_, error, failed = stream(scripted_url)
    assert (error["type"], failed["type"]) == ("error", "response.failed")
    assert (error["code"], error["message"]) == ("server_error", "It broke.")
    assert assert_envelope({"error": error["error"]})["message"] == "It broke."
    response = failed["response"]
    assert response["error"] == {"code": "server_error", "message": "It broke."}
    assert text_of(response) == "Hel"
    assert response_of(get(scripted_url, response["id"])) == response


def test_a_failure_of_a_plain_answer_is_a_500_that_is_not_tried_again(
    scripted_url: str, engine: ScriptedEngine
) -> None:
    engine.script = lambda prompt, params: BROKEN
    answer = post(scripted_url, input="hi")
    assert refusal(answer) == (500, "server_error", None)
    assert answer.headers["x-should-retry"] == "false"


@pytest.mark.parametrize(
    "steps",
    [
        [Text("Hel")],  # it ends without a word of why
        [ToolArguments("{}"), Finish("stop", Usage())],  # arguments of no call
    ],
)
def test_an_engine_that_breaks_its_word_fails_the_response_and_nobody_waits(
    scripted_url: str, engine: ScriptedEngine, steps: list[Any]
) -> None:
    engine.script = lambda prompt, params: steps
    assert kinds(stream(scripted_url))[-2:] == ["error", "failed"]
    assert refusal(post(scripted_url, input="hi"))[0] == 500


@pytest.mark.parametrize("is_stream", [True, False])
def test_a_refusal_comes_before_anything_is_made(
    scripted_url: str, engine: ScriptedEngine, is_stream: bool
) -> None:
    engine.refusal = QueueFull("Too many.")
    answer = post(scripted_url, input="hi", stream=is_stream)
    assert refusal(answer)[:2] == (429, "queue_full")
    assert answer.headers["retry-after"].isdigit()
    engine.refusal = ContextLengthExceeded("Too long.", param="messages")
    answer = post(scripted_url, input="hi", stream=is_stream)
    assert refusal(answer) == (400, "context_length_exceeded", "input")


# Clients that leave


@pytest.mark.parametrize("is_stream", [True, False])
def test_a_client_that_leaves_gives_its_answer_up(
    scripted_url: str, engine: ScriptedEngine, is_stream: bool
) -> None:
    never = asyncio.Event()
    engine.script = lambda prompt, params: [Text("a"), never]
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(
            f"{scripted_url}/v1/responses",
            json={"input": "hi", "stream": is_stream},
            timeout=httpx.Timeout(10, read=0.3),
        )
    wait_until(lambda: engine.answers[0].is_cancelled, "the answer is given up")


def test_a_background_response_outlives_its_client(
    scripted_url: str, engine: ScriptedEngine, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "mlx_server")
    gate = asyncio.Event()
    engine.script = says(Text("a"), gate, Text("b"))
    response = {}
    with httpx.stream(
        "POST",
        f"{scripted_url}/v1/responses",
        json={"input": "hi", "stream": True, "background": True},
    ) as answer:
        for line in answer.iter_lines():
            if line.startswith("data: "):
                response = json.loads(line.removeprefix("data: ")).get("response") or response
            if "delta" in line:
                break
    wait_until(lambda: "200 POST /v1/responses" in caplog.text, "the client's going is noticed")
    engine.go_on(gate)
    kept = wait_until(lambda: finished(scripted_url, response["id"]), "the response is made")
    assert (kept["status"], kept["background"], text_of(kept)) == ("completed", True, "ab")
    assert not engine.answers[0].is_cancelled


def finished(url: str, id: str) -> Json | None:
    response = response_of(get(url, id))
    return response if response["status"] not in ("queued", "in_progress") else None


def test_a_background_response_is_read_later(scripted_url: str, engine: ScriptedEngine) -> None:
    gate = asyncio.Event()
    engine.script = says(Text("a"), gate, Text("b"))
    response = create(scripted_url, background=True)
    assert (response["status"], response["output"]) == ("in_progress", [])
    engine.go_on(gate)
    kept = wait_until(lambda: finished(scripted_url, response["id"]), "the response is made")
    assert text_of(kept) == "ab"
    events = told(get(scripted_url, response["id"], stream="true").text)
    assert events[-1]["response"] == kept
