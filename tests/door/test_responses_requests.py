"""Requests for responses: what they come to, what is left out, and what is refused by name."""

from __future__ import annotations

import re
from typing import Any

import pytest

from door.settings import Settings
from parts import (
    ContextLengthExceeded,
    Message,
    Prompt,
    SamplingParams,
    Text,
    ToolArguments,
    ToolCall,
)
from protocol.sealed import seal
from server import create_app
from tests.door.asking import WEATHER, create, post, refusal, response_of, text_of
from tests.oracle import assert_envelope
from tests.scripted import ScriptedAnswer, ScriptedEngine, says
from tests.serving import serving

HELLO = {"role": "user", "content": "hi"}


# What reaches the engine


CALL = {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"}
RESULT = {"type": "function_call_output", "call_id": "c1", "output": "o"}


@pytest.mark.parametrize(
    ("items", "said"),
    [
        ([RESULT], "No tool call found for function call output with call_id c1"),
        ([CALL, {**RESULT, "call_id": "c2"}], "No tool call found .* c2"),
        ([RESULT, CALL], "No tool call found"),
        ([CALL, RESULT, RESULT], "'c1' has a result already"),
        ([HELLO, CALL], "No tool output found for function call c1"),
        ([CALL, HELLO, RESULT], "No tool output found for function call c1"),
        ([CALL, {**CALL, "call_id": "c2"}, RESULT, HELLO], "No tool output found .* c2"),
    ],
)
def test_calls_and_results_that_do_not_match_are_refused(
    scripted_url: str, engine: ScriptedEngine, items: list[Any], said: str
) -> None:
    answer = post(scripted_url, input=items)
    assert answer.status_code == 422
    error = assert_envelope(answer.json())
    assert re.search(said, error["message"]) and error["param"] == "input"
    assert not engine.prompts


def test_a_result_may_answer_a_call_of_an_earlier_turn(
    scripted_url: str, engine: ScriptedEngine
) -> None:
    engine.script = says(ToolCall("c1", "f"), ToolArguments("{}"))
    first = create(scripted_url, [HELLO])
    engine.script = says(Text("Done."))
    unanswered = post(scripted_url, input=[HELLO], previous_response_id=first["id"])
    assert unanswered.status_code == 422 and len(engine.prompts) == 1
    answered = create(scripted_url, [RESULT], previous_response_id=first["id"])
    assert engine.prompts[-1].messages[-1].role == "tool"
    again = post(scripted_url, input=[RESULT], previous_response_id=answered["id"])
    assert again.status_code == 422
    assert create(scripted_url, [CALL, RESULT], previous_response_id=answered["id"])


def test_words_may_stand_between_a_call_and_its_result(scripted_url: str) -> None:
    said = {"role": "assistant", "content": "I look."}
    told = {"role": "developer", "content": "Be brief."}
    assert create(scripted_url, [HELLO, CALL, said, told, RESULT, HELLO])


def test_a_call_that_was_cut_needs_no_result(scripted_url: str, engine: ScriptedEngine) -> None:
    assert create(scripted_url, [HELLO, {**CALL, "status": "incomplete"}, HELLO])
    engine.script = says(ToolCall("c1", "f"), ToolArguments("{"), reason="length")
    cut = create(scripted_url, [HELLO])
    assert create(scripted_url, [HELLO], previous_response_id=cut["id"])


def test_items_of_every_kind_reach_the_engine(scripted_url: str, engine: ScriptedEngine) -> None:
    items: list[Any] = [
        {"role": "developer", "content": [{"type": "input_text", "text": "a"}]},
        {"type": "message", "role": "user", "content": "b"},
        {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "r"}]},
        {"type": "reasoning", "id": "rs_0", "summary": []},
        {"type": "function_call", "call_id": "1", "name": "f", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "1", "output": "c"},
        {"type": "custom_tool_call", "call_id": "2", "name": "g", "input": "x"},
        {"type": "custom_tool_call_output", "call_id": "2", "output": [{"type": "x", "text": "d"}]},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "e"}]},
        {"type": "web_search_call", "id": "ws_1"},
        {"type": "of_the_future"},
        HELLO,
    ]
    create(scripted_url, items, instructions="z")
    assert engine.prompts[0].messages == (
        Message("system", "z"),
        Message("developer", "a"),
        Message("user", "b"),
        Message("assistant", "", "r", (ToolCall("1", "f", "{}"),)),
        Message("tool", "c", tool_call_id="1", name="f"),
        Message("assistant", "", "", (ToolCall("2", "g", '{"input": "x"}'),)),
        Message("tool", "d", tool_call_id="2", name="g"),
        Message("assistant", "e"),
        Message("user", "hi"),
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
    }
    body = {"max_output_tokens": 9, "stop": "END", "reasoning": {"effort": "low"}}
    response = create(scripted_url, **given, **body)
    params = engine.params[0]
    assert {name: getattr(params, name) for name in given} == given
    assert (params.max_tokens, params.stop) == (9, ("END",))
    assert engine.prompts[0].template_args == {"reasoning_effort": "low"}
    assert response["reasoning"]["effort"] == "low"


