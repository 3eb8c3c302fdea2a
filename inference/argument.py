"""An argument of a call that is written as bare text: what its schema lets it be, and how it reads.

Formats that are not JSON write `5`, `null` and a string alike, without quotes. So what a text may
be is decided by the schema, when it is written and again when it is read.
"""

from __future__ import annotations

import ast
import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from inference.schema import CALENDAR, referred, slashes_escaped

Schema = Mapping[str, Any]

ANNOTATIONS = frozenset(
    "title description default examples deprecated readOnly writeOnly $schema $comment $id "
    "$defs definitions discriminator".split()
)
"""Keywords that demand nothing."""
TYPES = ("string", "integer", "number", "boolean", "null", "object", "array")
MAX_REFERENCES = 32
ANY_TEXT = r"(.|\n)*"
_NUMBER = r"-?(0|[1-9][0-9]{0,14})"
SCALARS = {
    "integer": _NUMBER,
    "number": rf"{_NUMBER}(\.[0-9]{{1,9}})?",
    "boolean": "true|false",
    "null": "null",
}
"""How values are written of which nothing else is demanded."""
_OFFSET = r"([Zz]|[+-]([01][0-9]|2[0-3]):[0-5][0-9])"
_TIME = rf"([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\.[0-9]{{1,6}})?{_OFFSET}"
_LABEL = "[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?"
_BYTE = "(25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
FORMATS = {
    "date": CALENDAR["date"].strip("^$"),
    "time": _TIME,
    "date-time": f"{CALENDAR['date'].strip('^$')}T{_TIME}",
    "uuid": "[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}",
    "email": rf"[a-z0-9_+-]{{1,30}}(\.[a-z0-9_+-]{{1,30}}){{0,3}}@{_LABEL}(\.{_LABEL}){{1,3}}",
    "hostname": rf"{_LABEL}(\.{_LABEL}){{0,5}}",
    "ipv4": rf"{_BYTE}(\.{_BYTE}){{3}}",
}
"""Formats of strings as they stand without quotes."""


class Inexpressible(Exception):
    """What is demanded cannot be written in this format; the message says what."""


@dataclass(slots=True)
class Alternatives:
    """What an argument may be."""

    texts: list[str] = field(default_factory=list)
    """Expressions, in regular notation, of which its text matches one."""
    literals: list[Any] = field(default_factory=list)
    """Values that it may be."""
    structured: list[Schema] = field(default_factory=list)
    """Schemas of what is written as JSON."""
    types: set[str] = field(default_factory=set)


def alternatives(schema: Any, root: Schema, *, is_bare: bool = True) -> Alternatives:
    """Find out what a schema, which is part of `root`, lets an argument be.

    `is_bare` when strings and numbers look alike, so that a text may be one as well as the other.

    Raises:
        Inexpressible: it demands something of a string that cannot be said without quotes.
    """
    found = Alternatives()
    simple = list(_simple(schema, root))
    is_mixed = is_bare and any(s.get("type") == "string" for s in simple)
    for one in simple:
        _sort_in(one, found, is_mixed)
    return found


def _sort_in(one: Schema, found: Alternatives, is_mixed: bool) -> None:
    if "const" in one:
        found.literals.append(one["const"])
        found.types.add(_type_of(one["const"]))
        return
    kind = one["type"]
    found.types.add(kind)
    is_plain = not (one.keys() - ANNOTATIONS - {"type"})
    if kind == "string":
        found.texts.append(_text(one))
    elif kind in SCALARS and is_plain and is_mixed:
        found.texts.append(SCALARS[kind])
    elif kind in ("integer", "number") and is_mixed:
        raise Inexpressible("a number of a certain size or any text")
    else:
        found.structured.append(one)


def _simple(schema: Any, root: Schema, depth: int = 0) -> Iterator[Schema]:
    """Take a schema apart into constants and schemas of one type."""
    if depth > MAX_REFERENCES:
        raise Inexpressible("a reference that never ends")
    match schema:
        case True:
            schema = {}
        case False:
            return
        case Mapping():
            pass
        case _:
            raise Inexpressible("something that is no schema")
    rest = {k: v for k, v in schema.items() if k not in ANNOTATIONS}
    match rest:
        case {"$ref": str(path), **others}:
            found = {**_referred(path, root), **others}
            yield from _simple(found, root, depth + 1)
        case {"anyOf": [*options], **others} | {"oneOf": [*options], **others}:
            for option in options:
                if others and not isinstance(option, Mapping):
                    raise Inexpressible("a choice within a schema")
                yield from _simple({**others, **option} if others else option, root, depth + 1)
        case {"allOf": [Mapping() as only], **others}:
            yield from _simple({**only, **others}, root, depth + 1)
        case {"const": value}:
            yield {"const": value}
        case {"enum": [*values]}:
            yield from ({"const": value} for value in values)
        case {"type": [*kinds], **others}:
            for kind in kinds:
                yield from _simple({**others, "type": kind}, root, depth + 1)
        case {"type": str(kind)} if kind in TYPES:
            yield rest
        case {"type": _} | {"allOf": _} | {"not": _} | {"if": _}:
            raise Inexpressible("a combination of schemas")
        case _:
            yield from ({**rest, "type": kind} for kind in _types_meant(rest))


