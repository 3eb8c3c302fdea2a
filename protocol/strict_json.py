"""Request bodies are JSON, read strictly: what is not text or nests without end is refused."""

from __future__ import annotations

import json
import math
from typing import Any

from parts import InvalidRequest

MAX_DEPTH = 128
MAX_VALUES = 1_000_000
"""Counted generously, by the commas and brackets: they are read in one go, while others wait."""
MAX_DIGITS = 308
"""Of a whole number: with more, it is too large for anybody's floating point."""


def loads(body: bytes) -> Any:
    """Read a request body.

    Of a key that is there twice, the last counts.

    Raises:
        InvalidRequest: it is not UTF-8 JSON, nests deeper than `MAX_DEPTH`, holds too many values,
            or has a string that is not Unicode text or a number that is not finite.
    """
    if len(body) > MAX_VALUES and sum(map(body.count, (b",", b"[", b"{"))) > MAX_VALUES:
        raise _invalid(f"The body holds more than {MAX_VALUES} values.")
    numbers = _Numbers()
    try:
        value = numbers.read(body.decode("utf-8"))
    except UnicodeDecodeError:
        raise _invalid("The body is not UTF-8.") from None
    except json.JSONDecodeError as error:
        raise _invalid(f"The body is not JSON: {error.msg} at character {error.pos}.") from None
    except RecursionError:
        raise _too_deep() from None
    # Walking costs more than reading: most bodies need not be walked.
    if body.count(b"[") + body.count(b"{") > MAX_DEPTH and depth_of(value) > MAX_DEPTH:
        raise _too_deep()
    if numbers.has_odd or b"\\u" in body:
        _check(value, "")
    return value


class _Numbers:
    """Reads JSON, and notes whether a number in it is not finite."""

    def __init__(self) -> None:
        self.has_odd = False

    def read(self, text: str) -> Any:
        return json.loads(
            text,
            parse_float=self._fraction,
            parse_constant=self._fraction,
            parse_int=self._whole,
        )

    def _fraction(self, digits: str) -> float:
        number = float(digits)
        self.has_odd |= not math.isfinite(number)
        return number

    def _whole(self, digits: str) -> float:
        return int(digits) if len(digits) <= MAX_DIGITS else self._fraction("inf")


def depth_of(value: Any) -> int:
    """How many objects and lists stand in each other at the deepest place of a JSON value."""
    depth = 0
    level = [value] if isinstance(value, (dict, list)) else []
    while level:
        depth += 1
        level = [
            child
            for parent in level
            for child in (parent.values() if type(parent) is dict else parent)
            if type(child) is dict or type(child) is list
        ]
    return depth


def _check(value: Any, path: str) -> None:
    """See that all in a value is text and finite; its depth is bounded by now."""
    match value:
        case str():
            _check_text(value, path)
        case float() if not math.isfinite(value):
            raise _bad_value("A number is not finite, or has too many digits.", path)
        case dict():
            for key, item in value.items():
                _check(key, path)
                _check(item, f"{path}.{key[:64]}" if path else key[:64])
        case list():
            for index, item in enumerate(value):
                _check(item, f"{path}[{index}]")


def _check_text(text: str, path: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise _bad_value(
            "A string has half of a surrogate pair, which is not Unicode text.",
            path,
            code="invalid_unicode",
        ) from None


def _bad_value(message: str, path: str, code: str = "invalid_value") -> InvalidRequest:
    param = path.encode("utf-8", "replace").decode()[:200]
    return InvalidRequest(message, param=param or None, code=code)


def _too_deep() -> InvalidRequest:
    return _invalid(f"The body nests deeper than {MAX_DEPTH} levels.")


def _invalid(message: str) -> InvalidRequest:
    return InvalidRequest(message, code="invalid_json")
