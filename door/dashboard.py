"""The dashboard: the last requests, and the engine's figures once a second, while somebody looks.

One stream of events a page. It tells how much was read and written, never what.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import asdict
from typing import Any

from fastapi import APIRouter, Response

from door.log import Story
from door.metrics import kv_use
from door.stream import EventStream
from parts import Engine, EngineStatus
from protocol.sse import named_event

SAMPLE_S = 1.0
"""Seconds between two looks at the engine."""
NUM_SAMPLES = 300
NUM_REQUESTS = 50
MAX_NEWS = 1000
"""Events that may wait for one page; one that falls further behind loses the oldest."""

Event = dict[str, Any]


class Dashboard:
    """What every page that looks is told."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._requests: deque[Event] = deque(maxlen=NUM_REQUESTS)
        self._samples: deque[Event] = deque(maxlen=NUM_SAMPLES)
        self._pages: set[_Page] = set()
        self._sampling: asyncio.Task[None] | None = None

    def hear(self, story: Story) -> None:
        """Take a request that is over, if it was for an answer or failed."""
        if story.id or story.status >= 400:
            told = {"at": round(story.at, 3), **story.fields()}
            self._requests.append(told)
            self._tell({"type": "request", "request": told})

    async def events(self) -> AsyncIterator[bytes]:
        """All that is known, then what is new, until the server stops or the page is closed."""
        page = _Page(maxlen=MAX_NEWS)
        self._open(page)
        try:
            yield named_event(self._past())
            while not page.is_last:
                yield named_event(await page.next())
        finally:
            self._close(page)

    def _past(self) -> Event:
        return {
            "type": "past",
            "interval_s": SAMPLE_S,
            "samples": list(self._samples),
            "requests": list(self._requests),
        }

    def _open(self, page: _Page) -> None:
        self._pages.add(page)
        if self._sampling is None:
            self._sampling = asyncio.create_task(self._sample())

    def _close(self, page: _Page) -> None:
        self._pages.discard(page)
        if not self._pages and self._sampling is not None:
            self._sampling.cancel()
            self._sampling = None

    async def _sample(self) -> None:
        while True:
            status = self._engine.status
            sample = _sample_of(status)
            self._samples.append(sample)
            self._tell({"type": "sample", "sample": sample}, is_last=status.phase == "draining")
            await asyncio.sleep(SAMPLE_S)

    def _tell(self, event: Event, *, is_last: bool = False) -> None:
        for page in self._pages:
            page.tell(event, is_last=is_last)


class _Page:
    """One page that looks."""

    def __init__(self, maxlen: int) -> None:
        self._news: deque[Event] = deque(maxlen=maxlen)
        self._is_news = asyncio.Event()
        self._is_ending = False

    @property
    def is_last(self) -> bool:
        """Whether all has been told that ever will be."""
        return self._is_ending and not self._news

    def tell(self, event: Event, *, is_last: bool = False) -> None:
        self._news.append(event)
        self._is_ending = self._is_ending or is_last
        self._is_news.set()

    async def next(self) -> Event:
        """The oldest event that was not told."""
        while not self._news:
            self._is_news.clear()
            await self._is_news.wait()
        return self._news.popleft()


def _sample_of(status: EngineStatus) -> Event:
    """The engine's figures at this moment. Counts are since the start: rates are their slopes."""
    card = status.model
    return {
        "at": round(time.time(), 3),
        "phase": status.phase,
        "model": card.name if card else None,
        "running": status.running,
        "waiting": status.waiting,
        "stalled_s": round(status.stalled_s, 3),
        "kv_use": round(kv_use(status), 4),
        "memory": {**asdict(status.memory), "weights": card.num_bytes if card else 0},
        "counts": asdict(status.counts),
    }


def add_routes(router: APIRouter, board: Dashboard) -> None:
    """Add the stream that the page at `/dashboard` reads."""

    @router.get("/dashboard/events", include_in_schema=False)
    async def events() -> Response:
        return EventStream(board.events(), lambda: None)
