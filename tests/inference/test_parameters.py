"""Every parameter of sampling is honoured through the engine, alone and in company."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from inference.detokenizer import token_bytes
from inference.engine import Engine
from inference.loader import LoadOptions, load
from parts import Constraint, Message, Prompt, SamplingParams, Tool, Usage
from tests import demo
from tests.inference.scripted import whole
from tests.inference.spoken import Folded
from tests.inference.test_runner import loading

TEXTS = ["Hello!", "Tell me a story.", "What is 12 plus 30?", "Who are you?"]
WAYS: list[dict[str, Any]] = [
    {"temperature": 0.0},
    {"temperature": 1.0, "top_p": 1.0},
    {"temperature": 0.7, "top_k": 5},
    {"temperature": 1.5, "min_p": 0.1, "presence_penalty": 0.6},
    {"temperature": 0.9, "repetition_penalty": 1.2, "frequency_penalty": -0.4},
    {"temperature": 0.0, "logit_bias": {65: 4.0, demo.END: -100.0}},
    {"temperature": 1.0, "top_logprobs": 3},
    {"temperature": 0.8, "max_reasoning_tokens": 3},
]
TOOL = Tool("f", "", {"type": "object", "properties": {"a": {"type": "integer"}}}, strict=True)
KINDS: list[dict[str, Any]] = [
    {},
    {"constraint": Constraint("json", {"type": "array", "items": {"type": "boolean"}})},
    {
        "constraint": Constraint("regex", "[a-z ]{5,25}"),
        "template_args": {"enable_thinking": False},
    },
    {"tools": (TOOL,), "forced_tools": ("f",)},
]
NUM_MIXED = 32
NUM_CHOICES = 4
"""Rows of the mix that are choices of one request: the same prompt, a seed for each."""


def mixed() -> list[tuple[Prompt, SamplingParams]]:
    """Each way of sampling with each kind of prompt, and one request's choices."""
    choices = (Prompt((Message("user", "Who is it?"),)), SamplingParams(1.0, 1.0, max_tokens=16))
    return [
        (
            Prompt((Message("user", TEXTS[(i // 8 + i) % 4]),), **KINDS[i // 8]),
            SamplingParams(**{"top_logprobs": None, **WAYS[i % 8]}, seed=i // 3, max_tokens=16),
        )
        for i in range(NUM_MIXED - NUM_CHOICES)
    ] + [(choices[0], replace(choices[1], seed=seed)) for seed in range(NUM_CHOICES)]


def exactly(found: Folded) -> tuple[Any, ...]:
    logprobs = [(entry.raw, entry.logprob) for entry in found.logprobs]
    return found.reasoning, found.text, found.calls, logprobs, found.finish and found.finish.reason


@pytest.mark.parametrize("max_batch", [32, 5])
def test_mixed_requests_together_are_answered_as_each_alone(
    float32_model: Path, max_batch: int
) -> None:
    async def scene() -> None:
        engine = Engine(loading(float32_model), max_batch=max_batch)
        await engine.start()
        alone = [exactly(await whole(await engine.submit(*request))) for request in mixed()]
        answers = [await engine.submit(*request) for request in mixed()]
        together = [exactly(found) for found in await asyncio.gather(*map(whole, answers))]
        await engine.stop()
        assert together == alone
        assert len({repr(answer) for answer in alone}) > NUM_MIXED // 2

    asyncio.run(asyncio.wait_for(scene(), 240))


@pytest.mark.parametrize(("n", "num_words"), [(4, 20), (16, 20), (4, 95)])
def test_the_choices_of_a_request_share_one_prefill(
    float32_model: Path, n: int, num_words: int
) -> None:
    """Whatever the length of the prompt, and with nothing kept for later."""
    prompt = Prompt((Message("user", f"{n} choices. " + "And another word. " * num_words),))
    options = LoadOptions(folder=float32_model, name="demo", prefix_cache_bytes=0)

    async def scene() -> None:
        engine = Engine(lambda: load(options))
        await engine.start()
        choices = [SamplingParams(max_tokens=2, seed=seed) for seed in range(n)]
        answers = await engine.submit_choices(prompt, choices)
        found = await asyncio.gather(*map(whole, answers))
        alone = [await whole(await engine.submit(prompt, params)) for params in choices[:1]]
        await engine.stop()
        assert [answer.text for answer in found[:1]] == [answer.text for answer in alone]
        usages = [answer.finish.usage for answer in found if answer.finish]
        # All but the last token, whose logits are what each begins with.
        shared = usages[0].prompt_tokens - 1
        assert [u.cached_tokens for u in usages] == [0] + [shared] * (n - 1)
        whole_usage = sum(usages, Usage())
        assert (whole_usage.prompt_tokens, whole_usage.cached_tokens) == (shared + 1, 0)
        assert whole_usage.completion_tokens == 2 * n

    asyncio.run(asyncio.wait_for(scene(), 240))


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_logprobs_are_those_of_a_direct_pass_through_the_model(
    float32_model: Path, tokenizer: Any, model: Any, temperature: float
) -> None:
    seen: list[list[int]] = []
    params = SamplingParams(
        temperature=temperature,
        seed=5,
        top_logprobs=20,
        max_tokens=24,
        presence_penalty=0.5,
        logit_bias={65: 1.0},
    )

    def load_it() -> Any:
        loaded = loading(float32_model)()
        remove = loaded.runner.remove

        def noting(leaving: Any) -> None:
            seen.extend([[*s.prompt, -1, *s.generated] for s in leaving])
            remove(leaving)

        loaded.runner.remove = noting  # type: ignore[method-assign]
        return loaded

    async def scene() -> list[Folded]:
        engine = Engine(load_it)
        await engine.start()
        prompts = [Prompt((Message("user", text),)) for text in TEXTS]
        prompts = [replace(p, template_args={"enable_thinking": False}) for p in prompts]
        answers = [await engine.submit(prompt, params) for prompt in prompts]
        found = await asyncio.gather(*map(whole, answers))
        await engine.stop()
        return found

    found = asyncio.run(asyncio.wait_for(scene(), 240))
    by_bytes = {b"".join(e.raw for e in answer.logprobs): answer for answer in found}
    assert len(seen) == len(TEXTS)
    num_checked = 0
    for tokens in seen:
        cut = tokens.index(-1)
        prompt, generated = tokens[:cut], [t for t in tokens[cut + 1 :] if t not in demo.ENDS]
        answer = by_bytes[b"".join(token_bytes(tokenizer, t) for t in generated)]
        logits = model(mx.array([prompt + generated]))[0].astype(mx.float32)
        exact = np.array(logits - mx.logsumexp(logits, axis=-1, keepdims=True), np.float64)
        for index, entry in enumerate(answer.logprobs):
            row = exact[cut - 1 + index]
            assert abs(entry.logprob - row[generated[index]]) < 1e-4
            assert np.allclose([e.logprob for e in entry.top], np.sort(row)[::-1][:20], atol=1e-4)
            best = token_bytes(tokenizer, int(row.argmax()))
            assert entry.top[0].raw == best
            num_checked += 1
    assert num_checked > 20


def test_the_models_own_defaults_are_used_where_a_request_names_none(float32_model: Path) -> None:
    def load_it() -> Any:
        loaded = loading(float32_model)()
        return replace(loaded, card=replace(loaded.card, sampling_defaults={"top_k": 1}))

    async def scene() -> None:
        engine = Engine(load_it)
        await engine.start()

        async def said(**params: Any) -> str:
            prompt = Prompt((Message("user", "Tell me a story."),))
            given = SamplingParams(max_tokens=12, seed=3, top_p=1.0, **params)
            return exactly(await whole(await engine.submit(prompt, given)))[:2]

        greedy = await said(temperature=0.0)
        assert await said(temperature=2.0) == greedy
        assert await said(temperature=2.0, min_p=0.0) == greedy
        assert await said(temperature=2.0, top_k=0) != greedy
        await engine.stop()

    asyncio.run(asyncio.wait_for(scene(), 240))
