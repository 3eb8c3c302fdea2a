"""Parts become events in OpenAI's order and shape, and the last event is the whole answer."""

from __future__ import annotations

import json
import math
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai import Omit
from openai.lib.streaming.responses._responses import ResponseStreamState

from parts import (
    ContextLengthExceeded,
    EngineFailed,
    Finish,
    Part,
    QueueFull,
    Reasoning,
    ServerError,
    Text,
    TokenLogprob,
    ToolArguments,
    ToolCall,
    Unavailable,
    Usage,
)
from protocol.items import normalised
from protocol.output_items import LEAST_LOGPROB
from protocol.response_events import ResponseStream
from protocol.responses import LOGPROBS, SEALED_REASONING, read
from protocol.sealed import unseal
from protocol.sse import DONE, named_event
from protocol.thinking import ReasoningFormat
from protocol.transcript import messages
from tests.protocol.openai_types import check_event, check_item, check_response
from tests.protocol.stories import check_stream, content_of, kinds

TOOLS: list[Any] = [
    {"type": "function", "name": "f"},
    {"type": "custom", "name": "sh"},
    {
        "type": "namespace",
        "name": "ns",
        "description": "",
        "tools": [{"type": "function", "name": "f"}],
    },
]
USAGE = Usage(10, 4, 6, 2)
STOP, LENGTH = Finish("stop", USAGE), Finish("length", USAGE)
CALLS = Finish("tool_calls", USAGE)
ANSWER: tuple[Part, ...] = (
    Reasoning("let me "),
    Reasoning("think"),
    Text("Hello"),
    Text(" there"),
    ToolCall("call_1", "f"),
    ToolArguments('{"a"'),
    ToolArguments(": 1}"),
    ToolCall("call_2", "sh"),
    ToolArguments('{"input": "ls'),
    ToolArguments('"}'),
    ToolCall("call_3", "ns__f"),
    ToolArguments("{}"),
    CALLS,
)


def stream_of(
    *, reasoning_format: ReasoningFormat = "separate", id: str | None = None, **body: Any
) -> ResponseStream:
    request = read({"input": "hi", "tools": TOOLS, **body}, model="demo")
    return ResponseStream(request, id=id, reasoning_format=reasoning_format, clock=lambda: 12.5)


def fed(stream: ResponseStream, *parts: Part) -> list[Any]:
    """Each part on its own, as a slow model gives them."""
    return [event for part in parts for event in stream.feed([part])]


def outputs(stream: ResponseStream) -> list[Any]:
    return list(stream.response["output"])


# Order


def test_the_order_of_a_whole_answer() -> None:
    events = fed(stream_of(), *ANSWER)
    check_stream(events)
    assert kinds(events) == [
        "created",
        "in_progress",
        "output_item.added",
        "reasoning_summary_part.added",
        "reasoning_summary_text.delta",
        "reasoning_summary_text.delta",
        "reasoning_summary_text.done",
        "reasoning_summary_part.done",
        "output_item.done",
        "output_item.added",
        "content_part.added",
        "output_text.delta",
        "output_text.delta",
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "output_item.added",
        "function_call_arguments.delta",
        "function_call_arguments.delta",
        "function_call_arguments.done",
        "output_item.done",
        "output_item.added",
        "custom_tool_call_input.delta",
        "custom_tool_call_input.done",
        "output_item.done",
        "output_item.added",
        "function_call_arguments.delta",
        "function_call_arguments.done",
        "output_item.done",
        "completed",
    ]


def test_the_whole_answer() -> None:
    stream = stream_of(id="resp_own")
    fed(stream, *ANSWER)
    response = stream.response
    assert (response["id"], response["status"]) == ("resp_own", "completed")
    assert (response["created_at"], response["completed_at"]) == (12, 12)
    reasoning, message, call, custom, spaced = response["output"]
    assert reasoning["summary"] == [{"type": "summary_text", "text": "let me think"}]
    assert reasoning["content"] == [{"type": "reasoning_text", "text": "let me think"}]
    assert message["content"][0]["text"] == "Hello there"
    assert (call["name"], call["call_id"], call["arguments"]) == ("f", "call_1", '{"a": 1}')
    assert (custom["type"], custom["name"], custom["input"]) == ("custom_tool_call", "sh", "ls")
    assert (spaced["name"], spaced["namespace"]) == ("f", "ns")
    assert response["usage"] == {
        "input_tokens": 10,
        "input_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 0},
        "output_tokens": 6,
        "output_tokens_details": {"reasoning_tokens": 2},
        "total_tokens": 16,
    }


