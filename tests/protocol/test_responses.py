"""A request is read into a prompt, parameters, and what the response says of itself."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from parts import Constraint, InvalidRequest, Message, Prompt, SamplingParams, Tool, ToolCall
from protocol.items import normalised
from protocol.responses import ResponseRequest, read
from protocol.tools import Origin, Toolbox, custom_input
from protocol.transcript import num_droppable, shortened
from tests.protocol import captures

WEATHER = {"type": "function", "name": "weather", "parameters": {"type": "object"}, "strict": True}
SHELL = {"type": "custom", "name": "shell", "description": "runs"}
AGENTS = {"type": "namespace", "name": "agents", "description": "d", "tools": [WEATHER, SHELL]}
SEARCH = {"type": "web_search"}

REFUSED = {"langchain-027": "input[0].content[1]"}
"""Captured requests that hold media."""
WRONG_TYPE = "openai-py-047"
"""The door turns it away before it comes here."""


def request(**body: Any) -> ResponseRequest:
    return read({"input": "hi", **body}, model="demo")


def refused(**body: Any) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as refusal:
        request(**body)
    return refusal.value


# Real clients


@pytest.mark.parametrize("path", captures.PATHS, ids=captures.name_of)
def test_real_clients_are_understood(path: Path) -> None:
    name, body = captures.name_of(path), captures.body_of(path)
    if name == WRONG_TYPE:
        pytest.skip("the wrong type, on purpose")
    if name in REFUSED:
        assert refused(**body).param == REFUSED[name]
    else:
        found = read({"input": "hi", **body}, model="demo", history=captures.calls_of(body))
        assert found.settings["model"] == body["model"]


def test_codex_gets_its_tools_without_the_hosted_one(caplog: pytest.LogCaptureFixture) -> None:
    body = captures.body_of(captures.FOLDER / "codex-tool" / "002_POST_v1_responses.json")
    with caplog.at_level(logging.INFO):
        found = read(body, model="demo")
    names = [tool.name for tool in found.prompt.tools]
    assert "exec_command" in names and "multi_agent_v1__spawn_agent" in names
    assert len(names) == 12
    assert "left out 1 tools" in caplog.text
    roles = [message.role for message in found.prompt.messages]
    assert roles == ["developer", "developer", "user", "user", "assistant", "tool"]


# Prompts


def test_instructions_open_the_prompt_and_history_comes_before_the_input() -> None:
    history = normalised([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}])
    found = read({"input": "c", "instructions": "terse"}, model="demo", history=history)
    assert found.prompt.messages == (
        Message("system", "terse"),
        Message("user", "a"),
        Message("assistant", "b"),
        Message("user", "c"),
    )
    assert [item["content"][0]["text"] for item in found.items] == ["c"]


def test_null_and_empty_mean_the_default() -> None:
    fields = """instructions metadata text reasoning include tools tool_choice temperature stop
    max_output_tokens conversation prompt stream_options truncation top_logprobs""".split()
    plain = request()
    empties: list[Any] = [None, {}, []]
    for empty in empties:
        found = request(**dict.fromkeys(fields, empty))
        assert (found.prompt, found.params) == (plain.prompt, plain.params)
        assert found.settings == plain.settings


def test_a_warm_up_is_answered() -> None:
    found = request(input="", max_output_tokens=1)
    assert found.prompt.messages == (Message("user", ""),)
    assert found.params.max_tokens == 1


def test_nothing_to_answer_is_refused() -> None:
    assert refused(input=[]).param == "input"
    assert request(input=[], instructions="be ready").prompt.messages


def test_sampling_comes_from_the_request_or_the_defaults() -> None:
    defaults = SamplingParams(temperature=0.1, top_k=5, stop=("END",))
    found = read({"input": "a", "top_p": 0.5, "seed": 3}, model="demo", defaults=defaults).params
    assert found == SamplingParams(temperature=0.1, top_k=5, stop=("END",), top_p=0.5, seed=3)
    assert request(stop="x").params.stop == ("x",)
    assert request(logit_bias={"5": -100}).params.logit_bias == {5: -100}
    assert refused(logit_bias={"five": 1}).param == "logit_bias"
    assert request(temperature=0).params.temperature == 0


def test_thinking_is_steered_through_the_template() -> None:
    effort = {"effort": "low", "summary": "auto"}
    assert request(reasoning=effort).prompt.template_args == {"reasoning_effort": "low"}
    assert request(reasoning=effort).settings["reasoning"] == effort
    assert request(reasoning={"summary": "auto"}).prompt.template_args == {}
    assert request(enable_thinking=False).prompt.template_args == {"enable_thinking": False}


@pytest.mark.parametrize(
    ("body", "limit"),
    [
        ({}, None),
        ({"parallel_tool_calls": True}, None),
        ({"parallel_tool_calls": False}, 1),
        ({"max_tool_calls": 3}, 3),
        ({"max_tool_calls": 3, "parallel_tool_calls": False}, 1),
    ],
)
def test_the_number_of_calls_is_limited(body: Any, limit: int | None) -> None:
    assert request(tools=[WEATHER], **body).prompt.max_tool_calls == limit


def test_no_calls_allowed_means_no_tools() -> None:
    assert request(tools=[WEATHER], max_tool_calls=0).prompt.tools == ()


def test_logprobs_are_given_when_included_or_asked_for() -> None:
    included = request(include=["message.output_text.logprobs"], top_logprobs=3)
    assert included.gives_logprobs and included.params.top_logprobs == 3
    assert request(include=["message.output_text.logprobs"]).params.top_logprobs == 0
    asked = request(top_logprobs=3)
    assert asked.gives_logprobs and asked.params.top_logprobs == 3
    assert request(top_logprobs=0).params.top_logprobs is None


# Refusals


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"prompt": {"id": "pmpt_1"}}, "prompt"),
        ({"conversation": "conv_1", "previous_response_id": "resp_1"}, "previous_response_id"),
        ({"background": True, "store": False}, "background"),
        ({"tools": [SEARCH], "tool_choice": {"type": "web_search"}}, "tool_choice"),
        ({"tools": [SEARCH], "tool_choice": "required"}, "tool_choice"),
        ({"tools": [WEATHER], "tool_choice": {"type": "function", "name": "x"}}, "tool_choice"),
        ({"tools": [WEATHER], "tool_choice": "sometimes"}, "tool_choice"),
        ({"tools": [{"type": "function"}]}, "tools[0].name"),
        ({"tools": [{**AGENTS, "tools": [{"type": "custom"}]}]}, "tools[0].tools[0].name"),
    ],
)
def test_what_cannot_be_served_is_refused_by_name(body: Any, param: str) -> None:
    assert refused(**body).param == param


# Answers of a form


@pytest.mark.parametrize(
    ("choice", "names"),
    [
        ("auto", ()),
        ("none", ()),
        ("required", ("weather", "shell")),
        ({"type": "function", "name": "weather"}, ("weather",)),
        ({"type": "custom", "name": "shell"}, ("shell",)),
        ({"type": "allowed_tools", "mode": "required", "tools": [WEATHER]}, ("weather",)),
        ({"type": "allowed_tools", "mode": "auto", "tools": [WEATHER]}, ()),
    ],
)
def test_a_choice_that_demands_a_call_forces_its_tools(choice: Any, names: tuple[str, ...]) -> None:
    found = request(tools=[WEATHER, SHELL], tool_choice=choice)
    assert found.prompt.forced_tools == names
    assert found.settings["tool_choice"] == choice


@pytest.mark.parametrize(
    ("form", "schema"),
    [
        ({"type": "json_object"}, {}),
        ({"type": "json_schema", "name": "n", "schema": {"type": "array"}}, {"type": "array"}),
    ],
)
def test_a_format_becomes_a_constraint_and_is_shown(form: Any, schema: Any) -> None:
    found = request(text={"format": form})
    assert found.prompt.constraint == Constraint("json", schema, "text.format")
    assert found.settings["text"] == {"format": form}


# Tools


def test_functions_come_with_or_without_parameters() -> None:
    nested = {"type": "function", "function": {"name": "chat", "description": "d"}}
    box = Toolbox([WEATHER, {"type": "function", "name": "bare", "parameters": None}, nested])
    assert box.tools == [
        Tool("weather", "", {"type": "object"}, strict=True),
        Tool("bare"),
        Tool("chat", "d"),
    ]
    assert box.definitions[1] == {
        "type": "function",
        "name": "bare",
        "description": None,
        "parameters": None,
        "strict": False,
    }


def test_a_namespace_is_flattened_and_its_names_given_back() -> None:
    box = Toolbox([AGENTS, WEATHER])
    assert [tool.name for tool in box.tools] == ["agents__weather", "agents__shell", "weather"]
    assert box.origin("agents__weather") == Origin("weather", "agents")
    assert box.origin("agents__shell") == Origin("shell", "agents", is_custom=True)
    assert box.origin("weather") == Origin("weather")
    assert box.origin("made_up") == Origin("made_up")


def test_a_namespace_that_ends_in_underscores_keeps_them() -> None:
    box = Toolbox([{**AGENTS, "name": "mcp__files__"}])
    assert box.tools[0].name == "mcp__files__weather"


def test_a_second_tool_of_the_same_name_is_left_out() -> None:
    assert len(Toolbox([WEATHER, WEATHER]).tools) == 1


def test_a_custom_tool_tells_its_grammar() -> None:
    form = {"type": "grammar", "syntax": "lark", "definition": "start: A"}
    [tool] = Toolbox([{**SHELL, "format": form}]).tools
    assert "start: A" in tool.parameters["properties"]["input"]["description"]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ('{"input": "ls"}', "ls"),
        ('{"input": 5}', '{"input": 5}'),
        ('{"input": "a", "b": 1}', '{"input": "a", "b": 1}'),
        ('{"input": "l', '{"input": "l'),
        ("", ""),
    ],
)
def test_what_a_custom_tool_is_given(arguments: str, text: str) -> None:
    assert custom_input(arguments) == text


@pytest.mark.parametrize(
    ("choice", "names"),
    [
        ("auto", ["agents__weather", "agents__shell", "weather"]),
        ("none", []),
        (
            {"type": "allowed_tools", "mode": "auto", "tools": [WEATHER]},
            ["agents__weather", "weather"],
        ),
        (
            {"type": "allowed_tools", "mode": "auto", "tools": [AGENTS]},
            ["agents__weather", "agents__shell"],
        ),
        (
            {"type": "allowed_tools", "mode": "auto", "tools": [{**SHELL, "namespace": "agents"}]},
            ["agents__shell"],
        ),
        ({"type": "allowed_tools", "mode": "auto", "tools": [SEARCH]}, []),
        ({"type": "function", "name": "agents__shell"}, ["agents__shell"]),
        ({"type": "function", "name": "shell", "namespace": None}, ["agents__shell"]),
        ({"type": "allowed_tools", "tools": [{**SHELL, "namespace": "others"}]}, []),
        ({"type": "allowed_tools", "tools": [{**SHELL, "namespace": 7}, 7, {"name": []}]}, []),
    ],
)
def test_a_choice_leaves_some_tools(choice: Any, names: list[str]) -> None:
    found = request(tools=[AGENTS, WEATHER], tool_choice=choice)
    assert [tool.name for tool in found.prompt.tools] == names
    assert found.settings["tool_choice"] == choice


# Settings


def test_the_response_says_what_was_used() -> None:
    settings = request(
        tools=[WEATHER, SEARCH], metadata={"a": "b"}, service_tier="flex", conversation="conv_1"
    ).settings
    assert [tool["name"] for tool in settings["tools"]] == ["weather"]
    assert settings["metadata"] == {"a": "b"}
    assert settings["service_tier"] == "default"
    assert settings["conversation"] == {"id": "conv_1"}
    assert (settings["temperature"], settings["max_output_tokens"]) == (0.7, 4096)
    assert settings["model"] == "demo"
    assert "user" not in settings
    assert request(user="u").settings["user"] == "u"


# Prompts that do not fit


def test_the_oldest_turns_go_first_and_instructions_stay() -> None:
    call = ToolCall("c", "f", "{}")
    prompt = Prompt(
        (
            Message("system", "s"),
            Message("user", "1"),
            Message("assistant", tool_calls=(call,)),
            Message("tool", "r", tool_call_id="c"),
            Message("developer", "d"),
            Message("user", "2"),
            Message("assistant", "a"),
            Message("user", "3"),
        ),
        tools=(Tool("f"),),
    )
    standing = (prompt.messages[0], prompt.messages[4])
    assert num_droppable(prompt) == 2
    assert shortened(prompt, 1) == replace(prompt, messages=standing + prompt.messages[5:])
    assert shortened(prompt, 2) == replace(prompt, messages=standing + prompt.messages[7:])


def test_the_last_turn_is_never_dropped() -> None:
    assert num_droppable(Prompt((Message("system", "s"), Message("user", "1")))) == 0
    assert num_droppable(Prompt(())) == 0


def test_settings_are_json() -> None:
    assert json.loads(json.dumps(request(tools=[AGENTS]).settings))
