"""Rows with quantised caches decode together as each does alone, whoever comes and goes."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mlx_lm.models.cache import QuantizedKVCache, RotatingKVCache, make_prompt_cache

from inference.cache_layers import can_trim, copied, trimmed
from inference.prefix_cache import PrefixCache
from inference.quantized_cache import PaddedQuantizedKVCache, group_size_for, quantize
from parts import Unavailable
from tests.demo import VOCAB_SIZE
from tests.inference.test_families import tiny

Cache = list[Any]


@pytest.fixture(scope="module")
def llama() -> Any:
    return tiny("llama", head_dim=64)


@pytest.fixture(scope="module")
def gemma() -> Any:
    return tiny("gemma3_text", head_dim=32)


def tokens_of(length: int, seed: int) -> list[int]:
    return np.random.default_rng(seed).integers(0, VOCAB_SIZE, length).tolist()


def prefilled(model: Any, tokens: list[int], bits: int, group_size: int = 64) -> Cache:
    cache = quantize(make_prompt_cache(model), bits, group_size)
    model(mx.array([tokens]), cache=cache)
    return cache


def merged(caches: list[Cache]) -> Cache:
    return [
        PaddedQuantizedKVCache.merge(layers)
        if isinstance(layers[0], QuantizedKVCache)
        else layers[0].merge(list(layers))
        for layers in zip(*caches, strict=True)
    ]


def step(model: Any, cache: Cache, tokens: list[int]) -> np.ndarray:
    return np.array(model(mx.array(tokens)[:, None], cache=cache)[:, -1])


def alone(model: Any, prompt: list[int], then: list[int], bits: int, size: int = 64) -> np.ndarray:
    """What one row gives for each of the tokens behind its prompt."""
    cache = prefilled(model, prompt, bits, size)
    return np.concatenate([step(model, cache, [token]) for token in then])


def assert_close(found: np.ndarray, wanted: np.ndarray) -> None:
    np.testing.assert_allclose(found, wanted, atol=2e-4)


@pytest.mark.parametrize("bits", [4, 8])
def test_rows_of_any_length_decode_as_alone(llama: Any, bits: int) -> None:
    prompts = [tokens_of(n, n) for n in (255, 3, 40)]
    then = [tokens_of(4, 1000 + n) for n in range(3)]
    cache = merged([prefilled(llama, prompt, bits) for prompt in prompts])
    wanted = [alone(llama, *pair, bits) for pair in zip(prompts, then, strict=True)]
    for at in range(4):
        found = step(llama, cache, [tail[at] for tail in then])
        assert_close(found, np.stack([each[at] for each in wanted]))


@settings(deadline=None, max_examples=4, derandomize=True)
@given(st.data())
def test_rows_come_and_go(llama: Any, data: st.DataObject) -> None:
    rows: list[list[int]] = []
    cache: Cache = []
    prompts: dict[int, list[int]] = {}
    for number in range(4):
        if len(rows) > 1 and data.draw(st.booleans()):
            keep = sorted(data.draw(st.sets(st.integers(0, len(rows) - 1), min_size=1)))
            rows = [rows[i] for i in keep]
            for layer in cache:
                layer.filter(keep)
        new = tokens_of(data.draw(st.sampled_from([1, 2, 30, 255])), number)
        arriving = merged([prefilled(llama, new, 8)])
        if cache:
            for layer, its in zip(cache, arriving, strict=True):
                layer.extend(its)
        cache, rows = cache or arriving, [*rows, new]
        prompts[id(new)] = list(new)
        nexts = tokens_of(len(rows), 100 + number)
        found = step(llama, cache, nexts)
        for row, token in zip(rows, nexts, strict=True):
            row.append(token)
    for index, row in enumerate(rows):
        then = row[len(prompts[id(row)]) :]
        assert_close(found[index], alone(llama, prompts[id(row)], then, 8)[-1])
        mine = [layer.extract(index) for layer in cache]
        assert_close(step(llama, mine, [7])[0], alone(llama, prompts[id(row)], [*then, 7], 8)[-1])


def test_rows_beside_a_sliding_window(gemma: Any) -> None:
    size = group_size_for(gemma, 8)
    assert size == 32
    prompts, then = [tokens_of(40, 1), tokens_of(9, 2)], [[5, 6], [7, 8]]
    caches = [prefilled(gemma, prompt, 8, size) for prompt in prompts]
    assert {type(layer) for layer in caches[0]} == {QuantizedKVCache, RotatingKVCache}
    cache = merged(caches)
    step(gemma, cache, [5, 7])
    found = step(gemma, cache, [6, 8])
    for index in range(2):
        assert_close(found[index], alone(gemma, prompts[index], then[index], 8, size)[-1])


def test_prompts_are_computed_together(llama: Any) -> None:
    prompts = [tokens_of(20, 1), tokens_of(13, 2)]
    cache = [PaddedQuantizedKVCache([0, 7], 64, 8) for _ in make_prompt_cache(llama)]
    found = np.array(llama(mx.array([prompts[0], [0] * 7 + prompts[1]]), cache=cache)[:, -1])
    for index, prompt in enumerate(prompts):
        own = quantize(make_prompt_cache(llama), 8, 64)
        assert_close(found[index], np.array(llama(mx.array([prompt]), cache=own))[0, -1])


def test_few_bits_take_little_memory_and_change_little(llama: Any) -> None:
    prompt = tokens_of(256, 1)
    plain = make_prompt_cache(llama)
    exact = np.array(llama(mx.array([prompt]), cache=plain))[0, -1]
    sizes, errors = [], []
    for bits in (4, 8):
        cache = quantize(make_prompt_cache(llama), bits, 64)
        errors.append(abs(np.array(llama(mx.array([prompt]), cache=cache))[0, -1] - exact).max())
        sizes.append(merged([cache])[0].nbytes / plain[0].nbytes)
        assert merged([cache])[0].nbytes == cache[0].nbytes
    assert sizes[0] < 0.16 < sizes[1] < 0.29
    assert errors[1] < errors[0] < abs(exact).max()


def test_the_prefix_cache_cuts_and_copies_them(llama: Any) -> None:
    prompt = tokens_of(300, 1)
    kept = prefilled(llama, prompt, 8)
    assert can_trim(kept)
    cache = PrefixCache(10**9)
    cache.insert(prompt, kept)
    mine, length = cache.match([*prompt[:20], 5])
    assert mine is not None
    assert length == 20
    assert_close(step(llama, mine, [5])[0], alone(llama, prompt[:20], [5], 8)[-1])
    assert mine[0].nbytes <= kept[0].nbytes
    assert_close(step(llama, copied(kept), [5])[0], alone(llama, prompt, [5], 8)[-1])
    step(llama, trimmed(kept, 1), [9])
    assert_close(step(llama, kept, [5])[0], alone(llama, prompt, [5], 8)[-1])


@pytest.mark.parametrize("family", ["gpt_oss", "mamba2", "llama"])
def test_a_model_that_cannot_is_refused(family: str) -> None:
    model = tiny(family, **({"head_dim": 32} if family == "gpt_oss" else {}))
    with pytest.raises(Unavailable, match="--kv-bits"):
        group_size_for(model, 8)
