"""The schemas that Pydantic and Zod make of their types are enforced, or refused with a reason."""

from __future__ import annotations

import collections
import datetime
import decimal
import enum
import ipaddress
import json
import pathlib
import re
import typing
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NotRequired

import jsonschema
import pydantic
import pytest
from pydantic import Field, TypeAdapter
from typing_extensions import TypedDict

from inference.grammar import Grammars
from inference.parser import Markers
from inference.schema import MAX_MEETING, adapted, embedded, why_not
from parts import Constraint, InvalidRequest, Message, Prompt
from tests.demo import VOCAB_SIZE
from tests.inference.test_grammar import walked

Schema = dict[str, Any]
HELLO = (Message("user", "a"),)


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


class Point(typing.NamedTuple):
    x: int
    y: int


class Entry(TypedDict):
    a: int
    b: NotRequired[str]


class Tree(pydantic.BaseModel):
    value: int
    left: Tree | None = None


Letters = Literal["a", "b"]
Key = Annotated[str, Field(pattern="^k[0-9]$")]
TYPES: tuple[Any, ...] = (
    str, int, float, bool, None, bytes, Any, object, typing.Hashable,
    decimal.Decimal, Annotated[decimal.Decimal, Field(max_digits=5, decimal_places=2)],
    datetime.date, datetime.datetime, datetime.time, datetime.timedelta, pydantic.AwareDatetime,
    uuid.UUID, pydantic.UUID4, pathlib.Path, pydantic.DirectoryPath, re.Pattern,
    Colour, Level, Letters, Literal[1, "a", None, True], Point, Entry, Tree,
    list[int], tuple[int, str], tuple[int, ...], collections.deque[int], typing.Sequence[int],
    dict[str, int], dict[int, str], dict[Colour, int], dict[Letters, int], dict[uuid.UUID, int],
    dict[Key, int], dict[Annotated[str, Field(min_length=1)], int], dict[datetime.date, int],
    dict[Letters, Any], collections.Counter[str], collections.defaultdict[str, list[int]],
    int | None, int | str, list[int] | dict[str, int] | None,
    Annotated[str, Field(min_length=1, max_length=3)], Annotated[str, Field(pattern="^a+$")],
    Annotated[int, Field(ge=1, lt=10)], Annotated[float, Field(multiple_of=0.5)],
    Annotated[int, Field(ge=-(2**63), lt=2**63)],
    Annotated[list[int], Field(min_length=1, max_length=2)],
    pydantic.PositiveInt, pydantic.NonNegativeFloat, pydantic.FiniteFloat, pydantic.ByteSize,
    pydantic.AnyUrl, pydantic.HttpUrl, pydantic.PostgresDsn, pydantic.SecretStr, pydantic.Json,
    pydantic.Base64Bytes, pydantic.PastDate, pydantic.FutureDatetime,
    ipaddress.IPv4Address, ipaddress.IPv6Address, ipaddress.IPv4Network, pydantic.IPvAnyAddress,
    set[str], frozenset[Letters],
)  # fmt: skip
DECIMAL = {
    "anyOf": [
        {"type": "number"},
        {"type": "string", "pattern": r"^(?!^[-+.]*$)[+-]?0*\d*\.?\d*$"},
    ]
}
"""As Pydantic has written it for years."""
REFUSED = {
    "set[str]": r"\[\"uniqueItems\"\]",
    "frozenset[typing.Literal['a', 'b']]": r"\[\"uniqueItems\"\]",
    "emoji": "a pattern looks around",
    "look-ahead": "a pattern looks around",
    "regex of words": "a pattern looks around",
}
"""What cannot be enforced of all these, and the reason."""


def of_pydantic() -> dict[str, Schema]:
    schemas = {str(kind): TypeAdapter(kind).json_schema() for kind in TYPES}
    return {**schemas, "decimal": DECIMAL}


def of_zod() -> dict[str, Schema]:
    """What Zod 4.6 makes of types of these names."""
    schemas: dict[str, Schema] = json.loads(Path(__file__).with_name("zod.json").read_text())
    return schemas


@pytest.fixture(scope="module")
def grammars(tokenizer: Any) -> Grammars:
    return Grammars(tokenizer, Markers.of(tokenizer), vocab_size=VOCAB_SIZE)


