"""Answers of a form, and calls that must come: the OpenAI SDK's ways to ask, on the demo model.

The model is a toy that never saw these schemas: where the answer fits, the grammar made it fit.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Any, Literal

import httpx
import openai
import pytest
from openai.lib import pydantic_function_tool
from openai.types.chat import ChatCompletion
from openai.types.responses import Response, ResponseFunctionToolCall
from pydantic import BaseModel, ConfigDict, Field

from tests.oracle import assert_envelope, validated
from tests.protocol.openai_types import check_event, check_response
from tests.serving import Running

PROMPT = "What is the weather in Kelmora?"
ASKED: dict[str, Any] = {
    "model": "demo",
    "messages": [{"role": "user", "content": PROMPT}],
    "reasoning_effort": "none",
    "temperature": 0,
    "max_tokens": 300,
}
"""A chat. Without thinking, because the toy's thoughts may wander to the end of its context."""
INPUT: dict[str, Any] = {
    "model": "demo",
    "input": PROMPT,
    "reasoning": {"effort": "none"},
    "temperature": 0,
    "max_output_tokens": 300,
}
"""The same as a response."""

Short = Annotated[str, Field(max_length=12)]


class City(BaseModel):
    """A city."""

    name: Short
    kind: Literal["town", "capital"]
    inhabitants: Annotated[int, Field(ge=0, le=9_999_999)]


class Trip(BaseModel):
    """A trip, with what Pydantic makes of nesting, options and enumerations."""

    cities: Annotated[list[City], Field(max_length=2)]
    mood: Literal["good", "bad"]
    note: Short | None


class GetWeather(BaseModel):
    """Get the weather of a city."""

    model_config = ConfigDict(extra="forbid")
    city: Short
    unit: Literal["celsius", "kelvin"]


class GetTime(BaseModel):
    """Get the time."""

    model_config = ConfigDict(extra="forbid")
    zone: Literal["utc", "local"]


class get_weather(GetWeather):
    """The name is one that the toy knows; the unit is new to it."""


def parameters(kind: type[BaseModel]) -> dict[str, Any]:
    return kind.model_json_schema()


def named(kind: type[BaseModel]) -> dict[str, Any]:
    return {"name": kind.__name__, "schema": parameters(kind)}


def chat_tool(kind: type[BaseModel], *, strict: bool = False) -> dict[str, Any]:
    function = {"name": kind.__name__, "parameters": parameters(kind), "strict": strict}
    return {"type": "function", "function": function}


def response_tool(kind: type[BaseModel], *, strict: bool = False) -> dict[str, Any]:
    return {
        "type": "function",
        "name": kind.__name__,
        "parameters": parameters(kind),
        "strict": strict,
    }


CHAT_TOOLS = [chat_tool(GetTime), chat_tool(GetWeather)]
RESPONSE_TOOLS = [response_tool(GetTime), response_tool(GetWeather)]
KINDS: dict[str, type[BaseModel]] = {
    kind.__name__: kind for kind in (GetTime, GetWeather, get_weather)
}


@pytest.fixture
def client(demo_server: Running) -> Iterator[openai.OpenAI]:
    url = f"{demo_server.base_url}/v1"
    with openai.OpenAI(base_url=url, api_key="none", max_retries=0) as client:
        yield client


def called(client: openai.OpenAI, is_stream: bool, **options: Any) -> list[tuple[str, str]]:
    """Names and arguments of the calls that a chat comes to, however it is asked."""
    if is_stream:
        with client.chat.completions.stream(**{**ASKED, **options}) as events:
            answer: Any = events.get_final_completion()
    else:
        answer = client.chat.completions.create(**{**ASKED, **options})
        validated(ChatCompletion, answer.model_dump(exclude_unset=True))
    [choice] = answer.choices
    assert choice.finish_reason == "tool_calls"
    calls = [(c.function.name, c.function.arguments) for c in choice.message.tool_calls or ()]
    for name, arguments in calls:
        KINDS[name].model_validate_json(arguments)
    return calls


