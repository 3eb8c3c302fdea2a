"""A guide says which tokens may come next in one answer: where it stands in its grammar, if any.

It also knows when the answer thinks, which is free, and ends its thinking when that is enough.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from llguidance import LLExecutor, LLMatcher
from llguidance.numpy import fill_next_token_bitmask, fill_next_token_bitmask_par

from inference.parser import Marker, Markers

MAX_RENEWED = 3
"""Times that a guide which has lost its way tries again with a lexer of its own."""


class Compiled:
    """A grammar, ready to be followed from its start by as many answers as like.

    Whoever follows it adds to what its lexer remembers, for all of them, and that has a limit.
    """

    def __init__(self, make: Callable[[], LLMatcher]) -> None:
        self._make = make
        self._fresh = make()

    @property
    def error(self) -> str | None:
        """Why it cannot be followed at all, if it cannot."""
        return reason_of(self._fresh.get_error()) if self._fresh.is_error() else None

    def matcher(self) -> LLMatcher:
        """A matcher at the start."""
        return self._fresh.deep_copy()

    def renew(self) -> None:
        """Forget what the lexer remembers. Those who have a matcher keep theirs."""
        self._fresh = self._make()


class Guide:
    """Where one sequence stands in its grammar. One thread at a time has to do with it."""

    def __init__(
        self,
        grammar: Compiled | None,
        markers: Markers,
        *,
        is_thinking: bool = False,
        max_reasoning_tokens: int | None = None,
        blank_tokens: frozenset[int] = frozenset(),
    ) -> None:
        """`grammar` is None for an answer that is free but for its thinking.

        `is_thinking` when the prompt ends in an opened think block.

        `blank_tokens` are white space, which may come before a think block.
        """
        self._grammar = grammar
        self._matcher = None if grammar is None else grammar.matcher()
        self._num_renewed = 0
        self._opening = _Awaited(markers.think_start)
        self._closing = _Awaited(markers.think_end)
        self._opens_thinking = is_thinking
        self._budget = max_reasoning_tokens
        self._blank_tokens = blank_tokens
        self.error: str | None = None
        """Why the sequence cannot go on, once it cannot."""
        self._accepted: list[int] = []
        self._start()

    def _start(self) -> None:
        self._num_guided: int | None = None
        self._num_thought = 0
        self._is_thinking = self._opens_thinking
        self._may_open = not self._opens_thinking
        self._opening.start()
        self._closing.start()

    def _rewind(self) -> None:
        self._accepted, self.error = [], None
        self._start()
        # Resetting one does not take it out of an error.
        self._matcher = None if self._grammar is None else self._grammar.matcher()

    def is_lost(self, num_tokens: int) -> bool:
        """Whether no token is known to follow so many of the answer.

        A guide is one token ahead of what was read: an answer may end before its guide is lost.
        """
        return self._num_guided is not None and num_tokens >= self._num_guided

    def catch_up(self, generated: Sequence[int]) -> None:
        """Stand behind these tokens, whatever happened to the step they came from."""
        if len(self._accepted) != len(generated):
            self._rewind()
            for token in generated:
                self.accept(token)

    def accept(self, token: int) -> None:
        """Go on behind a token that was sampled."""
        self._accepted.append(token)
        self._note_thinking(token)
        matcher = self._matcher
        if matcher is None or self.error or matcher.is_stopped():
            return
        if not matcher.consume_token(token) and not self._is_found_again():
            self._lose(len(self._accepted) - 1)

    @staticmethod
    def fill(guides: Sequence[Guide | None], mask: np.ndarray, executor: LLExecutor) -> None:
        """Write into `mask` ([B, ⌈vocabulary / 32⌉] int32, all set) what may come next."""
        found = [(guide, row) for row, guide in enumerate(guides) if guide is not None]
        matchers = [(guide._follows, row) for guide, row in found if guide._follows is not None]
        if matchers:
            fill_next_token_bitmask_par(executor, matchers, mask)
        for guide, row in found:
            guide._finish(mask, row)

    @property
    def _follows(self) -> LLMatcher | None:
        """What says what may come next, unless the answer is free or cannot go on."""
        return None if self.error else self._matcher

    def _finish(self, mask: np.ndarray, row: int) -> None:
        """Correct what the matcher wrote into a row."""
        if self._follows is not None:
            if self._follows.is_error() and self._is_found_again():
                fill_next_token_bitmask(self._follows, mask, row)
            if self._follows.is_error():
                self._lose(len(self._accepted))
                mask[row] = -1
        if self._must_close and not self.error:
            self._close(mask, row)

    def _is_found_again(self) -> bool:
        """Whether the way goes on with a lexer that remembers nothing but this answer."""
        if self._grammar is None or self._num_renewed == MAX_RENEWED:
            return False
        self._num_renewed += 1
        self._grammar.renew()
        self._matcher = self._grammar.matcher()
        return all(map(self._matcher.consume_token, self._accepted))

    def _close(self, mask: np.ndarray, row: int) -> None:
        """Leave nothing but the end of thinking, unless a character is to be finished first."""
        token = self._closing.next_token
        if token is None:
            return
        bit = np.uint32(1 << (token % 32)).view(np.int32)
        word = token // 32
        if mask[row, word] & bit:
            mask[row] = 0
            mask[row, word] = bit

    def _lose(self, num_guided: int) -> None:
        assert self._matcher is not None
        self.error = reason_of(self._matcher.get_error())
        self._num_guided = num_guided

    @property
    def _must_close(self) -> bool:
        return self._is_thinking and self._budget is not None and self._num_thought >= self._budget

    def _note_thinking(self, token: int) -> None:
        if self._is_thinking:
            self._num_thought += 1
            self._is_thinking = not self._closing.is_whole_with(token)
        elif self._may_open:
            self._is_thinking = self._opening.is_whole_with(token)
            self._may_open = token in self._blank_tokens or self._opening.has_begun


class _Awaited:
    """A marker, which may be several tokens, and how much of it has come."""

    def __init__(self, marker: Marker | None) -> None:
        self._tokens = marker.tokens if marker else ()
        self.start()

    def start(self) -> None:
        self._num_found = 0

    @property
    def has_begun(self) -> bool:
        return self._num_found > 0

    @property
    def next_token(self) -> int | None:
        """What it goes on with; None for a marker that is not known in tokens."""
        return self._tokens[self._num_found] if self._tokens else None

    def is_whole_with(self, token: int) -> bool:
        """Take a token, and tell whether it is the last of the marker."""
        if not self._tokens:
            return False
        seen = (*self._tokens[: self._num_found], token)
        self._num_found = next(
            n for n in range(len(seen), -1, -1) if seen[len(seen) - n :] == self._tokens[:n]
        )
        if self._num_found < len(self._tokens):
            return False
        self.start()
        return True


REASONS = {
    "NoExtension": "nothing satisfies it",
    "panic": "it is too large",
    "coerce_one_of": "oneOf has options that one value may match at once; anyOf can be enforced",
    "look-ahead": r"a pattern looks around (look-ahead, look-behind, \b, \B)",
    "lookarounds": r"a pattern looks around (look-ahead, look-behind, \b, \B)",
    "regex for float range": "minimum, maximum or multipleOf cannot be followed together",
    "regex for integer range": "minimum, maximum or multipleOf cannot be followed together",
}
"""In our words, what llguidance says in words that mean something to its own users."""


def reason_of(error: str) -> str:
    """One line of llguidance's word on a grammar; nothing of ours is in it."""
    lines = [line.strip() for line in error.strip().splitlines()]
    if not lines:
        return "it cannot be compiled"
    # An expression's fault is told below a drawing of it.
    line = next((line for line in lines if line.startswith("error:")), lines[0])
    return next((ours for theirs, ours in REASONS.items() if theirs in line), line)[:200]
