"""Admission: what stands between every prompt and the engine, whichever protocol it came by.

A queue that is full refuses at once, a prompt that cannot fit is refused by its length before it is
tokenized, and an answer may take so long and no longer.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

from door.turns import alone
from parts import (
    Answer,
    ContextLengthExceeded,
    Engine,
    EngineStatus,
    Message,
    Part,
    Progress,
    Prompt,
    QueueFull,
    SamplingParams,
    TimedOut,
    Tool,
)
from protocol import json_text

CHARACTERS_PER_TOKEN = 16
"""No tokenizer puts more into a token, on the average of a text that fills a context."""


class Admission:
    """An engine that admits what it can serve. See `parts.Engine`."""

    def __init__(self, engine: Engine, *, max_admitted: int, timeout: float | None = None) -> None:
        """`max_admitted` requests may run, wait or be tokenized; `timeout` is in seconds."""
        self._engine = engine
        self._max_admitted = max_admitted
        self._timeout = timeout
        self._num_entering = 0

    @property
    def status(self) -> EngineStatus:
        return self._engine.status

    async def start(self) -> None:
        await self._engine.start()

    async def failed(self) -> str:
        return await self._engine.failed()

    async def stop(self, drain: float = 0.0) -> None:
        await self._engine.stop(drain)

    async def count(self, prompt: Prompt) -> int:
        """The number of a prompt's tokens. Raises `Refused`."""
        await self._refuse_too_long(prompt)
        return await self._engine.count(prompt)

    async def submit(
        self, prompt: Prompt, params: SamplingParams, *, keep_alive: float | None = None
    ) -> Answer:
        """Queue a prompt. Raises `Refused`, and `TimedOut` when even that took too long."""
        [answer] = await self.submit_choices(prompt, [params], keep_alive=keep_alive)
        return answer

    async def submit_choices(
        self,
        prompt: Prompt,
        choices: Sequence[SamplingParams],
        *,
        keep_alive: float | None = None,
    ) -> Sequence[Answer]:
        """The same for a prompt with several answers: all are admitted, or none."""
        await self._refuse_too_long(prompt)
        self._refuse_too_many(len(choices))
        if self._timeout is None:
            return await self._entering(prompt, choices, keep_alive)
        deadline = asyncio.get_running_loop().time() + self._timeout
        try:
            async with asyncio.timeout_at(deadline):
                answers = await self._entering(prompt, choices, keep_alive)
        except TimeoutError:
            raise _timed_out(self._timeout) from None
        return [TimedAnswer(answer, deadline, self._timeout) for answer in answers]

    async def _entering(
        self, prompt: Prompt, choices: Sequence[SamplingParams], keep_alive: float | None
    ) -> Sequence[Answer]:
        self._num_entering += len(choices)
        try:
            return await self._engine.submit_choices(prompt, choices, keep_alive=keep_alive)
        finally:
            self._num_entering -= len(choices)

    def _refuse_too_many(self, number: int) -> None:
        status = self._engine.status
        num_here = status.running + status.waiting + self._num_entering
        if num_here + number > self._max_admitted:
            raise QueueFull(
                f"{status.waiting + self._num_entering} requests are waiting already, the most "
                "this server allows. Try again later, or start it with a larger --max-queue."
            )

    async def _refuse_too_long(self, prompt: Prompt) -> None:
        card = self._engine.status.model
        if card is None:
            return
        room = card.context_window * CHARACTERS_PER_TOKEN
        if json_text.is_long([tool.parameters for tool in prompt.tools]):
            is_too_long = await alone(_is_longer, prompt, room)
        else:
            is_too_long = _is_longer(prompt, room)
        if is_too_long:
            raise ContextLengthExceeded(
                f"This model's context window is {card.context_window} tokens, but the prompt "
                f"has more than {room} characters. Shorten it, or start the server with a "
                "larger --ctx-size.",
                param="messages",
            )


class TimedAnswer:
    """An answer that must be finished by a deadline. See `parts.Answer`."""

    def __init__(self, answer: Answer, deadline: float, timeout: float) -> None:
        """`deadline` is on the event loop's clock; `timeout` is what the client is told."""
        self._answer = answer
        self._deadline = deadline
        self._timeout = timeout

    @property
    def progress(self) -> Progress:
        return self._answer.progress

    def cancel(self) -> None:
        self._answer.cancel()

    async def __aiter__(self) -> AsyncIterator[Sequence[Part]]:
        parts = aiter(self._answer)
        while True:
            try:
                async with asyncio.timeout_at(self._deadline):
                    more = await anext(parts)
            except StopAsyncIteration:
                return
            except TimeoutError:
                self._answer.cancel()
                raise _timed_out(self._timeout) from None
            yield more


def _timed_out(timeout: float) -> TimedOut:
    return TimedOut(f"The answer took longer than the {timeout:g} s that this server allows.")


def _is_longer(prompt: Prompt, room: int) -> bool:
    """Whether a prompt has more characters than that; looks no further."""
    num_characters = 0
    for text in _texts(prompt):
        num_characters += len(text)
        if num_characters > room:
            return True
    return False


def _texts(prompt: Prompt) -> Iterator[str]:
    """All that a client wrote into a prompt."""
    for message in prompt.messages:
        yield from _texts_of_message(message)
    for tool in prompt.tools:
        yield from _texts_of_tool(tool)
    for value in prompt.template_args.values():
        yield value if isinstance(value, str) else ""


def _texts_of_message(message: Message) -> Iterator[str]:
    yield message.content
    yield message.reasoning
    for call in message.tool_calls:
        yield call.name
        yield call.arguments


def _texts_of_tool(tool: Tool) -> Iterator[str]:
    yield tool.name
    yield tool.description
    yield _json(tool.parameters)


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
