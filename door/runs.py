"""A run is one response being made: its events so far, kept for whoever reads them, now or later.

A response in the background, a stream that is resumed, and a plain answer are all readings of it.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Sequence

from door.log import Story, told
from door.progress import reported
from door.stream import LOGPROB_BYTES, MAX_UNREAD, too_slow, watched
from parts import Answer, EngineFailed, Finish, Part, Progress, Reasoning, ServerError, Usage
from protocol.draft import Draft
from protocol.items import Item
from protocol.response_events import Event, ResponseStream
from protocol.sse import json_bytes
from protocol.tree import Timings

log = logging.getLogger("mlx_server")

KEPT_RUNS = 128
"""Finished runs whose events can still be read again."""
KEPT_BYTES = 64 * 2**20
"""What these may take together, counted generously; and each, while it is made."""
EVENT_BYTES = 600
"""What an event takes beside the text that it tells."""
END_S = 1.0
"""Seconds that runs get to tell their ends."""


class Run:
    """Feeds an answer's parts to a response's stream, to its end, whoever listens."""

    def __init__(
        self,
        stream: ResponseStream,
        answer: Answer,
        draft: Draft,
        items: Sequence[Item],
        story: Story,
        *,
        history: Sequence[Item] = (),
        has_to_wait: bool = False,
        is_warm_up: bool = False,
        tells_progress: bool = False,
    ) -> None:
        """`history` is what was said before `items`. A warm-up gives no output."""
        self.stream = stream
        self.answer = answer
        self.items = list(items)
        self.history = list(history)
        self.story = story
        self.events: list[Event] = []
        """The last ones: all of them, unless they are very many."""
        self._num_gone = 0
        self._num_bytes = 0
        self.error: ServerError | None = None
        """Why the response failed."""
        self._draft = draft
        self._is_warm_up = is_warm_up
        self._tells_progress = tells_progress
        self._thinking = Thinking()
        self._news = asyncio.Event()
        self._tell(stream.queued() if has_to_wait else stream.opening())
        draft.show(stream.response, self.items)
        self._task = asyncio.create_task(self._make())

    @property
    def id(self) -> str:
        return self.stream.id

    @property
    def is_over(self) -> bool:
        return self.stream.is_over

    @functools.cached_property
    def num_bytes(self) -> int:
        """What the events of a run that is over take."""
        # Its text stands in the deltas and, whole, in the events that end a part, an item, and all.
        # What was asked, and is long, is one for all events.
        long = self._draft.question.settings if self._draft.question else {}
        told = {name: value for name, value in self.response.items() if name not in long}
        size = 4 * len(json_bytes(told)) + sum(map(len, long.values()))
        return len(self.events) * EVENT_BYTES + size

    def cancel(self) -> None:
        """Give the response up. Harmless when it is over."""
        if self.is_over:
            return
        self.answer.cancel()
        self.story.finish = self.story.finish or "cancelled"
        self._tell(self.stream.cancel())
        self._task.cancel()

    @property
    def response(self) -> Event:
        """The response object as it stands."""
        return self.stream.response

    def timings(self) -> Timings | None:
        """How quickly it came, as far as it came."""
        first, rate = self.story.first_s, self.story.tokens_per_s
        if first is None:
            return None
        thinking = self._thinking.seconds
        return Timings(*(value and round(value, 4) for value in (first, thinking, rate)))

    def at_end(self, call: Callable[[], None]) -> None:
        """Have something called when the response is over."""
        self._task.add_done_callback(lambda task: call())

    async def wait(self, timeout: float | None = None) -> None:
        """Wait until the response is over."""
        await asyncio.wait([self._task], timeout=timeout)

    def has_events(self, after: int) -> bool:
        """Whether the events after the one with number `after` can still be told."""
        return after + 1 >= self._num_gone

    async def follow(self, after: int = -1) -> AsyncIterator[list[Event]]:
        """The events after the one with number `after`: those that were, then those that come.

        Raises `TimedOut` for a reader who falls too far behind what comes.
        """
        num_read = after + 1
        is_live = False
        while True:
            if not self.has_events(num_read - 1):
                raise too_slow()
            if news := self.events[num_read - self._num_gone :]:
                if is_live and sum(map(_size_of, news)) > MAX_UNREAD:
                    raise too_slow()
                num_read += len(news)
                is_live = not self.is_over
                yield news
            elif self.is_over:
                return
            else:
                await self._news.wait()

    async def _make(self) -> None:
        try:
            with watched([self.answer], self.story):
                async for news in self._coming():
                    if isinstance(news, Progress):
                        self._tell(self.stream.progress(news))
                        continue
                    self._hear(news)
                    if not self._is_warm_up:
                        self._tell(self.stream.feed(news))
            if self._is_warm_up:
                self._tell(self.stream.warmed(self.story.usage or Usage()))
            if not self.is_over:
                raise EngineFailed("The answer ended before it was finished.")
        except ServerError as error:
            self._fail(error)
        except Exception as error:  # nobody above this task would tell those who wait for it
            log.error("response %s failed: %s", self.id, told(error))
            self._fail(EngineFailed("The server failed on this response."))
        finally:
            self.answer.cancel()
            self._draft.abandon()

    def _coming(self) -> AsyncIterator[Sequence[Part] | Progress]:
        if self._tells_progress:
            return reported(self.answer, lambda: self.answer.progress)
        return aiter(self.answer)

    def _fail(self, error: ServerError) -> None:
        self.error = error
        self.story.finish = "error"
        self._tell(self.stream.fail(error))

    def _hear(self, parts: Sequence[Part]) -> None:
        self.story.heard()
        self._thinking.hear(parts)
        if isinstance(parts[-1], Finish):
            self.story.finished(parts[-1].usage, parts[-1].reason)

    def _tell(self, events: list[Event]) -> None:
        self.events += events
        self._num_bytes += sum(map(_size_of, events))
        if self._num_bytes > KEPT_BYTES:
            self._forget_half()
        news, self._news = self._news, asyncio.Event()
        news.set()
        if self.is_over:
            # Before a reader runs: whoever hears of its end can continue it.
            self._draft.remember(self.stream.response, self.items, self.timings())
            if self._draft.is_kept:  # by the store: the run may be read again, but not asked
                self.items, self.history = [], []

    def _forget_half(self) -> None:
        """Let the older half of the events go: whoever has not read them by now never will."""
        num_gone = len(self.events) // 2
        self._num_bytes -= sum(map(_size_of, self.events[:num_gone]))
        self._num_gone += num_gone
        del self.events[:num_gone]


class Thinking:
    """How long a model thinks, in all."""

    def __init__(self) -> None:
        self._num_s: float | None = None
        self._since: float | None = None

    def hear(self, parts: Sequence[Part]) -> None:
        """Note what it says now."""
        now = time.perf_counter()
        for part in parts:
            if isinstance(part, Reasoning):
                self._since = now if self._since is None else self._since
            elif self._since is not None:
                self._num_s, self._since = (self._num_s or 0.0) + now - self._since, None

    @property
    def seconds(self) -> float | None:
        """None when it has not thought."""
        if self._since is None:
            return self._num_s
        return (self._num_s or 0.0) + time.perf_counter() - self._since


def _size_of(event: Event) -> int:
    """What an event takes in memory, in bytes, about."""
    logprobs = event.get("logprobs") or ()
    return (
        EVENT_BYTES
        + len(event.get("delta") or "")
        + LOGPROB_BYTES * sum(1 + len(each["top_logprobs"]) for each in logprobs)
    )


class Runs:
    """The runs that may still be read: all that go on, and the last that have ended."""

    def __init__(self) -> None:
        self._runs: OrderedDict[str, Run] = OrderedDict()

    def add(self, run: Run) -> None:
        """Keep a run; the oldest that are over make room."""
        self._runs[run.id] = run
        over = [run for run in self._runs.values() if run.is_over]
        num_bytes = sum(run.num_bytes for run in over)
        for old in over:
            if len(self._runs) <= KEPT_RUNS and num_bytes <= KEPT_BYTES:
                return
            num_bytes -= old.num_bytes
            del self._runs[old.id]

    def get(self, id: str) -> Run | None:
        """The run of a response, if it is still known."""
        return self._runs.get(id)

    def forget(self, id: str) -> None:
        """Let a run go, and give its response up if it is not over."""
        run = self._runs.pop(id, None)
        if run is not None:
            run.cancel()

    async def end(self) -> None:
        """See all to their ends when the engine has ended its answers."""
        going_on = [run for run in self._runs.values() if not run.is_over]
        await asyncio.gather(*(run.wait(END_S) for run in going_on))
        for run in going_on:
            run.cancel()
