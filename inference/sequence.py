"""A sequence is one prompt on its way through the model: its tokens, and what they have said.

It knows nothing of MLX; the runner keeps arrays in `cache` and `sent` without anyone else looking.
"""

from __future__ import annotations

import itertools
import secrets
from collections.abc import Iterable
from collections.abc import Sequence as Tokens
from typing import TYPE_CHECKING, Any

from inference.parser import Parser
from inference.stop import StopScanner
from parts import (
    EngineFailed,
    Finish,
    FinishReason,
    Part,
    SamplingParams,
    Text,
    TokenLogprob,
    ToolArguments,
    ToolCall,
    Usage,
)

if TYPE_CHECKING:
    from inference.guide import Guide

_numbers = itertools.count(1)


class Sequence:
    """Prompt and answer as tokens, and the answer's parts as they become certain."""

    def __init__(
        self,
        prompt: Tokens[int],
        params: SamplingParams,
        parser: Parser,
        *,
        stop_tokens: frozenset[int] = frozenset(),
        max_tool_calls: int | None = None,
        guide: Guide | None = None,
    ) -> None:
        self.number = next(_numbers)
        self.prompt = list(prompt)
        self.generated: list[int] = []
        self.params = params
        self.seed = secrets.randbits(64) if params.seed is None else params.seed % 2**64
        self.finish_reason: FinishReason | None = None

        self.guide = guide
        """Says which tokens may come next, when not all may."""
        self.cache: Any = None
        self.sent: Any = None
        """The tokens of a prompt that is being computed, where it is computed."""
        self.num_computed = 0
        """How many of the tokens, from the first on, the cache holds."""
        self.num_cached = 0
        """How many of the prompt's tokens came out of the prefix cache."""
        self.num_faults = 0
        """How many steps have failed while this sequence was in them."""

        self._parser = parser
        self._stop_tokens = stop_tokens
        self._max_tool_calls = max_tool_calls
        self._stop = StopScanner(params.stop)
        self._num_reasoning = 0
        self._num_tool_calls = 0
        self._logprobs: list[TokenLogprob] = []

    def __repr__(self) -> str:
        return f"<Sequence {self.number}: {len(self.prompt)}+{len(self.generated)} tokens>"

    @property
    def tokens(self) -> list[int]:
        """All of them, to be read only: a long prompt is not copied whenever it is looked at."""
        return self.prompt + self.generated if self.generated else self.prompt

    @property
    def num_tokens(self) -> int:
        return len(self.prompt) + len(self.generated)

    @property
    def num_left(self) -> int:
        """How many more tokens the answer may have."""
        return self.params.max_tokens - len(self.generated)

    @property
    def is_finished(self) -> bool:
        return self.finish_reason is not None

    @property
    def ends_with_next(self) -> bool:
        """Whether the next token is the last that `max_tokens` allows."""
        return len(self.generated) + 1 >= self.params.max_tokens

    @property
    def usage(self) -> Usage:
        return Usage(len(self.prompt), self.num_cached, len(self.generated), self._num_reasoning)

    def start_again(self) -> None:
        """Forget what was computed, not what was said: its tokens will be computed once more."""
        self.cache = self.sent = None
        self.num_computed = 0

    def append(self, token: int, logprob: TokenLogprob | None = None) -> list[Part]:
        """Take the token that was sampled; give the parts that are certain by now.

        The last part of the last call is `Finish`, and `is_finished` is true then.

        Raises:
            RuntimeError: the model gave no numbers.
            EngineFailed: its guide has lost its way.
        """
        if token < 0:
            raise RuntimeError("the logits are not numbers")
        if self.guide is not None and self.guide.is_lost(len(self.generated)):
            raise EngineFailed(
                "This answer cannot go on: what it must look like is too complex to be followed "
                f"any further ({self.guide.error})."
            )
        self.generated.append(token)
        if token in self._stop_tokens:
            return self._end("stop")
        before = self._parser.section
        parts = self._parser.add(token)
        sections = (before, self._parser.section)
        if "reasoning" in sections:
            self._num_reasoning += 1
        elif logprob is not None and "tool" not in sections:
            self._logprobs.append(logprob)
        said = self._spoken(parts)
        if self._stop.has_stopped:
            return [*said, *self._finish("stop")]
        if self._max_tool_calls is not None and self._parser.num_calls >= self._max_tool_calls:
            return [*said, *self._finish("stop")]
        if len(self.generated) >= self.params.max_tokens:
            return said + self._end("length")
        return said

    def _end(self, reason: FinishReason) -> list[Part]:
        """Say what was held back, and finish."""
        said = self._spoken(self._parser.flush(is_cut=reason == "length"))
        if self._stop.has_stopped:
            reason = "stop"
        elif rest := self._stop.flush():
            said.append(self._text(rest))
        return [*said, *self._finish(reason)]

    def _finish(self, reason: FinishReason) -> list[Part]:
        if self._num_tool_calls and reason == "stop":
            reason = "tool_calls"
        self.finish_reason = reason
        last = self._text("")
        return [*([last] if last.logprobs else []), Finish(reason, self.usage)]

    def _spoken(self, parts: Iterable[Part]) -> list[Part]:
        """Apply the stop strings, which are looked for in the answer's text and nowhere else."""
        said: list[Part] = []
        for part in parts:
            if self._stop.has_stopped:
                self._stop.add(part.text if isinstance(part, Text) else "")
                continue
            # A model may write several calls at once.
            is_last_call = self._num_tool_calls == self._max_tool_calls
            if is_last_call and not isinstance(part, ToolArguments):
                break
            if isinstance(part, Text):
                if text := self._stop.add(part.text):
                    said.append(self._text(text))
                continue
            if rest := self._stop.flush():
                said.append(self._text(rest))
            self._num_tool_calls += isinstance(part, ToolCall)
            said.append(part)
        return said

    def _text(self, text: str) -> Text:
        """Text with the log-probabilities of the tokens that it is made of.

        Where stop strings are looked for, those of a text that is held back wait with it, and
        those of one that is cut off are never given.
        """
        given = len(self._logprobs)
        held = self._stop.num_held + self._parser.num_held if self.params.stop else 0
        while given and held and (held := held - len(self._logprobs[given - 1].raw)) >= 0:
            given -= 1
        logprobs, self._logprobs = self._logprobs[:given], self._logprobs[given:]
        return Text(text, tuple(logprobs))
