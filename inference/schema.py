"""A schema within bounds: what may be compiled at all, and how it is said to llguidance."""

from __future__ import annotations

import contextlib
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from typing import Any

COMPILE_S, COMPILE_TOOL_S, MAX_COMPILE_S = 2.0, 0.1, 10.0
"""Seconds that what a request demands may take to compile, how many more for each tool, and at
most."""
MAX_TEXT = 8 * 1024
"""Characters of one expression, or of one text in a schema: each step reads it again."""
MAX_DEPTH = 100
"""Objects and lists inside each other, in a schema."""
MAX_MULTIPLE = 20_000
"""The least common multiple of all `multipleOf`: an automaton counts up to it."""
MAX_OPTIONAL = 500
"""Optional properties of one object: the parser considers all of them at once."""
MAX_PROPERTIES = 2000
"""Properties of all objects together: each costs the compiler half a millisecond."""
MAX_MEETING = 8
"""Expressions and formats that one text must match together: each doubles what the compiler looks
at, whatever limits it is given."""
MAX_PATTERNED = 100
"""Expressions for names of properties: each is compared with all others."""
MAX_NUMBER = 10**18
"""Where bounds of numbers end: those of 64 bits, or of floating point, are not followed further."""
FORMATS = frozenset("date-time time date duration email hostname ipv4 ipv6 uuid uri".split())
"""Formats of strings that can be enforced; all others say something, and demand nothing."""
COUNTS = frozenset("minItems maxItems minLength maxLength minProperties maxProperties".split())
_YEAR = "([1-9][0-9]{3}|0[1-9][0-9]{2}|00[1-9][0-9]|000[1-9])"
_LEAP_YEAR = "([0-9]{2}(0[48]|[2468][048]|[13579][26])|(0[48]|[2468][048]|[13579][26])00)"
_DATE = (
    rf"({_YEAR}-(0[1-9]|1[0-2])-(0[1-9]|1[0-9]|2[0-8])|{_YEAR}-(0[13-9]|1[0-2])-(29|30)"
    rf"|{_YEAR}-(0[13578]|1[02])-31|{_LEAP_YEAR}-02-29)"
)
_TIME = "[0-9]{2}:[0-9]{2}:[0-5]"
CALENDAR = {"date": f"^{_DATE}$", "time": f"^{_TIME}", "date-time": f"^{_DATE}[Tt ]{_TIME}"}
"""What llguidance's formats leave out: which years leap, and that most minutes have 60 seconds."""
UUID = "^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$"
_LOOKS_AHEAD = re.compile(r"\^\(\?!\^\[(?P<only>[^\]^\\]+)\]\*\$\)(?P<rest>.*)", re.DOTALL)
BESIDE = frozenset({"anyOf", "oneOf", "patternProperties"})
"""Keywords one of whose schemas holds beside what stands next to them."""
SAYING = frozenset("title description default examples deprecated $comment $schema $id".split())
"""Keywords that demand nothing."""
ANY_OBJECT: Mapping[str, Any] = {"type": "object"}
_EMBEDDED = re.compile(r"%json\s+(?=\{)|%json(?=\{)")


def compile_s(num_tools: int) -> float:
    """How many seconds what a request with so many tools demands may take to compile."""
    return min(COMPILE_S + COMPILE_TOOL_S * num_tools, MAX_COMPILE_S)


def why_not(schema: Any) -> str | None:
    """Say why a schema is out of bounds, if it is: compiling it would take too long."""
    if _Levels(schema).are_too_many():
        return f"it is nested deeper than {MAX_DEPTH} levels, through its references"
    values = list(_values(schema))
    if any(isinstance(v, str) and len(v) > MAX_TEXT for v in values):
        return f"it contains a text of more than {MAX_TEXT} characters"
    if _multiple(values) > MAX_MULTIPLE:
        return f"multipleOf is finer or larger than {MAX_MULTIPLE} steps"
    if _num_properties(schema) > MAX_PROPERTIES:
        return f"it has more than {MAX_PROPERTIES} properties"
    if _num_optional(schema) > MAX_OPTIONAL:
        return f"an object has more than {MAX_OPTIONAL} optional properties"
    if _num_patterned(schema) > MAX_PATTERNED:
        return f"it has more than {MAX_PATTERNED} expressions for names of properties"
    if _Meetings(schema).most > MAX_MEETING:
        return f"a text must match more than {MAX_MEETING} expressions at once"
    return None


def embedded(grammar: str) -> Iterator[Any]:
    """The schemas that stand in a grammar in Lark's notation, as far as they are JSON."""
    for found in _EMBEDDED.finditer(grammar):
        with contextlib.suppress(ValueError, RecursionError):
            yield json.JSONDecoder().raw_decode(grammar, found.end())[0]