def test_tools_are_offered_as_the_choice_says(scripted_url: str, engine: ScriptedEngine) -> None:
    grep = {"type": "custom", "name": "grep"}
    tools = [
        WEATHER,
        grep,
        {"type": "namespace", "name": "mcp__", "tools": [{"type": "function", "name": "list"}]},
        *({"type": kind} for kind in ("web_search", "file_search", "code_interpreter", "mcp")),
    ]
    allowed = {"type": "allowed_tools", "mode": "auto", "tools": [grep]}
    response = create(scripted_url, tools=tools)
    assert [tool["type"] for tool in response["tools"]] == ["function", "custom", "namespace"]
    create(scripted_url, tools=tools, tool_choice="none")
    create(scripted_url, tools=tools, tool_choice=allowed)
    create(scripted_url, tools=tools, max_tool_calls=0)
    create(scripted_url, tools=tools, parallel_tool_calls=False)
    every = ["get_weather", "grep", "mcp__list"]
    names = [[tool.name for tool in prompt.tools] for prompt in engine.prompts]
    assert names == [every, [], ["grep"], [], every]
    assert [prompt.max_tool_calls for prompt in engine.prompts] == [None] * 4 + [1]


def test_a_schema_reaches_the_model_with_its_nulls(
    scripted_url: str, engine: ScriptedEngine
) -> None:
    schema = {"type": "object", "properties": {"x": {"enum": ["a", None], "default": None}}}
    create(scripted_url, tools=[{"type": "function", "name": "f", "parameters": schema}])
    assert engine.prompts[0].tools[0].parameters == schema


def test_an_empty_input_is_a_warm_up_that_answers(scripted_url: str) -> None:
    assert text_of(create(scripted_url, "", max_output_tokens=1)) == "Hello"


OPTIONAL = [
    *("instructions", "metadata", "text", "reasoning", "include", "tools", "tool_choice", "stop"),
    *("previous_response_id", "conversation", "temperature", "top_p", "top_logprobs", "store"),
    *("max_output_tokens", "max_tool_calls", "background", "stream", "stream_options", "prompt"),
    *("parallel_tool_calls", "truncation", "user", "seed", "chat_template_kwargs", "model"),
    *("service_tier", "safety_identifier", "prompt_cache_key", "context_management", "moderation"),
]


@pytest.mark.parametrize("empty", [None, {}, []])
def test_what_is_empty_is_the_default(
    scripted_url: str, engine: ScriptedEngine, empty: Any
) -> None:
    create(scripted_url)
    for name in OPTIONAL:
        create(scripted_url, **{name: empty})
    assert engine.prompts == [engine.prompts[0]] * (1 + len(OPTIONAL))
    assert engine.params == [engine.params[0]] * (1 + len(OPTIONAL))


def test_what_only_openai_can_do_is_ignored(scripted_url: str, engine: ScriptedEngine) -> None:
    create(
        scripted_url,
        service_tier="flex",
        safety_identifier="s",
        prompt_cache_key="k",
        prompt_cache_retention="24h",
        text={"verbosity": "low"},
        stream_options={"include_obfuscation": True},
        context_management=[{"type": "compaction"}],
        client_metadata={"a": "b"},
        of_the_future={"c": "d"},
    )
    assert engine.prompts[0].messages == (Message("user", "hi"),)


