"""The pace is how much of a prompt to compute between two decode steps.

A chunk takes as long as the running streams can do without a token; alone, as long as a client who
leaves may keep the machine. Measured, because machines differ a thousandfold.
"""

from __future__ import annotations

import math

from inference.outbox import seconds_between_pieces


class Pace:
    """Learns from every step how long a decode step takes, and a chunk of so many tokens."""

    ALONE_S = 0.25
    """Seconds for one chunk when nobody else is running."""
    PAUSE = 2.75
    """How many times as long a stream may wait for a piece while a chunk is computed. Readers see
    pieces, not steps: where a piece holds several steps, a chunk may be so much longer."""
    SMALLEST, LARGEST = 32, 4096
    """Tokens."""
    FIRST = 128
    """Tokens of the first chunk; the next may be so many times as long as any before."""
    LEAP = 4
    DOUBT = 2.0
    """How many times as long as expected a step or a chunk may take and be believed."""
    WORTH = 0.2
    """A chunk costs something before its first token. It has at least so many tokens that they cost
    this part of it, even if it then lasts longer than it should."""

    def __init__(self) -> None:
        self._step_s = 0.02
        self._chunk = _Line()
        self._longest = 0
        self._under_way = (0, 0.0)
        """Tokens of the chunk that the next step waits for, and the seconds that it has taken."""
        self._opening = (0, 0.0)
        """The same of the first chunk of several. Where a device works behind the host, part of
        each chunk is waited for in the step of the next, and all of that at the end: the first and
        the last are true only together."""

    def num_tokens(self, num_running: int) -> int:
        """The size of the next chunk."""
        if not self._longest:
            return self._bounded(self.FIRST)
        seconds = self._seconds_beside(num_running) if num_running else self.ALONE_S
        at_once, per_token = self._chunk.fit()
        num_tokens = max(seconds - at_once, self.WORTH * at_once) / per_token
        mean = self._chunk.mean
        if not self._chunk.is_known and 0.8 * mean < num_tokens < 1.25 * mean:
            # Chunks of one size do not tell what is paid at once and what for each token.
            num_tokens = 1.5 * mean
        return self._bounded(min(num_tokens, self.LEAP * self._longest))

    def _seconds_beside(self, num_running: int) -> float:
        """What a chunk may take: a pause, less the decode step that follows it."""
        num_steps = max(math.ceil(seconds_between_pieces(num_running) / self._step_s), 1)
        return (self.PAUSE * num_steps - 1) * self._step_s

    def _bounded(self, num_tokens: float) -> int:
        return int(min(max(num_tokens, self.SMALLEST), self.LARGEST))

    def observe(
        self,
        seconds: float,
        *,
        num_prefilled: int,
        num_running: int,
        waited_s: float = 0.0,
        is_whole: bool = False,
    ) -> None:
        """Learn from a step that computed so many tokens of prompts beside so many running rows.

        A chunk takes what the host needs to put it under way, all of it where there is no device
        besides, and what the next step waits for it: `waited_s` is that of the chunk before. What
        `is_whole`, with the first token behind it, is waited for in its own step.
        """
        step_s = self._step_s if num_running else 0.0
        own_s = max(seconds - waited_s - step_s, 0.0)
        (num_before, before_s), self._under_way = self._under_way, (0, 0.0)
        if is_whole or not num_prefilled:
            self._learn_last(num_before + num_prefilled, before_s + waited_s + own_s)
        else:
            self._learn_one_of_several(num_before, before_s + waited_s)
            self._under_way = (num_prefilled, own_s)
        if not (num_before or num_prefilled) and num_running:
            self._step_s += 0.1 * (min(seconds, self.DOUBT * self._step_s) - self._step_s)

    def forget_under_way(self) -> None:
        """Leave out of account what was computed of a prompt for which nobody waits any more."""
        self._under_way = self._opening = (0, 0.0)

    def _learn_one_of_several(self, num_tokens: int, seconds: float) -> None:
        if self._opening[0]:
            self._learn(num_tokens, seconds)
        elif num_tokens:
            self._opening = (num_tokens, seconds)
            if not self._longest:  # better than to know nothing
                self._learn(num_tokens, seconds)

    def _learn_last(self, num_tokens: int, seconds: float) -> None:
        (num_before, before_s), self._opening = self._opening, (0, 0.0)
        if min(num_before, num_tokens) >= self.SMALLEST:
            num_tokens, seconds = (num_before + num_tokens) // 2, (before_s + seconds) / 2
        self._learn(num_tokens, seconds)

    def _learn(self, num_tokens: int, seconds: float) -> None:
        """Learn how long a chunk took.

        Time is only ever added: a device that plans a new shape, a machine with other work. So what
        took much longer than others did counts for little, and what took much less shows that the
        others waited for something.
        """
        if num_tokens < self.SMALLEST:
            return
        if self._longest:
            at_once, per_token = self._chunk.fit()
            expected = at_once + per_token * num_tokens
            seconds = min(seconds, self.DOUBT * expected)
            if seconds < expected / self.DOUBT:
                self._chunk = _Line()
        self._chunk.observe(num_tokens, seconds)
        self._longest = max(self._longest, num_tokens)


class _Line:
    """Seconds as a straight line over tokens, by least squares; the last dozen count most."""

    _DECAY = 0.9

    def __init__(self) -> None:
        self._weight = self._n = self._t = self._nn = self._nt = 0.0

    def observe(self, n: float, t: float) -> None:
        self._weight, self._n, self._t, self._nn, self._nt = (
            self._DECAY * old + new
            for old, new in zip(
                (self._weight, self._n, self._t, self._nn, self._nt),
                (1.0, n, t, n * n, n * t),
                strict=True,
            )
        )

    @property
    def mean(self) -> float:
        """The tokens seen of late."""
        return self._n / self._weight

    @property
    def is_known(self) -> bool:
        """Whether what was seen differs enough to lay a line through it."""
        return self._nn / self._weight - self.mean**2 > 0.002 * self.mean**2

    def fit(self) -> tuple[float, float]:
        """The seconds at 0 tokens, and for each token; both positive."""
        n, t = self.mean, self._t / self._weight
        slope = t / n
        if self.is_known:
            slope = (self._nt / self._weight - n * t) / (self._nn / self._weight - n * n)
        slope = min(max(slope, 0.02 * t / n), t / n)
        return t - slope * n, max(slope, 1e-9)
