"""A prefix is found by its tokens and is the caller's own; the least recently used is forgotten."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mlx.utils import tree_flatten
from mlx_lm.models.cache import (
    ArraysCache,
    CacheList,
    ChunkedKVCache,
    KVCache,
    QuantizedKVCache,
    RotatingKVCache,
    make_prompt_cache,
)

from inference import prefix_cache
from inference.cache_layers import compact, copied, trimmed
from inference.prefix_cache import PrefixCache
from tests.inference.test_families import tiny

LONG = list(range(100, 140))


def write(layer: Any, tokens: Sequence[int]) -> None:
    """Put each token's number into the layer, as its key and its value."""
    if isinstance(layer, ArraysCache):
        layer[0] = mx.array([[float(sum(tokens))]])
        return
    if tokens:
        numbers = mx.array(tokens, dtype=mx.float32)[None, None, :, None]
        layer.update_and_fetch(numbers, numbers)


def filled(tokens: Sequence[int], *, is_hybrid: bool = False) -> list[Any]:
    layers = [KVCache(), ArraysCache(1)] if is_hybrid else [KVCache()]
    for layer in layers:
        write(layer, tokens)
    return layers


def held_by(cache: list[Any]) -> list[int]:
    layer = cache[0]
    return [int(n) for n in layer.keys[0, 0, : layer.offset, 0].tolist()]


def test_a_prompt_that_goes_on_is_computed_from_where_the_last_one_ended() -> None:
    cache = PrefixCache(10**9)
    cache.insert(LONG, filled(LONG))
    found, length = cache.match([*LONG, 1, 2])
    assert found is not None
    assert (length, held_by(found)) == (40, LONG)


def test_a_prompt_that_branches_off_shares_what_came_before() -> None:
    cache = PrefixCache(10**9)
    cache.insert(LONG, filled(LONG))
    found, length = cache.match([*LONG[:25], 1, 2])
    assert found is not None
    assert (length, held_by(found)) == (25, LONG[:25])


def test_the_last_token_is_always_left_to_compute() -> None:
    cache = PrefixCache(10**9)
    cache.insert(LONG, filled(LONG))
    assert cache.match(LONG)[1] == 39


def test_a_cache_that_cannot_be_trimmed_is_used_whole_or_not_at_all() -> None:
    cache = PrefixCache(10**9)
    cache.insert(LONG, filled(LONG, is_hybrid=True))
    assert cache.match([*LONG, 1])[1] == 40
    assert cache.match(LONG) == (None, 0)
    assert cache.match([*LONG[:30], 1]) == (None, 0)


def test_of_caches_that_cannot_be_trimmed_every_length_is_kept() -> None:
    cache = PrefixCache(10**9)
    for length in (20, 30, 40):
        cache.insert(LONG[:length], filled(LONG[:length], is_hybrid=True))
    assert [cache.match([*LONG[:n], 1])[1] for n in (20, 25, 30, 40)] == [20, 20, 30, 40]


def test_a_rotating_cache_that_has_turned_over_is_used_whole_or_not_at_all() -> None:
    cache = PrefixCache(10**9)
    layer = RotatingKVCache(16)
    write(layer, LONG)
    cache.insert(LONG, [layer])
    assert cache.match([*LONG, 1])[1] == 40
    assert cache.match([*LONG[:30], 1]) == (None, 0)


def test_a_chunked_cache_that_has_lost_its_front_is_used_whole_or_not_at_all() -> None:
    cache = PrefixCache(10**9)
    layer = ChunkedKVCache(8)
    for token in LONG:
        layer.maybe_trim_front()
        write(layer, [token])
    cache.insert(LONG, [layer])
    assert cache.match([*LONG, 1])[1] == 40
    assert cache.match([*LONG[:20], 1]) == (None, 0)


def test_what_is_given_is_the_callers_own() -> None:
    cache = PrefixCache(10**9)
    cache.insert(LONG, filled(LONG))
    mine, _ = cache.match([*LONG, 1])
    assert mine is not None
    write(mine[0], [7, 8, 9])
    again, _ = cache.match([*LONG, 1])
    assert again is not None
    assert held_by(again) == LONG


def test_short_prompts_are_not_kept() -> None:
    cache = PrefixCache(10**9)
    cache.insert(LONG[:15], filled(LONG[:15]))
    assert len(cache) == 0