def test_defaults_are_the_servers(engine: ScriptedEngine) -> None:
    with serving(create_app(Settings(temp=0.3, top_p=0.5, max_tokens=77), engine)) as url:
        response = create(url)
    params = engine.params[0]
    assert (params.temperature, params.top_p, params.max_tokens) == (0.3, 0.5, 77)
    shown = [response[name] for name in ("temperature", "top_p", "max_output_tokens")]
    assert shown == [0.3, 0.5, 77]


# Prompts that do not fit


class ShortSighted(ScriptedEngine):
    """An engine that reads three messages at most."""

    async def submit(
        self, prompt: Prompt, params: SamplingParams, **options: float | None
    ) -> ScriptedAnswer:
        if len(prompt.messages) > 3:
            raise ContextLengthExceeded("Too long.", param="messages")
        return await super().submit(prompt, params, **options)


LONG = [{"role": "developer", "content": "be"}, *({"role": "user", "content": x} for x in "abcd")]


def test_truncation_auto_drops_the_oldest_turns(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "mlx_server")
    engine = ShortSighted()
    with serving(create_app(Settings(), engine)) as url:
        assert create(url, LONG, truncation="auto")["truncation"] == "auto"
        assert refusal(post(url, input=LONG)) == (400, "context_length_exceeded", "input")
        hopeless = [*LONG[:1] * 3, *LONG[4:]]
        answer = post(url, input=hopeless, truncation="auto")
        assert refusal(answer) == (400, "context_length_exceeded", "input")
    assert [message.content for message in engine.prompts[0].messages] == ["be", "c", "d"]
    assert "2 oldest turns were dropped" in caplog.text


def test_a_compaction_gives_up_its_oldest_turns_also_when_it_is_continued() -> None:
    engine = ShortSighted()
    with serving(create_app(Settings(), engine)) as url:
        compaction = post(url, "/compact", model="demo", input=LONG).json()["output"]
        first = create(url, compaction)
        create(url, "e", previous_response_id=first["id"])
    assert [message.content for message in engine.prompts[-1].messages] == ["be", "e"]


# What is refused


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"prompt": {"id": "pmpt_1"}}, "prompt"),
        ({"background": True, "store": False}, "background"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tool_choice": {"type": "function", "name": "absent"}}, "tool_choice"),
        ({"tool_choice": {"type": "web_search"}}, "tool_choice"),
        ({"tool_choice": {"mode": "auto"}}, "tool_choice"),
        ({"tool_choice": "perhaps"}, "tool_choice"),
        (
            {
                "tools": [WEATHER],
                "tool_choice": {
                    "type": "allowed_tools",
                    "mode": "auto",
                    "tools": [{"type": "function", "name": "absent"}],
                },
            },
            "tool_choice",
        ),
        ({"text": {"format": {"type": "yaml"}}}, "text.format"),
        ({"text": {"format": {"type": "json_schema", "name": "x"}}}, "text.format"),
        ({"text": {"format": {"name": "x"}}}, "text.format.type"),
        ({"tools": [{"type": "function"}]}, "tools[0].name"),
        ({"input": None}, "input"),
        ({"input": []}, "input"),
        ({"input": [5]}, "input[0]"),
        ({"input": [{"role": "user", "content": 5}]}, "input[0].content"),
        ({"input": [HELLO, {"type": "function_call", "arguments": "{}"}]}, "input[1].name"),
        ({"input": [{"type": "item_reference", "id": "msg_0"}]}, "input[0].id"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]},
            "input[0].content[0]",
        ),
        (
            {"input": [{"type": "compaction", "encrypted_content": seal("reasoning", [])}]},
            "input[0].encrypted_content",
        ),
    ],
)
def test_what_is_not_honoured_is_refused_by_name(
    scripted_url: str, body: dict[str, Any], param: str
) -> None:
    answer = post(scripted_url, **{"input": "hi", **body})
    assert answer.status_code == 400
    assert assert_envelope(answer.json())["param"] == param


