"""The routes of the Responses API: made by the engine, kept by the store, read from their runs."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, Literal, TypeVar

from fastapi import APIRouter, Request, Response

from door.bodies import LARGE_BODY, answer, aside
from door.log import Stories, Story
from door.requests import CompactRequest, InputRequest, ResponseRequest
from door.runs import Run, Runs
from door.stream import EventStream, unless_gone
from door.turns import alone
from door.waking import WakingAnswer
from parts import (
    Answer,
    ContextLengthExceeded,
    Engine,
    InvalidRequest,
    NotFound,
    Prompt,
    SamplingParams,
    ServerError,
    Usage,
)
from protocol import compaction, errors, json_text, responses
from protocol.conversations import Store
from protocol.draft import Draft
from protocol.items import Item
from protocol.response_events import ResponseStream
from protocol.sse import DONE, NamedEvents, long_named_event, named_event
from protocol.thinking import ReasoningFormat
from protocol.transcript import num_droppable, shortened

log = logging.getLogger("mlx_server")

T = TypeVar("T")

CALLED_HERE = {"messages": "input", "reasoning_effort": "reasoning.effort"}
"""Parameters that the engine names, and what they are called in this API."""
MANY_ITEMS = 1_000
"""Items of a conversation, or parts of an item, that are read on a thread."""


class Responses:
    """Makes responses, and remembers them."""

    def __init__(
        self,
        engine: Engine,
        store: Store,
        *,
        model: str,
        defaults: SamplingParams,
        reasoning_format: ReasoningFormat,
        stories: Stories | None = None,
    ) -> None:
        self.engine = engine
        self.stories = stories or Stories()
        self.store = store
        self.runs = Runs()
        self.model = model
        self._defaults = defaults
        self._reasoning_format = reasoning_format
        self._tidying: set[asyncio.Task[None]] = set()

    async def begin(
        self, body: dict[str, Any], *, source: str, story: Story, owner: str = ""
    ) -> Run:
        """Start a response. Raises `Refused` before any work is done on it."""
        draft = await self.draft(body, source=source, owner=owner)
        return await self.make(body, draft, story)

    async def make(
        self,
        body: dict[str, Any],
        draft: Draft,
        story: Story,
        *,
        past: list[Item] | None = None,
        is_warm_up: bool = False,
    ) -> Run:
        """Start a response whose past is known: the draft's, or `past`."""
        try:
            history = await _recalled(draft) if past is None else past
            request = await self._read(body, history, draft.owner, is_answered=not is_warm_up)
            if is_warm_up:
                request = replace(request, params=replace(request.params, max_tokens=1))
            has_to_wait = self.engine.status.waiting > 0
            submit = functools.partial(self._submit, request, history, body.get("keep_alive"))
            is_told = bool(body.get("stream") or body.get("background"))
            if is_told and self.engine.status.phase == "sleeping":
                answer: Answer = WakingAnswer(submit())
            else:
                answer = await submit()
            has_to_wait = has_to_wait or answer.progress.stage != "reading"
            await _write_down(draft, request, answer)
        except BaseException:
            draft.abandon()
            raise
        stream = ResponseStream(
            request.without_question(),
            id=draft.id,
            created_at=draft.created_at,
            reasoning_format=self._reasoning_format,
        )
        story.id, story.model = draft.id, str(stream.response["model"])[:256]
        run = Run(
            stream,
            answer,
            draft,
            request.items,
            story,
            history=history,
            has_to_wait=has_to_wait,
            is_warm_up=is_warm_up,
            tells_progress=body.get("return_progress", False),
        )
        if draft.is_kept:
            self.runs.add(run)
        if self.store.is_over:
            self._tidy()
        return run

    async def _read(
        self, body: dict[str, Any], history: list[Item], owner: str, *, is_answered: bool = False
    ) -> responses.ResponseRequest:
        """Read a body: on a thread when it, or what it continues, has much in it.

        One that `is_answered` must not leave calls without results.
        """

        def read() -> responses.ResponseRequest:
            request = self.read(body, history, owner)
            if is_answered:
                responses.refuse_unanswered(history, request.items)
            return request

        return await alone(read) if _is_much(body, history) else read()

    def read(
        self, body: dict[str, Any], history: list[Item], owner: str
    ) -> responses.ResponseRequest:
        """Make of a body, and of what was said before, what the engine is to do."""
        return responses.read(
            body,
            model=self.model,
            history=history,
            defaults=self._defaults,
            # Once for each: a turn that is named ten thousand times is not read ten thousand times.
            resolve=functools.cache(functools.partial(self.store.item, owner=owner)),
        )

    async def prompt(
        self, body: dict[str, Any], owner: str
    ) -> tuple[Prompt, list[Item], list[Item]]:
        """What a body comes to without answering it: the prompt, the past and the new items."""
        with await self.draft(body, owner=owner) as draft:
            past = await _recalled(draft)
            request = await self._read(body, past, owner)
            return request.prompt, past, list(request.items)

    async def count(self, prompt: Prompt) -> int:
        """The number of a prompt's tokens."""
        with _called_input():
            return await self.engine.count(prompt)

    async def draft(
        self,
        body: dict[str, Any],
        *,
        source: str = "",
        past: list[Item] | None = None,
        owner: str = "",
    ) -> Draft:
        """Find what a body continues, unless its `past` is known. Raises `NotFound`."""
        conversation = body.get("conversation") if past is None else None
        previous = body.get("previous_response_id") if past is None else None
        return await self.revived(
            str(previous or conversation or ""),
            lambda: self.store.begin(
                previous_response_id=previous,
                conversation_id=conversation,
                is_kept=body.get("store") is not False,
                owner=owner,
                source=source,
            ),
            owner,
        )

    async def revived(self, name: str, look: Callable[[], T], owner: str) -> T:
        """Look in memory, and once more after the archive was asked. Raises what `look` does."""
        try:
            return look()
        except NotFound:
            await asyncio.to_thread(self.store.revive, name, owner=owner)
            return look()

    async def retrieved(self, name: str, look: Callable[[], T], owner: str) -> T:
        """The same on a thread, for what may be long."""
        try:
            return await asyncio.to_thread(look)
        except NotFound:
            await asyncio.to_thread(self.store.revive, name, owner=owner)
            return await asyncio.to_thread(look)

    async def _submit(
        self,
        request: responses.ResponseRequest,
        history: Sequence[Item],
        keep_alive: float | None,
    ) -> Answer:
        """Submit a prompt, without its oldest turns if it does not fit and they may be dropped."""
        submit = functools.partial(self._tried, params=request.params, keep_alive=keep_alive)
        try:
            return await submit(request.prompt)
        except ContextLengthExceeded:
            if not (request.can_truncate or _is_compacted((*history, *request.items))):
                raise
        return await self._submit_shortened(request.prompt, submit)

    async def _submit_shortened(
        self, prompt: Prompt, submit: Callable[[Prompt], Awaitable[Answer]]
    ) -> Answer:
        """Submit a prompt that does not fit, without as few of its turns as may be."""
        most = num_droppable(prompt)
        num_dropped = await self._fewest_dropped(prompt)
        while num_dropped <= most:
            try:
                answer = await submit(shortened(prompt, num_dropped))
            except ContextLengthExceeded:
                # The engine has the last word; its no comes seldom, so steps may be long.
                num_dropped = max(num_dropped + 1, min(2 * num_dropped, most))
                continue
            log.info("the prompt did not fit: its %d oldest turns were dropped", num_dropped)
            return answer
        raise ContextLengthExceeded(
            "The last turn alone is longer than this model's context window.", param="input"
        )

    async def _fewest_dropped(self, prompt: Prompt) -> int:
        """How many turns to drop, found by halves: each try makes tokens of the whole rest."""
        fewest, most = 1, max(1, num_droppable(prompt))
        while fewest < most:
            middle = (fewest + most) // 2
            if await self._fits(shortened(prompt, middle)):
                most = middle
            else:
                fewest = middle + 1
        return fewest

    async def _fits(self, prompt: Prompt) -> bool:
        card = self.engine.status.model
        try:
            return card is not None and await self.count(prompt) < card.context_window
        except ContextLengthExceeded:
            return False

    async def _tried(
        self, prompt: Prompt, params: SamplingParams, keep_alive: float | None
    ) -> Answer:
        with _called_input():
            return await self.engine.submit(prompt, params, keep_alive=keep_alive)

    def _tidy(self) -> None:
        task = asyncio.create_task(asyncio.to_thread(self.store.sweep))
        self._tidying.add(task)
        task.add_done_callback(self._tidying.discard)


