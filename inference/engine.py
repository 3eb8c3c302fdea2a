"""The engine answers many prompts at once on one GPU thread, stepped under one asyncio lock.

Whoever holds `lock` may use the thread that owns MLX. It is held for a short burst of steps, never
for a request: that is what lets callers share a batch, and lets other work come in between.
It knows nothing of HTTP. MLX is first imported when the model is loaded, on the thread that owns
it.
"""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import functools
import logging
import math
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping
from collections.abc import Sequence as Sequences
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from inference.answer import Answer
from inference.memory import Budget
from inference.outbox import News, is_last
from inference.parser import Parser
from inference.scheduler import Scheduler
from inference.schema import compile_s
from inference.sequence import Sequence
from inference.steps import Stepper, Steps
from parts import (
    ContextLengthExceeded,
    EngineFailed,
    EngineStatus,
    InvalidRequest,
    ModelCard,
    Phase,
    Prompt,
    SamplingParams,
    ServerError,
    Unavailable,
)

if TYPE_CHECKING:
    from inference.guide import Guide

log = logging.getLogger(__name__)

COMPILE_QUEUE_S = 30
"""Seconds that a grammar may wait for those before it to be compiled."""
SETTLE_S = 2.0
"""Seconds that the step under way gets to end when the engine stops."""
SWITCH_S = 0.0005
"""Seconds for which the event loop may keep the GIL while the GPU thread wants it."""


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """What loading gives: the model on its runner, and what the engine must know of it."""

    card: ModelCard
    runner: Stepper
    render: Callable[[Prompt], list[int]]
    """A prompt's tokens. Raises `InvalidRequest`."""
    make_parser: Callable[[list[int], Prompt], Parser]
    """A parser for the answer to a prompt, given its tokens."""
    make_guide: Callable[[list[int], Prompt, SamplingParams], Guide | None]
    """A guide for it, when it is not free. Raises `InvalidRequest`; may take a second."""
    vocab_size: int
    stop_tokens: frozenset[int]
    budget: Budget = field(default_factory=Budget)
    release: Callable[[], None] = lambda: None
    """Gives back the memory of a model that nobody refers to any more."""


