"""Steps are what the GPU thread does: a chunk of a prompt, a token for all that run, and again.

A step that fails costs those it was made for another try, and nobody else a token.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

from inference.memory import is_shortage
from inference.outbox import News, Outbox
from inference.pace import Pace
from inference.scheduler import Scheduler
from inference.sequence import Sequence
from parts import Counts, EngineFailed, Memory, TokenLogprob, Usage

log = logging.getLogger(__name__)

BURST_S = 0.25
"""Seconds of steps between two looks at whether someone else wants the GPU thread."""
MAX_FAULTS = 2
"""Steps that may fail around one sequence before it is given up."""
MAX_FAILED_PROMPTS = 3
"""Prompts that may fail in a row before it is asked whether the device can still compute at all."""
MAX_FAILED_STEPS = 12
"""Steps that may fail in a row before the engine is given up: four culprits one after another."""


class Stepper(Protocol):
    """What is asked of the `Runner`."""

    can_batch: bool
    max_together: int
    num_prefilled: int
    waited_s: float

    def is_short(self, sequence: Sequence) -> bool: ...
    def prefill(self, sequences: list[Sequence], max_tokens: int) -> bool: ...
    def join(self) -> None: ...
    def limit_prefixes(self, num_bytes: int) -> None: ...
    def memory(self) -> Memory: ...
    def decode(self) -> list[tuple[Sequence, int, TokenLogprob | None]]: ...
    def remove(self, leaving: list[Sequence]) -> None: ...
    def check(self) -> None: ...
    def reset(self) -> None: ...
    def settle(self) -> None: ...
    def close(self) -> None: ...


class Steps:
    """All steps of an engine, whichever model makes them.

    Everything runs on the GPU thread, but for what says otherwise.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        *,
        deliver: Callable[[list[tuple[Sequence, News]]], None],
        note_failure: Callable[[str], None],
    ) -> None:
        """`deliver` takes what sequences have said, `note_failure` why no more steps are made."""
        self._scheduler = scheduler
        self._deliver = deliver
        self._note_failure = note_failure
        self._pace = Pace()
        self._outbox = Outbox()
        self._cancelled: deque[Sequence] = deque()
        self._num_failed_steps = 0
        self._num_failed_prompts = 0
        self._is_over = False
        self._runner: Stepper
        self.counts = Counts()
        self.memory = Memory()
        self.last_step = time.monotonic()
        """When the last one ended, or when somebody began to wait for the next."""

    def take(self, runner: Stepper) -> None:
        """Make the steps with this runner from now on. On any thread, while none is made."""
        self._runner = runner
        self.memory = Memory(limit=self._scheduler.budget.limit)

    def let_go_of_runner(self) -> None:
        """Refer to no runner any more. On any thread, while no step is made."""
        del self._runner
        self.memory = Memory(limit=self._scheduler.budget.limit)

    def cancel(self, sequence: Sequence) -> None:
        """Let a sequence leave with the next step. On any thread."""
        self._cancelled.append(sequence)

    def burst(self) -> None:
        """Step for a short while, or until there is no work."""
        deadline = time.monotonic() + BURST_S
        while self._scheduler.has_work and not self._is_over and self.last_step < deadline:
            self._step_or_recover()
            self.last_step = time.monotonic()
            if self._outbox.is_due(self.last_step, self._scheduler.num_running):
                self._hand_over()
        self.memory = replace(self._runner.memory(), limit=self._scheduler.budget.limit)

    def _hand_over(self) -> None:
        if news := self._outbox.take():
            self._deliver(news)

    def _step_or_recover(self) -> None:
        try:
            self._step()
            self._count(steps=1)
        except Exception as error:  # the one place where any error is survived
            log.exception("a step failed; its sequences start again from their tokens")
            self._recover(error)

    def _step(self) -> None:
        """Let the cancelled go, compute a chunk of one prompt, decode a token for all that run."""
        began = time.monotonic()
        self._let_go([self._cancelled.popleft() for _ in range(len(self._cancelled))])
        self._keep_within_budget()
        num_running = len(self._scheduler.running)
        num_prefilled, is_whole = self._prefill(self._pace.num_tokens(num_running))
        if self._scheduler.running:
            self._decode()
        self._pace.observe(
            time.monotonic() - began,
            num_prefilled=num_prefilled,
            num_running=num_running,
            waited_s=self._runner.waited_s if num_prefilled else 0.0,
            is_whole=is_whole,
        )

    def _keep_within_budget(self) -> None:
        """When memory runs short, forget prompts kept for later, then let the youngest wait."""
        while sequence := self._scheduler.next_to_preempt():
            log.info("sequence %d waits until there is memory for it", sequence.number)
            self._give_up_chunks_of([sequence])
            self._scheduler.wait([sequence])
            self._runner.remove([sequence])
            self._count(preemptions=1)
        budget = self._scheduler.budget
        if budget.limit:
            self._runner.limit_prefixes(budget.for_caches - self._scheduler.num_bytes)

    def _prefill(self, max_tokens: int) -> tuple[int, bool]:
        """Compute more of the prompts that wait.

        Give the number of tokens that were computed, and whether the first of an answer follows.
        """
        runner = self._runner
        group = self._scheduler.next_prefill(min(max_tokens, runner.max_together), runner.is_short)
        if not group:
            return 0, False
        self._hand_over()  # what was said does not wait for a prompt too
        try:
            is_computed = runner.prefill(group, max_tokens)
            if not is_computed and group != self._scheduler.prefilling:
                raise RuntimeError("what had to be computed whole was not")
        except Exception as error:  # whoever runs is not touched
            self._fail_prompts(group, error)
            return 0, False
        if is_computed:
            self._scheduler.run(group)
            runner.join()
        return runner.num_prefilled, is_computed

    def _fail_prompts(self, group: list[Sequence], error: Exception) -> None:
        """One prompt fails alone; of several, each has another try by itself.

        So has one for which there was no memory, when what was kept for later made room.
        """
        runner = self._runner
        may_try_again = is_shortage(error) and group[0].num_faults < MAX_FAULTS
        can_make_room = may_try_again and runner.memory().prefix_cache > 0
        if can_make_room:
            runner.limit_prefixes(0)
        if len(group) == 1 and not can_make_room:
            self._fail(group[0], error)
            self._num_failed_prompts += 1
            if self._num_failed_prompts >= MAX_FAILED_PROMPTS:
                runner.check()
            return
        log.warning("prompts failed; each is tried alone", exc_info=error)
        for sequence in group:
            sequence.num_faults += 1
        self._give_up_chunks_of(group)
        self._scheduler.wait(group)
        runner.remove(group)

    def _decode(self) -> None:
        finished = []
        step = self._runner.decode()
        self._num_failed_steps = self._num_failed_prompts = 0
        for sequence, token, logprob in step:
            try:
                parts = sequence.append(token, logprob)
            except Exception as error:  # one answer that cannot be understood ends alone
                self._fail(sequence, error)
                continue
            if parts:
                self._outbox.put(sequence, parts)
            if sequence.is_finished:
                finished.append(sequence)
                self._count_usage(sequence.usage)
        self._let_go(finished)

    def _let_go(self, leaving: list[Sequence]) -> None:
        if leaving:
            self._give_up_chunks_of(leaving)
            for sequence in leaving:
                self._scheduler.remove(sequence)
            self._runner.remove(leaving)

    def _give_up_chunks_of(self, sequences: list[Sequence]) -> None:
        """Nobody waits any more for what is under way of these; how long it takes is not known."""
        if any(sequence in self._scheduler.prefilling for sequence in sequences):
            self._pace.forget_under_way()

    def _fail(self, sequence: Sequence, error: Exception) -> None:
        known = error if isinstance(error, EngineFailed) else None
        # What a client is told may quote the client's own schema, which is nothing for the log.
        log.error("sequence %d failed", sequence.number, exc_info=None if known else error)
        self._outbox.put(sequence, known or EngineFailed("The model failed on this request."))
        self._let_go([sequence])

    def _recover(self, error: Exception) -> None:
        """Rebuild the batch from the tokens that are known. The others' answers stay exact."""
        self._num_failed_steps += 1
        self._count(failed_steps=1)
        self._pace.forget_under_way()
        try:
            self._runner.reset()
            if is_shortage(error):
                self._runner.limit_prefixes(0)
            for sequence in self._scheduler.restart():
                sequence.num_faults += 1
                if sequence.num_faults > MAX_FAULTS:
                    self._fail(sequence, RuntimeError("too many failed steps"))
            is_lost = self._num_failed_steps >= MAX_FAILED_STEPS
        except Exception:
            log.exception("the batch cannot be rebuilt")
            is_lost = True
        if is_lost:
            self.give_up("steps keep failing")

    def give_up(self, reason: str) -> None:
        """Make no more steps, whatever there is to do. On any thread."""
        self._is_over = True
        self._note_failure(reason)
        for sequence in list(self._scheduler):
            self._scheduler.remove(sequence)

    def _count(self, **more: int) -> None:
        """Add to the counts; only the GPU thread does."""
        counts = {name: getattr(self.counts, name) + number for name, number in more.items()}
        self.counts = replace(self.counts, **counts)

    def _count_usage(self, usage: Usage) -> None:
        self._count(
            prompt_tokens=usage.prompt_tokens,
            cached_tokens=usage.cached_tokens,
            completion_tokens=usage.completion_tokens,
        )