@pytest.mark.parametrize("schemas", [of_pydantic(), of_zod()], ids=["pydantic", "zod"])
def test_every_type_is_enforced_or_refused(
    tokenizer: Any, grammars: Grammars, schemas: Mapping[str, Schema]
) -> None:
    num_whole = 0
    for name, schema in schemas.items():
        constraint = Constraint("json", schema)
        prompt = Prompt(
            (Message("user", "a"),), (), {"enable_thinking": False}, None, (), constraint
        )
        if name in REFUSED:
            with pytest.raises(InvalidRequest, match=REFUSED[name]):
                grammars.guide(prompt, [1])
            continue
        for seed in range(2):
            guide = grammars.guide(prompt, [1])
            assert guide is not None
            text = walked(tokenizer, guide, seed, 150)
            if text is not None:
                jsonschema.Draft202012Validator(schema).validate(json.loads(text))
                num_whole += 1
    assert num_whole > len(schemas)


NAMES = {"type": "string", "enum": ["a", "b"]}
A_AND_B = {"properties": {"a": {"type": "null"}, "b": {"type": "null"}}}


@pytest.mark.parametrize(
    ("names", "meant"),
    [
        ({"type": "string"}, {"additionalProperties": {"type": "null"}}),
        (NAMES, A_AND_B),
        ({"$ref": "#/$defs/Names"}, A_AND_B),
        ({"const": "a"}, {"properties": {"a": {"type": "null"}}}),
        ({"pattern": "^k"}, {"patternProperties": {"^k": {"type": "null"}}}),
        ({"maxLength": 2}, {"patternProperties": {r"^(.|\n){0,2}$": {"type": "null"}}}),
        ({"format": "email"}, None),
        ({"enum": ["a"], "maxLength": 2}, None),
        ({"$ref": "#/$defs/Nothing"}, None),
        (False, None),
    ],
)
def test_the_names_in_an_object_are_said_by_its_properties(names: Any, meant: Any) -> None:
    schema = {
        "type": "object",
        "propertyNames": names,
        "additionalProperties": {"type": "null"},
        "$defs": {"Names": NAMES},
    }
    found = adapted(schema)
    if meant is None:
        assert found == schema
        return
    del schema["propertyNames"]
    assert found == schema | {"additionalProperties": False} | meant


def test_names_that_are_listed_keep_what_is_said_of_each() -> None:
    properties = {"a": {"const": 1}, "c": {"const": 3}}
    found = adapted({"properties": properties, "propertyNames": NAMES})
    assert found == {"properties": {"a": {"const": 1}, "b": True}, "additionalProperties": False}


def expressions(number: int) -> list[Schema]:
    return [{"type": "string", "pattern": f"[{letter}]"} for letter in "abcdefghijklm"[:number]]


def named(schema: Schema) -> Schema:
    return {"type": "object", "properties": {"allOf": schema}}


@pytest.mark.parametrize("more", [0, 1])
@pytest.mark.parametrize(
    "joined",
    [
        lambda each: {"allOf": each},
        lambda each: {"allOf": each[1:], **each[0]},
        lambda each: {"allOf": [{"anyOf": [each[0], each[1]]}, *each[2:], {"format": "email"}]},
        lambda each: {"allOf": list(map(named, each))},
        lambda each: named({"allOf": list(map(named, each))}),
        lambda each: {"$ref": "#/$defs/a", "pattern": "a", "$defs": {"a": {"allOf": each[1:]}}},
        lambda each: {
            "properties": {"a": {"allOf": each[1:]}},
            "patternProperties": {"^.$": {"pattern": "x"}},
        },
    ],
)
def test_only_so_many_expressions_may_meet_in_one_text(joined: typing.Any, more: int) -> None:
    reason = why_not(joined(expressions(MAX_MEETING + more)))
    assert (reason is not None) == bool(more), reason


def test_expressions_of_many_texts_are_as_many_as_they_like() -> None:
    apart = {f"p{i}": {"anyOf": expressions(8)} for i in range(20)}
    assert why_not({"type": "object", "properties": apart, "required": [*apart]}) is None


def test_the_schemas_in_a_grammar_are_found() -> None:
    text = 'start: %json {"a": {"b": 1}} | %json\n{"c": 2} | "%json" | %json true | %json {x}'
    assert list(embedded(text)) == [{"a": {"b": 1}}, {"c": 2}]
    assert not list(embedded("start: %json " + '{"a":' * 9000))
