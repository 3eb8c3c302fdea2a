"""Turns: what takes long is done on a thread, one thing at a time.

Several at once would be no faster: they take the interpreter from each other, and all of them from
the event loop. What has begun is done before anything new, for it holds memory.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import ParamSpec, TypeVar
from weakref import WeakKeyDictionary

P = ParamSpec("P")
T = TypeVar("T")


class Turns:
    """Who may work, and who waits."""

    def __init__(self) -> None:
        self._is_taken = False
        self._begun: deque[asyncio.Future[None]] = deque()
        self._new: deque[asyncio.Future[None]] = deque()

    async def take(self, *, is_new: bool = False) -> None:
        """Wait for one's turn, which is to be passed on."""
        if not self._is_taken:
            self._is_taken = True
            return
        turn = asyncio.get_running_loop().create_future()
        (self._new if is_new else self._begun).append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.cancelled():  # it has just become ours
                self.pass_on()
            raise

    def pass_on(self) -> None:
        """Let the next work."""
        for waiting in (self._begun, self._new):
            while waiting:
                turn = waiting.popleft()
                if not turn.done():
                    turn.set_result(None)
                    return
        self._is_taken = False


_of_loops: WeakKeyDictionary[asyncio.AbstractEventLoop, Turns] = WeakKeyDictionary()


async def alone(work: Callable[P, T], *given: P.args, **named: P.kwargs) -> T:
    """Do on a thread what takes long, and belongs to a request that has begun."""
    return await _done(lambda: work(*given, **named), is_new=False)


async def alone_in_turn(work: Callable[P, T], *given: P.args, **named: P.kwargs) -> T:
    """Do what a request begins with, when those that have begun have nothing to do."""
    return await _done(lambda: work(*given, **named), is_new=True)


async def _done(work: Callable[[], T], *, is_new: bool) -> T:
    turns = _of_loops.setdefault(asyncio.get_running_loop(), Turns())
    await turns.take(is_new=is_new)
    try:
        return await asyncio.to_thread(work)
    finally:
        turns.pass_on()