def response_called(client: openai.OpenAI, is_stream: bool, **options: Any) -> list[str]:
    """Names of the calls that a response comes to."""
    if is_stream:
        with client.responses.stream(**{**INPUT, **options}) as events:
            for event in events:
                assert event.type != "response.output_text.delta"
            answer: Any = events.get_final_response()
    else:
        answer = client.responses.create(**{**INPUT, **options})
        check_response(answer.model_dump(exclude_unset=True))
    calls = [item for item in answer.output if isinstance(item, ResponseFunctionToolCall)]
    for call in calls:
        KINDS[call.name].model_validate_json(call.arguments)
    return [call.name for call in calls]


STREAMED = pytest.mark.parametrize("is_stream", [False, True], ids=["whole", "streamed"])


# Answers of a form


@pytest.mark.parametrize("kind", [City, Trip])
def test_parse_gives_an_object_of_the_class(client: openai.OpenAI, kind: type[BaseModel]) -> None:
    answer = client.chat.completions.parse(**ASKED, response_format=kind)
    assert isinstance(answer.choices[0].message.parsed, kind)
    assert answer.choices[0].finish_reason == "stop"
    response = client.responses.parse(**INPUT, text_format=kind)
    assert isinstance(response.output_parsed, kind)
    assert response.status == "completed"


def test_a_stream_ends_with_the_object(client: openai.OpenAI) -> None:
    with client.chat.completions.stream(**ASKED, response_format=Trip) as events:
        [done] = [event for event in events if event.type == "content.done"]
        final = events.get_final_completion().choices[0].message
    assert isinstance(done.parsed, Trip)
    assert done.parsed == final.parsed == Trip.model_validate_json(final.content or "")


def test_a_streamed_response_ends_with_the_object(client: openai.OpenAI) -> None:
    with client.responses.stream(**INPUT, text_format=Trip) as events:
        deltas = "".join(e.delta for e in events if e.type == "response.output_text.delta")
        final = events.get_final_response()
    assert final.output_parsed == Trip.model_validate_json(deltas)


def test_the_model_may_think_before_the_object(client: openai.OpenAI) -> None:
    thinking: dict[str, Any] = {**ASKED, "reasoning_effort": "low"}
    answer = client.chat.completions.parse(
        **thinking, response_format=City, extra_body={"max_reasoning_tokens": 20}
    )
    [choice] = answer.choices
    assert isinstance(choice.message.parsed, City)
    assert getattr(choice.message, "reasoning_content", "")
    assert answer.usage and answer.usage.completion_tokens_details
    assert 0 < (answer.usage.completion_tokens_details.reasoning_tokens or 0) <= 22


def test_any_object_is_an_object(client: openai.OpenAI) -> None:
    capped: dict[str, Any] = {**ASKED, "seed": 1, "temperature": 1, "max_tokens": 60}
    answer = client.chat.completions.create(**capped, n=4, response_format={"type": "json_object"})
    for choice in answer.choices:
        text = choice.message.content or ""
        assert text.startswith("{")
        if choice.finish_reason == "stop":
            assert isinstance(json.loads(text), dict)


def parsed(client: openai.OpenAI, is_stream: bool, **options: Any) -> Any:
    """The trip that a chat comes to, however it is asked."""
    if not is_stream:
        return client.chat.completions.parse(**options, response_format=Trip)
    with client.chat.completions.stream(**options, response_format=Trip) as events:
        return events.get_final_completion()


@STREAMED
def test_json_that_is_cut_says_so(client: openai.OpenAI, is_stream: bool) -> None:
    cut: dict[str, Any] = {**ASKED, "max_tokens": 5}
    with pytest.raises(openai.LengthFinishReasonError):
        parsed(client, is_stream, **cut)
    form = {"type": "json_schema", "name": "Trip", "schema": parameters(Trip)}
    short: dict[str, Any] = {**INPUT, "max_output_tokens": 5, "text": {"format": form}}
    if is_stream:
        event = list(client.responses.create(**short, stream=True))[-1]
        assert event.type == "response.incomplete"
        response: Response = event.response
    else:
        response = client.responses.create(**short)
    assert response.status == "incomplete"
    assert response.incomplete_details
    assert response.incomplete_details.reason == "max_output_tokens"


