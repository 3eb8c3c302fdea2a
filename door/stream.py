"""Streams: parts of answers on their way to one client, who may leave at any time."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
from typing import TypeVar

from sse_starlette import EventSourceResponse
from sse_starlette.sse import AppStatus, SendTimeoutError
from starlette.requests import Request
from starlette.types import Message, Receive, Scope, Send

from door.log import Story, progress_line
from parts import (
    Answer,
    Part,
    Progress,
    Reasoning,
    ServerError,
    Text,
    TimedOut,
    ToolArguments,
)

log = logging.getLogger("mlx_server")

T = TypeVar("T")

PING_S = 15
"""Seconds of silence after which a comment shows that the connection lives."""
SEND_TIMEOUT_S = 60
"""Seconds that a client may go without reading."""
MAX_UNREAD = 8 * 2**20
"""Bytes of an answer that may come while a client does not take what came before."""
LOGPROB_BYTES = 300
"""What a token's log-probability takes in memory, counted generously."""
FIRST_PROGRESS_S, PROGRESS_EVERY_S = 3.0, 10.0
"""Seconds without a token after which the log says how far the prompt is, and says so again."""

# Streams end when the engine ends their answers, with an event that says why; sse-starlette would
# cut them off in silence.
AppStatus.disable_automatic_graceful_drain()  # type: ignore[no-untyped-call]


class EventStream(EventSourceResponse):
    """Server-sent events, which end with the last one or when the client leaves."""

    def __init__(self, events: AsyncIterator[bytes], at_end: Callable[[], None]) -> None:
        """Each item of `events` is one event, complete, and goes out in one write."""
        super().__init__(
            events, sep="\n", ping=PING_S, data_sender_callable=self._cut_when_not_read
        )
        self._at_end = at_end
        self._sending_since: float | None = None
        self._num_sending = 0
        self._clock = asyncio.get_running_loop().time

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        except SendTimeoutError:
            log.warning("a client did not read for %d s; its stream is cut", SEND_TIMEOUT_S)
        finally:
            self._at_end()

    async def _send_with_timeout(self, send: Send, message: Message) -> None:
        """Send while one timer watches; theirs opens a cancel scope for every event."""
        self._num_sending += 1
        if self._num_sending == 1:  # a comment waits behind an event that is not read
            self._sending_since = self._clock()
        await send(message)
        self._num_sending -= 1
        self._sending_since = self._clock() if self._num_sending else None

    async def _cut_when_not_read(self) -> None:
        while True:
            await asyncio.sleep(SEND_TIMEOUT_S / 20)
            since = self._sending_since
            if since is not None and self._clock() - since > SEND_TIMEOUT_S:
                raise SendTimeoutError


class ClientGone(Exception):
    """Nobody waits for the answer any more."""


async def unless_gone(request: Request, work: Awaitable[T]) -> T:
    """Wait for `work`, but give it up as soon as the client leaves.

    Starlette cancels only streams by itself.

    Raises:
        ClientGone: the client left first.
    """
    task = asyncio.ensure_future(work)
    gone = asyncio.create_task(_disconnected(request))
    try:
        await asyncio.wait((task, gone), return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise ClientGone
    finally:
        for pending in (task, gone):
            pending.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


@contextlib.contextmanager
def watched(answers: Sequence[Answer], story: Story) -> Iterator[None]:
    """Say in the log, from time to time, how far answers are that do not begin."""
    loop = asyncio.get_running_loop()
    timer: asyncio.TimerHandle | None = None

    def look() -> None:
        nonlocal timer
        if story.first_part is None and story.ended is None:
            furthest = max((answer.progress for answer in answers), key=_computed)
            told = {"message": "progress", "id": story.id, **asdict(furthest)}
            log.info("%s  %s", progress_line(furthest), story.id, extra={"told": told})
            timer = loop.call_later(PROGRESS_EVERY_S, look)

    timer = loop.call_later(FIRST_PROGRESS_S, look)
    try:
        yield
    finally:
        timer.cancel()


def _computed(progress: Progress) -> int:
    return progress.num_computed


def too_slow() -> TimedOut:
    """What a client hears that reads, but not as fast as its answer comes."""
    return TimedOut(
        f"More than {MAX_UNREAD // 2**20} MB of the answer waited to be read; it was given up.",
        code="slow_reader",
    )


def size_of(parts: Iterable[Part]) -> int:
    """What parts take in memory, in bytes, about."""
    return sum(_size_of(part) for part in parts)


def _size_of(part: Part) -> int:
    match part:
        case Text(text, logprobs):
            return len(text) + sum(LOGPROB_BYTES * (1 + len(each.top)) for each in logprobs)
        case Reasoning(text) | ToolArguments(text):
            return len(text)
    return 0


async def merged(answers: Sequence[Answer]) -> AsyncIterator[tuple[int, Sequence[Part]]]:
    """Parts of several answers as they come, each with its answer's index.

    Every answer is cancelled when the reader stops early. Raises `TimedOut` for a reader who falls
    too far behind.
    """
    try:
        if len(answers) == 1:
            async for parts in answers[0]:  # all that came since the last
                if size_of(parts) > MAX_UNREAD:
                    raise too_slow()
                yield 0, parts
            return
        async for item in _merged_many(answers):
            yield item
    finally:
        for answer in answers:
            answer.cancel()


async def _merged_many(
    answers: Sequence[Answer],
) -> AsyncIterator[tuple[int, Sequence[Part]]]:
    news = _News()

    async def pump(index: int, answer: Answer) -> None:
        try:
            async for parts in answer:
                if not news.put(index, parts):
                    for each in answers:
                        each.cancel()
            news.end(None)
        except ServerError as error:
            news.end(error)

    pumps = [asyncio.create_task(pump(i, answer)) for i, answer in enumerate(answers)]
    num_open = len(pumps)
    try:
        while num_open:
            item = await news.get()
            if item is None:
                num_open -= 1
            else:
                yield item
    finally:
        for task in pumps:
            task.cancel()
        await asyncio.gather(*pumps, return_exceptions=True)


class _News:
    """Parts of several answers that wait for their reader, up to a bound."""

    def __init__(self) -> None:
        self._waiting = asyncio.Queue[tuple[int, Sequence[Part]] | ServerError | None]()
        self._num_bytes = 0

    def put(self, index: int, parts: Sequence[Part]) -> bool:
        """Keep more, unless that is too much: then the reader hears of that and nothing else."""
        self._num_bytes += size_of(parts)
        if self._num_bytes > MAX_UNREAD:
            while not self._waiting.empty():
                self._waiting.get_nowait()
            self._waiting.put_nowait(too_slow())
            return False
        self._waiting.put_nowait((index, parts))
        return True

    def end(self, error: ServerError | None) -> None:
        """Say that an answer is over, and what ended it."""
        self._waiting.put_nowait(error)

    async def get(self) -> tuple[int, Sequence[Part]] | None:
        """What comes next; None for the end of an answer. Raises what ended one."""
        item = await self._waiting.get()
        if isinstance(item, ServerError):
            raise item
        if item is not None:
            self._num_bytes -= size_of(item[1])
        return item
