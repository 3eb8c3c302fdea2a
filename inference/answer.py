"""An answer is the event loop's end of a sequence: parts come in from the GPU thread, clients read.

What a client does not read at once is joined, so that a slow reader gets fewer, larger pieces.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence

from parts import Finish, Part, Progress, ServerError


class Answer:
    """The parts of one sequence. Belongs to the event loop; `feed` and `fail` are called on it."""

    def __init__(self, cancel: Callable[[], None], look: Callable[[], Progress]) -> None:
        """`cancel` gives the sequence up; `look` says how far it is."""
        self._cancel = cancel
        self._look = look
        self._parts: list[Part] = []
        self._error: ServerError | None = None
        self._is_over = False
        self._news = asyncio.Event()

    @property
    def progress(self) -> Progress:
        """How far the sequence is."""
        return self._look()

    def feed(self, parts: Sequence[Part]) -> None:
        """Take more parts."""
        self._parts += parts
        self._news.set()

    def fail(self, error: ServerError) -> None:
        """Say that no more parts will come, and why."""
        self._error = error
        self._news.set()

    def cancel(self) -> None:
        """Give the answer up, unless it has ended."""
        if not self._is_over:
            self._is_over = True
            self._news.set()
            self._cancel()

    async def __aiter__(self) -> AsyncIterator[Sequence[Part]]:
        while not self._is_over:
            await self._news.wait()
            self._news.clear()
            if parts := self._take():
                yield parts
            if self._error is not None and not self._is_over:
                self._is_over = True
                raise self._error

    def _take(self) -> list[Part]:
        parts, self._parts = self._parts, []
        if parts and isinstance(parts[-1], Finish):
            self._is_over = True
        return parts
