"""The pace is how much of a prompt to compute between two decode steps.

A chunk takes as long as the running streams can do without a token; alone, as long as a client who
leaves may keep the machine. Measured, because machines differ a thousandfold.
"""

from __future__ import annotations


class Pace:
    """Learns from every step how long a decode step is, and how many tokens a chunk computes."""

    ALONE_S = 0.25
    """Seconds for one chunk when nobody else is running."""
    SHARED_STEPS = 1.6
    """Decode steps that one chunk may last when others are running: a stream's pause is one more.
    """
    SMALLEST, LARGEST = 32, 4096
    """Tokens."""

    def __init__(self) -> None:
        self._tokens_per_s = 512 / self.ALONE_S
        self._step_s = 0.02
        self._before = (0, 0)

    def num_tokens(self, num_running: int) -> int:
        """The size of the next chunk."""
        seconds = self.SHARED_STEPS * self._step_s if num_running else self.ALONE_S
        num_tokens = self._tokens_per_s * seconds
        return int(min(max(num_tokens, self.SMALLEST), self.LARGEST))

    def observe(self, seconds: float, *, num_prefilled: int, num_running: int) -> None:
        """Learn from a step that computed so many tokens of prompts beside so many running rows.

        The device works one step behind: what takes a step long is the chunk of the step before.
        """
        before, self._before = self._before, (num_prefilled, num_running)
        if before[0] >= self.SMALLEST:
            step_s = self._step_s if before[1] else 0.0
            self._learn_rate(before[0], max(seconds - step_s, 0.1 * seconds))
        elif not (before[0] or num_prefilled) and num_running:
            self._step_s += 0.1 * (seconds - self._step_s)

    def _learn_rate(self, num_tokens: int, seconds: float) -> None:
        self._tokens_per_s += 0.3 * (num_tokens / max(seconds, 1e-6) - self._tokens_per_s)
