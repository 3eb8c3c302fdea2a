"""JSON text is read and written in pieces, so that it holds nobody up.

The C code behind `json` lets no other thread run before it is done, however much there is to do.
Each piece is done in a millisecond or two, and what comes of all of them is the same.
"""

from __future__ import annotations

import codecs
import io
import json
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

PIECE = 2**17
"""Bytes that are read in one go, and characters that are written."""
MEMBER = 64
"""Characters for which a member of an object or a list is counted: it takes as long to write."""
NUM_TRIED_LEVELS = 8
"""Levels down to which a value that may be larger than a piece is read in one go if it is not.

Further down it is taken apart at once: a text would be looked at again for each level of it.
"""
SHORTEST_RUN = 2**10
"""Characters; where members are longer, they are read one by one."""
_SPACE = re.compile(r"[ \t\n\r]*")
_NOTHING = object()
_DECODER = json.JSONDecoder()


class NotJson(ValueError):
    """The text is no JSON: why not, and at which character."""

    def __init__(self, message: str, position: int) -> None:
        super().__init__(message)
        self.message = message
        self.position = position


def read(source: bytes) -> Any:
    """Read a value. Raises `ValueError`: the text is no JSON, or no UTF-8."""
    return Reader(source).read()


class Reader:
    """Reads one value: what fits into a piece in one go, the rest by taking it apart.

    Of a key that is there twice, the last counts. What is to be found out on the way is for
    `take`, `open`, `grow` and `turn_to`, which do nothing here.
    """

    def __init__(self, source: bytes, decoder: json.JSONDecoder = _DECODER) -> None:
        self.path: list[str | int] = []
        """Where the value is that is being read, as far as it was taken apart."""
        self._source = memoryview(source)
        self._num_read = 0
        self._decode = decoder.raw_decode
        self._keys: dict[str, str] = {}
        self._piece = ""
        self._at = 0
        self._num_before = 0
        """Characters before the piece."""
        self._run_length = 0
        """Characters of the piece in which it is worth a try to read several members in one go."""

    def read(self) -> Any:
        """Read the value, which must be all that there is.

        Raises:
            NotJson: it is not.
            UnicodeDecodeError: the text is not UTF-8.
            RecursionError: it is very deep.
        """
        value = self._value(0)
        if self._next_character():
            raise self._not_json("Extra data")
        return value

    def take(self, value: Any, depth: int, *, is_part: bool = False) -> None:
        """A value was read in one go, inside of so many others.

        Or members of one that is taken apart, as a list or an object of their own: `is_part`.
        """

    def open(self, depth: int) -> None:
        """An object or a list is taken apart, inside of so many others."""

    def grow(self, text: str, num_characters: int) -> None:
        """More of a text that is longer than a piece, and its characters so far."""

    def turn_to(self, piece: str) -> None:
        """There is more of the text."""

    def _value(self, depth: int) -> Any:
        first = self._next_character()
        if depth < NUM_TRIED_LEVELS or first not in ("{", "["):
            value = self._whole(first)
            if value is not _NOTHING:
                self.take(value, depth)
                return value
        match first:
            case "{":
                return self._object(depth)
            case "[":
                return self._list(depth)
            case '"':
                return self._long_text()
        raise self._not_json("Expecting value")

    def _whole(self, first: str) -> Any:
        """Read a value in one go; `_NOTHING` when it does not end in the piece, or is broken."""
        while True:
            try:
                value, end = self._decode(self._piece, self._at)
            except json.JSONDecodeError:
                end = -1
            # Only what has an end of its own is known not to go on behind the piece.
            if end >= 0 and (first in ("{", "[", '"') or self._ends_at(end)):
                self._at = end
                return value
            # What has half a piece and more to end in is taken for large.
            if self._at < len(self._piece) // 2 or not self._turn():
                return _NOTHING

    def _ends_at(self, end: int) -> bool:
        behind = self._piece[end : end + 1]
        return behind in (",", "]", "}", " ", "\n", "\r", "\t") or (not behind and self._is_last)

    def _object(self, depth: int) -> dict[str, Any]:
        self.open(depth)
        self._at += 1
        value: dict[str, Any] = {}
        if self._is_closed("}"):
            return value
        self._run_length = len(self._piece)
        while True:
            if run := self._run("{", "}", depth):
                value.update(run)
            if self._next_character() != '"':
                raise self._not_json("Expecting property name enclosed in double quotes")
            key = self._whole('"')
            key = self._long_text() if key is _NOTHING else key
            key = self._keys.setdefault(key, key)
            if self._next_character() != ":":
                raise self._not_json("Expecting ':' delimiter")
            self._at += 1
            self.path.append(key)
            value[key] = self._value(depth + 1)
            self.path.pop()
            if self._is_over("}"):
                return value

    def _list(self, depth: int) -> list[Any]:
        self.open(depth)
        self._at += 1
        values: list[Any] = []
        if self._is_closed("]"):
            return values
        self._run_length = len(self._piece)
        while True:
            if run := self._run("[", "]", depth):
                values += run
            self.path.append(len(values))
            values.append(self._value(depth + 1))
            self.path.pop()
            if self._is_over("]"):
                return values

    def _run(self, opening: str, closing: str, depth: int) -> Any:
        """Read many members in one go, with the comma behind them; None when they are not small.

        What is between here and a comma is whole members if it can be read as such: a comma inside
        of a text or of a member leaves it open.
        """
        while self._run_length >= SHORTEST_RUN:
            for border in (",", "},"):
                end = self._piece.rfind(border, self._at, self._at + self._run_length)
                end += len(border) - 1
                if end < self._at + len(border):
                    continue
                text = opening + self._piece[self._at : end] + closing
                try:
                    members, num_read = self._decode(text)
                except json.JSONDecodeError:
                    continue
                if members and num_read == len(text):
                    self._at = end + 1
                    self.take(members, depth, is_part=True)
                    return members
            self._run_length //= 4
        return None

    def _is_closed(self, closing: str) -> bool:
        """Whether there are no members."""
        if self._next_character() != closing:
            return False
        self._at += 1
        return True

    def _is_over(self, closing: str) -> bool:
        """Whether a member was the last, and go on behind it."""
        behind = self._next_character()
        if behind not in (",", closing):
            raise self._not_json("Expecting ',' delimiter")
        self._at += 1
        return behind == closing

    # Texts that are longer than a piece

    def _long_text(self) -> str:
        begin = self._num_before + self._at
        self._at += 1
        texts: list[str] = []
        num_characters = 0
        while True:
            text, is_end = self._more_of_text(begin)
            if texts and _is_pair(texts[-1][-1:], text[:1]):
                # What a text has in two escapes is one character, also when they were cut apart.
                texts[-1], text = texts[-1][:-1], _paired(texts[-1][-1], text[0]) + text[1:]
            texts.append(text)
            num_characters += len(text)
            self.grow(text, num_characters)
            if is_end:
                return "".join(filter(None, texts))

    def _more_of_text(self, begin: int) -> tuple[str, bool]:
        """What the piece has of a text, and whether that is the end of it."""
        text = '"' + self._piece[self._at :]
        try:
            said, num_read = self._decode(text)
        except json.JSONDecodeError as error:
            if self._is_last:
                at = begin if error.pos == 0 else self._num_before + self._at + error.pos - 1
                raise NotJson(error.msg, at) from None
            said, num_read = self._cut(text, error), 0
            return said, False
        self._at += num_read - 1
        return said, True

    def _cut(self, text: str, error: json.JSONDecodeError) -> str:
        """What is said in a text up to the end of the piece, or to an escape that goes on there."""
        for end in range(len(text), max(len(text) - 6, 0), -1):
            try:
                said, num_read = self._decode(text[:end] + '"')
            except json.JSONDecodeError:
                continue
            if num_read == end + 1:
                self._at += end - 1
                self._turn()
                return str(said)
        raise NotJson(error.msg, self._num_before + self._at + error.pos - 1)

    # The piece

    @property
    def _is_last(self) -> bool:
        return self._num_read == len(self._source)

    def _next_character(self) -> str:
        """What comes behind any white space, where the reader stands then; empty at the end."""
        while True:
            found = _SPACE.match(self._piece, self._at)
            assert found is not None
            self._at = found.end()
            if self._at < len(self._piece):
                return self._piece[self._at]
            if not self._turn():
                return ""

    def _turn(self) -> bool:
        """Have the piece begin where the reader stands; False when it does, or is the last."""
        if self._is_last or (self._piece and not self._at):
            return False
        self._num_before += self._at
        rest, self._at = self._piece[self._at :], 0
        end = min(self._num_read + max(PIECE - len(rest), 4), len(self._source))
        more, num_bytes = codecs.utf_8_decode(
            self._source[self._num_read : end], "strict", end == len(self._source)
        )
        self._num_read += num_bytes
        self._piece = rest + more
        self._run_length = len(self._piece)
        self.turn_to(more)
        return True

    def _not_json(self, message: str) -> NotJson:
        return NotJson(message, self._num_before + self._at)


