"""Every parameter is honoured, or what happens to it is written down."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterator
from typing import Any, get_args

import pytest
from openai.resources.chat.completions import Completions
from openai.resources.responses import Responses
from pydantic import BaseModel

from door.requests import ChatRequest, ResponseRequest
from parts import InvalidRequest
from protocol.chat import read_prompt
from tests.parameters import (
    ABSENT,
    HONOURED,
    IGNORED,
    PARAMETERS,
    README,
    Parameter,
    between_markers,
    observed,
    table,
)
from tests.serving import Running

MODELS: dict[str, type[BaseModel]] = {"chat": ChatRequest, "responses": ResponseRequest}
CALLS: dict[str, Any] = {"chat": Completions.create, "responses": Responses.create}
TRANSPORT = {"self", "extra_headers", "extra_query", "extra_body", "timeout"}
"""What the package's calls take and do not send as parameters."""


@pytest.fixture(scope="module")
def seen(demo_server: Running) -> list[tuple[Parameter, list[str]]]:
    return observed(demo_server.base_url)


def probed(api: str) -> set[str]:
    return {parameter.root for parameter in PARAMETERS if parameter.is_of(api)}


def test_the_readme_says_what_is_observed(seen: list[tuple[Parameter, list[str]]]) -> None:
    written = between_markers(README.read_text(encoding="utf-8"))
    assert written.splitlines() == table(seen).splitlines()


def test_what_is_ignored_is_ignored_on_purpose(seen: list[tuple[Parameter, list[str]]]) -> None:
    for parameter, cells in seen:
        assert IGNORED not in cells or parameter.why, parameter.name


def test_a_parameter_is_treated_alike_in_every_mode(
    seen: list[tuple[Parameter, list[str]]],
) -> None:
    for parameter, (chat, chat_streamed, response, response_streamed, together) in seen:
        for whole, streamed in ((chat, chat_streamed), (response, response_streamed)):
            assert whole in (streamed, ABSENT), parameter.name
        assert together in (chat, chat_streamed, response), parameter.name


def fields(model: type[BaseModel], before: str = "") -> Iterator[str]:
    """The fields of a model, and those of the models in them, with dots between."""
    for name, info in model.model_fields.items():
        yield before + name
        for inner in models_in(info.annotation):
            yield from fields(inner, f"{before}{name}.")


def models_in(kind: Any) -> Iterator[type[BaseModel]]:
    """The models that a type is made of."""
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        yield kind
    for part in get_args(kind):
        yield from models_in(part)


@pytest.mark.parametrize("api", MODELS)
def test_every_field_of_a_request_model_is_probed(api: str) -> None:
    names = {parameter.name for parameter in PARAMETERS if parameter.is_of(api)}
    assert len(set(fields(MODELS[api]))) > len(MODELS[api].model_fields)
    for name in fields(MODELS[api]):
        is_probed = name in names or any(other.startswith(f"{name}.") for other in names)
        assert is_probed or name in IN_MESSAGES, name


CALLS_F = [{"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}]
RESULT = {"role": "tool", "content": "r", "tool_call_id": "c"}
IN_MESSAGES: dict[str, tuple[list[Any], list[Any]]] = {
    "messages.role": ([{"role": "user"}], [{"role": "system"}]),
    "messages.content": ([{"role": "user"}], [{"role": "user", "content": "a"}]),
    "messages.content.type": (
        [{"role": "user", "content": [{"text": "a"}]}],
        [{"role": "user", "content": [{"type": "image_url", "text": "a"}]}],
    ),
    "messages.content.text": (
        [{"role": "user", "content": [{"text": "a"}]}],
        [{"role": "user", "content": [{"text": "b"}]}],
    ),
    "messages.content.refusal": (
        [{"role": "assistant", "content": [{"type": "refusal"}]}],
        [{"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]}],
    ),
    "messages.reasoning": ([{"role": "assistant"}], [{"role": "assistant", "reasoning": "hm"}]),
    "messages.reasoning_content": (
        [{"role": "assistant"}],
        [{"role": "assistant", "reasoning_content": "hm"}],
    ),
    "messages.tool_calls": (
        [{"role": "assistant"}],
        [{"role": "assistant", "tool_calls": CALLS_F}, RESULT],
    ),
    "messages.function_call": (
        [{"role": "assistant"}],
        [{"role": "assistant", "function_call": {"name": "f", "arguments": "{}"}}],
    ),
    "messages.tool_call_id": (
        [{"role": "assistant", "tool_calls": CALLS_F}, {"role": "tool", "content": "r"}],
        [{"role": "assistant", "tool_calls": CALLS_F}, RESULT],
    ),
    "messages.name": ([{"role": "user"}], [{"role": "user", "name": "Anna"}]),
}
"""Each field of a message, with messages that differ in it."""


@pytest.mark.parametrize("name", IN_MESSAGES)
def test_every_field_of_a_message_makes_a_difference(name: str) -> None:
    def prompt(messages: list[Any]) -> Any:
        given = ChatRequest.model_validate({"messages": messages}).given()
        try:
            return read_prompt(given)
        except InvalidRequest as refusal:
            return refusal.param

    without, with_it = IN_MESSAGES[name]
    assert prompt(without) != prompt(with_it)


def test_what_no_answer_shows_has_a_test_of_its_own() -> None:
    for parameter in PARAMETERS:
        if parameter.proof:
            module, _, name = parameter.proof.rpartition(".")
            assert callable(getattr(importlib.import_module(module), name))


@pytest.mark.parametrize("api", CALLS)
def test_every_parameter_that_openai_knows_is_probed(api: str) -> None:
    assert set(inspect.signature(CALLS[api]).parameters) - TRANSPORT <= probed(api)


@pytest.mark.parametrize("api", MODELS)
def test_a_field_of_a_request_model_has_a_use(
    api: str, seen: list[tuple[Parameter, list[str]]]
) -> None:
    """A field that is let in only to be ignored would be dead."""
    columns = slice(0, 2) if api == "chat" else slice(2, 4)
    used = {p.root for p, cells in seen if set(cells[columns]) - {IGNORED, ABSENT}}
    assert set(MODELS[api].model_fields) <= used


def test_what_has_a_probe_is_honoured(seen: list[tuple[Parameter, list[str]]]) -> None:
    for parameter, cells in seen:
        if parameter.shows:
            assert set(cells) <= {HONOURED, ABSENT}, parameter.name