def test_a_longer_entry_stands_for_its_prefixes() -> None:
    cache = PrefixCache(10**9)
    cache.insert(LONG[:20], filled(LONG[:20]))
    cache.insert(LONG, filled(LONG))
    cache.insert(LONG[:30], filled(LONG[:30]))
    assert len(cache) == 1
    assert cache.match([*LONG, 1])[1] == 40


def test_what_can_be_trimmed_is_not_replaced_by_what_cannot() -> None:
    cache = PrefixCache(10**9)
    cache.insert(LONG, filled(LONG))
    cache.insert(LONG[:30], filled(LONG[:30], is_hybrid=True))
    cache.insert(LONG, filled(LONG, is_hybrid=True))
    assert len(cache) == 1
    assert cache.match([*LONG[:20], 1])[1] == 20


def test_the_least_recently_used_is_forgotten_first() -> None:
    size = filled(LONG)[0].nbytes
    cache = PrefixCache(2 * size)
    first, second, third = ([n, *LONG] for n in (1, 2, 3))
    cache.insert(first, filled(first))
    cache.insert(second, filled(second))
    assert cache.match([*first, 5])[1] == 41
    cache.insert(third, filled(third))
    assert cache.num_bytes == 2 * size
    assert [cache.match([*p, 5])[1] for p in (first, second, third)] == [41, 0, 41]


def test_what_is_larger_than_the_whole_cache_pushes_nothing_out() -> None:
    small, large = [1, *LONG], [2, *LONG] * 10
    cache = PrefixCache(filled(small)[0].nbytes)
    cache.insert(small, filled(small))
    cache.insert(large, filled(large))
    assert cache.match([*small, 5])[1] == 41


@pytest.mark.parametrize("tokens", [[], [1], LONG])
def test_an_empty_cache_knows_nothing(tokens: list[int]) -> None:
    assert PrefixCache(10**9).match(tokens) == (None, 0)


@settings(deadline=None, max_examples=60)
@given(
    st.lists(
        st.tuples(
            st.booleans(), st.lists(st.integers(0, 1), min_size=0, max_size=10), st.integers(0, 20)
        ),
        max_size=14,
    ),
    st.booleans(),
    st.integers(1, 5),
)
def test_a_match_holds_exactly_a_prefix_of_what_was_asked_for(
    steps: list[tuple[bool, list[int], int]], is_hybrid: bool, num_entries: int
) -> None:
    size = sum(layer.nbytes for layer in filled(LONG, is_hybrid=is_hybrid))
    cache = PrefixCache(num_entries * size)
    for is_insert, branch, length in steps:
        tokens = [*LONG[: 10 + length], *branch]
        if is_insert:
            cache.insert(tokens, filled(tokens, is_hybrid=is_hybrid))
        else:
            found, num_cached = cache.match(tokens)
            assert num_cached < max(len(tokens), 1)
            assert (found is None) == (num_cached == 0)
            if found is not None:
                assert held_by(found) == tokens[:num_cached]
                assert not is_hybrid or found[1][0].item() == sum(tokens[:num_cached])
        assert 0 <= cache.num_bytes <= cache.max_bytes
        assert len(cache) <= num_entries


# What goes, and what stays


def system(*branches: int) -> list[list[int]]:
    """Prompts that share 40 tokens and go on with 20 of their own."""
    return [[*LONG, *[n] * 20] for n in branches]


def test_what_several_prompts_share_outlives_each_of_them() -> None:
    cache = PrefixCache(10**9)
    first, second = system(1, 2)
    cache.insert(first, filled(first))
    cache.insert(second, filled(second))
    assert cache.shrink(filled(first)[0].nbytes) > 0
    assert cache.match([*first, 5])[1] == 40
    assert cache.match([*second, 5])[1] == 60
    cache.shrink(1)
    found, length = cache.match([*second, 5])
    assert found is not None
    assert (length, held_by(found), len(cache)) == (40, LONG, 1)
    assert cache.num_bytes == 2 * 40 * 4


def test_what_is_shared_goes_last() -> None:
    first, second, third, other, last = *system(1, 2, 3), [7, *LONG], [8, *LONG]
    size = sum(layer.nbytes for layer in filled(LONG, is_hybrid=True))
    cache = PrefixCache(4 * size)
    cache.insert(LONG, filled(LONG, is_hybrid=True))
    for prompt in (first, second, third, other, last):
        cache.insert(prompt, filled(prompt, is_hybrid=True))
    assert [cache.match([*p, 5])[1] for p in (first, second, third)] == [40, 40, 60]
    assert [cache.match([*p, 5])[1] for p in (other, last)] == [41, 41]


