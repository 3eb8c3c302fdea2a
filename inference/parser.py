"""A parser turns the model's tokens into parts: where thinking ends, where a tool call begins.

Where a marker is one token of the vocabulary, only that token is the marker, so that a `</think>`
spelled out in prose stays prose. Nothing is ever dropped: what cannot be understood as a tool call
is given as text. Calls written in JSON are given as they are written (see `tool_call`), all others
when they are whole; a call cut by `max_tokens` keeps what was given of it, or else is text.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from inference.argument import typed
from inference.call_format import call_format
from inference.detokenizer import Detokenizer
from inference.tool_call import JsonCall, new_call
from parts import Part, Reasoning, Text, Tool, ToolArguments, ToolCall

log = logging.getLogger(__name__)

_ID = re.compile(r"[\w.:-]{1,64}", re.ASCII)
"""An id that a client can be given."""
Section = Literal["start", "reasoning", "content", "tool"]
ToolParser = Callable[[str, Any], Any]
"""mlx-lm's: (text between the markers, tool definitions) -> one call or a list of them."""


@dataclass(frozen=True, slots=True)
class Marker:
    """A word of the model's own that opens or closes a section."""

    text: str
    token: int | None
    """Its token, when it is a single one; a marker of several tokens is recognised as text."""
    tokens: tuple[int, ...] = ()
    """How the model is used to write it."""


@dataclass(frozen=True, slots=True)
class Markers:
    """The markers of one model; None where it has none."""

    think_start: Marker | None = None
    think_end: Marker | None = None
    tool_start: Marker | None = None
    tool_end: Marker | None = None
    layout: tuple[Marker, ...] = ()
    """Around an answer's text: the first before it, the others behind it."""

    @classmethod
    def of(cls, tokenizer: Any) -> Markers:
        """Read them off mlx-lm's `TokenizerWrapper`."""

        def marker(text: str | None, tokens: Sequence[int] | None) -> Marker | None:
            if not text:
                return None
            tokens = tuple(tokens or ())
            return Marker(text, tokens[0] if len(tokens) == 1 else None, tokens)

        t = tokenizer
        return cls(
            marker(t.think_start, t.think_start_tokens),
            marker(t.think_end, t.think_end_tokens),
            marker(t.tool_call_start, t.tool_call_start_tokens),
            marker(t.tool_call_end, t.tool_call_end_tokens),
            tuple(Marker(text, None) for text in t.structural_markers),
        )

    def with_fallback_tools(self, tokenizer: Any) -> Markers:
        """The markers of a model that has learned none for tools, and is told of these."""
        known = tokenizer.get_added_vocab()
        start, end = (Marker(t, known.get(t)) for t in ("<tool_call>", "</tool_call>"))
        return replace(self, tool_start=start, tool_end=end)

    def opens_thinking(self, prompt: Sequence[int], tokenizer: Any) -> bool:
        """Whether the prompt's last words are an opened think block."""
        if self.think_start is None:
            return False
        tail = list(prompt[-64:])
        start: int = tokenizer.rfind_think_start(tail)
        return start >= 0 and start > tokenizer.rfind_think_end(tail)


