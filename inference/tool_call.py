"""A tool call in JSON, read while the model writes it: `{"name": "f", "arguments": {…}}`.

What a client gets is the model's own text of the arguments, piece by piece.

    so far                                    what it is
    does not begin like a call                nothing is given; the parser decides at its end
    name, and the brace of an object          a call, and it stays one: `ToolCall` is given
    inside the object                         `ToolArguments` as they come
    behind it                                 layout; what else stands there is given as text

So a call whose arguments turn out to be no JSON, or that is cut before they close, keeps what was
given: its arguments are what the model wrote, neither mended nor lost.
"""

from __future__ import annotations

import json
import logging
import re
import secrets
from collections.abc import Iterator

from parts import Part, Text, ToolArguments, ToolCall

log = logging.getLogger(__name__)

_HEAD = re.compile(
    r'\s*\{\s*"name"\s*:\s*(?P<name>"(?:[^"\\]|\\.)+")\s*,\s*"arguments"\s*:\s*(?=\{)', re.ASCII
)
_LONGEST_HEAD = 512
"""Characters within which a call must begin to be given before its end."""


class JsonCall:
    """One call between its markers."""

    def __init__(self) -> None:
        self.text = ""
        """All of it so far."""
        self._start: int | None = None
        """Where the arguments begin, once it is certain that they do."""
        self._end: int | None = None
        self._closing = _Closing()

    @property
    def is_certain(self) -> bool:
        """Whether it has been given as a call, which cannot be taken back."""
        return self._start is not None

    def add(self, text: str) -> Iterator[Part]:
        """Take more of it; give what is certain by now."""
        seen = len(self.text)
        self.text += text
        if self._start is None:
            if seen > _LONGEST_HEAD or (name := self._find_start()) is None:
                return
            yield new_call(name)
            seen = self._start or 0
        if self._end is None:
            yield from self._take_arguments(seen)

    def _find_start(self) -> str | None:
        """Find out whether this is a call, and of what."""
        head = _HEAD.match(self.text, 0, _LONGEST_HEAD)
        if head is None:
            return None
        try:
            name = json.loads(head["name"])
            name.encode()  # half a surrogate pair cannot be sent to anyone
        except ValueError:
            return None
        self._start = head.end()
        return str(name)

    def _take_arguments(self, seen: int) -> Iterator[Part]:
        length = self._closing.find(self.text[seen:])
        if length is not None:
            self._end = seen + length
        if more := self.text[seen : self._end]:
            yield ToolArguments(more)

    def close(self) -> Iterator[Part]:
        """Give what is left, now that no more of it comes."""
        if not _is_json(self.text[self._start : self._end]):
            log.warning("the model wrote a tool call whose arguments are not JSON")
        rest = "" if self._end is None else self.text[self._end :]
        # More than a closing brace may be a member that means nothing to us.
        if rest.strip() not in ("", "}") and not _is_json(self.text):
            yield Text(rest)


class _Closing:
    """Finds where an object ends, in text that comes in pieces."""

    def __init__(self) -> None:
        self._depth = 0
        self._is_string = False
        self._is_escaped = False

    def find(self, text: str) -> int | None:
        """Count the characters up to the end of the object, if it is in this piece."""
        for index, char in enumerate(text):
            if self._is_string:
                self._take_string(char)
            elif char == '"':
                self._is_string = True
            elif char in "{[":
                self._depth += 1
            elif char in "}]":
                self._depth -= 1
                if not self._depth:
                    return index + 1
        return None

    def _take_string(self, char: str) -> None:
        if self._is_escaped:
            self._is_escaped = False
        elif char == "\\":
            self._is_escaped = True
        elif char == '"':
            self._is_string = False


def new_call(name: str) -> ToolCall:
    """Open a call, with an id of its own."""
    return ToolCall(f"call_{secrets.token_hex(12)}", name)


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True