def test_what_is_shared_takes_half_of_the_room_at_most() -> None:
    size = sum(layer.nbytes for layer in filled(LONG, is_hybrid=True))
    cache = PrefixCache(4 * size)
    for n in range(8):
        shared = [n, *LONG]
        for prompt in (shared, [*shared, 1], [*shared, 2]):
            cache.insert(prompt, filled(prompt, is_hybrid=True))
    newest = [9, *LONG]
    cache.insert(newest, filled(newest, is_hybrid=True))
    found = [cache.match([n, *LONG, 5])[1] for n in range(8)]
    assert 1 <= sum(length > 0 for length in found) <= 3
    assert cache.match([*newest, 1])[1] == 41


def test_what_was_just_inserted_stays_however_much_is_shared() -> None:
    size = filled(LONG)[0].nbytes
    cache = PrefixCache(2 * size)
    for prompt in system(1, 2, 3):
        cache.insert(prompt, filled(prompt))
    cache.insert(prompt := [9, *LONG], filled([9, *LONG]))
    assert cache.match([*prompt, 1])[1] == 41


def test_shrinking_frees_what_it_says() -> None:
    cache = PrefixCache(10**9)
    for n in range(6):
        cache.insert([n, *LONG], filled([n, *LONG]))
    size, before = filled(LONG)[0].nbytes, cache.num_bytes
    assert cache.shrink(0) == 0
    assert cache.shrink(size + 1) == 2 * size == before - cache.num_bytes
    assert [cache.peek([n, *LONG, 1]) for n in range(3)] == [0, 0, 41]
    assert cache.shrink(10**9) == 4 * size
    assert (len(cache), cache.num_bytes) == (0, 0)


def test_a_shared_prefix_that_finds_no_memory_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any) -> None:
        raise RuntimeError("[malloc] Unable to allocate")

    monkeypatch.setattr(prefix_cache, "compact", fails)
    cache = PrefixCache(10**9)
    for prompt in system(1, 2):
        cache.insert(prompt, filled(prompt))
    cache.shrink(10**9)
    assert (len(cache), cache.num_bytes) == (0, 0)


def test_a_cache_without_room_is_off() -> None:
    cache = PrefixCache(0)
    cache.insert(LONG, filled(LONG))
    assert cache.match([*LONG, 1]) == (None, 0)
    assert cache.peek([*LONG, 1]) == cache.num_bytes == 0


# What it says


@pytest.mark.parametrize("is_hybrid", [False, True])
def test_a_peek_says_what_a_match_would_give_and_refreshes_nothing(is_hybrid: bool) -> None:
    size = sum(layer.nbytes for layer in filled(LONG, is_hybrid=is_hybrid))
    cache = PrefixCache(2 * size)
    first, second, third = ([n, *LONG] for n in (1, 2, 3))
    cache.insert(first, filled(first, is_hybrid=is_hybrid))
    cache.insert(second, filled(second, is_hybrid=is_hybrid))
    for prompt in ([*first, 9], first, first[:10], []):
        assert cache.peek(prompt) == cache.match(prompt)[1]
    cache.match([*second, 9])
    assert cache.peek([*first, 9]) == 41
    cache.insert(third, filled(third, is_hybrid=is_hybrid))
    assert [cache.peek([*p, 9]) for p in (first, second, third)] == [0, 41, 41]
    assert cache.peek([*third[:20], 9]) == cache.match([*third[:20], 9])[1]


def test_it_says_why_a_prefix_missed() -> None:
    cache = PrefixCache(10**9)
    assert cache.why_missed(LONG) == (
        "prefix of 0 of 40 tokens found; no earlier prompt begins like it"
    )
    cache.insert(LONG, filled(LONG))
    assert cache.why_missed([*LONG[:25], 1, 2]) == (
        "prefix of 25 of 27 tokens found; the nearest entry ends or differs at token 25"
    )
    assert cache.why_missed(LONG).endswith("; the last is always computed")
    cache.shrink(10**9)
    assert cache.why_missed([*LONG[:25], 1, 2]) == (
        "prefix of 0 of 27 tokens found; 25 were known, and went to make room"
    )
    cache.insert([1, *LONG], filled([1, *LONG], is_hybrid=True))
    assert cache.why_missed([1, *LONG[:25], 2]) == (
        "prefix of 0 of 27 tokens found; 26 are known, but no cache was kept that ends there"
    )


