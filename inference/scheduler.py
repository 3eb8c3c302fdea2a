"""A scheduler decides who may enter the batch, and when: first come, first served.

It knows nothing of MLX, threads or clients. Only the step loop calls it, but for `add`.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Iterator

from inference.sequence import Sequence
from parts import Progress, QueueFull


class Scheduler:
    """Sequences wait, then one at a time is computed up to its first token, then they run."""

    def __init__(self, *, max_batch: int, max_queue: int) -> None:
        self.max_batch = max_batch
        self.max_queue = max_queue
        self.waiting: deque[Sequence] = deque()
        self.prefilling: Sequence | None = None
        self.running: list[Sequence] = []

    def __iter__(self) -> Iterator[Sequence]:
        if self.prefilling is not None:
            yield self.prefilling
        yield from list(self.running)
        yield from list(self.waiting)

    @property
    def num_running(self) -> int:
        return len(self.running) + (self.prefilling is not None)

    @property
    def num_waiting(self) -> int:
        return len(self.waiting)

    @property
    def has_work(self) -> bool:
        return bool(self.waiting or self.running or self.prefilling)

    def progress(self, sequence: Sequence) -> Progress:
        """How far a sequence is."""
        with contextlib.suppress(ValueError, RuntimeError):  # it may leave the queue meanwhile
            return Progress(self.waiting.index(sequence), 0, len(sequence.prompt))
        num_prompt = len(sequence.prompt)
        return Progress(0, min(sequence.num_computed, num_prompt), num_prompt)

    def add(self, sequence: Sequence) -> None:
        """Queue a sequence. Raises `QueueFull` when too many wait already."""
        if self.num_waiting >= self.max_queue:
            raise QueueFull(
                f"{self.num_waiting} requests are waiting already, the most this server allows. "
                "Try again later, or start it with a larger --max-queue."
            )
        self.waiting.append(sequence)

    def next_prefill(self) -> Sequence | None:
        """The sequence whose prompt is to be computed next, if there is room for it."""
        if self.prefilling is None and self.waiting and self._has_room_for(self.waiting[0]):
            self.prefilling = self.waiting.popleft()
        return self.prefilling

    def _has_room_for(self, sequence: Sequence) -> bool:
        """Whoever was in more than one failed step runs alone, to fail alone if it fails again."""
        if any(s.num_faults > 1 for s in (sequence, *self.running)):
            return not self.running
        return len(self.running) < self.max_batch

    def run(self, sequence: Sequence) -> None:
        """Let a sequence run, now that its prompt has been computed."""
        assert sequence is self.prefilling
        self.prefilling = None
        self.running.append(sequence)

    def remove(self, sequence: Sequence) -> None:
        """Let a sequence go, wherever it is."""
        if sequence is self.prefilling:
            self.prefilling = None
        elif sequence in self.running:
            self.running.remove(sequence)
        elif sequence in self.waiting:
            self.waiting.remove(sequence)

    def restart(self) -> list[Sequence]:
        """Put all that run back to the head of the queue, oldest first; say which they are."""
        restarted = sorted(self.running, key=lambda s: s.number)
        self.running = []
        self.waiting.extendleft(reversed(restarted))
        return restarted


class Pace:
    """How many tokens of a prompt to compute between two decode steps.

    A chunk takes as long as the running streams can do without a token; alone, as long as a client
    who leaves may keep the machine. Measured, because machines differ a thousandfold.
    """

    ALONE_S = 0.25
    """Seconds for one chunk when nobody else is running."""
    SHARED_STEPS = 2.0
    """Decode steps that one chunk may last when others are running."""
    SMALLEST, LARGEST = 32, 2048

    def __init__(self) -> None:
        self._tokens_per_s = 512 / self.ALONE_S
        self._step_s = 0.02

    def seconds(self, num_running: int) -> float:
        """How long the next chunk may take."""
        return self.SHARED_STEPS * self._step_s if num_running else self.ALONE_S

    def num_tokens(self, num_running: int) -> int:
        """The size of the next chunk."""
        num_tokens = self._tokens_per_s * self.seconds(num_running)
        return int(min(max(num_tokens, self.SMALLEST), self.LARGEST))

    def observe_prefill(self, num_tokens: int, seconds: float) -> None:
        """Learn from a chunk. Small ones say little about the rate."""
        if num_tokens >= self.SMALLEST:
            self._tokens_per_s += 0.3 * (num_tokens / max(seconds, 1e-6) - self._tokens_per_s)

    def observe_decode(self, seconds: float) -> None:
        """Learn from a decode step."""
        self._step_s += 0.1 * (seconds - self._step_s)
