"""A scheduler decides who may enter the batch, and when: first come, first served.

It knows nothing of MLX, threads or clients. Only `Steps` changes it, but for `add`.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from collections.abc import Sequence as Sequences

from inference.memory import Budget
from inference.sequence import Sequence
from parts import Progress, QueueFull

MARGIN = 256
"""Tokens of an answer for which there must be memory before it begins."""


def have_one_prompt(sequences: Sequences[Sequence]) -> bool:
    """Whether what there is to compute is the same for all."""
    return all(sequence.tokens == sequences[0].tokens for sequence in sequences[1:])


class Scheduler:
    """Sequences wait, then their prompts are computed, in chunks or together; then they run."""

    def __init__(self, *, max_batch: int, max_queue: int) -> None:
        self.max_batch = max_batch
        self.max_queue = max_queue
        self.waiting: deque[Sequence] = deque()
        self.prefilling: list[Sequence] = []
        """Those whose prompt is being computed chunk by chunk; several if they have the same."""
        self.running: list[Sequence] = []
        self.budget = Budget()
        self._was_group = False

    def __iter__(self) -> Iterator[Sequence]:
        yield from list(self.prefilling)
        yield from list(self.running)
        yield from list(self.waiting)

    @property
    def num_running(self) -> int:
        return len(self.running) + len(self.prefilling)

    @property
    def num_waiting(self) -> int:
        return len(self.waiting)

    @property
    def has_work(self) -> bool:
        return bool(self.waiting or self.running or self.prefilling)

    def progress(self, sequence: Sequence) -> Progress:
        """How far a sequence is. Whom the next step takes is not said to wait."""
        num_prompt = len(sequence.prompt)
        with contextlib.suppress(ValueError, RuntimeError):  # it may leave the queue meanwhile
            num_ahead = self.waiting.index(sequence)
            has_place = not self.prefilling and self._has_room_for(sequence, [])
            is_next = num_ahead == 0 and has_place
            return Progress(num_ahead, 0, num_prompt, stage="reading" if is_next else "waiting")
        num_computed = min(sequence.num_computed, num_prompt)
        return Progress(0, num_computed, num_prompt, sequence.num_cached)

    def add(self, sequences: Sequences[Sequence]) -> None:
        """Queue sequences, all or none. Raises `QueueFull` when too many wait already.

        Who waits for a place that is free is on the way to it, and does not count.
        """
        num_places = self.max_batch + self.max_queue - self.num_running - self.num_waiting
        if len(sequences) > num_places:
            raise QueueFull(
                f"{self.num_waiting} requests are waiting already, the most this server allows. "
                "Try again later, or start it with a larger --max-queue."
            )
        self.waiting.extend(sequences)

    def next_prefill(
        self, num_tokens: int, is_short: Callable[[Sequence], bool] = lambda sequence: False
    ) -> list[Sequence]:
        """The sequences whose prompts to compute next, if there are any with room for them.

        One, or several that have the same prompt: they are returned again until all of it is
        computed. Or several that are short, `num_tokens` with their padding at most: they must be
        computed whole. So must be what comes between the chunks of a long prompt, so that nobody
        waits for a stranger's book.
        """
        if not self.prefilling:
            group = self._next_group(num_tokens, is_short)
            if not have_one_prompt(group):
                return group
            self.prefilling = group
        elif not self._was_group and self._can_come_between(num_tokens, is_short):
            self._was_group = True
            if group := self._next_group(num_tokens, is_short):
                return group
        self._was_group = False
        return list(self.prefilling)

    def _can_come_between(self, num_tokens: int, is_short: Callable[[Sequence], bool]) -> bool:
        """Whether the next in line is computed whole before the long prompt goes on."""
        if not self.waiting:
            return False
        return self.waiting[0].num_tokens <= num_tokens and is_short(self.waiting[0])

    def _next_group(self, num_tokens: int, is_short: Callable[[Sequence], bool]) -> list[Sequence]:
        group: list[Sequence] = []
        longest, different, are_short = 0, list[list[int]](), True
        while self.waiting and self._has_room_for(self.waiting[0], group):
            candidate = self.waiting[0]
            if group and candidate.num_faults:
                break
            longest = max(longest, candidate.num_tokens)
            if candidate.tokens not in different:  # most differ early: no hash of a long one
                different.append(candidate.tokens)
            are_short = are_short and is_short(candidate)
            fits = are_short and longest * len(different) <= num_tokens
            if len(different) > 1 and not fits:
                break
            group.append(self.waiting.popleft())
            if candidate.num_faults:
                break
        return group

    def _has_room_for(self, sequence: Sequence, group: list[Sequence]) -> bool:
        """Whether a sequence may begin. What fits alone is never kept from running alone.

        Whoever was in more than one failed step runs alone, to fail alone if it fails again.
        """
        here = [*self.running, *self.prefilling, *group]
        if not here:
            return True
        if any(s.num_faults > 1 for s in (sequence, *here)):
            return False
        return len(here) < self.max_batch and self.budget.fits(
            s.num_tokens + min(s.num_left, MARGIN) for s in (sequence, *here)
        )

    def next_to_preempt(self) -> Sequence | None:
        """The youngest of those who run, when all together have outgrown the memory."""
        here = [*self.running, *self.prefilling]
        if len(here) < 2 or self.budget.fits(s.num_tokens + 1 for s in here):
            return None
        return max(here, key=lambda s: s.number)

    @property
    def num_bytes(self) -> int:
        """What those who run may take with their next tokens."""
        here = [*self.running, *self.prefilling]
        longest = max((s.num_tokens + 1 for s in here), default=0)
        return self.budget.cost(longest, len(here))

    def run(self, sequences: list[Sequence]) -> None:
        """Let sequences run, now that their prompts have been computed."""
        self.prefilling = [s for s in self.prefilling if s not in sequences]
        self.running += sequences

    def remove(self, sequence: Sequence) -> None:
        """Let a sequence go, wherever it is."""
        if sequence in self.prefilling:
            self.prefilling.remove(sequence)
        elif sequence in self.running:
            self.running.remove(sequence)
        elif sequence in self.waiting:
            self.waiting.remove(sequence)

    def wait(self, sequences: Iterable[Sequence]) -> None:
        """Put sequences back to the head of the queue, to be computed again; oldest first."""
        again = sorted(sequences, key=lambda s: s.number)
        for sequence in again:
            self.remove(sequence)
            sequence.start_again()
        self.waiting.extendleft(reversed(again))

    def restart(self) -> list[Sequence]:
        """Put all that run, or began to, back to the head of the queue; say which they are."""
        again = sorted([*self.running, *self.prefilling], key=lambda s: s.number)
        self.wait(again)
        return again
