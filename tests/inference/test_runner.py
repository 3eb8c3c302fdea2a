"""The engine on the demo model: answers do not depend on company, nor on a call that failed."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from inference.detokenizer import Detokenizer
from inference.engine import Engine, LoadedModel
from inference.loader import LoadOptions, load
from inference.parser import Markers, Parser
from inference.rows import PaddedKVCache
from inference.sequence import Sequence
from parts import EngineFailed, Message, Prompt, SamplingParams
from tests.inference.scripted import whole
from tests.inference.spoken import Folded

QUESTIONS = [
    "Hello!",
    "What is 12 plus 30?",
    "Tell me a story.",
    "My name is Anna.",
    "Who are you?",
]
ADJUSTED = SamplingParams(
    temperature=0.8, top_p=0.95, repetition_penalty=1.1, presence_penalty=0.3, max_tokens=12
)
GREEDY = SamplingParams(temperature=0.0, max_tokens=12)


class Faulty:
    """A runner one of whose calls fails: before it has done its work, or after."""

    def __init__(self, runner: Any, name: str, count: int, *, is_late: bool) -> None:
        self._runner = runner
        self._at = (name, count)
        self._is_late = is_late
        self._counts: Counter[str] = Counter()

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._runner, name)
        return self._failing(name, found) if callable(found) else found

    def _failing(self, name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            self._counts[name] += 1
            is_it = (name, self._counts[name]) == self._at
            if is_it and not self._is_late:
                raise RuntimeError("the device has gone away")
            result = method(*args)
            if is_it:
                raise RuntimeError("the device has gone away")
            return result

        return call


def loading(
    folder: Path, change: Callable[[Any], Any] = lambda runner: runner
) -> Callable[[], LoadedModel]:
    def load_it() -> LoadedModel:
        model = load(LoadOptions(folder=folder, name="demo"))
        return replace(model, runner=change(model.runner))

    return load_it


async def asked(engine: Engine, params: SamplingParams) -> list[Folded | BaseException]:
    answers = []
    async with engine.lock:  # no step is made until all are there
        for seed, question in enumerate(QUESTIONS):
            prompt = Prompt((Message("user", question),))
            answers.append(await engine.submit(prompt, replace(params, seed=seed)))
    return await asyncio.gather(*map(whole, answers), return_exceptions=True)


def text_of(outcome: Folded | BaseException) -> tuple[str, str]:
    assert isinstance(outcome, Folded), outcome
    return outcome.reasoning, outcome.text


@pytest.fixture(scope="module")
def alone(float32_model: Path) -> dict[SamplingParams, list[tuple[str, str]]]:
    """What each is answered on an engine that serves one at a time."""
    found: dict[Any, list[tuple[str, str]]] = {}

    async def scene() -> None:
        engine = Engine(loading(float32_model), max_batch=1)
        await engine.start()
        for params in (GREEDY, ADJUSTED):
            found[repr(params)] = [text_of(o) for o in await asked(engine, params)]
        await engine.stop()

    asyncio.run(scene())
    return found


@pytest.mark.parametrize("params", [GREEDY, ADJUSTED], ids=["greedy", "seeded"])
def test_all_at_once_are_answered_as_each_alone(
    float32_model: Path, alone: Any, params: SamplingParams
) -> None:
    async def scene() -> None:
        engine = Engine(loading(float32_model))
        await engine.start()
        for _ in range(2):  # the second time out of the prefix cache
            assert [text_of(o) for o in await asked(engine, params)] == alone[repr(params)]
        await engine.stop()

    asyncio.run(scene())


@pytest.mark.parametrize("is_late", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("count", [1, 2, 3, 7])
@pytest.mark.parametrize("name", ["prefill", "join", "decode", "remove"])
def test_a_call_that_fails_harms_at_most_the_one_it_was_made_for(
    float32_model: Path, alone: Any, name: str, count: int, is_late: bool
) -> None:
    def break_it(runner: Any) -> Any:
        return Faulty(runner, name, count, is_late=is_late)

    async def scene() -> None:
        engine = Engine(loading(float32_model, break_it))
        await engine.start()
        found = [*await asked(engine, ADJUSTED), *await asked(engine, ADJUSTED)]
        failed = [outcome for outcome in found if isinstance(outcome, EngineFailed)]
        assert len(failed) <= (name == "prefill")
        for outcome, expected in zip(found, alone[repr(ADJUSTED)] * 2, strict=True):
            assert outcome in failed or text_of(outcome) == expected
        assert engine.status.phase == "ready"
        assert (engine.status.running, engine.status.waiting) == (0, 0)
        await engine.stop()

    asyncio.run(scene())


@pytest.mark.parametrize("method", ["extend", "filter", "extract", "merge", "update_and_fetch"])
@pytest.mark.parametrize("count", [1, 2, 9])
def test_a_cache_that_fails_halfway_through_its_layers_harms_at_most_one(
    float32_model: Path, alone: Any, monkeypatch: pytest.MonkeyPatch, method: str, count: int
) -> None:
    original = getattr(PaddedKVCache, method)
    num_calls = Counter[str]()

    def failing(*args: Any) -> Any:
        num_calls[method] += 1
        if num_calls[method] == count:
            raise RuntimeError("the device has gone away")
        return original(*args)

    monkeypatch.setattr(PaddedKVCache, method, failing)
    monkeypatch.setattr("inference.runner.SHORT", 0)  # each is computed alone, then joins

    async def scene() -> None:
        engine = Engine(loading(float32_model))
        await engine.start()
        found = await asked(engine, ADJUSTED)
        failed = [outcome for outcome in found if isinstance(outcome, EngineFailed)]
        assert num_calls[method] >= count
        assert len(failed) <= 1
        for outcome, expected in zip(found, alone[repr(ADJUSTED)], strict=True):
            assert outcome in failed or text_of(outcome) == expected
        assert engine.status.phase == "ready"
        await engine.stop()

    asyncio.run(scene())


def test_one_joins_while_a_long_prompt_is_computed(
    float32_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("inference.pace.Pace.LARGEST", 64)
    story = "Once upon a time there was a little cat. " * 40
    prompts = [Prompt((Message("user", text),)) for text in (story, "Hello!")]

    async def scene() -> None:
        engine = Engine(loading(float32_model))
        await engine.start()
        expected = [await whole(await engine.submit(prompt, GREEDY)) for prompt in prompts]
        await engine.stop()
        engine = Engine(loading(float32_model))
        await engine.start()
        answers = [await engine.submit(prompt, GREEDY) for prompt in prompts]
        found = [await whole(answer) for answer in answers]
        await engine.stop()
        assert found[0].finish is not None
        assert found[0].finish.usage.prompt_tokens > 400
        assert [text_of(o) for o in found] == [text_of(o) for o in expected]

    asyncio.run(scene())


def test_many_who_need_ten_times_the_memory_are_answered_as_each_alone(
    float32_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("inference.memory.STEP", 1)
    monkeypatch.setattr("inference.scheduler.MARGIN", 0)
    num_clients, max_tokens = 64, 16
    prompts = [Prompt((Message("user", QUESTIONS[i % 5]),)) for i in range(num_clients)]

    def tight() -> LoadedModel:
        model = loading(float32_model)()
        num_tokens = sum(len(model.render(prompt)) + max_tokens for prompt in prompts)
        limit = model.budget.fixed + num_tokens * model.budget.cost(1) // 10
        return replace(model, budget=replace(model.budget, limit=limit))

    async def asked_by_all(load: Callable[[], LoadedModel], **options: Any) -> tuple[Any, int]:
        engine = Engine(load, **options)
        await engine.start()
        params = [replace(ADJUSTED, seed=i, max_tokens=max_tokens) for i in range(num_clients)]
        answers = [await engine.submit(p, s) for p, s in zip(prompts, params, strict=True)]
        found = [text_of(await whole(answer)) for answer in answers]
        num_preempted = engine.status.counts.preemptions
        await engine.stop()
        return found, num_preempted

    expected, none = asyncio.run(asked_by_all(loading(float32_model), max_batch=1))
    found, num_preempted = asyncio.run(asked_by_all(tight, max_batch=num_clients))
    assert found == expected
    assert (none, num_preempted > 0) == (0, True)


def test_a_prompt_that_is_given_up_keeps_no_memory(float32_model: Path) -> None:
    """Not in the chunk that the device may still be computing either."""
    runner: Any = loading(float32_model)().runner
    tokens = [5] * 600
    sequence = Sequence(tokens, SamplingParams(), Parser(Detokenizer(runner.tokenizer), Markers()))
    mx.synchronize()
    before = mx.get_active_memory()
    assert not runner.prefill([sequence], 256)
    assert mx.get_active_memory() > before
    runner.remove([sequence])
    mx.synchronize()
    assert mx.get_active_memory() <= before
