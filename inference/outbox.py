"""The outbox holds what the GPU thread has to say to the event loop, until it is time to say it.

Whatever the event loop does with a piece of an answer, it takes the interpreter's lock from the
thread that prepares the next step. So the more streams there are, the larger the pieces.
"""

from __future__ import annotations

import time

from inference.sequence import Sequence
from parts import Finish, Part, ServerError

News = list[Part] | ServerError
"""More of an answer, or why there is no more."""

WAIT_PER_STREAM_S = 0.0005
"""Seconds that pieces wait for more, for each stream that runs."""
SHORTEST_WAIT_S, LONGEST_WAIT_S = 0.012, 0.025
"""Seconds. Nobody reads so fast; and what comes after a pause does not wait at all."""


def seconds_between_pieces(num_running: int) -> float:
    """What a stream waits at least for its next piece, beside so many others."""
    return min(max(num_running * WAIT_PER_STREAM_S, SHORTEST_WAIT_S), LONGEST_WAIT_S)


class Outbox:
    """News by sequence, in the order in which they came. Belongs to the GPU thread."""

    def __init__(self) -> None:
        self._news: list[tuple[Sequence, News]] = []
        self._last_taken = 0.0

    def put(self, sequence: Sequence, news: News) -> None:
        """Keep what a sequence has said, or why it says no more."""
        self._news.append((sequence, news))

    def is_due(self, now: float, num_running: int) -> bool:
        """Whether it is time to hand over what there is. `now` is monotonic, in seconds."""
        is_time = now - self._last_taken >= seconds_between_pieces(num_running)
        return bool(self._news) and (not num_running or is_time)

    def take(self) -> list[tuple[Sequence, News]]:
        """Give what there is, each sequence's parts in one piece."""
        taken, self._news = self._news, []
        if taken:
            self._last_taken = time.monotonic()
        return _joined(taken)


def is_last(news: News) -> bool:
    """Whether nothing comes after these."""
    return isinstance(news, ServerError) or isinstance(news[-1], Finish)


def _joined(news: list[tuple[Sequence, News]]) -> list[tuple[Sequence, News]]:
    pieces: dict[int, tuple[Sequence, list[Part]]] = {}
    ends: list[tuple[Sequence, News]] = []
    for sequence, what in news:
        if isinstance(what, ServerError):
            ends.append((sequence, what))
        else:
            pieces.setdefault(sequence.number, (sequence, []))[1].extend(what)
    return [*pieces.values(), *ends]