@contextlib.contextmanager
def _called_input() -> Iterator[None]:
    """What the engine calls messages is the input here, and an effort is one of `reasoning`."""
    try:
        yield
    except InvalidRequest as error:
        error.param = CALLED_HERE.get(error.param or "", error.param)
        raise


async def _recalled(draft: Draft) -> list[Item]:
    """What was said before: read on a thread when that is much."""
    if sum(turn.num_bytes for turn in draft.past) > LARGE_BODY:
        return await alone(draft.recall)
    return draft.recall()


async def _write_down(draft: Draft, request: responses.ResponseRequest, answer: Answer) -> None:
    """Write a long question down now, on a thread: at its end a response is kept at once."""
    long = {name: value for name, value in request.settings.items() if json_text.is_long(value)}
    if draft.is_kept and (long or json_text.is_long(request.items)):
        try:
            await alone(draft.write_down, list(request.items), long)
        except BaseException:
            answer.cancel()
            raise


def _is_much(body: dict[str, Any], history: list[Item]) -> bool:
    """Whether it takes long to read a body with what was said before."""
    given = body.get("input")
    items = given if isinstance(given, list) else []
    return (
        len(history) + len(items) > MANY_ITEMS
        or _holds_much([*history, *items])
        or json_text.is_long(body.get("tools"))
    )