def test_every_key_is_there_at_every_moment() -> None:
    keys = set(
        """id object created_at completed_at status background conversation error incomplete_details
        instructions max_output_tokens max_tool_calls metadata model output parallel_tool_calls
        previous_response_id prompt_cache_key reasoning safety_identifier service_tier store
        temperature text tool_choice tools top_logprobs top_p truncation presence_penalty
        frequency_penalty usage""".split()
    )
    stream = stream_of()
    assert set(stream.response) == keys
    for event in fed(stream, *ANSWER):
        assert set(event.get("response", keys)) == keys
    check_response(stream.response)


def test_a_response_that_waits_is_queued_first() -> None:
    stream = stream_of(background=True)
    events = [*stream.queued(), *stream.opening(), *stream.opening(), *fed(stream, *ANSWER)]
    check_stream(events)
    assert kinds(events)[:4] == ["created", "queued", "in_progress", "output_item.added"]
    statuses = [event["response"]["status"] for event in events[:3]]
    assert statuses == ["queued", "queued", "in_progress"]


def test_what_is_written_is_seen_before_the_end() -> None:
    stream = stream_of()
    fed(stream, *ANSWER[:3])
    assert not stream.is_over
    assert stream.response["usage"] is None
    assert [item["status"] for item in outputs(stream)] == ["completed", "in_progress"]
    assert outputs(stream)[1]["content"][0]["text"] == "Hello"
    check_response(stream.response)


def test_events_do_not_change_after_they_are_given() -> None:
    stream = stream_of()
    events = fed(stream, *ANSWER[:-1])
    before = json.dumps(events)
    fed(stream, CALLS)
    assert json.dumps(events) == before


# Ends


@pytest.mark.parametrize(
    ("parts", "statuses"),
    [
        ((Reasoning("hm"),), ["incomplete"]),
        ((Reasoning("hm"), Text("a")), ["completed", "incomplete"]),
        ((ToolCall("c", "f"), ToolArguments('{"a')), ["incomplete"]),
        ((ToolCall("c", "sh"), ToolArguments('{"inp')), ["incomplete"]),
        ((Text("a"), ToolCall("c", "f"), ToolArguments("{}")), ["completed", "completed"]),
        ((), ["incomplete"]),
        ((Text("a"), Reasoning("hm")), ["completed", "incomplete"]),
    ],
)
def test_a_cut_answer_is_incomplete_and_so_is_what_was_cut(
    parts: tuple[Part, ...], statuses: list[str]
) -> None:
    stream = stream_of()
    events = fed(stream, *parts, LENGTH)
    check_stream(events)
    assert kinds(events)[-1] == "incomplete"
    assert stream.response["incomplete_details"] == {"reason": "max_output_tokens"}
    assert stream.response["completed_at"] is None
    assert [item["status"] for item in outputs(stream)] == statuses


@pytest.mark.parametrize("parts", [(), (Reasoning("hm"),)])
def test_an_answer_without_words_has_an_empty_message(parts: tuple[Part, ...]) -> None:
    stream = stream_of()
    check_stream(fed(stream, *parts, STOP))
    assert outputs(stream)[-1]["content"][0]["text"] == ""


@pytest.mark.parametrize(
    ("error", "kind", "code"),
    [
        (EngineFailed("broken"), "server_error", "server_error"),
        (Unavailable("going down"), "server_error", "server_error"),
        (QueueFull("busy"), "rate_limit_error", "rate_limit_exceeded"),
        (ContextLengthExceeded("long", param="input"), "invalid_request_error", "invalid_prompt"),
    ],
)
def test_a_failure_has_both_forms_and_keeps_what_was_written(
    error: ServerError, kind: str, code: str
) -> None:
    stream = stream_of()
    events = [*fed(stream, Text("Hel")), *stream.fail(error)]
    check_stream(events)
    assert kinds(events)[-2:] == ["error", "failed"]
    said = events[-2]
    flat = {key: said[key] for key in ("code", "message", "param")}
    assert said["error"] == {"type": kind, **flat}
    assert flat == {"code": error.code, "message": error.message, "param": error.param}
    assert stream.response["error"] == {"code": code, "message": error.message}
    assert outputs(stream)[0]["status"] == "incomplete"
    assert stream.is_over and stream.fail(error) == stream.cancel() == []