def _types_meant(rest: Schema) -> tuple[str, ...]:
    """The types of a schema that names none; one that demands nothing may be anything."""
    if "properties" in rest or "additionalProperties" in rest:
        return ("object",)
    if "items" in rest or "prefixItems" in rest:
        return ("array",)
    return ("string", "boolean", "null", "object", "array") if rest else TYPES


def _referred(path: str, root: Schema) -> Schema:
    found = referred(path, root)
    if not isinstance(found, Mapping):
        raise Inexpressible(f"a reference to {path[:100]!r}, which is not there")
    return found


def _text(schema: Schema) -> str:
    """The expression of a string as it stands without quotes."""
    demands = schema.keys() - ANNOTATIONS - {"type"}
    bounds = demands & {"minLength", "maxLength"}
    if demands == bounds:
        low, high = schema.get("minLength", 0), schema.get("maxLength", "")
        return rf"(.|\n){{{low},{high}}}" if bounds else ANY_TEXT
    if demands == {"pattern"} and isinstance(schema["pattern"], str):
        return _whole(schema["pattern"])
    form = schema.get("format")
    if "format" in demands and isinstance(form, str):
        if form in FORMATS and not demands & {"minLength", "maxLength"}:
            return FORMATS[form]
        if demands == {"format"} and form not in _KNOWN_FORMATS:
            return ANY_TEXT
    raise Inexpressible(f"a string with {' and '.join(sorted(demands))}")


_KNOWN_FORMATS = frozenset("duration ipv6 uri".split())
"""Formats that demand something which is not written here."""


def _whole(pattern: str) -> str:
    """An expression that is looked for in a text, as one that the whole text matches."""
    if re.search(r"\(\?<?[=!]|\\[bB]", pattern):
        raise Inexpressible(f"the pattern {pattern[:100]!r}, which looks around")
    inner = pattern.removeprefix("^")
    is_closed = inner.endswith("$") and not inner.endswith("\\$")
    inner = inner[:-1] if is_closed else inner
    if _has_open_choice(inner) and (is_closed or pattern.startswith("^")):
        raise Inexpressible(f"the pattern {pattern[:100]!r}")
    before = "" if pattern.startswith("^") else ANY_TEXT
    return f"{before}({inner}){'' if is_closed else ANY_TEXT}"


def _has_open_choice(pattern: str) -> bool:
    """Whether `|` stands outside all brackets, where an anchor belongs to one side only."""
    depth = 0
    for char in re.sub(r"\\.|\[(\\.|[^\]])*\]", "", pattern):
        depth += (char == "(") - (char == ")")
        if char == "|" and not depth:
            return True
    return False


def written(value: Any) -> str:
    """A constant as it stands in a text."""
    if isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False)


def literal(text: str) -> str:
    """A text as an expression between slashes."""
    return slashes_escaped(re.escape(text))


# Reading


def typed(value: Any, schema: Any, root: Schema) -> Any:
    """What a text was meant to be, which mlx-lm's parser gave as it stands, or guessed at."""
    try:
        types = alternatives(schema, root).types
    except Inexpressible:
        types = set()
    if types == {"string"}:
        return value if isinstance(value, str) else written(value)
    if not isinstance(value, str):
        return _whole_number(value) if _type_of(value) not in types else value
    meant = _decoded(value)
    meant = meant if _admits(types, meant) else _whole_number(meant)
    if _admits(types, meant) or ("string" not in types and not isinstance(meant, str)):
        return meant
    return value


def _admits(types: set[str], value: Any) -> bool:
    kind = _type_of(value)
    return kind in types or (kind == "integer" and "number" in types)


def _decoded(text: str) -> Any:
    """The JSON or the Python in a text, or the text."""
    for decode in (json.loads, ast.literal_eval):
        try:
            value = decode(text)
            json.dumps(value, allow_nan=False)
        except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
            continue
        return value
    return text


def _whole_number(value: Any) -> Any:
    is_whole = isinstance(value, float) and math.isfinite(value) and value.is_integer()
    return int(value) if is_whole else value


def _type_of(value: Any) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "boolean"
        case int():
            return "integer"
        case float():
            return "number"
        case str():
            return "string"
        case Mapping():
            return "object"
    return "array"
