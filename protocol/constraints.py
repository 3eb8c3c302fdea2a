"""Constraints: what a request says the answer's text must look like, in any of the ways to say it.

They are enforced token by token by the engine; a schema is told to the model too, because a model
that knows what is wanted writes something better than merely valid.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from parts import Constraint, InvalidRequest, Message
from protocol import json_text, strict_json
from protocol.strict_json import depth_of

TOLD = "Answer in JSON that matches this schema:\n{}"
MAX_CHOICES = 1000
MAX_SCHEMA_DEPTH = 64
MAX_SCHEMA_BYTES = 256 * 2**10
"""Of a schema as JSON, of a regular expression, of a grammar, and of all choices together."""
KINDS = ("json", "json_object", "regex", "choice", "grammar")
"""What `structured_outputs` may ask for; its other keys are hints for other engines."""
_encode = json.JSONEncoder(separators=(",", ":")).encode


def of_format(form: Mapping[str, Any] | None, param: str) -> Constraint | None:
    """Read `response_format` of a chat, or `text.format` of a response.

    Raises:
        InvalidRequest: it is of an unknown type, or has no schema.
    """
    match form or {"type": "text"}:
        case {"type": "text"}:
            return None
        case {"type": "json_object"}:
            return Constraint("json", {}, param)
        case {"type": "json_schema", "json_schema": {"schema": schema}}:
            return Constraint("json", _schema(schema, param), param)
        case {"type": "json_schema", "schema": schema}:
            return Constraint("json", _schema(schema, param), param)
        case {"type": "json_schema"}:
            raise InvalidRequest("A json_schema format needs a schema.", param=param)
        case {"type": kind}:
            known = "text, json_object and json_schema"
            raise InvalidRequest(
                f"The format {str(kind)[:64]!r} is not known; {known} are.", param=param
            )
    raise InvalidRequest("A format needs a type.", param=f"{param}.type")


def of_extras(body: Mapping[str, Any]) -> Constraint | None:
    """Read vLLM's `structured_outputs`. Raises `InvalidRequest`."""
    param = "structured_outputs"
    given = {kind: v for kind, v in (body.get(param) or {}).items() if v is not None}
    asked = {kind: v for kind, v in given.items() if kind in KINDS and v is not False}
    if not given:
        return None
    if len(asked) > 1:
        raise InvalidRequest(f"It asks for both {' and '.join(sorted(asked))}.", param=param)
    match asked:
        case {"json": str(text)}:
            return Constraint("json", _schema(_parsed(text, param), param), param)
        case {"json": schema}:
            return Constraint("json", _schema(schema, param), param)
        case {"json_object": True}:
            return Constraint("json", {}, param)
        case {"regex": str(pattern)}:
            return Constraint("regex", _sized(pattern, param), param)
        case {"grammar": str(text)}:
            return Constraint("grammar", _sized(text, param), param)
        case {"choice": [*choices]} if choices and all(isinstance(c, str) and c for c in choices):
            if len(choices) > MAX_CHOICES:
                raise InvalidRequest(f"There may be {MAX_CHOICES} choices at most.", param=param)
            _sized("".join(choices), param)
            return Constraint("choice", choices, param)
    raise InvalidRequest(f"structured_outputs takes one of {', '.join(KINDS)}.", param=param)


def of_request(
    body: Mapping[str, Any], form: Mapping[str, Any] | None, param: str
) -> Constraint | None:
    """Read what a request says in OpenAI's way, which is `form`, or else in vLLM's.

    Raises:
        InvalidRequest: it cannot be read, or it is said in both ways.
    """
    formatted, extra = of_format(form, param), of_extras(body)
    if formatted and extra:
        raise InvalidRequest(f"Give {param} or {extra.param}, not both.", param=extra.param)
    return formatted or extra


def told(messages: Sequence[Message], constraint: Constraint | None) -> tuple[Message, ...]:
    """Say in the system message which schema the answer must match."""
    if constraint is None or constraint.kind != "json" or not constraint.value:
        return tuple(messages)
    words = TOLD.format(json.dumps(constraint.value, ensure_ascii=False))
    first, *rest = messages
    if first.role in ("system", "developer"):
        return (replace(first, content=f"{first.content}\n\n{words}".strip()), *rest)
    return (Message("system", words), *messages)


def _schema(schema: Any, param: str) -> Mapping[str, Any]:
    """A schema as an object; `true` allows everything."""
    if schema is True:
        return {}
    if not isinstance(schema, Mapping):
        raise InvalidRequest("A schema is a JSON object.", param=param, code="invalid_schema")
    return checked(schema, param)


def checked(schema: Mapping[str, Any], param: str) -> Mapping[str, Any]:
    """See that a schema can be looked at in reasonable time. Raises `InvalidRequest`."""
    if depth_of(schema) > MAX_SCHEMA_DEPTH:
        raise _bad_schema(f"The schema nests deeper than {MAX_SCHEMA_DEPTH} levels.", param)
    num_bytes = 0
    for piece in json_text.pieces(schema, _encode):
        num_bytes += len(piece)
        _refuse_too_large(num_bytes, param)
    return schema


def _sized(text: str, param: str) -> str:
    _refuse_too_large(len(text), param)
    return text


def _refuse_too_large(num_bytes: int, param: str) -> None:
    if num_bytes > MAX_SCHEMA_BYTES:
        raise _bad_schema(f"It has more than {MAX_SCHEMA_BYTES} bytes.", param)


def _parsed(text: str, param: str) -> Any:
    try:
        return strict_json.loads(text.encode())
    except InvalidRequest:
        raise _bad_schema("The schema is not JSON.", param) from None


def _bad_schema(message: str, param: str) -> InvalidRequest:
    return InvalidRequest(message, param=param, code="invalid_schema")
