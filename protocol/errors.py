"""Errors on the wire have one envelope: `{"error": {"message", "type", "param", "code"}}`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from parts import (
    EngineFailed,
    NotFound,
    NotReady,
    QueueFull,
    Refused,
    ServerError,
    TimedOut,
    Unavailable,
    Unmatched,
)

RETRY_AFTER_S = 2
"""Whole seconds: some clients read nothing else."""

_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
_CODES = {
    400: "invalid_value",
    401: "invalid_api_key",
    404: "not_found",
    403: "forbidden",
    405: "method_not_allowed",
    408: "request_timeout",
    413: "request_too_large",
    415: "unsupported_media_type",
    500: "server_error",
}


_TEXT_OR_NULL = {"type": ["string", "null"]}
ENVELOPE_SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": _TEXT_OR_NULL,
                "code": _TEXT_OR_NULL,
            },
            "additionalProperties": False,
        }
    },
}


def envelope(
    status: int, message: str, *, param: str | None = None, code: str | None = None
) -> dict[str, Any]:
    """The body of an error answer."""
    kind = _TYPES.get(status) or ("server_error" if status >= 500 else "invalid_request_error")
    code = code or _CODES.get(status)
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def status_of(error: ServerError) -> int:
    """The HTTP status that tells a client, and its retries, what kind of failure this is."""
    match error:
        case NotFound(code="previous_response_not_found"):
            return 400
        case NotFound():
            return 404
        case NotReady():
            return 409
        case QueueFull():
            return 429
        case Unavailable():
            return 503
        case Unmatched():
            return 422
        case Refused():
            return 400
        case TimedOut():
            return 504
        case _:
            return 500


def body_of(error: ServerError) -> dict[str, Any]:
    """The envelope of one of our errors."""
    return envelope(status_of(error), error.message, param=error.param, code=error.code)


def headers_of(error: ServerError) -> dict[str, str]:
    """What a client must know before it tries again (https://github.com/openai/openai-python)."""
    match error:
        case Unavailable(code="shutting_down"):
            return {"retry-after": str(RETRY_AFTER_S), "connection": "close"}
        case QueueFull() | Unavailable():
            return {"retry-after": str(RETRY_AFTER_S)}
        case EngineFailed() | TimedOut():
            return {"x-should-retry": "false"}
        case _:
            return {}


# Requests that do not fit their model


def validation_body(problems: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """The answer to a request of the wrong shape: the envelope, and FastAPI's `detail` beside it.

    `problems` are Pydantic's. What the client sent is never echoed: it may be a megabyte, or not
    even text.
    """
    problems = list(problems)
    paths: dict[str, list[Mapping[str, Any]]] = {}
    for problem in problems:
        paths.setdefault(_path(problem["loc"]), []).append(problem)
    # Of the members of a union, the one that came furthest is the one that was meant.
    param = max(paths, key=lambda path: path.count(".") + path.count("["))
    said = " or ".join(dict.fromkeys(_lowered(str(p["msg"])) for p in paths[param]))
    body = envelope(
        422,
        f"{param}: {said}" if param else said,
        param=param or None,
        code=_code(str(paths[param][0]["type"])),
    )
    body["detail"] = [
        {"loc": [_short(step) for step in p["loc"]], "msg": str(p["msg"]), "type": p["type"]}
        for p in problems[:MAX_PROBLEMS]
    ]
    return body


MAX_PROBLEMS = 20
"""What is wrong with ten thousand messages is not told ten thousand times."""
MAX_STEP = 64
"""Characters of a key that the client chose."""


def _short(step: int | str) -> int | str:
    return step[:MAX_STEP] if isinstance(step, str) else step


def _path(loc: Iterable[int | str]) -> str:
    """Write `("body", "messages", 0, "content", "str")` as `messages[0].content`."""
    path = ""
    for index, step in enumerate(loc):
        if isinstance(step, int):
            path += f"[{step}]"
        elif index == 0 and step in _PLACES:
            continue
        elif step.isidentifier() and step not in _UNION_TAGS:
            path += f".{step[:MAX_STEP]}" if path else step[:MAX_STEP]
    return path


_PLACES = frozenset({"body", "query", "path"})
_UNION_TAGS = frozenset({"str", "int", "float", "bool", "dict", "list"})


def _code(kind: str) -> str:
    if kind == "missing":
        return "missing_required_parameter"
    is_type = kind.endswith(("_type", "_parsing", "_from_float"))
    return "invalid_type" if is_type else "invalid_value"


def _lowered(message: str) -> str:
    message = message.removeprefix("Value error, ").replace("Input should be", "must be")
    return message[:1].lower() + message[1:]
