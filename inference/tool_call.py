"""A tool call whose arguments are one JSON object, read while the model writes it.

What a client gets is the model's own text of the arguments, piece by piece.

    so far                                    what it is
    does not begin like a call                nothing is given; the parser decides at its end
    name, and the brace of an object          a call, and it stays one: `ToolCall` is given
    inside the object                         `ToolArguments` as they come
    behind it                                 layout, or the next call where a section has several;
                                              what else stands there is given as text

So a call whose arguments turn out to be no JSON, or that is cut before they close, keeps what was
given: its arguments are what the model wrote, neither mended nor lost.
"""

from __future__ import annotations

import json
import logging
import re
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from parts import Part, Text, ToolArguments, ToolCall

log = logging.getLogger(__name__)

_LONGEST_HEAD = 512
"""Characters within which a call must begin to be given before its end."""


@dataclass(frozen=True, slots=True)
class Shape:
    """What stands around the arguments of a call."""

    head: re.Pattern[str]
    """Up to the brace of the arguments, with the group `name`, and `id` where there is one."""
    rest: re.Pattern[str]
    """Behind the last call of a section."""
    is_repeated: bool = False
    """Whether a section may have several."""
    is_quoted: bool = False
    """Whether the name is a string of JSON."""


HERMES = Shape(
    re.compile(
        r'\s*\{\s*"name"\s*:\s*(?P<name>"(?:[^"\\]|\\.)+")\s*,\s*"arguments"\s*:\s*(?=\{)',
        re.ASCII,
    ),
    re.compile(r"\s*\}?\s*"),
    is_quoted=True,
)
# In these, arguments that are no JSON may be Python, which mlx-lm's parser reads.
KIMI_K2 = Shape(
    re.compile(
        r"\s*(?:<\|tool_call_end\|>\s*)?<\|tool_call_begin\|>\s*"
        r"(?P<id>(?:functions\.)?(?P<name>[^<>]+?):\d+)\s*"
        r'<\|tool_call_argument_begin\|>\s*(?=\{\s*["}])'
    ),
    re.compile(r"\s*(?:<\|tool_call_end\|>\s*)?"),
    is_repeated=True,
)
MISTRAL = Shape(
    re.compile(r'\s*(?:\[TOOL_CALLS\]\s*)?(?P<name>[\w-]+)\s*\[ARGS\]\s*(?=\{\s*["}])'),
    re.compile(r"\s*"),
    is_repeated=True,
)


class JsonCall:
    """The calls between two markers: one, or several one after another."""

    def __init__(self, shape: Shape | None, opened: Callable[[str, str | None], ToolCall]) -> None:
        """`opened` makes the part that opens a call, of its name and its id.

        Without a shape, nothing is given.
        """
        self.text = ""
        """All of it so far."""
        self.num_given = 0
        self.num_whole = 0
        """Those of several whose arguments have closed."""
        self._shape = shape
        self._opened = opened
        self._at = 0
        """Where the next call would begin."""
        self._start: int | None = None
        """Where the arguments begin, once it is certain that they do."""
        self._end: int | None = None
        self._closing = _Closing()

    @property
    def is_certain(self) -> bool:
        """Whether it has been given as a call, which cannot be taken back."""
        return self.num_given > 0

    def add(self, text: str) -> Iterator[Part]:
        """Take more of it; give what is certain by now."""
        seen = len(self.text)
        self.text += text
        while self._shape is not None:
            if self._start is None:
                if seen - self._at > _LONGEST_HEAD or (call := self._find_start()) is None:
                    return
                yield call
                seen = self._start or 0
            if self._end is None:
                yield from self._take_arguments(seen)
            if self._end is None or not self._shape.is_repeated:
                return
            self._go_on()
            seen = self._at

    def _find_start(self) -> ToolCall | None:
        """Find out whether this is a call, and of what."""
        assert self._shape is not None
        head = self._shape.head.match(self.text, self._at, self._at + _LONGEST_HEAD)
        if head is None:
            return None
        try:
            name = json.loads(head["name"]) if self._shape.is_quoted else head["name"]
            name.encode()  # half a surrogate pair cannot be sent to anyone
        except ValueError:
            return None
        self._start, self._closing = head.end(), _Closing()
        self.num_given += 1
        return self._opened(str(name), head.groupdict().get("id"))

    def _take_arguments(self, seen: int) -> Iterator[Part]:
        length = self._closing.find(self.text[seen:])
        if length is not None:
            self._end = seen + length
        if more := self.text[seen : self._end]:
            yield ToolArguments(more)

    def _go_on(self) -> None:
        """Look for the next call behind one that is whole."""
        assert self._end is not None
        self._check()
        self.num_whole += 1
        self._at, self._start, self._end = self._end, None, None

    def _check(self) -> None:
        if self._start is not None and not _is_json(self.text[self._start : self._end]):
            log.warning("the model wrote a tool call whose arguments are not JSON")

    def close(self) -> Iterator[Part]:
        """Give what is left, now that no more of it comes."""
        assert self._shape is not None
        self._check()
        behind = self._at if self._start is None else self._end
        rest = "" if behind is None else self.text[behind:]
        # More than a closing brace may be a member that means nothing to us.
        is_whole_json = self._shape.is_quoted and _is_json(self.text)
        if not self._shape.rest.fullmatch(rest) and not is_whole_json:
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
