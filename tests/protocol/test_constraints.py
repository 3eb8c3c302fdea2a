"""What an answer must look like, said in each of the ways that clients say it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from parts import Constraint, InvalidRequest, Message
from protocol import chat, constraints, responses

SCHEMA = {"type": "object", "properties": {"name": {"type": "string"}}}
HI = Message("user", "hi")


def refused(form: Any = None, **body: Any) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as refusal:
        constraints.of_request(body, form, "response_format")
    return refusal.value


# OpenAI's way


@pytest.mark.parametrize("form", [None, {}, {"type": "text"}])
def test_text_is_free(form: Any) -> None:
    assert constraints.of_format(form, "response_format") is None


@pytest.mark.parametrize(
    ("form", "schema"),
    [
        ({"type": "json_object"}, {}),
        ({"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA}}, SCHEMA),
        ({"type": "json_schema", "name": "n", "schema": SCHEMA}, SCHEMA),
        ({"type": "json_schema", "name": "n", "schema": SCHEMA, "strict": False}, SCHEMA),
        ({"type": "json_schema", "schema": {}}, {}),
        ({"type": "json_schema", "schema": True}, {}),
    ],
)
def test_both_apis_ways_to_give_a_schema_are_read(form: Any, schema: Any) -> None:
    assert constraints.of_format(form, "text.format") == Constraint("json", schema, "text.format")


@pytest.mark.parametrize(
    ("form", "param", "code"),
    [
        ({"type": "yaml"}, "response_format", "invalid_value"),
        ({"type": None}, "response_format", "invalid_value"),
        ({"schema": SCHEMA}, "response_format.type", "invalid_value"),
        ({"type": "json_schema"}, "response_format", "invalid_value"),
        ({"type": "json_schema", "json_schema": {"name": "n"}}, "response_format", "invalid_value"),
        ({"type": "json_schema", "schema": None}, "response_format", "invalid_schema"),
        ({"type": "json_schema", "schema": "{}"}, "response_format", "invalid_schema"),
        ({"type": "json_schema", "schema": False}, "response_format", "invalid_schema"),
    ],
)
def test_a_format_that_says_nothing_is_refused_by_name(form: Any, param: str, code: str) -> None:
    refusal = refused(form)
    assert (refusal.param, refusal.code) == (param, code)


# vLLM's way


@pytest.mark.parametrize(
    ("extras", "constraint"),
    [
        ({"json": SCHEMA}, Constraint("json", SCHEMA, "structured_outputs")),
        ({"json": json.dumps(SCHEMA)}, Constraint("json", SCHEMA, "structured_outputs")),
        ({"json_object": True}, Constraint("json", {}, "structured_outputs")),
        ({"regex": "a+"}, Constraint("regex", "a+", "structured_outputs")),
        ({"grammar": "start: A"}, Constraint("grammar", "start: A", "structured_outputs")),
        ({"choice": ["a", "b"]}, Constraint("choice", ["a", "b"], "structured_outputs")),
        (
            {"regex": "a", "json": None, "json_object": False, "whitespace_pattern": " "},
            Constraint("regex", "a", "structured_outputs"),
        ),
        ({}, None),
        (None, None),
    ],
)
def test_every_extra_is_read(extras: Any, constraint: Constraint | None) -> None:
    assert constraints.of_extras({"structured_outputs": extras}) == constraint


@pytest.mark.parametrize(
    "extras",
    [
        {"regex": 5},
        {"choice": []},
        {"choice": [1]},
        {"choice": [""]},
        {"choice": ["a"] * (constraints.MAX_CHOICES + 1)},
        {"json": "{"},
        {"json": [1]},
        {"json_object": False},
        {"structural_tag": "x"},
        {"regex": "a", "choice": ["a"]},
    ],
)
def test_an_extra_that_cannot_be_read_is_refused_and_never_cut(extras: Any) -> None:
    assert refused(structured_outputs=extras).param == "structured_outputs"


def test_one_answer_has_one_form() -> None:
    refusal = refused({"type": "json_object"}, structured_outputs={"regex": "a"})
    assert refusal.param == "structured_outputs"
    assert constraints.of_request(
        {"structured_outputs": {"regex": "a"}}, {"type": "text"}, "response_format"
    ) == Constraint("regex", "a", "structured_outputs")


# What the model is told


def test_a_schema_is_told_behind_the_instructions() -> None:
    wanted = Constraint("json", SCHEMA)
    [first, user] = constraints.told([Message("system", "Be terse."), HI], wanted)
    assert first.role == "system"
    assert first.content.startswith("Be terse.\n\n")
    assert first.content.endswith(json.dumps(SCHEMA))
    assert user == HI
    assert constraints.told([HI], wanted)[0].content == constraints.TOLD.format(json.dumps(SCHEMA))
    assert constraints.told([Message("developer", ""), HI], wanted)[0].role == "developer"


@pytest.mark.parametrize("constraint", [None, Constraint("json", {}), Constraint("regex", "a")])
def test_only_a_schema_is_told(constraint: Constraint | None) -> None:
    assert constraints.told([HI], constraint) == (HI,)


def test_both_apis_read_the_same_constraint() -> None:
    schema = {"name": "n", "strict": True, "schema": SCHEMA}
    chat_prompt = chat.read_prompt(
        {
            "messages": [{"role": "user", "content": "hi"}],
            "response_format": {"type": "json_schema", "json_schema": schema},
        }
    )
    prompt = responses.read(
        {"input": "hi", "text": {"format": {"type": "json_schema", **schema}}}, model="demo"
    ).prompt
    assert prompt.messages == chat_prompt.messages
    assert prompt.constraint and chat_prompt.constraint
    assert prompt.constraint.value == chat_prompt.constraint.value == SCHEMA
    assert (prompt.constraint.param, chat_prompt.constraint.param) == (
        "text.format",
        "response_format",
    )