def test_constrained_and_free_answers_share_a_batch(client: openai.OpenAI) -> None:
    free = {**ASKED, "max_tokens": 40}
    forms: list[dict[str, Any]] = [
        free,
        {**ASKED, "response_format": {"type": "json_schema", "json_schema": named(City)}},
        {**ASKED, "tools": CHAT_TOOLS, "tool_choice": "required"},
        {**ASKED, "extra_body": {"structured_outputs": {"regex": "[a-c]{5}"}}},
    ]

    def ask(options: dict[str, Any]) -> Any:
        message = client.chat.completions.create(**options).choices[0].message
        calls = [(c.function.name, c.function.arguments) for c in message.tool_calls or ()]  # type: ignore[union-attr]
        return message.content, calls

    alone = [ask(form) for form in forms]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(ask, forms * 2)) == alone * 2


# vLLM's extras


@pytest.mark.parametrize(
    ("extras", "pattern"),
    [
        ({"regex": "[a-c]{5}/[0-9]{1,3}"}, "[a-c]{5}/[0-9]{1,3}"),
        ({"choice": ["left", "left or right", 'ri"ght']}, 'left|left or right|ri"ght'),
        ({"json": parameters(GetTime)}, r'\{"zone": ?"(utc|local)"\}'),
        ({"json": json.dumps(parameters(GetTime))}, r'\{"zone": ?"(utc|local)"\}'),
        ({"grammar": 'start: "a" NUMBER\nNUMBER: /[0-9]{2}/'}, "a[0-9]{2}"),
        ({"grammar": 'root ::= "ab" [0-9] "c"'}, "ab[0-9]c"),
    ],
    ids=["regex", "choice", "json", "json text", "lark", "gbnf"],
)
def test_every_extra_is_enforced_in_both_apis(
    client: openai.OpenAI, extras: Any, pattern: str
) -> None:
    body = {"structured_outputs": extras}
    answer = client.chat.completions.create(**ASKED, extra_body=body)
    assert answer.choices[0].finish_reason == "stop"
    assert re.fullmatch(pattern, answer.choices[0].message.content or "")
    chunks = client.chat.completions.create(**ASKED, extra_body=body, stream=True)
    streamed = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert streamed == answer.choices[0].message.content
    response = client.responses.create(**INPUT, extra_body=body)
    assert response.output_text == streamed
    events = list(client.responses.create(**INPUT, extra_body=body, stream=True))
    deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert "".join(deltas) == streamed


# Calls that must come


@STREAMED
def test_required_gives_a_call(client: openai.OpenAI, is_stream: bool) -> None:
    assert called(client, is_stream, tools=CHAT_TOOLS, tool_choice="required")
    assert response_called(client, is_stream, tools=RESPONSE_TOOLS, tool_choice="required")


@pytest.mark.parametrize("name", ["GetTime", "GetWeather"])
@STREAMED
def test_a_named_function_is_the_one_that_is_called(
    client: openai.OpenAI, is_stream: bool, name: str
) -> None:
    choice: Any = {"type": "function", "function": {"name": name}}
    calls = called(client, is_stream, tools=CHAT_TOOLS, tool_choice=choice)
    assert {made for made, _ in calls} == {name}
    choice = {"type": "function", "name": name}
    names = response_called(client, is_stream, tools=RESPONSE_TOOLS, tool_choice=choice)
    assert set(names) == {name}


def test_the_sdks_own_tools_are_parsed(client: openai.OpenAI) -> None:
    tools = [pydantic_function_tool(GetWeather)]
    answer = client.chat.completions.parse(**ASKED, tools=tools, tool_choice="required")
    for call in answer.choices[0].message.tool_calls or ():
        assert isinstance(call.function.parsed_arguments, GetWeather)
    response = client.responses.parse(
        **INPUT, tools=[response_tool(GetWeather, strict=True)], tool_choice="required"
    )
    made = [item for item in response.output if item.type == "function_call"]
    assert made and all(GetWeather.model_validate_json(item.arguments) for item in made)