def _holds_much(items: Iterable[Any]) -> bool:
    """Whether an item has many parts, or what is sealed, which has to be unfolded."""
    return any(
        "encrypted_content" in item or len(item.get("content") or "") > MANY_ITEMS
        for item in items
        if isinstance(item, dict) and isinstance(item.get("content") or "", (str, list))
    )


def _is_compacted(items: Iterable[Item]) -> bool:
    """A compaction has given up its oldest turns already: that is what it is for."""
    return any(item["type"] == "compaction" for item in items)


async def events_of(run: Run, after: int = -1) -> AsyncIterator[bytes]:
    """A run's events as a client reads them."""
    written = NamedEvents()
    try:
        async for events in run.follow(after):
            for event in events:
                if "response" in event and json_text.is_long(event):
                    yield await alone(long_named_event, event)
                else:
                    yield written.write(event)
    except ServerError as error:
        yield named_event({"type": "error", **errors.body_of(error)["error"]})
    yield DONE


def page(entries: list[Item], has_more: bool) -> dict[str, Any]:
    """A list as OpenAI writes it."""
    return {
        "object": "list",
        "data": entries,
        "first_id": entries[0]["id"] if entries else None,
        "last_id": entries[-1]["id"] if entries else None,
        "has_more": has_more,
    }


Order = Literal["asc", "desc"]


def add_routes(router: APIRouter, made: Responses) -> None:
    """Add the routes under `/v1/responses`."""
    store, runs = made.store, made.runs

    async def found(response_id: str, owner: str) -> tuple[dict[str, Any], Run | None]:
        """A response as it stands, and its run if that is still known. Raises `NotFound`."""
        kept = await made.retrieved(
            response_id, lambda: store.retrieve(response_id, owner=owner), owner
        )
        run = runs.get(response_id)
        return (kept if run is None or run.is_over else run.response), run

    @router.post("/v1/responses")
    async def create(body: ResponseRequest, request: Request) -> Response:
        given = await aside(request, body.given)
        story: Story = request.state.story
        story.model = (body.model or made.model)[:256]
        if body.background:  # it is asked for now, and made whoever asked
            story.finish = "in background"
            story = replace(story, method="BACKGROUND", status=200, finish="")
        run = await made.begin(given, source=story.source, story=story, owner=request.state.owner)
        if body.background:
            run.at_end(lambda: made.stories.end(story))
            if not body.stream:
                return await answer(run.response)
            return EventStream(events_of(run), lambda: None)
        if body.stream:
            return EventStream(events_of(run), run.cancel)
        try:
            await unless_gone(request, run.wait())
        finally:
            run.cancel()
        if run.error is not None:
            raise run.error
        return await answer(run.response)

    @router.post("/v1/responses/input_tokens")
    async def input_tokens(body: InputRequest, request: Request) -> dict[str, Any]:
        prompt, _, _ = await made.prompt(await aside(request, body.given), request.state.owner)
        return {"object": "response.input_tokens", "input_tokens": await made.count(prompt)}

    @router.post("/v1/responses/compact")
    async def compact(body: CompactRequest, request: Request) -> Response:
        prompt, past, items = await made.prompt(
            await aside(request, body.given), request.state.owner
        )
        usage = Usage(prompt_tokens=await made.count(prompt))
        return await answer(await alone(compaction.compaction_object, (*past, *items), usage))

    @router.get("/v1/responses/{response_id}")
    async def retrieve(
        response_id: str, request: Request, stream: bool = False, starting_after: int = -1
    ) -> Response:
        response, run = await found(response_id, request.state.owner)
        if not stream:
            return await answer(response)
        after = max(starting_after, -1)
        # Or an item of it was deleted.
        if run is None or run.response != response or not run.has_events(after):
            raise InvalidRequest(
                "The events of this response are no longer kept; retrieve it without stream.",
                param="stream",
                code="stream_not_kept",
            )
        return EventStream(events_of(run, after), lambda: None)

    @router.delete("/v1/responses/{response_id}")
    async def delete(response_id: str, request: Request) -> dict[str, Any]:
        await asyncio.to_thread(store.delete, response_id, owner=request.state.owner)
        runs.forget(response_id)
        return {"id": response_id, "object": "response", "deleted": True}

    @router.post("/v1/responses/{response_id}/cancel")
    async def cancel(response_id: str, request: Request) -> Response:
        response, run = await found(response_id, request.state.owner)
        if run is None or run.is_over:
            return await answer(response)
        run.cancel()
        return await answer(run.response)

    @router.get("/v1/responses/{response_id}/input_items")
    async def input_items(
        response_id: str,
        request: Request,
        order: Order = "desc",
        after: str | None = None,
        limit: int = 20,
    ) -> Response:
        owner = request.state.owner
        found = await made.retrieved(
            response_id,
            lambda: store.input_items(
                response_id, order=order, after=after, limit=limit, owner=owner
            ),
            owner,
        )
        return await answer(page(found.entries, found.has_more))