def _is_pair(high: str, low: str) -> bool:
    return "\ud800" <= high <= "\udbff" and "\udc00" <= low <= "\udfff"


def _paired(high: str, low: str) -> str:
    return (high + low).encode("utf-16", "surrogatepass").decode("utf-16")


# Writing

Encode = Callable[[Any], str]
"""Writes a value in one go, with a comma and no space between members."""


def is_long(value: Any) -> bool:
    """Whether it takes more than a piece to write a value."""
    return _weight(value) > PIECE


def pieces(value: Any, encode: Encode) -> Iterator[str]:
    """Write a value."""
    if not is_long(value):
        yield encode(value)
    elif isinstance(value, str):
        yield '"'
        for start in range(0, len(value), PIECE):
            yield encode(value[start : start + PIECE])[1:-1]
        yield '"'
    elif isinstance(value, dict):
        yield from _members("{", "}", value.items(), lambda many: encode(dict(many)), encode)
    else:
        yield from _members("[", "]", value, lambda many: encode(list(many)), encode)


def joined(texts: Iterable[str], errors: str = "strict") -> bytes:
    """The bytes of texts, as UTF-8. They are copied once, and never all there twice."""
    into = io.BytesIO()
    for text in texts:
        into.write(text.encode("utf-8", errors))
    return into.getvalue()