def adapted(schema: Any, root: Any = None) -> Any:
    """Say a schema as llguidance understands it, and leave out what demands nothing.

    Pydantic and Zod name formats of their own, demand patterns that look around, and say in
    `propertyNames` which names an object may have.
    """
    if not isinstance(schema, Mapping):
        return [adapted(s, root) for s in schema] if isinstance(schema, list) else schema
    root = schema if root is None else root
    kept = {}
    for key, value in _names_listed(schema, root).items():
        match key, value:
            case "format", str() if value not in FORMATS:
                continue
            case "pattern", str() if "(?" in value and schema.get("format") in FORMATS:
                if re.search(r"\(\?<?[=!]", value):
                    continue
            case "uniqueItems", False:
                continue
            case "minimum" | "exclusiveMinimum", int() | float() if value < -MAX_NUMBER:
                value = -MAX_NUMBER
            case "maximum" | "exclusiveMaximum", int() | float() if value > MAX_NUMBER:
                value = MAX_NUMBER
            case _, float() if key in COUNTS and value.is_integer():
                value = int(value)
            case "properties" | "patternProperties" | "$defs" | "definitions", Mapping():
                value = {
                    name: child != {"not": {}} and adapted(child, root)  # `never`, in Zod
                    for name, child in value.items()
                }
            case "const" | "enum" | "default" | "examples", _:
                pass
            case _:
                value = adapted(value, root)
        kept[key] = value
    if schema.get("format") in CALENDAR and "pattern" not in schema:
        kept["pattern"] = CALENDAR[schema["format"]]
    return _without_look_ahead(kept)


def _names_listed(schema: Mapping[str, Any], root: Any) -> Mapping[str, Any]:
    """Say which names an object may have by its properties, where that says the same."""
    if not isinstance(names := schema.get("propertyNames"), Mapping):
        return schema
    if isinstance(path := names.get("$ref"), str):
        names = referred(path, root)
    demands = names if isinstance(names, Mapping) else {"$ref": path}
    demands = {k: v for k, v in demands.items() if k not in SAYING and (k, v) != ("type", "string")}
    rest = {k: v for k, v in schema.items() if k not in ("propertyNames", "additionalProperties")}
    value = schema.get("additionalProperties", True)
    listed = rest.get("properties", {})
    match demands:
        case _ if not demands:
            return {**rest, "additionalProperties": value}
        case {"enum": [*options]} if len(demands) == 1 and "patternProperties" not in rest:
            names = [name for name in options if isinstance(name, str)]
        case {"const": str(name)} if len(demands) == 1 and "patternProperties" not in rest:
            names = [name]
        case _ if not listed and "patternProperties" not in rest and (form := _shape(demands)):
            return {**rest, "patternProperties": {form: value}, "additionalProperties": False}
        case _:
            return schema
    properties = {name: listed.get(name, value) for name in names}
    return {**rest, "properties": properties, "additionalProperties": False}


def _shape(demands: Mapping[str, Any]) -> str | None:
    """The expression of a name of which these things are demanded, if it is one."""
    match demands:
        case {"pattern": str(pattern), **rest} if not rest.keys() - {"format"}:
            return pattern
        case {"format": ("uuid" | "date") as form} if len(demands) == 1:
            return UUID if form == "uuid" else CALENDAR[form]
        case _ if not demands.keys() - {"minLength", "maxLength"}:
            return rf"^(.|\n){{{demands.get('minLength', 0)},{demands.get('maxLength', '')}}}$"
    return None


def _without_look_ahead(schema: dict[str, Any]) -> dict[str, Any]:
    """Take apart the pattern of Pydantic's decimals, which looks ahead for what it must not be.

    What does not consist of certain characters alone has another character somewhere.
    """
    found = _LOOKS_AHEAD.fullmatch(str(schema.get("pattern")))
    if found is None:
        return schema
    both = [*schema.get("allOf", ()), {"pattern": f"[^{found['only']}]"}]
    return {**schema, "pattern": f"^{found['rest']}", "allOf": both}


def slashes_escaped(pattern: str) -> str:
    """An expression as it stands between slashes in Lark's notation."""
    escaped = re.sub(r"(\\.)|/", lambda m: m[1] or r"\/", pattern, flags=re.DOTALL)
    # An escaped line is still a line, which would end the expression.
    return escaped.replace("\n", r"\n")


def depth(value: Any) -> int:
    """How many objects and lists stand inside each other; counted no further than needed."""
    found, level = 0, [value]
    while level and found <= MAX_DEPTH:
        found += 1
        level = [
            child
            for parent in level
            for child in (parent.values() if isinstance(parent, Mapping) else parent)
            if isinstance(child, Mapping | list | tuple)
        ]
    return found