class Parser:
    """The sections of one answer."""

    def __init__(
        self,
        detokenizer: Detokenizer,
        markers: Markers,
        *,
        is_thinking: bool = False,
        tools: Sequence[Tool] = (),
        tool_parser: ToolParser | None = None,
    ) -> None:
        """Start in a think block if `is_thinking`; recognise calls only when there are `tools`."""
        self._detokenizer = detokenizer
        self._markers = markers
        self._format = call_format(tool_parser)
        has_bare_text = self._format is not None and self._format.has_bare_text
        self._tools = [
            {"type": "function", "function": _definition(t, has_bare_text)} for t in tools
        ]
        self._by_name = {tool.name: tool for tool in tools} if has_bare_text else {}
        """Those whose arguments come as bare text, and are given their types here."""
        self._tool_parser = tool_parser if tools else None
        self._held = ""
        """Text of which it is not yet known what it is: part of a marker, or white space."""
        self._ids: set[str] = set()
        """Of the calls so far."""
        self._call = self._new_section()
        self._skips_space = is_thinking
        self._num_closed = 0
        self.section: Section = "reasoning" if is_thinking else "start"

    def add(self, token: int) -> list[Part]:
        """Take the next token; give the parts that are certain by now."""
        marker = self._expected_by_token(token)
        if marker is None:
            return list(self._take(self._detokenizer.add(token)))
        parts = list(self._take(self._detokenizer.flush()))
        if marker not in self._expected():  # it comes too late, after what was held back
            return [*parts, *self._take(marker.text)]
        return [*parts, *self._cross(marker)]

    @property
    def num_calls(self) -> int:
        """Calls that have been given whole."""
        return self._num_closed + self._call.num_whole

    @property
    def num_held(self) -> int:
        """Bytes of text that were taken and not given yet."""
        return len(self._held.encode("utf-8", "replace")) + self._detokenizer.num_held

    def flush(self, *, is_cut: bool = False) -> list[Part]:
        """Give all that is left when the answer ends, or `is_cut` short wherever it is."""
        parts = list(self._take(self._detokenizer.flush()))
        if self.section == "tool":
            parts += self._continue_call(self._held)
            parts += self._close_call(is_complete=False, is_cut=is_cut)
        elif self._held:
            parts.append(self._part(self._held))
        self._held = ""
        return [p for p in parts if not (isinstance(p, Reasoning) and not p.text.strip())]

    # Markers

    def _expected(self) -> tuple[Marker, ...]:
        """The markers that mean something here."""
        m = self._markers
        can_call = self._tool_parser is not None
        found: tuple[Marker | None, ...]
        match self.section:
            case "start":
                found = (m.think_start, m.tool_start if can_call else None, *m.layout)
            case "reasoning":
                found = (m.think_end,)
            case "content":
                found = (m.tool_start if can_call else None, *m.layout)
            case "tool":
                found = (m.tool_end,)
        return tuple(f for f in found if f is not None)

    def _expected_by_token(self, token: int) -> Marker | None:
        for marker in self._expected():
            if marker.token == token:
                return marker
        return None

    def _cross(self, marker: Marker) -> Iterator[Part]:
        """Go from one section into the next. White space at the seam is layout."""
        if self._held.strip():
            yield self._part(self._held)
        self._held = ""
        if self.section == "tool":
            yield from self._close_call(is_complete=True)
        elif marker in self._markers.layout:
            self.section = "content"
        elif marker == self._markers.think_start:
            self.section, self._skips_space = "reasoning", True
        elif self.section == "reasoning":
            self.section, self._skips_space = "content", True
        else:
            self.section = "tool"

    # Text

    def _take(self, text: str) -> Iterator[Part]:
        text = self._held + text
        self._held = ""
        while text:
            if self.section == "tool":
                text = yield from self._take_call(text)
                continue
            found = self._first_marker(text)
            if found is None:
                yield from self._take_plain(text)
                return
            index, marker = found
            yield from self._take_plain(text[:index])
            yield from self._cross(marker)
            text = self._held + text[index + len(marker.text) :]
            self._held = ""

    def _take_plain(self, text: str) -> Iterator[Part]:
        if self._skips_space:
            text = text.lstrip()
        if not text:
            return
        self._skips_space = False
        certain = self._certain(text)
        self._held = text[certain:]
        text = text[:certain]
        if not text:
            return
        if self.section == "start":
            self.section = "content"
        yield self._part(text)

    def _certain(self, text: str) -> int:
        """Count the characters that no later token can make part of a marker or of its margin."""
        keep = len(text)
        for marker in self._expected():
            if marker.token is None:
                keep = min(keep, _start_of(marker.text, text))
        if self.section in ("start", "reasoning") or self._tool_parser is not None:
            keep = min(keep, len(text[:keep].rstrip()))
        return keep

    def _first_marker(self, text: str) -> tuple[int, Marker] | None:
        spelled = (m for m in self._expected() if m.token is None)
        found = [(i, m) for m in spelled if (i := text.find(m.text)) >= 0]
        # Thinking opens before anything else is said, or not at all.
        late = [(i, m) for i, m in found if m == self._markers.think_start and text[:i].strip()]
        return min((f for f in found if f not in late), key=lambda f: f[0], default=None)

    def _part(self, text: str) -> Part:
        return Reasoning(text) if self.section == "reasoning" else Text(text)

    # Tool calls

    def _take_call(self, text: str) -> Generator[Part, None, str]:
        """Take text inside a call; return the text behind its end."""
        end = self._markers.tool_end
        if end is None or end.token is not None:
            yield from self._continue_call(text)
            return ""
        inside, marker, rest = text.partition(end.text)
        if marker:
            yield from self._continue_call(inside)
            yield from self._close_call(is_complete=True)
            return rest
        certain = _start_of(end.text, text)
        self._held = text[certain:]
        yield from self._continue_call(text[:certain])
        return ""

    def _new_section(self) -> JsonCall:
        return JsonCall(self._format.shape if self._format else None, self._opened)

    def _continue_call(self, text: str) -> Iterator[Part]:
        return self._call.add(text)

    def _close_call(self, *, is_complete: bool, is_cut: bool = False) -> Iterator[Part]:
        self.section, self._skips_space = "content", True
        section, self._call = self._call, self._new_section()
        if section.is_certain:
            self._num_closed += section.num_whole if is_cut else section.num_given
            yield from section.close()
            return
        text = section.text
        # Some of mlx-lm's parsers make a call with fewer arguments of one that is cut short.
        calls = [] if is_cut else self._parsed(text)
        self._num_closed += len(calls)
        if not calls:
            log.warning("the model wrote a tool call that cannot be parsed; it is given as text")
            self._skips_space = False
            start, end = self._markers.tool_start, self._markers.tool_end
            yield Text(
                (start.text if start else "") + text + (end.text if end and is_complete else "")
            )
        for name, arguments, id in calls:
            yield self._opened(name, id)
            yield ToolArguments(arguments)

    def _opened(self, name: str, id: Any) -> ToolCall:
        """Open a call under the id that the model gave it, if that is one and new."""
        call = new_call(name)
        if isinstance(id, str) and _ID.fullmatch(id) and id not in self._ids:
            call = replace(call, id=id)
        self._ids.add(call.id)
        return call

    def _parsed(self, text: str) -> list[tuple[str, str, Any]]:
        """Name, JSON arguments and id of each call; nothing when any of it is not understood."""
        assert self._tool_parser is not None
        try:
            calls = self._tool_parser(text, self._tools)
            calls = calls if isinstance(calls, list) else [calls]
            return [(*_name_and_arguments(c, self._by_name), c.get("id")) for c in calls]
        except Exception:  # the parsers of mlx-lm raise whatever they stumble over
            return []


