"""Waking is what a stream tells of while its model, which has slept, is loaded again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Sequence

from parts import Answer, Part, Progress


class WakingAnswer:
    """An answer that is still being submitted. See `parts.Answer`.

    Iterating raises what submitting does.
    """

    def __init__(self, submitting: Awaitable[Answer]) -> None:
        self._is_given_up = False
        self._answer: Answer | None = None
        self._task = asyncio.create_task(self._submitted(submitting))
        self._task.add_done_callback(lambda task: task.cancelled() or task.exception())

    async def _submitted(self, submitting: Awaitable[Answer]) -> Answer:
        self._answer = answer = await submitting
        if self._is_given_up:
            answer.cancel()
        return answer

    @property
    def progress(self) -> Progress:
        """How far it is."""
        return self._answer.progress if self._answer else Progress(stage="waking")

    def cancel(self) -> None:
        """Give it up. The model is loaded all the same, for whoever asks next."""
        self._is_given_up = True
        if self._answer is not None:
            self._answer.cancel()

    async def __aiter__(self) -> AsyncIterator[Sequence[Part]]:
        answer = await asyncio.shield(self._task)
        async for parts in answer:
            yield parts


def waking(submitting: Awaitable[Sequence[Answer]], number: int) -> list[Answer]:
    """So many answers to one prompt, which are submitted together."""
    together = asyncio.ensure_future(submitting)

    async def one(index: int) -> Answer:
        return (await asyncio.shield(together))[index]

    return [WakingAnswer(one(index)) for index in range(number)]