class _Levels:
    """The schemas inside each other, where a reference is one level more.

    llguidance follows references as it finds them, on the stack: too many would end the process.
    """

    def __init__(self, root: Any) -> None:
        self._root = root
        self._below: dict[str, int] = {}
        """The levels below each reference; 0 as long as they are being counted."""

    def are_too_many(self) -> bool:
        try:
            self._count(self._root, 0)
        except OverflowError:
            return True
        return False

    def _count(self, value: Any, above: int) -> int:
        """Count the levels of a value. Raises `OverflowError` when there are too many."""
        if above > MAX_DEPTH:
            raise OverflowError
        if isinstance(value, list | tuple):
            return max((self._count(child, above) for child in value), default=0)
        if not isinstance(value, Mapping):
            return 0
        below = [self._count(child, above + 1) for child in value.values()]
        if isinstance(path := value.get("$ref"), str):
            below.append(self._count_referred(path, above + 1))
        return 1 + max(below, default=0)

    def _count_referred(self, path: str, above: int) -> int:
        if path not in self._below:
            self._below[path] = 0
            self._below[path] = self._count(referred(path, self._root), above)
        if above + self._below[path] > MAX_DEPTH:
            raise OverflowError
        return self._below[path]


class _Meetings:
    """How many expressions meet: which of them one and the same text must match.

    What is demanded in several ways is joined, at every depth: properties of one name, for one.
    """

    def __init__(self, root: Any) -> None:
        self._root = root
        self._referred: dict[str, int] = {}
        """The most behind each reference; 0 as long as they are being counted."""
        self.most = self._count(root)

    def _count(self, value: Any) -> int:
        """The most that meet at one place of a schema whose depth is bounded."""
        if isinstance(value, list | tuple):
            return max(map(self._count, value), default=0)
        if not isinstance(value, Mapping):
            return 0
        own = sum(isinstance(value.get(keyword), str) for keyword in ("pattern", "format"))
        beside, apart, elsewhere = 0, own, 0
        for keyword, child in value.items():
            if keyword == "$ref" and isinstance(child, str):
                beside += self._count_referred(child)
            elif keyword == "allOf" and isinstance(child, list | tuple):
                beside += sum(map(self._count, child))
            elif keyword in BESIDE:
                beside += self._count(child)
            elif keyword in ("$defs", "definitions"):
                elsewhere = max(elsewhere, self._count(child))
            else:
                apart = max(apart, self._count(child))
        return max(beside + apart, elsewhere)

    def _count_referred(self, path: str) -> int:
        if path not in self._referred:
            self._referred[path] = 0
            self._referred[path] = self._count(referred(path, self._root))
        return self._referred[path]


def referred(path: str, root: Any) -> Any:
    """What a reference inside a schema stands for; None when it is not there."""
    found = root
    for step in path.lstrip("#").strip("/").split("/") if path != "#" else ():
        step = step.replace("~1", "/").replace("~0", "~")
        found = found.get(step) if isinstance(found, Mapping) else None
    return found


def _values(value: Any, key: str = "") -> Iterator[Any]:
    """Every text of a schema, keys too, and every `multipleOf` as a fraction."""
    match value:
        case str():
            yield value
        case Mapping():
            for name, child in value.items():
                yield name
                yield from _values(child, name)
        case list() | tuple():
            for child in value:
                yield from _values(child)
        case int() | float() if key == "multipleOf" and value > 0:
            yield Fraction(str(value))


def _num_properties(value: Any) -> int:
    match value:
        case {"properties": Mapping() as properties}:
            return len(properties) + sum(map(_num_properties, value.values()))
        case Mapping():
            return sum(map(_num_properties, value.values()))
        case list() | tuple():
            return sum(map(_num_properties, value))
    return 0


def _num_patterned(value: Any) -> int:
    match value:
        case Mapping():
            patterned = value.get("patternProperties")
            own = len(patterned) if isinstance(patterned, Mapping) else 0
            return own + sum(map(_num_patterned, value.values()))
        case list() | tuple():
            return sum(map(_num_patterned, value))
    return 0


def _num_optional(value: Any) -> int:
    """Count the optional properties of the object that has the most."""
    match value:
        case {"properties": Mapping() as properties, **rest}:
            required = rest.get("required")
            names = (
                {n for n in required if isinstance(n, str)} if isinstance(required, list) else ()
            )
            inner = max(map(_num_optional, [*properties.values(), *rest.values()]), default=0)
            return max(inner, len(properties.keys() - names))
        case Mapping():
            return max(map(_num_optional, value.values()), default=0)
        case list() | tuple():
            return max(map(_num_optional, value), default=0)
    return 0


def _multiple(values: Sequence[Any]) -> int:
    """The least common multiple of the fractions, in units of the finest of them."""
    fractions = [v for v in values if isinstance(v, Fraction)]
    unit = math.lcm(*(f.denominator for f in fractions))
    return math.lcm(*(int(f * unit) for f in fractions))
