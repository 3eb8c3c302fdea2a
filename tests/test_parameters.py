"""Every parameter is honoured, or what happens to it is written down."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
from openai.resources.chat.completions import Completions
from openai.resources.responses import Responses
from pydantic import BaseModel

from door.requests import ChatRequest, ResponseRequest
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


@pytest.mark.parametrize("api", MODELS)
def test_every_field_of_a_request_model_is_probed(api: str) -> None:
    assert set(MODELS[api].model_fields) <= probed(api)


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
