"""What tests of answers share: texts as tokens, parts folded into a whole, what a guide allows."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from inference.guide import Guide
from inference.masks import filled
from inference.parser import Markers
from parts import Finish, Part, Reasoning, Text, TokenLogprob, Tool, ToolArguments, ToolCall

WEATHER = Tool("weather", "What the weather is.", {"type": "object", "properties": {"city": {}}})


@dataclass
class Folded:
    """A whole answer."""

    reasoning: str = ""
    text: str = ""
    calls: list[tuple[str, str]] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    finish: Finish | None = None


def allowed_bits(guide: Guide, vocab_size: int) -> np.ndarray:
    """Whether each token may come next; some more bits fill up the last word."""
    mask = filled([guide], vocab_size)
    return np.unpackbits(np.array(mask).view(np.uint8), bitorder="little")


def folded(parts: Iterable[Part]) -> Folded:
    whole = Folded()
    for part in parts:
        assert whole.finish is None, "nothing may follow the finish"
        match part:
            case Reasoning(text):
                whole.reasoning += text
            case Text(text, logprobs):
                whole.text += text
                whole.logprobs += logprobs
            case ToolCall(name=name):
                whole.calls.append((name, ""))
            case ToolArguments(text):
                name, arguments = whole.calls.pop()
                whole.calls.append((name, arguments + text))
            case Finish():
                whole.finish = part
    return whole


def as_tokens(tokenizer: Any, pieces: Iterable[str]) -> list[int]:
    """Encode each piece by itself: a piece that is a marker becomes its token, where it has one."""
    return [t for p in pieces for t in tokenizer.encode(p, add_special_tokens=False)]


def as_prose(tokenizer: Any, text: str) -> list[int]:
    """Encode a text so that no marker in it becomes a marker's token."""
    return as_tokens(tokenizer, text)


def spelled(markers: Markers) -> Markers:
    """The same markers, for a model that has no single tokens for them."""

    def without_token(marker: Any) -> Any:
        return marker and replace(marker, token=None)

    return Markers(
        without_token(markers.think_start),
        without_token(markers.think_end),
        without_token(markers.tool_start),
        without_token(markers.tool_end),
    )


def without_space(text: str) -> str:
    return "".join(text.split())
