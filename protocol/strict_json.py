"""Request bodies are JSON, read strictly: what is not text or nests without end is refused."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from typing import Any

from parts import InvalidRequest
from protocol.json_text import PIECE, NotJson, Reader

MAX_DEPTH = 128
MAX_VALUES = 250_000
"""As many as ten thousand messages with two dozen values each."""
MAX_TEXT = 32 * 2**20
"""Bytes that one text may take in memory, where all its characters are as wide as the widest. It is
put together in one go, which is the one thing that cannot be done in pieces."""
MAX_DIGITS = 308
"""Of a whole number: with more, it is too large for anybody's floating point."""


def loads(body: bytes, max_values: int = MAX_VALUES) -> Any:
    """Read a request body, or another text of a client's.

    Of a key that is there twice, the last counts.

    Raises:
        InvalidRequest: it is not UTF-8 JSON, nests deeper than `MAX_DEPTH`, holds too many values,
            or has a text that is too long or not Unicode, or a number that is not finite.
    """
    reader = _StrictReader(body, max_values)
    try:
        value = reader.read()
    except UnicodeDecodeError:
        raise _invalid("The body is not UTF-8.") from None
    except NotJson as error:
        raise _invalid(
            f"The body is not JSON: {error.message} at character {error.position}."
        ) from None
    except RecursionError:
        raise _too_deep() from None
    if reader.has_odd:
        _check(value, "")
    return value


class _Numbers:
    """Reads numbers, and notes whether one is not finite."""

    def __init__(self) -> None:
        self.has_odd = False

    def fraction(self, digits: str) -> float:
        number = float(digits)
        self.has_odd |= not math.isfinite(number)
        return number

    def whole(self, digits: str) -> float:
        return int(digits) if len(digits) <= MAX_DIGITS else self.fraction("inf")


class _StrictReader(Reader):
    """Reads JSON within bounds, and notes whether something in it may have to be refused."""

    def __init__(self, body: bytes, max_values: int) -> None:
        # Numbers do not know their reader: it holds a body, and would stay until garbage is looked
        # for.
        self._numbers = numbers = _Numbers()
        decoder = json.JSONDecoder(
            parse_float=numbers.fraction, parse_constant=numbers.fraction, parse_int=numbers.whole
        )
        super().__init__(body, decoder)
        self._has_escape = False
        self._max_values, self._num_values = max_values, 0
        self._width = 1
        # Walking costs more than reading: most bodies need not be walked.
        self._is_walked = (
            len(body) > 2 * max_values or body.count(b"[") + body.count(b"{") > MAX_DEPTH
        )

    @property
    def has_odd(self) -> bool:
        """Whether there may be a number that is not finite, or half of a surrogate pair."""
        return self._numbers.has_odd or self._has_escape

    def take(self, value: Any, depth: int, *, is_part: bool = False) -> None:
        if self._is_walked:
            num_levels, num_values = measured(value)
            self._count(num_values - is_part)
            if depth + num_levels > MAX_DEPTH:
                raise _too_deep()

    def open(self, depth: int) -> None:
        self._count(1)
        if depth >= MAX_DEPTH:
            raise _too_deep()

    def grow(self, text: str, num_characters: int) -> None:
        self._width = max(_width(text), self._width if num_characters > len(text) else 1)
        if self._width * num_characters > MAX_TEXT:
            raise _bad_value(
                f"A text takes more than {MAX_TEXT // 2**20} MB of memory. One wide character, "
                "such as an emoji, makes all of them as wide.",
                _path(self.path),
                code="string_above_max_length",
            )

    def turn_to(self, piece: str) -> None:
        self._has_escape |= "\\u" in piece

    def _count(self, number: int) -> None:
        self._num_values += number
        if self._num_values > self._max_values:
            raise _invalid(f"The body holds more than {self._max_values} values.")


def _path(steps: Iterable[str | int]) -> str:
    path = ""
    for step in steps:
        if isinstance(step, int):
            path += f"[{step}]"
        else:
            path += f".{step[:64]}" if path else step[:64]
    return path


def _width(text: str) -> int:
    """The bytes that each character takes, or more."""
    if text.isascii():
        return 1
    return 2 if len(text.encode("utf-16-le", "surrogatepass")) == 2 * len(text) else 4


def depth_of(value: Any) -> int:
    """How many objects and lists stand in each other at the deepest place of a JSON value."""
    return measured(value)[0]


def measured(value: Any) -> tuple[int, int]:
    """The depth of a JSON value, and how many values it is made of."""
    depth, num_values = 0, 1
    level = [value] if isinstance(value, (dict, list)) else []
    while level:
        depth += 1
        num_values += sum(map(len, level))
        level = [
            child
            for parent in level
            for child in (parent.values() if type(parent) is dict else parent)
            if type(child) is dict or type(child) is list
        ]
    return depth, num_values


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
        for start in range(0, len(text), PIECE):
            text[start : start + PIECE].encode()
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
