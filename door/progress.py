"""Progress is what a client hears who waits for the first word: its place, how much is read."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Callable
from typing import TypeVar

from parts import Progress

T = TypeVar("T")

EVERY_S = 0.5
"""Seconds between two looks."""


async def reported(
    coming: AsyncIterable[T], look: Callable[[], Progress]
) -> AsyncIterator[T | Progress]:
    """What comes, and before the first of it how far it is: once at least, then when it changes.

    Raises what `coming` does.
    """
    rest = aiter(coming)
    first = asyncio.ensure_future(anext(rest, None))
    last: Progress | None = None
    try:
        while not first.done():
            if (now := look()) != last:
                yield now
                last = now
            await asyncio.wait([first], timeout=EVERY_S)
    finally:
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
    if (found := first.result()) is not None:
        yield found
        async for each in rest:
            yield each