def test_the_log_says_why_but_never_what(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    cache = PrefixCache(10**9)
    cache.insert(LONG, filled(LONG))
    cache.match([*LONG, 7, 8])
    assert not caplog.records
    cache.match([*LONG[:30], *range(5_000, 7_000)])
    (line,) = caplog.messages
    assert line == (
        "prefix of 30 of 2,030 tokens found; the nearest entry ends or differs at token 30"
    )


# Checkpoints


def test_where_a_prompt_leaves_an_earlier_one_is_a_checkpoint() -> None:
    cache = PrefixCache(10**9)
    first, second, third = system(1, 2, 3)
    assert cache.checkpoints(first) == []
    cache.match(first)
    cache.insert(first, filled(first, is_hybrid=True))
    assert cache.checkpoints(second) == [40]
    cache.match(second)
    assert cache.checkpoints(second) == [40]
    cache.insert(LONG, filled(LONG, is_hybrid=True))
    assert cache.checkpoints(second) == cache.checkpoints(third) == []
    assert cache.match(third)[1] == 40
    assert cache.checkpoints([*LONG[:15], 1, 2, 3]) == []


def test_a_prompt_that_was_only_asked_for_is_known_too() -> None:
    cache = PrefixCache(10**9)
    other, (first, second) = [9, *LONG], system(1, 2)
    cache.insert(other, filled(other, is_hybrid=True))
    cache.match(first)
    assert cache.checkpoints(second) == [40]


def test_what_went_to_make_room_is_a_checkpoint_again() -> None:
    cache = PrefixCache(10**9)
    cache.insert(LONG, filled(LONG, is_hybrid=True))
    cache.shrink(10**9)
    assert cache.checkpoints([*LONG, 1, 2]) == [40]


def test_caches_that_can_be_trimmed_need_no_checkpoints() -> None:
    cache = PrefixCache(10**9)
    first, second = system(1, 2)
    cache.match(first)
    cache.insert(first, filled(first))
    cache.shrink(10**9)
    assert cache.checkpoints(second) == []


def test_only_so_many_prompts_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefix_cache, "_MAX_KNOWN_TOKENS", 100)
    cache = PrefixCache(10**9)
    cache.insert([99, *LONG], filled([99, *LONG], is_hybrid=True))
    for n in range(10):
        cache.match([n, *LONG])
    known = [n for n in range(10) if cache.checkpoints([n, *LONG, 1, 2])]
    assert known == [9]
    assert cache.peek([99, *LONG, 1]) == 41


# Copies


def layers_of_every_kind() -> list[Any]:
    return [
        KVCache(),
        RotatingKVCache(24),
        RotatingKVCache(100),
        QuantizedKVCache(group_size=32, bits=8),
        ArraysCache(2),
        CacheList(KVCache(), ArraysCache(1)),
        ChunkedKVCache(512),
    ]


def compute(layer: Any, length: int, seed: int) -> None:
    """What a model does to a layer when it computes so many tokens."""
    if isinstance(layer, CacheList):
        for inner in layer.caches:
            compute(inner, length, seed)
    elif isinstance(layer, ArraysCache):
        for index in range(len(layer.cache)):
            old = layer[index]
            new = mx.full((1, 3), seed + length + index)
            layer[index] = new if old is None else old + new
    else:
        keys, values = mx.random.normal((2, 1, 2, length, 32), key=mx.random.key(seed))
        layer.update_and_fetch(keys, values)


def snapshot(cache: list[Any]) -> list[Any]:
    leaves = [leaf for _, leaf in tree_flatten([layer.state for layer in cache])]
    return [np.array(leaf) if isinstance(leaf, mx.array) else leaf for leaf in leaves]


def assert_same(a: list[Any], b: list[Any]) -> None:
    assert len(a) == len(b)
    assert all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