def test_a_failure_before_the_first_part_still_opens_the_stream() -> None:
    events = stream_of().fail(EngineFailed("broken"))
    check_stream(events)
    assert kinds(events) == ["created", "in_progress", "error", "failed"]


def test_an_answer_that_is_given_up_is_cancelled() -> None:
    stream = stream_of()
    events = [*fed(stream, Text("Hel")), *stream.cancel()]
    check_stream(events)
    assert stream.response["status"] == "cancelled"
    assert stream.response["incomplete_details"] is None
    assert stream.feed([Text("lo"), STOP]) == []


# Thinking


@pytest.mark.parametrize("stored", [True, False])
def test_sealed_reasoning_is_accepted_back(stored: bool) -> None:
    stream = stream_of(include=[SEALED_REASONING], store=stored)
    fed(stream, Reasoning("hm"), Text("a"), STOP)
    reasoning, message = outputs(stream)
    assert unseal("reasoning", reasoning["encrypted_content"]) == "hm"
    carried = {**reasoning, "content": None, "summary": []}
    [turn] = messages(normalised([carried, message]))
    assert (turn.reasoning, turn.content) == ("hm", "a")


def test_reasoning_is_not_sealed_unasked() -> None:
    stream = stream_of()
    fed(stream, Reasoning("hm"), STOP)
    assert outputs(stream)[0]["encrypted_content"] is None


@pytest.mark.parametrize(
    ("parts", "text"),
    [
        ((Reasoning("a"), Reasoning("b"), Text("c")), "<think>\nab\n</think>\n\nc"),
        ((Reasoning("a"), ToolCall("c", "f")), "<think>\na\n</think>\n\n"),
        ((Text("a"), Reasoning("b"), Text("c")), "a<think>\nb\n</think>\n\nc"),
    ],
)
def test_raw_reasoning_is_in_the_text(parts: tuple[Part, ...], text: str) -> None:
    stream = stream_of(reasoning_format="raw")
    check_stream(fed(stream, *parts, STOP))
    assert outputs(stream)[0]["content"][0]["text"] == text


def test_hidden_reasoning_is_nowhere() -> None:
    stream = stream_of(reasoning_format="hidden")
    events = fed(stream, *ANSWER)
    check_stream(events)
    assert "let me" not in json.dumps(events)
    assert outputs(stream)[0]["type"] == "message"


# Log-probabilities


def test_logprobs_are_in_deltas_done_and_part() -> None:
    other = TokenLogprob("Ho", b"Ho", -math.inf)
    hello = Text("Hé", (TokenLogprob("Hé", "Hé".encode(), -0.5, (other,)),))
    stream = stream_of(include=[LOGPROBS], top_logprobs=1)
    events = fed(stream, hello, hello, STOP)
    check_stream(events)
    shown = {
        "token": "Hé",
        "bytes": [72, 195, 169],
        "logprob": -0.5,
        "top_logprobs": [{"token": "Ho", "bytes": [72, 111], "logprob": LEAST_LOGPROB}],
    }
    by_kind = {event["type"]: event for event in events}
    assert by_kind["response.output_text.delta"]["logprobs"] == [shown]
    assert by_kind["response.output_text.done"]["logprobs"] == [shown, shown]
    assert outputs(stream)[0]["content"][0]["logprobs"] == [shown, shown]


def test_logprobs_are_not_given_unasked() -> None:
    stream = stream_of()
    fed(stream, Text("a", (TokenLogprob("a", b"a", -0.5),)), STOP)
    assert outputs(stream)[0]["content"][0]["logprobs"] == []


# Any answer


