"""LangChain, as its users have it: a chat, a stream, tools, and an object in each of its modes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from pydantic import BaseModel, Field

from tests.serving import Running

QUESTION = HumanMessage("What is the weather in Kelmora?")


class City(BaseModel):
    """A city."""

    name: Annotated[str, Field(max_length=12)] = ""
    kind: Literal["town", "capital"] = "town"


@tool
def get_weather(city: str) -> str:
    """Get the weather of a city."""
    return "snow"


def llm(server: Running, **options: Any) -> ChatOpenAI:
    return ChatOpenAI(
        model="demo",
        base_url=f"{server.base_url}/v1",
        api_key="none",  # type: ignore[arg-type]
        temperature=0,
        max_retries=0,
        **options,
    )


def test_a_chat_is_answered_with_its_usage(demo_server: Running) -> None:
    answer = llm(demo_server).invoke("Hello!")
    assert "hello" in str(answer.content).lower()
    assert answer.response_metadata["finish_reason"] == "stop"
    assert answer.usage_metadata
    assert answer.usage_metadata["output_token_details"]["reasoning"] > 0


def test_the_chunks_of_a_stream_add_up_to_the_answer(demo_server: Running) -> None:
    chunks = list(llm(demo_server, stream_usage=True).stream("Hello!"))
    assert len(chunks) > 3
    whole = chunks[0]
    for chunk in chunks[1:]:
        whole += chunk
    assert whole.content == llm(demo_server).invoke("Hello!").content
    assert whole.response_metadata["finish_reason"] == "stop"
    assert whole.usage_metadata and whole.usage_metadata["output_tokens"] > 3


@pytest.mark.parametrize("is_responses", [False, True], ids=["chat", "responses"])
def test_a_tool_is_called_and_its_result_answered_from(
    demo_server: Running, is_responses: bool
) -> None:
    model = llm(demo_server, use_responses_api=is_responses).bind_tools([get_weather])
    asked = model.invoke([QUESTION])
    [call] = asked.tool_calls
    assert (call["name"], call["args"]) == ("get_weather", {"city": "Kelmora"})
    result = get_weather.invoke(call)
    assert result.tool_call_id == call["id"]
    assert "snow" in str(model.invoke([QUESTION, asked, result]).text)


def test_a_call_streams_into_the_same_call(demo_server: Running) -> None:
    model = llm(demo_server).bind_tools([get_weather])
    whole: Any = None
    for chunk in model.stream([QUESTION]):
        whole = chunk if whole is None else whole + chunk
    assert [(c["name"], c["args"]) for c in whole.tool_calls] == [
        ("get_weather", {"city": "Kelmora"})
    ]


def test_any_means_that_a_tool_must_be_called(demo_server: Running) -> None:
    options: dict[str, Any] = {"strict": True, "parallel_tool_calls": False}
    model = llm(demo_server, reasoning_effort="none")
    answer = model.bind_tools([City], tool_choice="any", **options).invoke("Hello!")
    [call] = answer.tool_calls
    assert City.model_validate(call["args"])


# Structured output


@pytest.mark.parametrize("method", ["function_calling", "json_schema"])
@pytest.mark.parametrize("is_responses", [False, True], ids=["chat", "responses"])
def test_an_object_of_a_class(demo_server: Running, method: Any, is_responses: bool) -> None:
    model = llm(demo_server, reasoning_effort="none", use_responses_api=is_responses)
    shaped = model.with_structured_output(City, method=method, include_raw=True)
    answer = shaped.invoke("Tell me about Paris.")
    assert isinstance(answer, dict)
    assert answer["parsing_error"] is None
    assert isinstance(answer["parsed"], City)


def test_json_mode_gives_json(demo_server: Running, float32_model: Path) -> None:
    """The toy has no reason to end its object: it is told to want braces more than all else."""
    tokenizer = json.loads((float32_model / "tokenizer.json").read_text(encoding="utf-8"))
    braces = {tokenizer["model"]["vocab"][brace]: 100 for brace in "{}"}
    model = llm(demo_server, reasoning_effort="none", logit_bias=braces)
    shaped = model.with_structured_output(City, method="json_mode", include_raw=True)
    answer = shaped.invoke("Tell me about Paris, as JSON.")
    assert isinstance(answer, dict)
    raw: BaseMessage = answer["raw"]
    assert isinstance(raw, AIMessage) and json.loads(str(raw.content)) == {}
    assert isinstance(answer["parsed"], City)