def _members(
    opening: str, closing: str, members: Iterable[Any], together: Encode, encode: Encode
) -> Iterator[str]:
    """Write the members of an object or a list: small ones together, large ones in pieces."""
    separator = opening
    for batch in _batches(members):
        yield separator
        separator = ","
        if len(batch) > 1 or not is_long(batch[0]):
            yield together(batch)[1:-1]
        elif opening == "{":
            key, value = batch[0]
            yield encode({key: 0})[1:-2]
            yield from pieces(value, encode)
        else:
            yield from pieces(batch[0], encode)
    yield closing


def _batches(members: Iterable[Any]) -> Iterator[list[Any]]:
    batch: list[Any] = []
    room = PIECE
    for member in members:
        weight = _weight(member)
        if batch and weight > room:
            yield batch
            batch, room = [], PIECE
        batch.append(member)
        room -= weight
    yield batch


def _weight(value: Any) -> int:
    """About how many characters a value takes; of a large one, some number above `PIECE`."""
    weight = 0
    waiting = [value]
    while waiting and weight <= PIECE:
        each = waiting.pop()
        if isinstance(each, str):
            weight += len(each)
        elif isinstance(each, dict):
            weight += MEMBER * len(each)
            if weight <= PIECE:
                waiting += each
                waiting += each.values()
        elif isinstance(each, list | tuple):
            weight += MEMBER * len(each)
            if weight <= PIECE:
                waiting += each
    return weight
