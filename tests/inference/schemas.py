"""Random JSON schemas, as Pydantic and Zod write them, all of which can be enforced."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

NAMES = ["id", "name", "tags", "point", "größe", 'a "b"', "x/y", "0", "type", "enum", "$ref"]
PATTERNS = ["^[a-z]{2,5}$", "^(yes|no)$", "^\\d{3}-\\d{2}$", "ab+", "^[^/]*/[^/]*$", "^$", '"']
FORMATS = ["date", "email", "ipv4", "uuid", "time", "date-time"]
CONSTANTS: list[Any] = [
    1,
    -2.5,
    True,
    None,
    "a",
    "",
    "two\nlines",
    'q"u"o',
    "日本",
    [1, "a"],
    {"k": 0},
]


class Schemas:
    """A source of them; the same seed gives the same ones."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def some(self, number: int) -> list[dict[str, Any]]:
        return [self._whole() for _ in range(number)]

    def _whole(self) -> dict[str, Any]:
        make = self._random.choice([self.thing, self.closed, self.closed, self._recursive])
        schema = make(3)
        if self._random.random() < 0.3:
            schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
        return schema

    def thing(self, depth: int) -> dict[str, Any]:
        """Any schema, nested no deeper than `depth`."""
        leaves = [self.text, self.number, self.fixed]
        nodes = [self.closed, self.open, self.list, self.either, self.nullable, self.tuple]
        make: Callable[[int], dict[str, Any]] = self._random.choice(
            leaves + nodes if depth > 0 else leaves
        )
        schema = make(depth - 1)
        if self._random.random() < 0.2:
            schema = {"title": "A title", "description": 'what "it" is', **schema}
        return schema

    def text(self, depth: int) -> dict[str, Any]:
        low = self._random.randint(0, 3)
        return self._random.choice(
            [
                {"type": "string"},
                {"type": "string", "minLength": low, "maxLength": low + self._random.randint(0, 9)},
                {"type": "string", "maxLength": 12},
                {"type": "string", "pattern": self._random.choice(PATTERNS)},
                {"type": "string", "format": self._random.choice(FORMATS)},
            ]
        )

    def number(self, depth: int) -> dict[str, Any]:
        low = self._random.randint(-50, 50)
        high = low + self._random.randint(0, 60)
        return self._random.choice(
            [
                {"type": "integer", "minimum": -(2**53) + 1, "maximum": 2**53 - 1},
                {"type": "integer", "minimum": low, "maximum": high},
                {"type": "integer", "exclusiveMinimum": 0, "maximum": 9},
                {"type": "integer", "minimum": 0, "maximum": 1000, "multipleOf": 5},
                {"type": "number", "minimum": low + 0.5, "exclusiveMaximum": high + 1.25},
                {"type": "boolean"},
            ]
        )

    def fixed(self, depth: int) -> dict[str, Any]:
        values = self._random.sample(CONSTANTS, self._random.randint(1, 4))
        return self._random.choice([{"enum": values}, {"const": values[0]}, {"type": "null"}])

    def closed(self, depth: int) -> dict[str, Any]:
        names = self._random.sample(NAMES, self._random.randint(0, 4))
        required = names if self._random.random() < 0.6 else names[::2]
        return {
            "type": "object",
            "properties": {name: self.thing(depth - 1) for name in names},
            "required": required,
            "additionalProperties": False,
        }

    def open(self, depth: int) -> dict[str, Any]:
        return {"type": "object", "additionalProperties": self.thing(depth - 1)}

    def list(self, depth: int) -> dict[str, Any]:
        low = self._random.randint(0, 2)
        high = low + self._random.randint(0, 3)
        schema = {"type": "array", "items": self.thing(depth - 1)}
        return schema | self._random.choice([{}, {"minItems": low, "maxItems": high}])

    def tuple(self, depth: int) -> dict[str, Any]:
        items = [self.thing(depth - 1) for _ in range(2)]
        return {"type": "array", "prefixItems": items, "items": False, "minItems": 2}

    def either(self, depth: int) -> dict[str, Any]:
        return {"anyOf": [self.thing(depth - 1) for _ in range(self._random.randint(1, 3))]}

    def nullable(self, depth: int) -> dict[str, Any]:
        return self._random.choice(
            [
                {"anyOf": [self.thing(depth - 1), {"type": "null"}], "default": None},
                {"type": ["string", "null"]},
                {"type": ["integer", "boolean"]},
            ]
        )

    def _recursive(self, depth: int) -> dict[str, Any]:
        node = self.closed(depth - 1)
        node["properties"] |= {"children": {"type": "array", "items": {"$ref": "#/$defs/Node"}}}
        link = self._random.choice(
            [{"$ref": "#/$defs/Node"}, {"anyOf": [{"$ref": "#/$defs/Node"}, {"type": "null"}]}]
        )
        return {
            "$defs": {"Node": node, "Leaf": self.thing(depth - 1)},
            "type": "object",
            "properties": {"root": link, "leaf": {"$ref": "#/$defs/Leaf"}},
            "required": ["root", "leaf"],
            "additionalProperties": False,
        }