def _name_and_arguments(call: Any, by_name: Mapping[str, Tool]) -> tuple[str, str]:
    name, arguments = call["name"], call.get("arguments", {})
    if not isinstance(name, str) or not name:
        raise ValueError("a call without a name")
    if isinstance(arguments, str):
        arguments = json.loads(arguments)
    if not isinstance(arguments, dict):
        raise ValueError("arguments that are not an object")
    if tool := by_name.get(name):
        known = _properties(tool)
        arguments = {k: typed(v, known.get(k, True), tool.parameters) for k, v in arguments.items()}
    text = json.dumps(arguments, ensure_ascii=False, allow_nan=False)
    # Half a surrogate pair cannot be sent to anyone.
    (name + text).encode()
    return name, text


def _definition(tool: Tool, has_bare_text: bool) -> dict[str, Any]:
    """A tool as mlx-lm's parsers know it: all its arguments are texts where we type them."""
    parameters = dict(tool.parameters)
    if has_bare_text:
        parameters = {"properties": {key: {"type": "string"} for key in _properties(tool)}}
    return {"name": tool.name, "description": tool.description, "parameters": parameters}


def _properties(tool: Tool) -> Mapping[str, Any]:
    properties = tool.parameters.get("properties")
    return properties if isinstance(properties, Mapping) else {}


def _start_of(marker: str, text: str) -> int:
    """Index of the earliest suffix of `text` that begins `marker`; its length when none does."""
    for index in range(max(0, len(text) - len(marker) + 1), len(text)):
        if marker.startswith(text[index:]):
            return index
    return len(text)