class Engine:
    """Prompts in, answers out. See `parts.Engine` for what the door relies on."""

    def __init__(
        self,
        load: Callable[[], LoadedModel],
        *,
        max_batch: int = 32,
        max_queue: int = 256,
        stall_timeout: float = 120.0,
        idle_unload: float = math.inf,
    ) -> None:
        """`load` is called once, on the GPU thread. Raises what the model's files deserve.

        A step that takes longer than `stall_timeout` seconds is taken to hang. A model that nobody
        asked for `idle_unload` seconds leaves memory, and is loaded again for the next who asks.
        """
        self.lock = asyncio.Lock()
        self._load = load
        self._stall_timeout = stall_timeout
        self._idle_unload = self._stay_s = idle_unload
        self._falling_asleep: asyncio.TimerHandle | None = None
        self._entering: dict[object, float] = {}
        """Since when each request is on its way into the queue, by a token of its own."""
        self._card: ModelCard | None = None
        self._scheduler = Scheduler(max_batch=max_batch, max_queue=max_queue)
        self._steps = Steps(
            self._scheduler, deliver=self._deliver_soon, note_failure=self._note_failure
        )
        self._answers: dict[int, Answer] = {}
        self._gpu = ThreadPoolExecutor(1, "mlx")
        self._tokenizing = ThreadPoolExecutor(1, "tokenizer")
        self._compiling = ThreadPoolExecutor(1, "grammar")
        self._has_work = asyncio.Event()
        self._all_answered = asyncio.Event()
        self._all_answered.set()
        self._phase: Phase = "loading"
        self._reason = ""
        self._has_failed = asyncio.Event()
        self._stepping: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop
        self._model: LoadedModel

    # For the door, on the event loop

    @property
    def status(self) -> EngineStatus:
        return EngineStatus(
            self._phase,
            self._reason,
            self._scheduler.num_running,
            self._scheduler.num_waiting,
            self._card,
            self._stalled_s,
            self._steps.memory,
            self._steps.counts,
        )

    @property
    def _stalled_s(self) -> float:
        """Seconds since something went on, while somebody waits."""
        began = list(self._entering.values()) if self._phase == "ready" else []
        if self._scheduler.has_work:
            began.append(self._steps.last_step)
        return time.monotonic() - min(began) if began else 0.0

    async def failed(self) -> str:
        """Return when nothing will ever be answered any more, and say why."""
        await self._has_failed.wait()
        return self._reason

    async def start(self) -> None:
        """Load the model and begin to step. Raises `Unavailable` when it cannot be loaded."""
        self._loop = asyncio.get_running_loop()
        sys.setswitchinterval(SWITCH_S)
        await self._take_model()
        if self._phase == "ready":
            self._stepping = asyncio.create_task(self._step_while_there_is_work())
            self._sleep_later()

    async def _take_model(self) -> None:
        """Load the model, unless somebody has. What sleeps can be woken another time."""
        async with self.lock:
            if self._phase == "ready":
                return
            try:
                self._model = await self._loop.run_in_executor(self._gpu, self._load)
            except Exception as error:  # nothing that files can do leaves "loading" for ever
                known = error if isinstance(error, Unavailable) else None
                if self._phase != "sleeping":
                    self._phase = "failed"
                    self._reason = known.message if known else "the model cannot be loaded"
                raise known or Unavailable("The model cannot be loaded.") from error
        if not self._model.runner.can_batch:
            log.warning("this model's caches cannot be batched: requests take turns")
            self._scheduler.max_batch = 1
        self._scheduler.budget = self._model.budget
        self._steps.take(self._model.runner)
        self._card = self._model.card
        if self._phase in ("loading", "sleeping"):
            self._phase = "ready"

    async def submit(
        self, prompt: Prompt, params: SamplingParams, *, keep_alive: float | None = None
    ) -> Answer:
        """Queue a prompt. Raises `Refused` before any work is done on it.

        The model stays `keep_alive` seconds after the last answer; else what the operator says.
        """
        [answer] = await self.submit_choices(prompt, [params], keep_alive=keep_alive)
        return answer

    async def submit_choices(
        self,
        prompt: Prompt,
        choices: Sequences[SamplingParams],
        *,
        keep_alive: float | None = None,
    ) -> list[Answer]:
        """Queue a prompt that is to be answered several times, and computed once."""
        async with self._awake():
            tokens = await self._tokens(prompt)
            checked = [self._checked(params, num_prompt=len(tokens)) for params in choices]
            sequences = [await self._sequence(tokens, prompt, params) for params in checked]
            self._refuse_unless_ready()
            answers = self._queue(sequences)
            self._stay_s = self._idle_unload if keep_alive is None else keep_alive
            return answers

    async def _tokens(self, prompt: Prompt) -> list[int]:
        self._refuse_unless_ready()
        tokens = await self._loop.run_in_executor(self._tokenizing, self._model.render, prompt)
        self._refuse_unless_ready()
        return tokens

    async def _sequence(
        self, tokens: list[int], prompt: Prompt, params: SamplingParams
    ) -> Sequence:
        guide = await self._guide(tokens, prompt, params)
        self._refuse_unless_ready()
        return Sequence(
            tokens,
            params,
            self._model.make_parser(tokens, prompt),
            stop_tokens=self._model.stop_tokens,
            max_tool_calls=prompt.max_tool_calls,
            guide=guide,
        )

    def _queue(self, sequences: list[Sequence]) -> list[Answer]:
        """Let sequences wait, all or none; at once, so that equal prompts meet."""
        if not self._scheduler.has_work:
            self._steps.last_step = time.monotonic()
        self._scheduler.add(sequences)
        answers = [
            Answer(
                functools.partial(self._cancel, sequence),
                functools.partial(self._scheduler.progress, sequence),
            )
            for sequence in sequences
        ]
        self._answers |= {s.number: a for s, a in zip(sequences, answers, strict=True)}
        self._all_answered.clear()
        self._has_work.set()
        return answers

    async def _guide(
        self, tokens: list[int], prompt: Prompt, params: SamplingParams
    ) -> Guide | None:
        is_free = not (
            prompt.constraint or prompt.forced_tools or any(t.strict for t in prompt.tools)
        )
        if is_free and params.max_reasoning_tokens is None:
            return None
        make, has_begun = self._model.make_guide, asyncio.Event()

        def compiled() -> Guide | None:
            self._loop.call_soon_threadsafe(has_begun.set)
            return make(tokens, prompt, params)

        making = self._loop.run_in_executor(self._compiling, compiled)
        try:
            await asyncio.wait_for(has_begun.wait(), COMPILE_QUEUE_S)
        except TimeoutError:
            making.cancel()
            raise Unavailable("Too many grammars are being compiled; try again later.") from None
        try:
            return await asyncio.wait_for(making, most := compile_s(len(prompt.tools)))
        except TimeoutError:
            # Whoever compiles has given up by then, unless a single step of it is the matter.
            raise InvalidRequest(
                f"This takes more than {most:g} s to compile.",
                param=prompt.constraint.param if prompt.constraint else "tools",
                code="invalid_schema",
            ) from None

    async def count(self, prompt: Prompt) -> int:
        """The number of a prompt's tokens. Raises `Refused`."""
        async with self._awake():
            return len(await self._tokens(prompt))

    # Sleeping

    @contextlib.asynccontextmanager
    async def _awake(self) -> AsyncIterator[None]:
        """The model is in memory here, and stays; it is loaded when it had gone."""
        me = object()
        self._entering[me] = time.monotonic()
        try:
            if self._phase == "sleeping":
                await self._take_model()
                self._entering[me] = time.monotonic()
            yield
        finally:
            del self._entering[me]
            self._sleep_later()

    def _sleep_later(self) -> None:
        if self._falling_asleep is not None:
            self._falling_asleep.cancel()
            self._falling_asleep = None
        if self._stay_s < math.inf:
            self._falling_asleep = self._loop.call_later(self._stay_s, self._fall_asleep)

    def _fall_asleep(self) -> None:
        is_idle = not (self._entering or self._answers or self._scheduler.has_work)
        if self._phase == "ready" and is_idle and not self.lock.locked():
            log.info("nobody asks: the model leaves memory until somebody does")
            self._phase, self._reason = "sleeping", ""
            close, release = self._model.runner.close, self._model.release
            self._loop.run_in_executor(self._gpu, close)
            self._steps.let_go_of_runner()
            del self._model, close
            self._loop.run_in_executor(self._gpu, release)

    async def stop(self, drain: float = 0.0) -> None:
        """Take no more prompts, let the running ones finish for `drain` seconds, end the rest."""
        if self._phase != "failed":
            self._phase, self._reason = "draining", "the server is shutting down"
        if self._stepping:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(drain):
                    await self._all_answered.wait()
            self._stepping.cancel()
            await asyncio.gather(self._stepping, return_exceptions=True)
            self._stepping = None
            await self._settle()
        self._fail_all(Unavailable("The server is shutting down.", code="shutting_down"))
        self._gpu.shutdown(wait=False, cancel_futures=True)
        self._tokenizing.shutdown(wait=False, cancel_futures=True)
        self._compiling.shutdown(wait=False, cancel_futures=True)

    async def _settle(self) -> None:
        """Wait until the device is idle: MLX aborts a process that ends while it works."""
        if self._phase != "failed" and hasattr(self, "_model"):
            runner = self._model.runner
            settling = self._loop.run_in_executor(self._gpu, runner.settle)
            await asyncio.wait([settling], timeout=SETTLE_S)
            await asyncio.to_thread(runner.close)

    def _refuse_unless_ready(self) -> None:
        match self._phase:
            case "ready" | "sleeping":
                return
            case "loading":
                raise Unavailable("The model is still loading.", code="loading")
            case "draining":
                raise Unavailable("The server is shutting down.", code="shutting_down")
            case "failed":
                raise Unavailable("The engine has failed; restart the server.")

    def _checked(self, params: SamplingParams, num_prompt: int) -> SamplingParams:
        """Refuse what must not reach the model; cut `max_tokens` to what the context has left."""
        if not num_prompt:
            raise InvalidRequest("The prompt is empty.", param="messages")
        window = self._model.card.context_window
        if num_prompt >= window:
            raise ContextLengthExceeded(
                f"This model's context window is {window} tokens, but the prompt has {num_prompt}. "
                "Shorten it, or start the server with a larger --ctx-size.",
                param="messages",
            )
        num_fit = self._model.budget.max_tokens(window)
        if num_prompt >= num_fit:
            raise InvalidRequest(
                f"There is memory for {num_fit} tokens of prompt and answer, but the prompt alone "
                f"has {num_prompt}. Shorten it, or start the server with a larger --memory-limit.",
                param="messages",
                code="insufficient_memory",
            )
        for token in params.logit_bias:
            if not 0 <= token < self._model.vocab_size:
                raise InvalidRequest(
                    f"logit_bias names token {token}, but this model's tokens are numbered "
                    f"0 to {self._model.vocab_size - 1}.",
                    param="logit_bias",
                )
        params = _with_defaults(params, self._model.card.sampling_defaults)
        return replace(params, max_tokens=min(params.max_tokens, min(window, num_fit) - num_prompt))

    def _cancel(self, sequence: Sequence) -> None:
        self._forget(sequence)
        self._steps.cancel(sequence)
        self._has_work.set()

    # The step loop

    async def _step_while_there_is_work(self) -> None:
        while True:
            await self._has_work.wait()
            self._has_work.clear()
            while self._scheduler.has_work and self._phase != "failed":
                async with self.lock:
                    self._steps.last_step = time.monotonic()
                    await self._watched(self._loop.run_in_executor(self._gpu, self._steps.burst))
            is_well = self._phase != "failed"
            if is_well and self._answers and not self._scheduler.has_work:
                # A defect of ours, but nobody may hang for it.
                log.critical("%d answers were lost", len(self._answers))
                self._fail_all(EngineFailed("The server lost this request."))
            self._sleep_later()
            if self._phase == "failed":
                self._fail_all(EngineFailed("The engine has failed."))
                self._has_failed.set()

    async def _watched(self, burst: asyncio.Future[None]) -> None:
        """Wait for a burst as long as its steps go on. One that hangs fails the engine."""
        while not burst.done():
            waited = time.monotonic() - self._steps.last_step
            await asyncio.wait([burst], timeout=max(self._stall_timeout - waited, 0.01))
            if not burst.done() and time.monotonic() - self._steps.last_step >= self._stall_timeout:
                log.critical("a step hangs; this is where every thread is:")
                faulthandler.dump_traceback()
                self._steps.give_up("a step hangs")
                return
        if error := burst.exception():
            log.critical("the step loop failed", exc_info=error)
            self._steps.give_up("the step loop failed")

    def _note_failure(self, reason: str) -> None:
        self._phase, self._reason = "failed", reason

    def _deliver_soon(self, outbox: list[tuple[Sequence, News]]) -> None:
        self._loop.call_soon_threadsafe(self._deliver, outbox)

    def _deliver(self, outbox: list[tuple[Sequence, News]]) -> None:
        """Hand parts to their readers. Runs on the event loop."""
        for sequence, news in outbox:
            answer = self._answers.get(sequence.number)
            if answer is None:
                continue
            if isinstance(news, ServerError):
                answer.fail(news)
            else:
                answer.feed(news)
            # Not `sequence.is_finished`: the GPU thread may be ahead of what is delivered here.
            if is_last(news):
                self._forget(sequence)

    def _fail_all(self, error: ServerError) -> None:
        for answer in self._answers.values():
            answer.fail(error)
        self._answers.clear()
        self._all_answered.set()

    def _forget(self, sequence: Sequence) -> None:
        self._answers.pop(sequence.number, None)
        if not self._answers:
            self._all_answered.set()


def _with_defaults(params: SamplingParams, defaults: Mapping[str, float]) -> SamplingParams:
    """Let the model decide what neither the request nor the command line says."""
    top_k, min_p = params.top_k, params.min_p
    return replace(
        params,
        top_k=int(defaults.get("top_k", 0)) if top_k is None else top_k,
        min_p=defaults.get("min_p", 0.0) if min_p is None else min_p,
    )
