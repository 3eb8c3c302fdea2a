"""A model that echoes its prompts: who is served when, and what happens when a step fails."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from inference.answer import Answer
from inference.detokenizer import Detokenizer
from inference.engine import Engine, LoadedModel
from inference.memory import Budget
from inference.parser import Markers, Parser
from inference.sequence import Sequence
from parts import (
    Memory,
    Message,
    ModelCard,
    Part,
    Prompt,
    SamplingParams,
    TokenLogprob,
    Unavailable,
)
from tests.demo import END, VOCAB_SIZE
from tests.inference.spoken import Folded, folded

WINDOW = 2000


@dataclass(frozen=True)
class Call:
    """One call of the stepper: which, the how-manieth of its kind, and of whom."""

    name: str
    count: int
    numbers: tuple[int, ...]
    prompts: tuple[tuple[int, ...], ...]
    num_generated: tuple[int, ...]


class Script:
    """A `Stepper` whose every answer is its own prompt. `on_call` may look, wait or raise."""

    def __init__(
        self,
        on_call: Callable[[Call], None] = lambda call: None,
        *,
        can_batch: bool = True,
        can_group: bool = False,
    ) -> None:
        self.can_batch = can_batch
        self.can_group = can_group
        self.max_together = 10**6
        self.calls: list[Call] = []
        self.rows: list[Sequence] = []
        self._on_call = on_call
        self._counts: Counter[str] = Counter()

    def _called(self, name: str, sequences: list[Sequence]) -> None:
        self._counts[name] += 1
        call = Call(
            name,
            self._counts[name],
            tuple(s.number for s in sequences),
            tuple(tuple(s.prompt) for s in sequences),
            tuple(len(s.generated) for s in sequences),
        )
        self.calls.append(call)
        self._on_call(call)

    def named(self, name: str) -> list[Call]:
        return [call for call in self.calls if call.name == name]

    def is_short(self, sequence: Sequence) -> bool:
        return self.can_group and sequence.num_tokens < 100

    num_prefilled = 0
    waited_s = 0.0

    def prefill(self, sequences: list[Sequence], max_tokens: int) -> bool:
        assert not any(sequence in self.rows for sequence in sequences)
        self._called("prefill", sequences)
        self.num_prefilled = 0
        for sequence in sequences:
            num_left = sequence.num_tokens - sequence.num_computed
            self.num_prefilled += min(max_tokens, num_left)
            sequence.num_computed += min(max_tokens, num_left)
        if sequences[0].num_computed < sequences[0].num_tokens:
            return False
        self._arrivals = list(sequences)
        return True

    def join(self) -> None:
        self._called("join", self._arrivals)
        self.rows += self._arrivals

    def decode(self) -> list[tuple[Sequence, int, TokenLogprob | None]]:
        self._called("decode", self.rows)
        step = []
        for sequence in self.rows:
            answer = [*sequence.prompt, END]
            step.append((sequence, answer[len(sequence.generated)], None))
            sequence.num_computed += 1
        return step

    def remove(self, leaving: list[Sequence]) -> None:
        self._called("remove", leaving)
        self.rows = [s for s in self.rows if s not in leaving]

    def check(self) -> None:
        self._called("check", [])

    def settle(self) -> None:
        pass

    def close(self) -> None:
        self._called("close", [])

    def limit_prefixes(self, num_bytes: int) -> None:
        pass

    def memory(self) -> Memory:
        return Memory(active=1000)

    def reset(self) -> None:
        self._called("reset", self.rows)
        self.rows = []


def scripted_model(
    stepper: Any,
    tokenizer: Any,
    make_parser: Callable[[], Parser] | None = None,
    budget: Budget = Budget(),  # noqa: B008
) -> LoadedModel:
    def plain_parser() -> Parser:
        return Parser(Detokenizer(tokenizer), Markers.of(tokenizer))

    return LoadedModel(
        card=ModelCard("echo", context_window=WINDOW),
        runner=stepper,
        render=lambda prompt: letters(tokenizer, prompt.messages[-1].content),
        make_parser=lambda tokens, prompt: (make_parser or plain_parser)(),
        make_guide=lambda tokens, prompt, params: None,
        vocab_size=VOCAB_SIZE,
        stop_tokens=frozenset({END}),
        budget=budget,
    )


def letters(tokenizer: Any, text: str) -> list[int]:
    """One token a letter."""
    return [t for letter in text for t in tokenizer.encode(letter, add_special_tokens=False)]


@asynccontextmanager
async def running(
    stepper: Any,
    tokenizer: Any,
    *,
    make_parser: Callable[[], Parser] | None = None,
    max_batch: int = 32,
    max_queue: int = 256,
    budget: Budget = Budget(),  # noqa: B008
) -> AsyncIterator[Engine]:
    engine = Engine(
        lambda: scripted_model(stepper, tokenizer, make_parser, budget),
        max_batch=max_batch,
        max_queue=max_queue,
    )
    await engine.start()
    try:
        yield engine
    finally:
        await engine.stop()


async def submit(
    engine: Engine, text: str, *, keep_alive: float | None = None, **params: Any
) -> Answer:
    prompt = Prompt((Message("user", text),))
    return await engine.submit(prompt, SamplingParams(**params), keep_alive=keep_alive)


async def whole(answer: Answer) -> Folded:
    parts: list[Part] = []
    async for some in answer:
        parts += some
    return folded(parts)


def played(scene: Coroutine[Any, Any, None]) -> None:
    """Play a scene to its end. What hangs fails; a busy machine may take its time."""
    asyncio.run(asyncio.wait_for(scene, 60))


TEXTS = ["abc", "once upon a time", "x", "hello there", "1 2 3 4 5"]


class Broken(Exception):
    """What a stepper raises here."""


class Pause:
    """Holds the GPU thread at a call, until the test lets it go on."""

    def __init__(self, name: str, count: int = 1) -> None:
        self._at = (name, count)
        self._reached, self._go = threading.Event(), threading.Event()

    def __call__(self, call: Call) -> None:
        if (call.name, call.count) == self._at:
            self._reached.set()
            assert self._go.wait(30)

    async def reached(self) -> None:
        assert await asyncio.to_thread(self._reached.wait, 30)

    def go_on(self) -> None:
        self._go.set()


async def outcomes(engine: Engine, texts: list[str]) -> list[Folded | BaseException]:
    answers = [await refused_or_taken(engine, text) for text in texts]
    waiting = [whole(answer) for answer in answers if isinstance(answer, Answer)]
    found = iter(await asyncio.gather(*waiting, return_exceptions=True))
    return [next(found) if isinstance(answer, Answer) else answer for answer in answers]


async def refused_or_taken(engine: Engine, text: str) -> Answer | Unavailable:
    try:
        return await submit(engine, text)
    except Unavailable as refusal:
        return refusal


def text_of(outcome: Folded | BaseException) -> str:
    assert isinstance(outcome, Folded), outcome
    return outcome.text
