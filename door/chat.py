"""The route of chat completions: an answer for each choice, as chunks or whole."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

from fastapi import APIRouter, Request, Response

from door.bodies import aside
from door.log import Story
from door.progress import reported
from door.requests import ChatRequest
from door.stream import EventStream, merged, unless_gone, watched
from door.waking import waking
from parts import Answer, Engine, Progress, SamplingParams, ServerError
from protocol import chat, errors
from protocol.sse import DONE, data_event, json_bytes
from protocol.thinking import ReasoningFormat


def add_routes(
    router: APIRouter,
    engine: Engine,
    *,
    model: str,
    defaults: SamplingParams,
    reasoning_format: ReasoningFormat,
) -> None:
    """Answer chats. Clients are told the name that they used: one model is loaded, `model`."""

    @router.post("/v1/chat/completions")
    async def chat_completions(body: ChatRequest, request: Request) -> Response:
        given = await aside(request, body.given)
        story: Story = request.state.story
        story.model = (body.model or model)[:256]
        params = chat.read_sampling(given, defaults)
        choices = chat.choices_of(params, body.n)
        prompt = await aside(request, lambda: chat.read_prompt(given))
        submitting = engine.submit_choices(prompt, choices, keep_alive=body.keep_alive)
        if body.stream and engine.status.phase == "sleeping":
            answers: Sequence[Answer] = waking(submitting, len(choices))
        else:
            answers = await submitting
        card = engine.status.model
        completion = chat.Completion(
            model=story.model,
            fingerprint=card.fingerprint if card else "",
            num_choices=body.n,
            include_usage=body.stream_options.include_usage,
            is_legacy=chat.is_legacy(given),
            custom_names=chat.custom_names(given),
            reasoning_format=reasoning_format,
        )
        story.id = completion.id
        chunks = _chunks(completion, answers, story, body.stream and body.return_progress)
        if body.stream:
            return EventStream(_events(completion, chunks), lambda: _give_up(answers))
        whole = await unless_gone(request, _collected(chunks))
        return Response(json_bytes(completion.whole(whole)), media_type="application/json")


def _give_up(answers: Sequence[Answer]) -> None:
    for answer in answers:
        answer.cancel()


async def _chunks(
    completion: chat.Completion,
    answers: Sequence[Answer],
    story: Story,
    tells_progress: bool,
) -> AsyncIterator[dict[str, Any]]:
    """The chunks of a completion as its answers come in."""
    for chunk in completion.opening():
        yield chunk
    coming = merged(answers)
    news = reported(coming, lambda: answers[0].progress) if tells_progress else coming
    try:
        with watched(answers, story):
            async for each in news:
                if isinstance(each, Progress):
                    for chunk in completion.progress(each, time.perf_counter() - story.began):
                        yield chunk
                    continue
                story.heard()
                for chunk in completion.feed(*each):
                    yield chunk
    except ServerError:
        story.finish = "error"
        raise
    story.finished(completion.usage, completion.finish_reason or "")
    for chunk in completion.closing():
        yield chunk


async def _collected(chunks: AsyncIterator[dict[str, Any]]) -> list[dict[str, Any]]:
    return [chunk async for chunk in chunks]


async def _events(
    completion: chat.Completion, chunks: AsyncIterator[dict[str, Any]]
) -> AsyncIterator[bytes]:
    """Write chunks as events. A failure is an event too: a stream never just stops."""
    try:
        async for chunk in chunks:
            yield completion.event(chunk)
    except ServerError as error:
        yield data_event(errors.body_of(error))
    yield DONE