@settings(deadline=None, max_examples=12)
@given(st.integers(17, 300), st.lists(st.sampled_from([1, 1, 2, 30, 256]), min_size=1, max_size=4))
def test_nothing_that_is_done_to_a_copy_reaches_the_entry(length: int, chunks: list[int]) -> None:
    cache = layers_of_every_kind()
    for layer in cache:
        compute(layer, length, 0)
    mx.eval([layer.state for layer in cache])
    before = snapshot(cache)
    for layer, mine in zip(cache, copied(cache), strict=True):
        copies = [mine]
        if layer.is_trimmable():
            copies += trimmed([layer], 5) + trimmed([layer], length - 16)
            [small] = compact([layer], length - 16)
            copies.append(small)
            assert small.nbytes <= layer.nbytes
        for each in copies:
            for seed, chunk in enumerate(chunks, 1):
                compute(each, chunk, seed)
            mx.eval(each.state)
            if hasattr(each, "merge") and not isinstance(each, CacheList):
                joined = each.merge([each, layer])
                mx.eval(joined.state)
    assert_same(snapshot(cache), before)


def test_a_small_prefix_of_a_long_entry_does_not_copy_all_of_it() -> None:
    [layer] = filled(list(range(4_000)))
    [mine] = trimmed([layer], 3_900)
    write(mine, [1, 2])
    assert mine.nbytes < layer.nbytes / 8
    assert held_by([mine]) == [*range(100), 1, 2]


@pytest.mark.parametrize("family", ["llama", "gemma3_text", "qwen3_next"])
def test_two_who_share_a_prefix_decode_as_if_alone(family: str) -> None:
    model = tiny(family)
    prefix, tails = [*range(1, 61)], [[7, 8, 9], [10, 11]]

    def decoded(cache: list[Any], tokens: list[int]) -> mx.array:
        for token in tokens:
            logits = model(mx.array([[token]]), cache=cache)
        return logits

    kept = make_prompt_cache(model)
    model(mx.array([prefix]), cache=kept)
    mx.eval([layer.state for layer in kept])
    cache = PrefixCache(10**9)
    cache.insert(prefix, kept)
    first = [cache.match([*prefix, *tail])[0] for tail in tails]
    found = [decoded(mine or [], tail) for mine, tail in zip(first, tails, strict=True)]
    for tail, logits in zip(tails, found, strict=True):
        alone = make_prompt_cache(model)
        model(mx.array([prefix]), cache=alone)
        assert mx.allclose(logits, decoded(alone, tail), atol=1e-5)


@pytest.mark.parametrize("family", ["qwen3_next", "gemma3_text"])
def test_a_learned_checkpoint_serves_the_third_who_comes(family: str) -> None:
    model, cache = tiny(family), PrefixCache(10**9)
    found = []
    for prompt in system(1, 2, 3):
        mine, done = cache.match(prompt)
        mine = mine or make_prompt_cache(model)
        found.append(done)
        for end in [*cache.checkpoints(prompt), len(prompt) - 1]:
            model(mx.array([prompt[done:end]]), cache=mine)
            cache.insert(prompt[:end], copied(mine))
            done = end
        logits = model(mx.array([prompt[-1:]]), cache=mine)
        whole = model(mx.array([prompt]), cache=make_prompt_cache(model))[:, -1:]
        assert mx.allclose(logits, whole, atol=1e-5)
    assert found == [0, 0, 40]


@settings(deadline=None, max_examples=60)
@given(
    st.lists(
        st.tuples(st.booleans(), st.lists(st.integers(0, 1), max_size=6), st.integers(0, 24)),
        max_size=12,
    )
)
def test_with_room_for_all_it_finds_what_a_search_would(
    steps: list[tuple[bool, list[int], int]],
) -> None:
    cache, kept = PrefixCache(10**9), list[tuple[list[int], bool]]()
    for is_hybrid, branch, length in steps:
        tokens = [*LONG[: 16 + length], *branch]
        served = [0]
        for other, can_only_be_whole in kept:
            pairs = zip(other, tokens[:-1], strict=False)
            shared = next((i for i, (a, b) in enumerate(pairs) if a != b), None)
            shared = min(len(other), len(tokens) - 1) if shared is None else shared
            if shared >= 16 and (shared == len(other) or not can_only_be_whole):
                served.append(shared)
        assert cache.peek(tokens) == max(served)
        found, num_cached = cache.match(tokens)
        assert num_cached == max(served)
        assert found is None or held_by(found) == tokens[:num_cached]
        cache.insert(tokens, filled(tokens, is_hybrid=is_hybrid))
        kept.append((tokens, is_hybrid))
        entries = [*cache._own, *cache._shared]
        assert cache.num_bytes == sum(entry.num_bytes for entry in entries)
        assert all(entry.node.value is entry for entry in entries)
