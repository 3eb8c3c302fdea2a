"""Thinking can be shown apart from the answer, between tags in its text, or not at all."""

from __future__ import annotations

from typing import Literal

from parts import Part, Reasoning, Text

ReasoningFormat = Literal["separate", "hidden", "raw"]

THINK_START, THINK_END = "<think>\n", "\n</think>\n\n"
"""How thinking is shown in the raw format."""


class Thinking:
    """The thoughts of one answer."""

    def __init__(self, format: ReasoningFormat = "separate") -> None:
        self._format = format
        self._is_open = False

    def show(self, part: Part) -> list[Part]:
        """The parts that a client is to see in the place of this one."""
        if self._format == "separate":
            return [part]
        if isinstance(part, Reasoning):
            return self._thought(part.text)
        was_open, self._is_open = self._is_open, False
        return [Text(THINK_END), part] if was_open else [part]

    def _thought(self, text: str) -> list[Part]:
        if self._format == "hidden":
            return []
        was_open, self._is_open = self._is_open, True
        return [Text(text if was_open else THINK_START + text)]
