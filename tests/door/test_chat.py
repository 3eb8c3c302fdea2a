"""Chat completions on the wire, with an engine that says what the test tells it to."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import pytest
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from door.settings import Settings
from parts import (
    EngineFailed,
    Finish,
    Message,
    QueueFull,
    Reasoning,
    Text,
    TokenLogprob,
    ToolArguments,
    ToolCall,
    Unavailable,
    Usage,
)
from server import create_app
from tests.oracle import assert_envelope, events, validated
from tests.scripted import ScriptedEngine, says
from tests.serving import serving, wait_until

HI = [{"role": "user", "content": "hi"}]


def post(url: str, **body: Any) -> httpx.Response:
    return httpx.post(f"{url}/v1/chat/completions", json={"messages": HI, **body}, timeout=20)


def stream(url: str, **body: Any) -> list[Any]:
    return events(post(url, stream=True, **body).text)


# The stream


def test_a_stream_is_role_then_text_then_finish_then_done(scripted_url: str) -> None:
    *chunks, done = stream(scripted_url)
    assert done == "[DONE]"
    for chunk in chunks:
        validated(ChatCompletionChunk, chunk)
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert deltas == [{"role": "assistant", "content": ""}, {"content": "Hello"}, {}]
    assert [c["choices"][0]["finish_reason"] for c in chunks] == [None, None, "stop"]


def test_what_names_the_answer_is_the_same_in_every_chunk(scripted_url: str) -> None:
    *chunks, _ = stream(scripted_url, stream_options={"include_usage": True})
    constant = {
        (c["id"], c["created"], c["model"], c["system_fingerprint"], c["object"]) for c in chunks
    }
    assert len(constant) == 1
    assert constant.pop()[3:] == ("fp_test", "chat.completion.chunk")


def test_usage_comes_last_and_only_when_asked_for(scripted_url: str) -> None:
    *without, _ = stream(scripted_url)
    assert all("usage" not in chunk for chunk in without)
    *chunks, last, _ = stream(scripted_url, stream_options={"include_usage": True})
    assert all(chunk["usage"] is None for chunk in chunks)
    assert last["choices"] == []
    assert last["usage"] == {
        "prompt_tokens": 7,
        "completion_tokens": 5,
        "total_tokens": 12,
        "prompt_tokens_details": {"cached_tokens": 2},
        "completion_tokens_details": {"reasoning_tokens": 1},
    }


def test_each_event_is_one_network_write_with_plain_line_ends(scripted_url: str) -> None:
    with httpx.stream(
        "POST", f"{scripted_url}/v1/chat/completions", json={"messages": HI, "stream": True}
    ) as answer:
        raw = b"".join(answer.iter_raw())
    assert b"\r" not in raw
    assert answer.headers["content-type"].startswith("text/event-stream")


def test_a_whole_answer_is_the_fold_of_its_stream(
    scripted_url: str, engine: ScriptedEngine
) -> None:
    engine.script = says(Reasoning("so"), Reasoning(" then"), Text("a"), Text("b"))
    whole = validated(ChatCompletion, post(scripted_url).json())
    message = whole.choices[0].message
    assert message.content == "ab"
    assert whole.choices[0].finish_reason == "stop"
    given = message.model_dump()
    assert given["reasoning"] == given["reasoning_content"] == "so then"
    *chunks, _ = stream(scripted_url)
    deltas = [c["choices"][0]["delta"] for c in chunks]
    assert "".join(d.get("content", "") for d in deltas) == "ab"
    assert "".join(d.get("reasoning", "") for d in deltas) == "so then"


def test_a_model_that_does_not_think_streams_from_the_first_token(
    scripted_url: str, engine: ScriptedEngine
) -> None:
    never = asyncio.Event()
    engine.script = lambda prompt, params: [Text("first"), never]
    with (
        httpx.Client() as client,
        client.stream(
            "POST", f"{scripted_url}/v1/chat/completions", json={"messages": HI, "stream": True}
        ) as answer,
    ):
        for line in answer.iter_lines():
            if "first" in line:
                break
    wait_until(lambda: engine.answers[0].is_cancelled, "the answer is given up")


def test_tool_calls_open_with_their_name_and_go_on_with_arguments(
    scripted_url: str, engine: ScriptedEngine
) -> None:
    engine.script = says(
        ToolCall("call_1", "f"),
        ToolArguments('{"a":'),
        ToolArguments(" 1}"),
        ToolCall("call_2", "g"),
        ToolArguments("{}"),
        reason="tool_calls",
    )
    *chunks, _ = stream(scripted_url)
    for chunk in chunks:
        validated(ChatCompletionChunk, chunk)
    calls = [c for chunk in chunks for c in chunk["choices"][0]["delta"].get("tool_calls", [])]
    assert [c["index"] for c in calls] == [0, 0, 0, 1, 1]
    assert calls[0] == {
        "index": 0,
        "id": "call_1",
        "type": "function",
        "function": {"name": "f", "arguments": ""},
    }
    assert all("id" not in c and "name" not in c["function"] for c in (calls[1], calls[2]))
    whole = validated(ChatCompletion, post(scripted_url).json()).choices[0]
    assert whole.message.content is None
    assert whole.finish_reason == "tool_calls"
    made = [(c.id, c.function.arguments) for c in whole.message.tool_calls or []]  # type: ignore[union-attr]
    assert made == [("call_1", '{"a": 1}'), ("call_2", "{}")]


def test_logprobs_reach_the_client(scripted_url: str, engine: ScriptedEngine) -> None:
    top = TokenLogprob("é", b"\xc3\xa9", -0.1)
    engine.script = says(Text("é", (TokenLogprob("é", b"\xc3\xa9", -0.1, (top,)),)))
    whole = post(scripted_url, logprobs=True, top_logprobs=1).json()
    validated(ChatCompletion, whole)
    assert whole["choices"][0]["logprobs"] == {
        "content": [
            {
                "token": "é",
                "logprob": -0.1,
                "bytes": [195, 169],
                "top_logprobs": [{"token": "é", "logprob": -0.1, "bytes": [195, 169]}],
            }
        ],
        "refusal": None,
    }
    assert engine.params[0].top_logprobs == 1


def test_n_choices_are_answered_each_with_its_own_seed(
    scripted_url: str, engine: ScriptedEngine
) -> None:
    whole = validated(ChatCompletion, post(scripted_url, n=3, seed=5).json())
    assert [c.index for c in whole.choices] == [0, 1, 2]
    assert [c.message.content for c in whole.choices] == ["Hello"] * 3
    assert [p.seed for p in engine.params] == [5, 6, 7]
    assert whole.usage and (whole.usage.prompt_tokens, whole.usage.completion_tokens) == (7, 15)
    *chunks, _ = stream(scripted_url, n=3)
    finished = [
        c["choices"][0]["index"] for c in chunks if c["choices"][0]["finish_reason"] == "stop"
    ]
    assert sorted(finished) == [0, 1, 2]


@pytest.mark.parametrize(
    ("form", "content", "reasoning"),
    [
        ("separate", "out", "in"),
        ("hidden", "out", None),
        ("raw", "<think>\nin\n</think>\n\nout", None),
    ],
)
def test_thinking_is_shown_as_the_server_was_told(
    engine: ScriptedEngine, form: str, content: str, reasoning: str | None
) -> None:
    engine.script = says(Reasoning("i"), Reasoning("n"), Text("out"))
    with serving(create_app(Settings(reasoning_format=form), engine)) as url:
        message = post(url).json()["choices"][0]["message"]
    assert message["content"] == content
    assert message.get("reasoning_content") == reasoning


# Failures


def test_a_failure_in_mid_stream_is_an_event_before_done(
    scripted_url: str, engine: ScriptedEngine
) -> None:
    engine.script = lambda prompt, params: [Text("Hel"), EngineFailed("It broke.")]
    *_, error, done = stream(scripted_url)
    assert done == "[DONE]"
    assert assert_envelope(error)["message"] == "It broke."


def test_a_failure_of_a_whole_answer_is_a_500_that_is_not_tried_again(
    scripted_url: str, engine: ScriptedEngine
) -> None:
    engine.script = lambda prompt, params: [Text("Hel"), EngineFailed("It broke.")]
    answer = post(scripted_url)
    assert answer.status_code == 500
    assert answer.headers["x-should-retry"] == "false"
    assert_envelope(answer.json())


def test_one_failing_choice_ends_the_request_and_the_other_choices(
    scripted_url: str, engine: ScriptedEngine
) -> None:
    never = asyncio.Event()
    scripts = iter([[never], [EngineFailed("It broke.")]])
    engine.script = lambda prompt, params: next(scripts)
    assert post(scripted_url, n=2).status_code == 500
    assert engine.answers[0].is_cancelled


@pytest.mark.parametrize("is_stream", [True, False])
def test_a_refusal_comes_before_the_stream_begins(
    scripted_url: str, engine: ScriptedEngine, is_stream: bool
) -> None:
    engine.refusal = QueueFull("Too many.")
    answer = post(scripted_url, stream=is_stream)
    assert answer.status_code == 429
    assert answer.headers["retry-after"].isdigit()
    assert assert_envelope(answer.json())["code"] == "queue_full"
    engine.refusal = Unavailable("Loading.", code="loading")
    answer = post(scripted_url, stream=is_stream)
    assert (answer.status_code, answer.headers["retry-after"].isdigit()) == (503, True)


@pytest.mark.parametrize("is_stream", [True, False])
def test_a_client_that_leaves_gives_its_answer_up(
    scripted_url: str, engine: ScriptedEngine, is_stream: bool
) -> None:
    never = asyncio.Event()
    engine.script = lambda prompt, params: [Text("a"), never]
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(
            f"{scripted_url}/v1/chat/completions",
            json={"messages": HI, "stream": is_stream},
            timeout=httpx.Timeout(10, read=0.3),
        )
    wait_until(lambda: engine.answers[0].is_cancelled, "the answer is given up")


# Requests


def test_messages_reach_the_engine_as_they_were_meant(
    scripted_url: str, engine: ScriptedEngine
) -> None:
    messages: list[dict[str, Any]] = [
        {"role": "system", "content": "a"},
        {"role": "developer", "content": [{"type": "text", "text": "b"}]},
        {
            "role": "user",
            "content": [{"type": "text", "text": "c "}, {"type": "text", "text": "d"}],
        },
        {
            "role": "assistant",
            "content": None,
            "reasoning_content": "r",
            "tool_calls": [
                {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
            ],
        },
        {"role": "tool", "tool_call_id": "1", "content": "e"},
        {"role": "critic", "content": "g"},
    ]
    assert post(scripted_url, messages=messages).status_code == 200
    assert engine.prompts[0].messages == (
        Message("system", "a"),
        Message("developer", "b"),
        Message("user", "c d"),
        Message("assistant", "", "r", (ToolCall("1", "f", "{}"),)),
        Message("tool", "e", tool_call_id="1"),
        Message("user", "g"),
    )


def test_every_parameter_reaches_the_engine(scripted_url: str, engine: ScriptedEngine) -> None:
    given = {
        "temperature": 0.1,
        "top_p": 0.2,
        "top_k": 3,
        "min_p": 0.4,
        "repetition_penalty": 1.5,
        "presence_penalty": 0.6,
        "frequency_penalty": -0.7,
        "seed": 8,
        "max_tokens": 9,
    }
    post(scripted_url, **given, stop="END", logit_bias={"5": -100})
    params = engine.params[0]
    assert {name: getattr(params, name) for name in given} == given
    assert params.stop == ("END",)
    assert params.logit_bias == {5: -100}


def test_defaults_are_the_servers(engine: ScriptedEngine) -> None:
    with serving(create_app(Settings(temp=0.3, top_p=0.5, max_tokens=77), engine)) as url:
        post(url, temperature=None, stop=[], logit_bias={}, stream_options={}, response_format={})
    params = engine.params[0]
    assert (params.temperature, params.top_p, params.max_tokens) == (0.3, 0.5, 77)
    assert params.stop == ()


def test_max_completion_tokens_wins(scripted_url: str, engine: ScriptedEngine) -> None:
    post(scripted_url, max_tokens=5, max_completion_tokens=6)
    assert engine.params[0].max_tokens == 6


def test_thinking_is_switched_by_any_of_its_names(
    scripted_url: str, engine: ScriptedEngine
) -> None:
    post(scripted_url, enable_thinking=False)
    post(scripted_url, reasoning_effort="none")
    post(scripted_url, chat_template_kwargs={"enable_thinking": False})
    assert [dict(p.template_args) for p in engine.prompts] == [
        {"enable_thinking": False},
        {"reasoning_effort": "none"},
        {"enable_thinking": False},
    ]


def test_tools_are_offered_as_the_choice_says(scripted_url: str, engine: ScriptedEngine) -> None:
    tools = [
        {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}},
        {"type": "function", "function": {"name": "g"}},
        {"type": "web_search"},
    ]
    allowed = {
        "type": "allowed_tools",
        "allowed_tools": {
            "mode": "auto",
            "tools": [{"type": "function", "function": {"name": "g"}}],
        },
    }
    post(scripted_url, tools=tools)
    post(scripted_url, tools=tools, tool_choice="none")
    post(scripted_url, tools=tools, tool_choice=allowed)
    post(scripted_url, functions=[{"name": "h"}], function_call="auto")
    post(scripted_url, tools=tools, parallel_tool_calls=False)
    names = [[tool.name for tool in prompt.tools] for prompt in engine.prompts]
    assert names == [["f", "g"], [], ["g"], ["h"], ["f", "g"]]
    assert [p.max_tool_calls for p in engine.prompts] == [None] * 3 + [1, 1]


def test_a_custom_tool_is_called_with_a_text(scripted_url: str, engine: ScriptedEngine) -> None:
    engine.script = says(
        ToolCall("call_1", "shell"),
        ToolArguments('{"input": "ls'),
        ToolArguments(' \\"a\\""}'),
        ToolCall("call_2", "f"),
        ToolArguments("{}"),
        reason="tool_calls",
    )
    grammar = {"syntax": "regex", "definition": "ls.*"}
    custom = {"name": "shell", "format": {"type": "grammar", "grammar": grammar}}
    tools = [
        {"type": "custom", "custom": custom},
        {"type": "function", "function": {"name": "f"}},
        {"type": "of the future"},
    ]
    body = post(scripted_url, tools=tools).json()
    [choice] = validated(ChatCompletion, body).choices
    first, second = choice.message.tool_calls or ()
    assert first.model_dump() == {
        "id": "call_1",
        "type": "custom",
        "custom": {"name": "shell", "input": 'ls "a"'},
    }
    assert second.type == "function" and second.function.arguments == "{}"
    *chunks, _ = stream(scripted_url, tools=tools)
    deltas = [c["choices"][0]["delta"].get("tool_calls", [{}])[0] for c in chunks]
    assert "".join(d["custom"]["input"] for d in deltas if "custom" in d) == 'ls "a"'
    [shell, f] = engine.prompts[-1].tools
    assert (shell.name, f.name) == ("shell", "f")
    assert "ls.*" in shell.parameters["properties"]["input"]["description"]
    # Demanded by its name, and given back with its result.
    choice = {"type": "custom", "custom": {"name": "shell"}}
    answered = [*HI, body["choices"][0]["message"]]
    answered += [
        {"role": "tool", "tool_call_id": id, "content": "b"} for id in ("call_1", "call_2")
    ]
    assert post(scripted_url, messages=answered, tools=tools, tool_choice=choice).status_code == 200
    assert engine.prompts[-1].forced_tools == ("shell",)
    assert json.loads(engine.prompts[-1].messages[1].tool_calls[0].arguments) == {"input": 'ls "a"'}


def test_a_client_that_gives_functions_gets_a_function_call(
    scripted_url: str, engine: ScriptedEngine
) -> None:
    engine.script = says(
        ToolCall("call_1", "f"),
        ToolArguments('{"a":'),
        ToolArguments(" 1}"),
        reason="tool_calls",
    )
    *chunks, _ = stream(scripted_url, functions=[{"name": "f"}])
    for chunk in chunks:
        validated(ChatCompletionChunk, chunk)
    assert [c["choices"][0]["delta"] for c in chunks[1:]] == [
        {"function_call": {"name": "f", "arguments": ""}},
        {"function_call": {"arguments": '{"a":'}},
        {"function_call": {"arguments": " 1}"}},
        {},
    ]
    body = post(scripted_url, functions=[{"name": "f"}], function_call={"name": "f"}).json()
    [choice] = validated(ChatCompletion, body).choices
    assert choice.message.content is None and choice.message.tool_calls is None
    assert choice.message.function_call
    assert choice.message.function_call.model_dump() == {"name": "f", "arguments": '{"a": 1}'}
    assert choice.finish_reason == "function_call"
    assert engine.prompts[-1].forced_tools == ("f",)


ALLOWED_NONE = {
    "type": "allowed_tools",
    "allowed_tools": {"mode": "auto", "tools": [{"type": "function", "function": {"name": "g"}}]},
}


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"response_format": {"type": "yaml"}}, "response_format"),
        ({"response_format": {"type": "json_schema"}}, "response_format"),
        ({"structured_outputs": {"regex": "a", "choice": ["a"]}}, "structured_outputs"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tool_choice": "sometimes"}, "tool_choice"),
        ({"tool_choice": ALLOWED_NONE, "tools": [{"type": "web_search"}]}, "tool_choice"),
        ({"modalities": ["text", "audio"]}, "modalities"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"logit_bias": {"x": 1}}, "logit_bias"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
            "messages[0].content[0]",
        ),
        (
            {"messages": [{"role": "user", "content": [{"video_url": {"url": "http://x"}}]}]},
            "messages[0].content[0]",
        ),
    ],
)
def test_what_is_not_honoured_is_refused_by_name(
    scripted_url: str, body: dict[str, Any], param: str
) -> None:
    answer = post(scripted_url, **body)
    assert answer.status_code == 400
    assert assert_envelope(answer.json())["param"] == param


@pytest.mark.parametrize(
    ("body", "param", "code"),
    [
        ({"messages": []}, "messages", "invalid_value"),
        ({"messages": None}, "messages", "missing_required_parameter"),
        ({"messages": "hi"}, "messages", "invalid_type"),
        ({"messages": [{"content": "x"}]}, "messages[0].role", "missing_required_parameter"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content", "invalid_type"),
        ({"temperature": "hot"}, "temperature", "invalid_type"),
        ({"temperature": 9}, "temperature", "invalid_value"),
        ({"temperature": -0.1}, "temperature", "invalid_value"),
        ({"top_p": 1.1}, "top_p", "invalid_value"),
        ({"max_tokens": 0}, "max_tokens", "invalid_value"),
        ({"max_completion_tokens": -1}, "max_completion_tokens", "invalid_value"),
        ({"n": 17}, "n", "invalid_value"),
        ({"stop": 7}, "stop", "invalid_type"),
        ({"stop": [5]}, "stop[0]", "invalid_type"),
        ({"stop": ["x"] * 17}, "stop", "invalid_value"),
        ({"top_logprobs": 21, "logprobs": True}, "top_logprobs", "invalid_value"),
        ({"logit_bias": {"1": 101}}, "logit_bias", "invalid_value"),
        ({"repetition_penalty": 0}, "repetition_penalty", "invalid_value"),
    ],
)
def test_a_malformed_request_is_a_422_that_names_the_field(
    scripted_url: str, body: dict[str, Any], param: str, code: str
) -> None:
    answer = post(scripted_url, **body)
    assert answer.status_code == 422
    error = assert_envelope(answer.json())
    assert error["param"].startswith(param)
    assert error["code"] == code
    assert answer.json()["detail"]
    assert all(set(problem) == {"loc", "msg", "type"} for problem in answer.json()["detail"])


# Results of tools


def called(*ids: str | None) -> dict[str, Any]:
    function = {"name": "f", "arguments": "{}"}
    calls = [{"id": id, "type": "function", "function": function} for id in ids]
    return {"role": "assistant", "content": None, "tool_calls": calls}


def result(id: str | None) -> dict[str, Any]:
    return {"role": "tool", "content": "r", **({} if id is None else {"tool_call_id": id})}


@pytest.mark.parametrize(
    ("turns", "param", "told"),
    [
        ([called("a"), result("b")], "messages[2].tool_call_id", "'b' is not among the calls"),
        ([result("a")], "messages[1].tool_call_id", "'a' is not among the calls"),
        ([result(None)], "messages[1].tool_call_id", "no call that waits"),
        (
            [called("a"), result("a"), result("a")],
            "messages[3].tool_call_id",
            "'a' has a result already",
        ),
        ([called("a", "b"), result("b"), *HI], "messages[1].tool_calls", "'a' has no result"),
        ([called("a"), *HI], "messages[1].tool_calls", "'a' has no result"),
        ([called("a")], "messages[1].tool_calls", "'a' has no result"),
    ],
)
def test_a_missing_or_double_result_of_a_tool_is_a_422_that_names_it(
    scripted_url: str, turns: list[Any], param: str, told: str
) -> None:
    answer = post(scripted_url, messages=[*HI, *turns])
    assert answer.status_code == 422
    error = assert_envelope(answer.json())
    assert (error["param"], error["code"]) == (param, "invalid_value")
    assert told in error["message"]


@pytest.mark.parametrize(
    "turns",
    [
        [called("a", "b"), result("b"), result("a")],
        [called("a", "b", "c"), result("b"), result(None), result(None)],
        [
            *(called(*(f"{turn}.{number}" for number in range(990))) for turn in range(5)),
            *(result(f"{turn}.{number}") for turn in range(5) for number in reversed(range(990))),
        ],
        [called("a", "b"), result(None), result(None)],
        [called(None), result(None), *HI],
        [called("a"), result("a"), called("a"), result("a")],
        [called("a"), {"role": "assistant", "content": "Wait."}, result("a")],
        [called("a"), {"role": "system", "content": "Be quick."}, result("a")],
        [
            {"role": "assistant", "function_call": {"name": "f", "arguments": "{}"}},
            {"role": "function", "name": "f", "content": "r"},
        ],
    ],
)
def test_results_are_matched_as_loosely_as_clients_send_them(
    scripted_url: str, turns: list[Any]
) -> None:
    assert post(scripted_url, messages=[*HI, *turns]).status_code == 200


@pytest.mark.parametrize(
    "raw",
    [
        b'{"messages": [{"role": "user", "content": "x"}], "temperature": NaN}',
        b'{"messages": [{"role": "user", "content": "x"}], "top_p": 1e999}',
        b'{"messages": [{"role": "user", "content": "\\ud800"}]}',
        b"{",
        b"",
        b"null",
        b"\xff\xfe{",
        b"[" * 100_000,
        b'{"messages": [{"role": "user", "content": "x"}], "seed": ' + b"9" * 5000 + b"}",
    ],
)
def test_a_body_that_is_hardly_json_is_a_4xx(scripted_url: str, raw: bytes) -> None:
    answer = httpx.post(
        f"{scripted_url}/v1/chat/completions",
        content=raw,
        headers={"content-type": "application/json"},
    )
    assert answer.status_code in (400, 422)
    assert_envelope(answer.json())


def test_unknown_fields_are_ignored_and_the_model_is_echoed(scripted_url: str) -> None:
    answer = post(scripted_url, model="gpt-x", verbosity="low", store=False, nonsense={"a": [1]})
    assert answer.json()["model"] == "gpt-x"
    assert len(post(scripted_url, model="m" * 1000).json()["model"]) == 256


def test_text_that_looks_like_the_end_of_the_stream_is_text(
    scripted_url: str, engine: ScriptedEngine
) -> None:
    engine.script = says(Text("data: [DONE]\n\n"), Finish("stop", Usage()))
    *chunks, done = stream(scripted_url)
    assert done == "[DONE]"
    assert json.dumps(chunks).count("data: [DONE]") == 1


def test_a_long_silence_is_filled_with_comments_that_no_client_trips_over(
    scripted_url: str, engine: ScriptedEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("door.stream.PING_S", 1)
    go_on = asyncio.Event()
    engine.script = lambda prompt, params: [go_on, Text("late"), Finish("stop", Usage())]
    with httpx.stream(
        "POST", f"{scripted_url}/v1/chat/completions", json={"messages": HI, "stream": True}
    ) as answer:
        lines = answer.iter_lines()
        assert any(line.startswith(":") for line in lines)
        engine.go_on(go_on)
        rest = list(lines)
    assert any("late" in line for line in rest)
    assert [line for line in rest if line][-1] == "data: [DONE]"
