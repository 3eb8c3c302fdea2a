"""Everybody is served in turn, is told the truth, and is not harmed by another's failure."""

from __future__ import annotations

import asyncio
import gc
import math
import subprocess
import sys
import threading
import weakref
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inference.answer import Answer
from inference.engine import Engine, LoadedModel
from inference.memory import Budget, Growth
from inference.pace import Pace
from parts import (
    Constraint,
    ContextLengthExceeded,
    InvalidRequest,
    Message,
    Prompt,
    QueueFull,
    SamplingParams,
    Text,
    Unavailable,
    Usage,
)
from tests.conftest import ROOT
from tests.demo import VOCAB_SIZE
from tests.inference.scripted import (
    TEXTS,
    WINDOW,
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
from tests.inference.spoken import Folded

# Serving


@settings(deadline=None, max_examples=20)
@given(
    st.lists(st.text("abc 123", min_size=1, max_size=40), min_size=1, max_size=8),
    st.integers(1, 4),
    st.booleans(),
)
def test_every_prompt_gets_its_own_answer_first_come_first_served(
    tokenizer: Any, texts: list[str], max_batch: int, can_batch: bool
) -> None:
    script = Script(can_batch=can_batch)

    async def scene() -> None:
        async with running(script, tokenizer, max_batch=max_batch) as engine:
            found = await outcomes(engine, texts)
        assert [text_of(o) for o in found] == texts

    played(scene())
    begun = list(dict.fromkeys(call.numbers[0] for call in script.named("prefill")))
    assert begun == sorted(begun)
    most = max_batch if can_batch else 1
    assert all(len(call.numbers) <= most for call in script.named("decode"))


def test_sequences_decode_together(tokenizer: Any) -> None:
    pause = Pause("decode")
    script = Script(pause)

    async def scene() -> None:
        async with running(script, tokenizer) as engine:
            answers = [await submit(engine, "a" * 50) for _ in range(4)]
            pause.go_on()
            await asyncio.gather(*map(whole, answers))

    played(scene())
    assert max(len(call.numbers) for call in script.named("decode")) == 4


def test_usage_counts_the_prompt_and_the_answer_with_its_end(tokenizer: Any) -> None:
    async def scene() -> None:
        async with running(Script(), tokenizer) as engine:
            found = await whole(await submit(engine, "hello"))
        assert found.finish is not None
        assert found.finish.usage == Usage(prompt_tokens=5, completion_tokens=6)

    played(scene())


def test_a_long_prompt_does_not_keep_the_others_from_their_tokens(
    tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("inference.pace.Pace.LARGEST", 64)
    pause = Pause("decode", 2)
    script = Script(pause)

    async def scene() -> None:
        async with running(script, tokenizer) as engine:
            chatting = await submit(engine, "b" * 400)
            await pause.reached()
            await submit(engine, "a" * 1500)
            pause.go_on()
            await whole(chatting)

    played(scene())
    long = next(c.numbers[0] for c in script.named("prefill") if len(c.prompts[0]) == 1500)
    names = [
        "chunk" if call.name == "prefill" else "token"
        for call in script.calls
        if (call.name == "prefill" and call.numbers == (long,)) or call.name == "decode"
    ]
    first, last = names.index("chunk"), len(names) - names[::-1].index("chunk")
    chunks = names[first:last]
    assert chunks.count("chunk") == 24
    assert "chunk chunk" not in " ".join(chunks)


def test_the_pace_hears_what_was_computed_and_which_steps_failed(
    tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[object] = []

    def observe(pace: Pace, seconds: float, *, num_prefilled: int, **_: Any) -> None:
        if num_prefilled:
            heard.append(num_prefilled)

    def on_call(call: Call) -> None:
        if (call.name, call.count) == ("decode", 2):
            raise Broken

    monkeypatch.setattr(Pace, "observe", observe)
    monkeypatch.setattr(Pace, "forget_under_way", lambda pace: heard.append("failed"))
    monkeypatch.setattr(Pace, "num_tokens", lambda pace, num_running: 40)

    async def scene() -> None:
        async with running(Script(on_call), tokenizer) as engine:
            await whole(await submit(engine, "a" * 100))

    played(scene())
    assert heard == [40, 40, 20, "failed", 40, 40, 21]


@pytest.mark.parametrize("who", ["computed", "waiting"])
def test_a_chunk_that_nobody_waits_for_any_more_is_left_out_of_the_pace(
    tokenizer: Any, monkeypatch: pytest.MonkeyPatch, who: str
) -> None:
    given_up = []
    monkeypatch.setattr(Pace, "forget_under_way", lambda pace: given_up.append(who))
    monkeypatch.setattr(Pace, "num_tokens", lambda pace, num_running: 40)
    pause = Pause("prefill", 2)

    async def scene() -> None:
        async with running(Script(pause), tokenizer, max_batch=1) as engine:
            answers = [await submit(engine, letter * 200) for letter in "ab"]
            await pause.reached()
            leaves, stays = answers if who == "computed" else reversed(answers)
            leaves.cancel()
            pause.go_on()
            await whole(stays)

    played(scene())
    assert given_up == (["computed"] if who == "computed" else [])


def test_what_was_said_does_not_wait_for_somebody_elses_prompt(tokenizer: Any) -> None:
    num_read, has_read = 0, threading.Condition()

    def on_call(call: Call) -> None:
        """A prompt takes until the one who runs has read all that was said."""
        if call.name == "prefill" and len(call.prompts[0]) == 1:
            [first] = engine._scheduler.running
            with has_read:
                assert has_read.wait_for(lambda: num_read == len(first.generated), 30)

    async def scene() -> None:
        nonlocal num_read, engine
        async with running(Script(on_call), tokenizer) as engine:
            first = await submit(engine, "once upon a time " * 20)
            second: Answer | None = None
            async for parts in first:
                with has_read:
                    num_read += sum(len(part.text) for part in parts if isinstance(part, Text))
                    has_read.notify()
                second = second or await submit(engine, "x")
            assert second is not None
            assert (await whole(second)).text == "x"

    engine: Any = None
    played(scene())


def test_an_answer_that_ended_before_its_parts_were_delivered_is_delivered_whole(
    tokenizer: Any,
) -> None:
    pause, is_over = Pause("prefill"), threading.Event()

    def on_call(call: Call) -> None:
        pause(call)
        if call.name == "remove":
            is_over.set()

    async def scene() -> None:
        async with running(Script(on_call), tokenizer) as engine:
            answer = await submit(engine, "a quick answer")
            await pause.reached()
            pause.go_on()
            # The event loop is busy with something else until the GPU thread has gone far ahead.
            assert is_over.wait(30)
            found = await asyncio.wait_for(whole(answer), 60)
        assert found.text == "a quick answer"
        assert found.finish is not None

    played(scene())


def test_the_event_loop_goes_on_while_a_step_takes_long(tokenizer: Any) -> None:
    pause = Pause("decode", 2)

    async def scene() -> None:
        async with running(Script(pause), tokenizer, max_batch=1, max_queue=1) as engine:
            first = await submit(engine, "hello")
            await pause.reached()
            second = await submit(engine, "world")
            status = engine.status
            assert (status.phase, status.running, status.waiting) == ("ready", 1, 1)
            with pytest.raises(QueueFull, match="1 requests are waiting"):
                await submit(engine, "one too many")
            pause.go_on()
            assert ((await whole(first)).text, (await whole(second)).text) == ("hello", "world")
            assert (engine.status.running, engine.status.waiting) == (0, 0)

    played(scene())


def test_other_work_gets_the_gpu_between_bursts(
    tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("inference.steps.BURST_S", 0.0)
    pause = Pause("decode", 2)
    script = Script(pause)

    async def scene() -> None:
        async def other_work() -> int:
            async with engine.lock:
                assert engine.status.running == 1
                return len(script.named("decode"))

        async with running(script, tokenizer) as engine:
            answer = await submit(engine, "a" * 50)
            await pause.reached()
            working = asyncio.create_task(other_work())
            await asyncio.sleep(0)
            pause.go_on()
            assert await working == 2
            assert (await whole(answer)).text == "a" * 50

    played(scene())


# Refusing


def test_a_prompt_longer_than_the_context_is_refused_with_both_numbers(tokenizer: Any) -> None:
    async def scene() -> None:
        async with running(Script(), tokenizer) as engine:
            with pytest.raises(ContextLengthExceeded) as caught:
                await submit(engine, "a" * 2001)
            assert "2000" in caught.value.message
            assert "2001" in caught.value.message
            assert caught.value.code == "context_length_exceeded"
            with pytest.raises(ContextLengthExceeded):
                await submit(engine, "a" * WINDOW)

    played(scene())


def test_an_answer_ends_where_the_context_ends(tokenizer: Any) -> None:
    async def scene() -> None:
        async with running(Script(), tokenizer) as engine:
            found = await whole(await submit(engine, "a" * (WINDOW - 3), max_tokens=100))
        assert found.finish is not None
        assert (found.text, found.finish.reason) == ("aaa", "length")

    played(scene())


@pytest.mark.parametrize("token", [-1, VOCAB_SIZE, 9_999_999])
def test_a_bias_for_a_token_that_does_not_exist_is_refused(tokenizer: Any, token: int) -> None:
    async def scene() -> None:
        async with running(Script(), tokenizer) as engine:
            with pytest.raises(InvalidRequest, match=f"0 to {VOCAB_SIZE - 1}") as caught:
                await submit(engine, "a", logit_bias={0: 1.0, token: 5.0})
            assert caught.value.param == "logit_bias"

    played(scene())


def test_a_prompt_without_tokens_is_refused(tokenizer: Any) -> None:
    async def scene() -> None:
        async with running(Script(), tokenizer) as engine:
            with pytest.raises(InvalidRequest, match="empty"):
                await submit(engine, "")

    played(scene())


def test_nothing_is_taken_while_the_model_is_loading(tokenizer: Any) -> None:
    may_load = threading.Event()

    async def scene() -> None:
        def load() -> Any:
            assert may_load.wait(30)
            return scripted_model(Script(), tokenizer)

        engine = Engine(load)
        starting = asyncio.create_task(engine.start())
        await asyncio.sleep(0)
        assert engine.status.phase == "loading"
        with pytest.raises(Unavailable) as caught:
            await submit(engine, "a")
        assert caught.value.code == "loading"
        may_load.set()
        await starting
        assert engine.status.phase == "ready"
        assert engine.status.model is not None
        await engine.stop()

    played(scene())


@pytest.mark.parametrize("error", [Unavailable("No such model."), KeyError("config")])
def test_a_model_that_cannot_be_loaded_makes_the_engine_unavailable(error: Exception) -> None:
    def load() -> Any:
        raise error

    async def scene() -> None:
        engine = Engine(load)
        with pytest.raises(Unavailable):
            await engine.start()
        assert engine.status.phase == "failed"
        assert engine.status.reason
        with pytest.raises(Unavailable):
            await submit(engine, "a")
        await engine.stop()

    played(scene())


# Cancelling


def during(
    name: str, count: int, act: Callable[[], Awaitable[None]], loop: asyncio.AbstractEventLoop
) -> Callable[[Call], None]:
    """Do something on the event loop while the GPU thread is in a certain call."""

    async def acting() -> None:
        await act()

    def on_call(call: Call) -> None:
        if (call.name, call.count) == (name, count):
            asyncio.run_coroutine_threadsafe(acting(), loop).result(30)

    return on_call


@pytest.mark.parametrize(
    ("moment", "count", "text"), [("prefill", 2, "a" * 1800), ("decode", 3, "a" * 40)]
)
def test_a_cancelled_sequence_is_gone_with_the_next_step(
    tokenizer: Any, moment: str, count: int, text: str
) -> None:
    async def scene() -> None:
        answers: list[Any] = []

        async def cancel() -> None:
            answers[0].cancel()

        script = Script(during(moment, count, cancel, asyncio.get_running_loop()))
        async with running(script, tokenizer) as engine:
            answers.append(await submit(engine, text))
            await whole(answers[0])
            found = await whole(await submit(engine, "next"))
            assert found.text == "next"
            assert (engine.status.running, engine.status.waiting) == (0, 0)
        number = script.calls[0].numbers[0]
        at = next(i for i, c in enumerate(script.calls) if (c.name, c.count) == (moment, count))
        later = [call.name for call in script.calls[at + 1 :] if number in call.numbers]
        assert later in (["remove"], ["decode", "remove"])
        assert later == ["remove"] or moment == "prefill"

    played(scene())


def test_a_cancelled_sequence_that_waits_never_runs(tokenizer: Any) -> None:
    pause = Pause("decode")
    script = Script(pause)

    async def scene() -> None:
        async with running(script, tokenizer, max_batch=1) as engine:
            first = await submit(engine, "first")
            await pause.reached()
            second, third = await submit(engine, "second"), await submit(engine, "third")
            second.cancel()
            pause.go_on()
            assert (await whole(first)).text == "first"
            assert (await whole(third)).text == "third"
            assert await whole(second) == Folded()
        assert tuple(letters(tokenizer, "second")) not in {
            prompt for call in script.named("prefill") for prompt in call.prompts
        }

    played(scene())


def test_whoever_reads_a_cancelled_answer_is_let_go(tokenizer: Any) -> None:
    pause = Pause("prefill")

    async def scene() -> None:
        async with running(Script(pause), tokenizer) as engine:
            answer = await submit(engine, "hello")
            reading = asyncio.create_task(whole(answer))
            await pause.reached()
            answer.cancel()
            assert await asyncio.wait_for(reading, 60) == Folded()
            pause.go_on()

    played(scene())


def test_cancelling_what_has_ended_does_nothing(tokenizer: Any) -> None:
    async def scene() -> None:
        async with running(Script(), tokenizer) as engine:
            answer = await submit(engine, "a")
            await whole(answer)
            answer.cancel()
            answer.cancel()
            assert (await whole(await submit(engine, "b"))).text == "b"

    played(scene())


# Memory

BYTES = Budget(limit=100, layers=(Growth(per_token=1),))


@pytest.fixture
def by_the_token(monkeypatch: pytest.MonkeyPatch) -> None:
    """Caches that grow token by token, and answers that need no room to begin."""
    monkeypatch.setattr("inference.memory.STEP", 1)
    monkeypatch.setattr("inference.scheduler.MARGIN", 0)


@pytest.mark.usefixtures("by_the_token")
def test_those_who_outgrow_the_memory_wait_and_are_answered_all_the_same(tokenizer: Any) -> None:
    pause = Pause("decode")
    script = Script(pause)
    texts = [letter * 20 for letter in "abcdefghijklmnopqrstuvwxyz"]

    async def scene() -> None:
        async with running(script, tokenizer, budget=BYTES) as engine:
            answers = [await submit(engine, text) for text in texts]
            pause.go_on()
            found = await asyncio.gather(*map(whole, answers))
            assert [text_of(o) for o in found] == texts
            assert engine.status.counts.preemptions > 0
            assert engine.status.counts.failed_steps == 0

    played(scene())
    for call in script.named("decode"):
        widest = max(len(p) + n for p, n in zip(call.prompts, call.num_generated, strict=True))
        assert widest * len(call.prompts) <= 100
    assert max(len(call.numbers) for call in script.named("decode")) > 1


@pytest.mark.usefixtures("by_the_token")
def test_a_prompt_that_could_never_fit_is_refused_with_both_numbers(tokenizer: Any) -> None:
    async def scene() -> None:
        async with running(Script(), tokenizer, budget=BYTES) as engine:
            with pytest.raises(InvalidRequest, match="memory for 100 tokens") as caught:
                await submit(engine, "a" * 120)
            assert (caught.value.code, caught.value.param) == ("insufficient_memory", "messages")
            assert "120" in caught.value.message
            found = await whole(await submit(engine, "a" * 95, max_tokens=50))
            assert found.finish is not None
            assert (found.text, found.finish.reason) == ("a" * 5, "length")

    played(scene())


@pytest.mark.usefixtures("by_the_token")
def test_prompts_kept_for_later_leave_room_for_those_who_run(tokenizer: Any) -> None:
    limits: list[int] = []

    class Keeping(Script):
        def limit_prefixes(self, num_bytes: int) -> None:
            limits.append(num_bytes)

    async def scene() -> None:
        async with running(Keeping(), tokenizer, budget=BYTES) as engine:
            await outcomes(engine, ["a" * 30, "b" * 30])

    played(scene())
    assert all(limit >= 0 for limit in limits)
    assert min(limits) <= 100 - 60  # one prompt and its answer


# Stopping


def test_stopping_tells_those_who_wait_and_takes_nobody_new(tokenizer: Any) -> None:
    pause = Pause("decode", 2)

    async def scene() -> None:
        async with running(Script(pause), tokenizer, max_batch=1) as engine:
            reading = [
                asyncio.create_task(whole(await submit(engine, text))) for text in ("one", "two")
            ]
            await pause.reached()
            stopping = asyncio.create_task(engine.stop())
            await asyncio.sleep(0)
            with pytest.raises(Unavailable) as caught:
                await submit(engine, "three")
            assert caught.value.code == "shutting_down"
            await stopping
            pause.go_on()
            found = await asyncio.gather(*reading, return_exceptions=True)
            assert all(isinstance(outcome, Unavailable) for outcome in found)

    played(scene())


def test_draining_lets_those_who_were_taken_finish(tokenizer: Any) -> None:
    async def scene() -> None:
        async with running(Script(), tokenizer, max_batch=1) as engine:
            answers = [await submit(engine, text) for text in TEXTS]
            reading = [asyncio.create_task(whole(answer)) for answer in answers]
            await engine.stop(drain=30)
            assert [(await r).text for r in reading] == TEXTS

    played(scene())


def test_an_engine_stopped_while_it_loads_steps_no_more(tokenizer: Any) -> None:
    may_load = threading.Event()

    async def scene() -> None:
        def load() -> Any:
            assert may_load.wait(30)
            return scripted_model(Script(), tokenizer)

        engine = Engine(load)
        starting = asyncio.create_task(engine.start())
        await asyncio.sleep(0)
        await engine.stop()
        may_load.set()
        await starting
        assert engine.status.phase == "draining"
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(scene())


# What it is made of


def test_importing_the_engine_does_not_import_mlx() -> None:
    code = "import sys, inference.engine; print([m for m in sys.modules if m.startswith('mlx')])"
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == "[]"


# Sleeping


def test_an_idle_model_leaves_memory_and_comes_back_for_whoever_asks(tokenizer: Any) -> None:
    async def scene() -> None:
        loaded, released = [], asyncio.Event()
        loop = asyncio.get_running_loop()

        def load() -> Any:
            loaded.append(1)
            model = scripted_model(Script(), tokenizer)
            return replace(model, release=lambda: loop.call_soon_threadsafe(released.set))

        engine = Engine(load, idle_unload=0.01)
        await engine.start()
        for number in (1, 2):
            await asyncio.wait_for(released.wait(), 60)
            assert engine.status.phase == "sleeping"
            assert engine.status.model is not None
            released.clear()
            found = await outcomes(engine, TEXTS)
            assert [text_of(o) for o in found] == TEXTS
            assert len(loaded) == 1 + number
        assert engine.status.phase in ("ready", "sleeping")
        await engine.stop()

    played(scene())


def test_a_request_says_how_long_the_model_stays(tokenizer: Any) -> None:
    released = threading.Event()

    async def scene() -> None:
        engine = Engine(lambda: replace(scripted_model(Script(), tokenizer), release=released.set))
        await engine.start()
        assert (await whole(await submit(engine, "a", keep_alive=0))).text == "a"
        assert await asyncio.to_thread(released.wait, 5)
        assert engine.status.phase == "sleeping"
        assert text_of((await outcomes(engine, ["b"]))[0]) == "b"
        assert engine.status.phase == "ready"
        await engine.stop()

    played(scene())


def test_what_a_request_says_of_it_holds_until_the_next(tokenizer: Any) -> None:
    released = threading.Event()

    async def scene() -> None:
        model = replace(scripted_model(Script(), tokenizer), release=released.set)
        engine = Engine(lambda: model, idle_unload=3600)
        await engine.start()
        await whole(await submit(engine, "a", keep_alive=math.inf))
        assert engine._stay_s == math.inf and engine._falling_asleep is None
        with pytest.raises(InvalidRequest):
            await submit(engine, "b", keep_alive=0, logit_bias={10**9: 1.0})
        assert engine._stay_s == math.inf
        await whole(await submit(engine, "c"))
        assert engine._stay_s == 3600 and engine._falling_asleep is not None
        assert not released.is_set()
        await engine.stop()

    played(scene())


def test_a_model_that_cannot_come_back_is_asked_for_again(tokenizer: Any) -> None:
    is_gone = [False]
    released = threading.Event()

    def load() -> Any:
        if is_gone[0]:
            raise Unavailable("The files are gone.")
        return replace(scripted_model(Script(), tokenizer), release=released.set)

    async def scene() -> None:
        engine = Engine(load)
        await engine.start()
        await whole(await submit(engine, "a", keep_alive=0))
        assert await asyncio.to_thread(released.wait, 5)
        is_gone[0] = True
        with pytest.raises(Unavailable, match="files are gone"):
            await submit(engine, "a")
        is_gone[0] = False
        assert (await whole(await submit(engine, "a"))).text == "a"
        await engine.stop()

    played(scene())


def test_nobody_refers_to_a_model_that_sleeps(tokenizer: Any) -> None:
    """Else there would be two of them in memory while it is loaded again."""
    runners: list[weakref.ref[Script]] = []
    were_there: list[bool] = []

    def release() -> None:
        gc.collect()
        were_there.append(runners[0]() is not None)
        released.set()

    def load() -> LoadedModel:
        script = Script()
        runners.append(weakref.ref(script))
        return replace(scripted_model(script, tokenizer), release=release)

    released = threading.Event()

    async def scene() -> None:
        engine = Engine(load)
        await engine.start()
        await whole(await submit(engine, "a", keep_alive=0))
        assert await asyncio.to_thread(released.wait, 5)
        assert engine.status.memory.active == 0
        await engine.stop()

    played(scene())
    assert were_there == [False]


def test_a_model_is_not_taken_from_somebody_who_is_being_answered(tokenizer: Any) -> None:
    pause = Pause("decode", 2)

    async def scene() -> None:
        async with running(Script(pause), tokenizer) as engine:
            answer = await submit(engine, "abc")
            await pause.reached()
            engine._fall_asleep()
            assert engine.status.phase == "ready"
            pause.go_on()
            assert (await whole(answer)).text == "abc"

    played(scene())


def test_a_grammars_time_does_not_include_that_of_those_before_it(
    tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor is a grammar blamed when those before it never end: it may be tried again."""
    monkeypatch.setattr("inference.schema.COMPILE_S", 0.2)
    monkeypatch.setattr("inference.engine.COMPILE_QUEUE_S", 0.4)
    can_end, has_begun = threading.Event(), threading.Event()

    def make_guide(tokens: list[int], prompt: Prompt, params: Any) -> None:
        has_begun.set()
        assert can_end.wait(30)

    def load() -> LoadedModel:
        return replace(scripted_model(Script(), tokenizer), make_guide=make_guide)

    async def scene() -> None:
        engine = Engine(load)
        await engine.start()
        prompt = Prompt((Message("user", "x"),), constraint=Constraint("regex", "x"))
        slow = asyncio.ensure_future(engine.submit(prompt, SamplingParams()))
        await asyncio.to_thread(has_begun.wait)
        with pytest.raises(Unavailable, match="try again"):
            await engine.submit(prompt, SamplingParams())
        with pytest.raises(InvalidRequest, match="to compile"):
            await slow
        can_end.set()
        assert (await whole(await engine.submit(prompt, SamplingParams()))).text == "x"
        await engine.stop()

    played(scene())


def test_who_does_not_even_get_into_the_queue_is_seen_in_the_status(
    tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    can_end, has_begun = threading.Event(), threading.Event()

    def render(prompt: Prompt) -> list[int]:
        has_begun.set()
        assert can_end.wait(30)
        return [1]

    def load() -> LoadedModel:
        return replace(scripted_model(Script(), tokenizer), render=render)

    async def scene() -> None:
        engine = Engine(load)
        await engine.start()
        assert engine.status.stalled_s == 0
        asked = asyncio.ensure_future(submit(engine, "x"))
        await asyncio.to_thread(has_begun.wait)
        assert engine.status.stalled_s > 0
        can_end.set()
        await whole(await asked)
        assert engine.status.stalled_s == 0
        await engine.stop()

    played(scene())
