"""A step that fails, a prompt that does, a device that is gone: whom it harms, and whom not."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from inference.detokenizer import Detokenizer
from inference.engine import Engine
from inference.parser import Markers, Parser
from parts import (
    EngineFailed,
    Memory,
    Part,
    Unavailable,
)
from tests.inference.scripted import (
    TEXTS,
    Broken,
    Call,
    Pause,
    Script,
    letters,
    outcomes,
    played,
    running,
    scripted_model,
    submit,
    text_of,
    whole,
)


def failing_at(name: str, count: int) -> Callable[[Call], None]:
    def on_call(call: Call) -> None:
        if (call.name, call.count) == (name, count):
            raise Broken

    return on_call


@pytest.mark.parametrize("count", range(1, 12))
@pytest.mark.parametrize("name", ["decode", "remove"])
def test_a_step_that_fails_once_harms_nobody(tokenizer: Any, name: str, count: int) -> None:
    async def scene() -> None:
        async with running(Script(failing_at(name, count)), tokenizer, max_batch=3) as engine:
            found = await outcomes(engine, TEXTS)
            assert [text_of(o) for o in found] == TEXTS
            assert engine.status.phase == "ready"
            assert (engine.status.running, engine.status.waiting) == (0, 0)

    played(scene())


@pytest.mark.parametrize("count", range(1, 6))
def test_a_prompt_that_fails_fails_alone(tokenizer: Any, count: int) -> None:
    async def scene() -> None:
        async with running(Script(failing_at("prefill", count)), tokenizer) as engine:
            found = await outcomes(engine, TEXTS)
            assert isinstance(found[count - 1], EngineFailed)
            for outcome, text in zip(found, TEXTS, strict=True):
                assert isinstance(outcome, EngineFailed) or text_of(outcome) == text
            assert sum(isinstance(o, EngineFailed) for o in found) == 1
            assert (await whole(await submit(engine, "again"))).text == "again"

    played(scene())


@pytest.mark.parametrize("culprit", range(len(TEXTS)))
def test_of_prompts_that_are_computed_together_only_the_culprit_fails(
    tokenizer: Any, culprit: int
) -> None:
    mine = tuple(letters(tokenizer, TEXTS[culprit]))
    pause = Pause("decode")

    def on_call(call: Call) -> None:
        pause(call)
        if call.name == "prefill" and mine in call.prompts:
            raise Broken

    script = Script(on_call, can_group=True)

    async def scene() -> None:
        async with running(script, tokenizer) as engine:
            first = await submit(engine, "first")
            await pause.reached()
            answers = [await submit(engine, text) for text in TEXTS]
            pause.go_on()
            found = await asyncio.gather(*map(whole, answers), return_exceptions=True)
            assert isinstance(found.pop(culprit), EngineFailed)
            assert [text_of(o) for o in found] == TEXTS[:culprit] + TEXTS[culprit + 1 :]
            assert (await whole(first)).text == "first"

    played(scene())
    assert max(len(call.numbers) for call in script.named("prefill")) > 1


@pytest.mark.parametrize("culprit", range(len(TEXTS)))
@pytest.mark.parametrize("num_generated", [0, 1, 3])
def test_whoever_makes_every_step_fail_fails_alone(
    tokenizer: Any, culprit: int, num_generated: int
) -> None:
    poison = TEXTS[culprit] + "!!!"
    texts = [*TEXTS[:culprit], poison, *TEXTS[culprit + 1 :]]

    def on_call(call: Call) -> None:
        mine = tuple(letters(tokenizer, poison))
        for prompt, number in zip(call.prompts, call.num_generated, strict=True):
            if call.name == "decode" and prompt == mine and number >= num_generated:
                raise Broken

    async def scene() -> None:
        async with running(Script(on_call), tokenizer) as engine:
            found = await outcomes(engine, texts)
            assert isinstance(found.pop(culprit), EngineFailed)
            assert [text_of(o) for o in found] == [t for t in texts if t != poison]
            assert engine.status.phase == "ready"

    played(scene())


@pytest.mark.parametrize("is_reset_broken", [False, True])
def test_when_every_step_fails_everybody_is_told(tokenizer: Any, is_reset_broken: bool) -> None:
    pause = Pause("decode")

    def on_call(call: Call) -> None:
        pause(call)
        if call.name == "decode" or (call.name == "reset" and is_reset_broken):
            raise Broken

    async def scene() -> None:
        async with running(Script(on_call), tokenizer, max_batch=2) as engine:
            answers = [await submit(engine, text) for text in TEXTS]
            pause.go_on()
            found = await asyncio.gather(*map(whole, answers), return_exceptions=True)
            assert all(isinstance(outcome, EngineFailed) for outcome in found)
            assert engine.status.phase == "failed"
            assert engine.status.reason
            assert (engine.status.running, engine.status.waiting) == (0, 0)
            with pytest.raises(Unavailable):
                await submit(engine, "too late")

    played(scene())


def test_an_answer_that_cannot_be_understood_fails_alone(tokenizer: Any) -> None:
    class Stumbling(Parser):
        def add(self, token: int) -> list[Part]:
            if tokenizer.decode([token]) == "!":
                raise Broken
            return super().add(token)

    def make_parser() -> Parser:
        return Stumbling(Detokenizer(tokenizer), Markers())

    async def scene() -> None:
        async with running(Script(), tokenizer, make_parser=make_parser) as engine:
            found = await outcomes(engine, ["abc", "a!c", "def"])
            assert isinstance(found.pop(1), EngineFailed)
            assert [text_of(o) for o in found] == ["abc", "def"]

    played(scene())


def test_a_row_without_numbers_fails_alone(tokenizer: Any) -> None:
    class Numberless(Script):
        def decode(self) -> list[tuple[Any, int, Any]]:
            bad = tuple(letters(tokenizer, "bad"))
            step = super().decode()
            return [(s, -1 if tuple(s.prompt) == bad else t, logprob) for s, t, logprob in step]

    async def scene() -> None:
        async with running(Numberless(), tokenizer) as engine:
            found = await outcomes(engine, ["abc", "bad", "def"])
            assert isinstance(found.pop(1), EngineFailed)
            assert [text_of(o) for o in found] == ["abc", "def"]

    played(scene())


def test_a_step_that_hangs_fails_the_engine_and_everybody_is_told(tokenizer: Any) -> None:
    pause = Pause("decode", 3)

    async def scene() -> None:
        engine = Engine(lambda: scripted_model(Script(pause), tokenizer), stall_timeout=0.1)
        await engine.start()
        answers = [await submit(engine, text) for text in TEXTS]
        found = await asyncio.gather(*map(whole, answers), return_exceptions=True)
        assert all(isinstance(outcome, EngineFailed) for outcome in found)
        assert await engine.failed() == "a step hangs"
        assert engine.status.phase == "failed"
        with pytest.raises(Unavailable):
            await submit(engine, "too late")
        pause.go_on()
        await engine.stop()

    played(scene())


def test_a_device_that_can_compute_nothing_fails_the_engine(tokenizer: Any) -> None:
    def on_call(call: Call) -> None:
        if call.name in ("prefill", "check"):
            raise Broken

    async def scene() -> None:
        async with running(Script(on_call), tokenizer) as engine:
            while engine.status.phase == "ready":
                for outcome in await outcomes(engine, TEXTS):  # some may come when all is over
                    assert isinstance(outcome, EngineFailed | Unavailable)
            assert await engine.failed() == "steps keep failing"

    played(scene())


def test_prompts_that_fail_one_after_another_do_not_fail_a_device_that_is_well(
    tokenizer: Any,
) -> None:
    def on_call(call: Call) -> None:
        if call.name == "prefill" and call.prompts[0] != tuple(letters(tokenizer, "good")):
            raise Broken

    script = Script(on_call)

    async def scene() -> None:
        async with running(script, tokenizer) as engine:
            for outcome in await outcomes(engine, ["bad"] * 30):
                assert isinstance(outcome, EngineFailed)
            assert (await whole(await submit(engine, "good"))).text == "good"

    played(scene())
    assert script.named("check")


def test_the_status_counts_what_was_done(tokenizer: Any) -> None:
    async def scene() -> None:
        async with running(Script(failing_at("decode", 2)), tokenizer) as engine:
            assert engine.status.stalled_s == 0
            await outcomes(engine, ["abc", "de"])
            counts = engine.status.counts
            assert (counts.prompt_tokens, counts.completion_tokens) == (5, 7)
            assert counts.failed_steps == 1
            assert counts.steps >= 4

    played(scene())


def test_memory_that_cannot_be_had_is_taken_from_prompts_kept_for_later(tokenizer: Any) -> None:
    class Short(Script):
        kept = 1000

        def memory(self) -> Memory:
            return Memory(prefix_cache=self.kept)

        def limit_prefixes(self, num_bytes: int) -> None:
            self.kept = min(self.kept, num_bytes)

    def on_call(call: Call) -> None:
        if call.name == "prefill" and script.kept:
            raise RuntimeError("[malloc] Unable to allocate 4096 bytes")

    script = Short(on_call)

    async def scene() -> None:
        async with running(script, tokenizer) as engine:
            assert (await whole(await submit(engine, "abc"))).text == "abc"
            assert script.kept == 0

    played(scene())


def test_whoever_is_lost_is_told(tokenizer: Any) -> None:
    """By a defect of ours: what is not in the queue any more will never be answered."""

    def on_call(call: Call) -> None:
        if call.name == "decode":
            scheduler: Any = engines[0]._scheduler
            scheduler.running.clear()

    engines: list[Engine] = []

    async def scene() -> None:
        async with running(Script(on_call), tokenizer) as engine:
            engines.append(engine)
            [outcome] = await outcomes(engine, ["abc"])
            assert isinstance(outcome, EngineFailed)
            assert engine.status.phase == "ready"

    played(scene())