@STREAMED
def test_allowed_tools_that_are_required_are_called(client: openai.OpenAI, is_stream: bool) -> None:
    name = "GetTime"
    only = {"mode": "required", "tools": [{"type": "function", "function": {"name": name}}]}
    choice: Any = {"type": "allowed_tools", "allowed_tools": only}
    calls = called(client, is_stream, tools=CHAT_TOOLS, tool_choice=choice)
    assert {made for made, _ in calls} == {name}
    choice = {
        "type": "allowed_tools",
        "mode": "required",
        "tools": [{"type": "function", "name": name}],
    }
    names = response_called(client, is_stream, tools=RESPONSE_TOOLS, tool_choice=choice)
    assert set(names) == {name}


def test_allowed_tools_leave_the_others_out_of_the_prompt(client: openai.OpenAI) -> None:
    only = {"mode": "auto", "tools": [{"type": "function", "function": {"name": "GetTime"}}]}
    choice: Any = {"type": "allowed_tools", "allowed_tools": only}
    one = {**ASKED, "max_tokens": 1}
    alone = client.chat.completions.create(**one, tools=CHAT_TOOLS[:1]).usage
    allowed = client.chat.completions.create(**one, tools=CHAT_TOOLS, tool_choice=choice).usage
    both = client.chat.completions.create(**one, tools=CHAT_TOOLS).usage
    assert alone and allowed and both
    assert alone.prompt_tokens == allowed.prompt_tokens < both.prompt_tokens
    choice = {
        "type": "allowed_tools",
        "mode": "auto",
        "tools": [{"type": "function", "name": "GetTime"}],
    }
    count = client.responses.input_tokens.count
    shared: Any = {"input": PROMPT, "reasoning": {"effort": "none"}}
    left = count(**shared, tools=RESPONSE_TOOLS, tool_choice=choice)
    assert left.input_tokens == count(**shared, tools=RESPONSE_TOOLS[:1]).input_tokens


@STREAMED
def test_without_parallel_calls_there_is_one(client: openai.OpenAI, is_stream: bool) -> None:
    options: dict[str, Any] = {"tool_choice": "required", "parallel_tool_calls": False}
    assert len(called(client, is_stream, tools=CHAT_TOOLS, **options)) == 1
    assert len(response_called(client, is_stream, tools=RESPONSE_TOOLS, **options)) == 1


def test_none_gives_no_call(client: openai.OpenAI) -> None:
    short = {**ASKED, "max_tokens": 30}
    answer = client.chat.completions.create(**short, tools=CHAT_TOOLS, tool_choice="none")
    assert not answer.choices[0].message.tool_calls
    response = client.responses.create(
        **{**INPUT, "max_output_tokens": 30}, tools=RESPONSE_TOOLS, tool_choice="none"
    )
    assert [item.type for item in response.output] == ["message"]


@STREAMED
def test_a_strict_tool_is_called_by_its_schema_when_the_model_chooses_to(
    client: openai.OpenAI, is_stream: bool
) -> None:
    calls = called(client, is_stream, tools=[chat_tool(get_weather, strict=True)])
    assert {name for name, _ in calls} == {"get_weather"}
    tools = [response_tool(get_weather, strict=True)]
    assert set(response_called(client, is_stream, tools=tools)) == {"get_weather"}


def test_legacy_functions_are_called_too(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        **ASKED,
        functions=[{"name": "GetTime", "parameters": parameters(GetTime)}],
        function_call={"name": "GetTime"},
    )
    validated(ChatCompletion, answer.model_dump(exclude_unset=True))
    [choice] = answer.choices
    assert choice.finish_reason == "function_call"
    assert choice.message.function_call
    assert choice.message.function_call.name == "GetTime"
    GetTime.model_validate_json(choice.message.function_call.arguments)


