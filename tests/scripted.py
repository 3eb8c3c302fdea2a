"""An engine that says what a test tells it to: the wire's tests need no model.

It stands behind the same seam as the real one, `parts.Engine`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Sequence

from parts import (
    Counts,
    EngineStatus,
    Finish,
    Memory,
    ModelCard,
    Part,
    Phase,
    Progress,
    Prompt,
    SamplingParams,
    ServerError,
    Text,
    Unavailable,
    Usage,
)

Step = Part | ServerError | asyncio.Event
"""A part to say, an error to raise, or an event to wait for before going on."""
Script = Callable[[Prompt, SamplingParams], Iterable[Step]]

CARD = ModelCard("scripted", context_window=10**6, thinking=True, tools=True, fingerprint="fp_test")


def says(*parts: Step, reason: str = "stop", usage: Usage | None = None) -> Script:
    """A script that says the same to everyone, and finishes."""
    last = Finish(reason, usage or Usage(7, 2, 5, 1))  # type: ignore[arg-type]
    return lambda prompt, params: [*parts, last]


def echo(prompt: Prompt, params: SamplingParams) -> list[Step]:
    """Answer with what was asked."""
    return says(Text(f"You said: {prompt.messages[-1].content}"))(prompt, params)  # type: ignore[return-value]


class ScriptedAnswer:
    def __init__(self, steps: Iterable[Step]) -> None:
        self._steps = list(steps)
        self._failure: ServerError | None = None
        self._is_ended = asyncio.Event()
        self.is_cancelled = False
        self.is_over = asyncio.Event()
        self.progress = Progress()

    async def __aiter__(self) -> AsyncIterator[Sequence[Part]]:
        for step in self._steps:
            if isinstance(step, asyncio.Event):
                await self._wait(step)
            elif isinstance(step, ServerError):
                raise step
            else:
                await asyncio.sleep(0)
                yield [step]
        self.is_over.set()

    async def _wait(self, event: asyncio.Event) -> None:
        waits = [asyncio.ensure_future(e.wait()) for e in (event, self._is_ended)]
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()
        if self._failure:
            raise self._failure

    def fail(self, error: ServerError) -> None:
        self._failure = error
        self._is_ended.set()

    def cancel(self) -> None:
        if not self.is_over.is_set():
            self.is_cancelled = True
            self.is_over.set()


class ScriptedEngine:
    """Answers by a script, and remembers what it was asked."""

    def __init__(self, script: Script = says(Text("Hello"))) -> None:  # noqa: B008
        self.script = script
        self.refusal: ServerError | None = None
        self.load_error: Unavailable | None = None
        self.phase: Phase = "ready"
        self.num_waiting = 0
        self.first_progress = Progress()
        """How far an answer is when it is made."""
        self.has_failed = asyncio.Event()
        self.stays: list[float | None] = []
        """The `keep_alive` of each request."""
        self.may_wake: asyncio.Event | None = None
        """What a model that sleeps waits for before it can answer."""
        self.stalled_s = 0.0
        self.memory = Memory()
        self.counts = Counts()
        self.card = CARD
        self.prompts: list[Prompt] = []
        self.params: list[SamplingParams] = []
        self.answers: list[ScriptedAnswer] = []

    @property
    def status(self) -> EngineStatus:
        running = sum(not answer.is_over.is_set() for answer in self.answers)
        return EngineStatus(
            self.phase,
            running=running,
            waiting=self.num_waiting,
            model=self.card,
            stalled_s=self.stalled_s,
            memory=self.memory,
            counts=self.counts,
        )

    async def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        if self.load_error:
            raise self.load_error

    def go_on(self, event: asyncio.Event) -> None:
        """Let the answers that wait for an event go on; a test calls this from its own thread."""
        self._loop.call_soon_threadsafe(event.set)

    async def submit(
        self, prompt: Prompt, params: SamplingParams, *, keep_alive: float | None = None
    ) -> ScriptedAnswer:
        if self.phase == "sleeping" and self.may_wake:
            await self.may_wake.wait()
            self.phase = "ready"
        if self.refusal:
            raise self.refusal
        self.stays.append(keep_alive)
        self.prompts.append(prompt)
        self.params.append(params)
        answer = ScriptedAnswer(self.script(prompt, params))
        answer.progress = self.first_progress
        self.answers.append(answer)
        return answer

    async def submit_choices(
        self,
        prompt: Prompt,
        choices: Sequence[SamplingParams],
        *,
        keep_alive: float | None = None,
    ) -> list[ScriptedAnswer]:
        return [await self.submit(prompt, each, keep_alive=keep_alive) for each in choices]

    async def count(self, prompt: Prompt) -> int:
        return sum(len(message.content.split()) for message in prompt.messages)

    async def failed(self) -> str:
        await self.has_failed.wait()
        return "the script says so"

    async def stop(self, drain: float = 0.0) -> None:
        self.phase = "draining"
        for answer in self.answers:
            answer.fail(Unavailable("The server is shutting down.", code="shutting_down"))
