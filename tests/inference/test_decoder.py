"""Recorded steps give what the model gives, and are kept within bounds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mlx_lm.models.cache import BatchKVCache, KVCache, make_prompt_cache

from inference import rows as kv
from inference import self_test
from inference.cache_layers import copied
from inference.decoder import CompiledDecoder, Decoder
from inference.loader import LoadOptions, load
from inference.prefix_cache import PrefixCache
from inference.runner import Runner
from parts import SamplingParams
from tests.inference.test_batch import Guest, answers, make_sequence, solo
from tests.inference.test_cuda_attention import MaskedAttention, installed


@pytest.fixture(scope="module")
def loaded(float32_model: Path) -> Any:
    return load(LoadOptions(folder=float32_model, name="demo")).runner


@pytest.fixture(scope="module", autouse=True)
def small_steps() -> Iterator[None]:
    """Caches that have to grow within a few tokens."""
    given = KVCache.step, BatchKVCache.step
    KVCache.step = BatchKVCache.step = 16
    yield
    KVCache.step, BatchKVCache.step = given


class Counted:
    """A model, and how often it was asked to describe what it does."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self.num_calls = 0
        self.layers = model.layers

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.num_calls += 1
        return self._model(*args, **kwargs)


guests_of_a_batch = st.lists(
    st.builds(
        Guest,
        prompt=st.lists(st.integers(5, 400), min_size=1, max_size=30).map(tuple),
        params=st.builds(
            SamplingParams,
            temperature=st.sampled_from([0.0, 0.8]),
            seed=st.integers(0, 99),
            max_tokens=st.integers(2, 24),
        ),
        comes=st.integers(0, 9),
        leaves=st.none() | st.integers(3, 20),
    ),
    min_size=1,
    max_size=4,
)


def assert_as_alone(runner: Runner, guests: list[Guest]) -> None:
    found = answers(runner, runner.tokenizer, guests)
    for guest, tokens in zip(guests, found, strict=True):
        alone = solo(runner.model, runner.tokenizer, guest)
        assert tokens == (alone if guest.leaves is None else alone[: len(tokens)])


def compiled(loaded: Runner, worth: int) -> Runner:
    runner = Runner(
        loaded.model,
        loaded.tokenizer,
        vocab_size=loaded.vocab_size,
        prefix_cache=PrefixCache(2**28),
        is_compiled=True,
    )
    runner._decoder = CompiledDecoder(loaded.model, worth=worth)
    return runner


@settings(deadline=None, max_examples=20)
@given(guests=guests_of_a_batch, worth=st.integers(0, 3))
def test_a_batch_is_answered_as_each_row_alone(
    loaded: Runner, guests: list[Guest], worth: int
) -> None:
    assert_as_alone(compiled(loaded, worth), guests)


@pytest.fixture
def uncompiled() -> Iterator[None]:
    """What would be recorded is done each time."""
    mx.disable_compile()
    yield
    mx.enable_compile()