def test_every_part_is_handled() -> None:
    samples: dict[type, Part] = {type(part): part for part in ANSWER}
    assert set(samples) == set(get_args(Part))
    for part in samples.values():
        opening = [ToolCall("c", "f")] if isinstance(part, ToolArguments) else []
        stream = stream_of()
        num_before = len(fed(stream, *opening))
        assert len(fed(stream, part)) > (0 if opening else num_before)


words = st.text(max_size=4)
calls = st.builds(
    lambda number, name, texts: [ToolCall(f"call_{number}", name), *map(ToolArguments, texts)],
    st.uuids(),
    st.sampled_from(["f", "sh", "ns__f", "made_up"]),
    st.lists(words | st.sampled_from(['{"input": "', 'ls"}']), max_size=3),
)
stretches = st.lists(st.builds(Reasoning, words) | st.builds(Text, words), max_size=4) | calls
bodies = st.lists(stretches, max_size=5).map(lambda lists: [part for one in lists for part in one])
ends = st.sampled_from([STOP, LENGTH, CALLS])
formats = st.sampled_from(get_args(ReasoningFormat))


@given(bodies, ends | st.none(), formats)
def test_any_answer_is_a_sound_stream(
    parts: list[Part], end: Finish | None, reasoning_format: ReasoningFormat
) -> None:
    stream = stream_of(reasoning_format=reasoning_format)
    events = fed(stream, *parts)
    events += stream.feed([end]) if end else stream.fail(EngineFailed("broken"))
    check_stream(events)
    assert stream.response == events[-1]["response"]
    for item in outputs(stream):
        check_item(item)
        # Part of a surrogate pair would raise here.
        json.dumps(item).encode()


@given(st.data(), bodies, ends, formats)
def test_any_split_gives_the_same_answer(
    data: st.DataObject, parts: list[Part], end: Finish, reasoning_format: ReasoningFormat
) -> None:
    whole = stream_of(reasoning_format=reasoning_format)
    whole.feed([*parts, end])
    split = stream_of(reasoning_format=reasoning_format)
    for part in parts:
        pieces = _split(data, part)
        if data.draw(st.booleans()):
            split.feed(pieces)
        else:
            fed(split, *pieces)
    split.feed([end])
    assert _without_ids(split.response) == _without_ids(whole.response)


def _split(data: st.DataObject, part: Part) -> list[Part]:
    match part:
        case Reasoning(text) | Text(text) | ToolArguments(text):
            at = data.draw(st.integers(0, len(text)))
            return [type(part)(text[:at]), type(part)(text[at:])]
        case _:
            return [part]


def _without_ids(response: Any) -> Any:
    output = [item | {"id": None} for item in response["output"]]
    return response | {"id": None, "output": output}


@given(bodies)
def test_openais_own_accumulator_agrees(parts: list[Part]) -> None:
    state: Any = ResponseStreamState(input_tools=Omit(), text_format=Omit())
    stream = stream_of()
    for event in fed(stream, *parts, STOP):
        told = state.handle_event(check_event(event))
    final = told[-1].response
    assert [item.id for item in final.output] == [item["id"] for item in outputs(stream)]
    texts = [content_of(item) for item in outputs(stream) if item["type"] == "message"]
    assert final.output_text == "".join(texts)


def test_a_turn_goes_back_into_the_prompt_as_the_model_gave_it() -> None:
    stream = stream_of()
    fed(stream, *ANSWER)
    [turn] = messages(normalised(outputs(stream)))
    assert (turn.reasoning, turn.content) == ("let me think", "Hello there")
    assert [(c.id, c.name, json.loads(c.arguments)) for c in turn.tool_calls] == [
        ("call_1", "f", {"a": 1}),
        ("call_2", "sh", {"input": "ls"}),
        ("call_3", "ns__f", {}),
    ]
    assert normalised(outputs(stream)) == outputs(stream)


# Bytes


def test_an_event_is_one_write_that_no_client_breaks_in_two() -> None:
    event = {"type": "response.output_text.delta", "delta": "a\u2028\n\x85é"}
    written = named_event(event)
    assert written.startswith(b"event: response.output_text.delta\ndata: {")
    assert written.endswith(b"}\n\n")
    assert len(written.decode().splitlines()) == 3
    assert json.loads(written.split(b"data: ")[1]) == event
    assert DONE == b"data: [DONE]\n\n"
