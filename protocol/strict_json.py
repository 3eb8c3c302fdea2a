"""Request bodies are JSON, read strictly: what is not text or nests without end is refused."""

from __future__ import annotations

import json
from typing import Any

from parts import InvalidRequest

MAX_DEPTH = 128


def loads(body: bytes) -> Any:
    """Read a request body.

    Raises:
        InvalidRequest: it is not UTF-8 JSON, nests deeper than `MAX_DEPTH`, or has a string that
            is not Unicode text.
    """
    try:
        value = json.loads(body.decode("utf-8"))
    except UnicodeDecodeError:
        raise _invalid("The body is not UTF-8.") from None
    except json.JSONDecodeError as error:
        raise _invalid(f"The body is not JSON: {error.msg} at character {error.pos}.") from None
    except RecursionError:
        raise _invalid(f"The body nests deeper than {MAX_DEPTH} levels.") from None
    except ValueError:
        raise _invalid("The body has a number with too many digits.") from None
    _check(value, "", 0, b"\\u" in body)
    return value


def _check(value: Any, path: str, depth: int, has_escapes: bool) -> None:
    if depth > MAX_DEPTH:
        raise _invalid(f"The body nests deeper than {MAX_DEPTH} levels.")
    match value:
        case str() if has_escapes:
            _check_text(value, path)
        case dict():
            for key, item in value.items():
                _check(key, path, depth, has_escapes)
                _check(item, f"{path}.{key}" if path else key, depth + 1, has_escapes)
        case list():
            for index, item in enumerate(value):
                _check(item, f"{path}[{index}]", depth + 1, has_escapes)


def _check_text(text: str, path: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InvalidRequest(
            "A string has half of a surrogate pair, which is not Unicode text.",
            param=path.encode("utf-8", "replace").decode()[:200] or None,
            code="invalid_unicode",
        ) from None


def _invalid(message: str) -> InvalidRequest:
    return InvalidRequest(message, code="invalid_json")