@settings(
    deadline=None,
    max_examples=20,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(guests=guests_of_a_batch, shared=st.lists(st.integers(5, 400), max_size=20).map(tuple))
def test_what_attention_writes_into_is_nobody_elses(
    loaded: Runner, uncompiled: None, guests: list[Guest], shared: tuple[int, ...]
) -> None:
    guests = [replace(guest, prompt=shared + guest.prompt) for guest in guests]
    for guest in guests:
        solo(loaded.model, loaded.tokenizer, guest)
    runner = compiled(loaded, worth=1)
    attention = MaskedAttention()
    with installed(loaded.model, attention):
        assert_as_alone(runner, guests)
        assert_as_alone(runner, guests)  # with what the first ones left in the prefix cache


def caches(model: Any, num_rows: int) -> kv.Cache:
    """Of rows that differ in length by one token each."""
    cache = kv.empty(make_prompt_cache(model), range(num_rows))
    model(mx.array([[7] * (num_rows + 2)] * num_rows), cache=cache)
    return cache


def test_what_goes_on_is_recorded_once_for_each_size(loaded: Any) -> None:
    model = Counted(loaded.model)
    decoder, cache = CompiledDecoder(model, worth=4), caches(loaded.model, 2)
    for _ in range(16 - kv.end(cache[0])):
        mx.eval(decoder(mx.array([5, 6]), cache))
    assert model.num_calls == 4 + 1
    assert cache[0].keys.shape[2] == 16 == kv.end(cache[0])
    for _ in range(9):
        mx.eval(decoder(mx.array([5, 6]), cache))
    assert cache[0].keys.shape[2] == 32
    assert model.num_calls == 2 * (4 + 1)


def test_only_so_many_recordings_are_kept(loaded: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CompiledDecoder, "MOST", 2)
    model = Counted(loaded.model)
    decoder = CompiledDecoder(model, worth=0)
    calls = []
    for num_rows in (1, 2, 3, 3, 2, 1):
        mx.eval(decoder(mx.array([5] * num_rows), caches(loaded.model, num_rows)))
        calls.append(model.num_calls)
    assert calls == [1, 2, 3, 3, 3, 4]


def test_it_is_tried_at_load_whether_steps_can_be_recorded(loaded: Any) -> None:
    class Unable(Counted):
        def __call__(self, tokens: mx.array, cache: Any) -> Any:
            int(mx.array(cache[0].offset).max())  # which nobody knows while it is recorded
            return super().__call__(tokens, cache)

    assert self_test.can_compile(loaded.model, 2048)
    assert not self_test.can_compile(Unable(loaded.model), 2048)


def test_a_plain_decoder_is_the_model(loaded: Any) -> None:
    here, there = caches(loaded.model, 3), caches(loaded.model, 3)
    tokens = mx.array([5, 6, 7])
    wanted = loaded.model(tokens[:, None], cache=there)[:, -1]
    assert mx.array_equal(Decoder(loaded.model)(tokens, here), wanted)


def joined(cache: kv.Cache) -> kv.Cache:
    batch = kv.merged(cache)
    kv.extend(batch, kv.merged(copied(cache)))
    return batch


@pytest.mark.parametrize("become_a_batch", [joined, lambda cache: kv.repeated(cache, 2)])
def test_a_batch_shares_nothing_with_what_is_kept_of_its_prompts(
    loaded: Runner, become_a_batch: Callable[[kv.Cache], kv.Cache]
) -> None:
    cache = make_prompt_cache(loaded.model)
    # So long that MLX copies a row that is taken out, where it would share a small one.
    loaded.model(mx.array([[7] * 17 * KVCache.step]), cache=cache)
    kept = copied(cache)
    batch = become_a_batch(cache)
    left = [layer.extract(0) for layer in batch]
    arrays = [(layer.keys, layer.values) for layer in (*kept, *left)]
    before = [np.array(array) for pair in arrays for array in pair]
    for layer in batch:
        mx.eval(layer.keys, layer.values)
        np.array(layer.keys, copy=False)[:] = np.array(layer.values, copy=False)[:] = 9
    after = [np.array(array) for pair in arrays for array in pair]
    assert all(map(np.array_equal, before, after))


def test_a_model_whose_steps_cannot_be_recorded_is_asked_in_the_plain_way(loaded: Runner) -> None:
    class Moody(Counted):
        """A model that goes by a number that nobody knows while it is recorded."""

        def __call__(self, tokens: mx.array, cache: Any) -> Any:
            if tokens.shape[0] == 2:
                int(mx.array(cache[0].offset).max())
            return super().__call__(tokens, cache)

    model = Moody(loaded.model)
    decoder = CompiledDecoder(model, worth=1)
    here, there = caches(loaded.model, 2), caches(loaded.model, 2)
    for tokens in (mx.array([5, 6]), mx.array([7, 8]), mx.array([9, 5])):
        wanted = loaded.model(tokens[:, None], cache=there)[:, -1]
        assert mx.array_equal(decoder(tokens, here), wanted)
    assert decoder.has_given_up


def test_a_row_alone_shares_nothing_with_what_another_thread_reads_of_its_prompt(
    loaded: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PrefixCache, "has_folder", True)
    runner = compiled(loaded, worth=0)
    sequence = make_sequence(runner.tokenizer, Guest(tuple(range(5, 45)), SamplingParams()))
    with installed(loaded.model, MaskedAttention()):
        while not runner.prefill([sequence], 4096):
            pass
        runner.join()
        [entry] = runner.prefix_cache._own
        kept = [(layer.keys, layer.values) for layer in entry.cache]
        before = [np.array(array) for pair in kept for array in pair]
        [batch] = runner._batches
        for layer in batch._cache:
            assert layer.keys.shape[2] == layer.values.shape[2] == 3 * KVCache.step
            mx.eval(layer.keys, layer.values)
            np.array(layer.keys, copy=False)[:] = np.array(layer.values, copy=False)[:] = 9
    after = [np.array(array) for pair in kept for array in pair]
    assert all(map(np.array_equal, before, after))