@pytest.mark.parametrize(
    ("body", "param", "code"),
    [
        ({"input": 5}, "input", "invalid_type"),
        ({"temperature": "hot"}, "temperature", "invalid_type"),
        ({"temperature": 9}, "temperature", "invalid_value"),
        ({"top_p": -0.1}, "top_p", "invalid_value"),
        ({"max_output_tokens": 0}, "max_output_tokens", "invalid_value"),
        ({"top_logprobs": 21}, "top_logprobs", "invalid_value"),
        ({"max_tool_calls": -1}, "max_tool_calls", "invalid_value"),
        ({"metadata": {"a": 1}}, "metadata.a", "invalid_type"),
        ({"metadata": {str(i): "x" for i in range(17)}}, "metadata", "invalid_value"),
        ({"tools": {"type": "function"}}, "tools", "invalid_type"),
        ({"truncation": "perhaps"}, "truncation", "invalid_value"),
        ({"conversation": {"id": 5}}, "conversation", "invalid_type"),
        ({"conversation": {"id": ["x"]}}, "conversation", "invalid_type"),
        ({"conversation": {"name": "x"}}, "conversation", "invalid_type"),
        ({"previous_response_id": 5}, "previous_response_id", "invalid_type"),
        ({"reasoning": {"effort": 5}}, "reasoning.effort", "invalid_type"),
        ({"text": {"format": "json"}}, "text.format", "invalid_type"),
        ({"include": "all"}, "include", "invalid_type"),
        ({"store": "perhaps"}, "store", "invalid_type"),
    ],
)
def test_what_does_not_fit_is_a_422_that_names_it(
    scripted_url: str, body: dict[str, Any], param: str, code: str
) -> None:
    answer = post(scripted_url, **{"input": "hi", **body})
    assert refusal(answer) == (422, code, param)
    assert all("input" not in problem for problem in answer.json()["detail"])


def test_media_is_refused_with_a_code_of_its_own(scripted_url: str) -> None:
    content = [{"type": "input_file", "file_id": "x"}]
    answer = post(scripted_url, input=[{"role": "user", "content": content}])
    assert refusal(answer)[:2] == (400, "unsupported_content")


# Counting and compacting


def test_input_tokens_counts_the_whole_prompt(scripted_url: str, engine: ScriptedEngine) -> None:
    counted = post(scripted_url, "/input_tokens", input="one two three", instructions="four").json()
    assert counted == {"object": "response.input_tokens", "input_tokens": 4}
    first = create(scripted_url, "one two")
    counted = post(
        scripted_url, "/input_tokens", input="four", previous_response_id=first["id"]
    ).json()
    assert counted["input_tokens"] == len("one two Hello four".split())
    assert len(engine.answers) == 1


def test_a_compaction_stands_for_the_turns_before_it(
    scripted_url: str, engine: ScriptedEngine
) -> None:
    first = create(scripted_url, "My name is Zorblat.", instructions="be brief")
    answer = post(
        scripted_url,
        "/compact",
        model="demo",
        previous_response_id=first["id"],
        input=[{"role": "user", "content": "And I am old."}],
    )
    compacted = answer.json()
    assert compacted["object"] == "response.compaction"
    assert compacted["usage"]["input_tokens"] > 0
    (item,) = compacted["output"]
    assert item["type"] == "compaction"
    assert "Zorblat" not in item["encrypted_content"]
    second = response_of(post(scripted_url, input=[item, {"role": "user", "content": "So?"}]))
    create(scripted_url, "And then?", previous_response_id=second["id"])
    said = [message.content for message in engine.prompts[-1].messages]
    assert said == [*("My name is Zorblat.", "Hello", "And I am old.", "So?", "Hello", "And then?")]


def test_a_compaction_needs_a_model_and_something_to_compact(scripted_url: str) -> None:
    answer = post(scripted_url, "/compact", input="hi")
    assert refusal(answer) == (422, "missing_required_parameter", "model")
    answer = post(scripted_url, "/compact", model="demo")
    assert refusal(answer) == (400, "missing_required_parameter", "input")