def test_a_strict_tool_leaves_the_model_free_to_talk(client: openai.OpenAI) -> None:
    asked = {**ASKED, "messages": [{"role": "user", "content": "Hello!"}]}
    free = client.chat.completions.create(**asked, tools=[chat_tool(GetTime)])
    strict = client.chat.completions.create(**asked, tools=[chat_tool(GetTime, strict=True)])
    assert strict.choices[0].finish_reason == "stop"
    assert strict.choices[0].message.content
    assert free.usage and strict.usage
    assert free.usage.prompt_tokens == strict.usage.prompt_tokens


def test_a_call_may_stand_in_the_place_of_the_object(client: openai.OpenAI) -> None:
    form: Any = {"type": "json_schema", "json_schema": named(City)}
    choice: Any = {"type": "function", "function": {"name": "GetTime"}}
    options: dict[str, Any] = {"tools": CHAT_TOOLS, "response_format": form}
    answer = client.chat.completions.create(**ASKED, **options)
    [message] = [choice.message for choice in answer.choices]
    if message.tool_calls:
        assert all(KINDS[c.function.name] for c in message.tool_calls if c.type == "function")
    else:
        City.model_validate_json(message.content or "")
    assert called(client, False, **options, tool_choice=choice)


# What cannot be enforced

BAD: dict[str, Any] = {"type": "object", "properties": {"a": {"type": "no such type"}}}
BAD_CHAT_TOOL = {"type": "function", "function": {"name": "f", "parameters": BAD, "strict": True}}
BAD_TOOL = {"type": "function", "name": "f", "parameters": BAD, "strict": True}
BAD_EXTRAS: list[dict[str, Any]] = [
    {"regex": "("},
    {"grammar": "start: ("},
    {"grammar": "start: missing"},
    {"json": BAD},
]


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (
            {"response_format": {"type": "json_schema", "json_schema": {"schema": BAD}}},
            "response_format",
        ),
        ({"tools": [BAD_CHAT_TOOL]}, "tools"),
        ({"tools": [BAD_CHAT_TOOL], "tool_choice": "required"}, "tools"),
        *(({"structured_outputs": extras}, "structured_outputs") for extras in BAD_EXTRAS),
    ],
)
@pytest.mark.parametrize("mode", [{}, {"stream": True}, {"n": 3}], ids=str)
def test_a_chat_that_cannot_be_enforced_is_refused_before_it_begins(
    demo_server: Running, body: dict[str, Any], param: str, mode: dict[str, Any]
) -> None:
    url = f"{demo_server.base_url}/v1/chat/completions"
    answer = httpx.post(url, json={**ASKED, **body, **mode}, timeout=30)
    assert answer.status_code == 400
    error = assert_envelope(answer.json())
    assert (error["param"], error["code"]) == (param, "invalid_schema")
    assert "This cannot be enforced" in error["message"]


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"text": {"format": {"type": "json_schema", "name": "x", "schema": BAD}}}, "text.format"),
        ({"tools": [BAD_TOOL]}, "tools"),
        ({"tools": [BAD_TOOL], "tool_choice": "required"}, "tools"),
        *(({"structured_outputs": extras}, "structured_outputs") for extras in BAD_EXTRAS),
    ],
)
@pytest.mark.parametrize("mode", [{}, {"stream": True}, {"background": True}], ids=str)
def test_a_response_that_cannot_be_enforced_is_refused_before_it_begins(
    demo_server: Running, body: dict[str, Any], param: str, mode: dict[str, Any]
) -> None:
    url = f"{demo_server.base_url}/v1/responses"
    answer = httpx.post(url, json={**INPUT, **body, **mode}, timeout=30)
    assert answer.status_code == 400
    error = assert_envelope(answer.json())
    assert (error["param"], error["code"]) == (param, "invalid_schema")


def test_every_event_of_a_constrained_stream_is_openais(client: openai.OpenAI) -> None:
    choice: Any = {"type": "function", "name": "GetTime"}
    events = client.responses.create(**INPUT, tools=RESPONSE_TOOLS, tool_choice=choice, stream=True)
    for event in events:
        check_event(event.model_dump(exclude_unset=True))
