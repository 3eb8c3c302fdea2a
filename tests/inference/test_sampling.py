"""Each row of a batch is sampled by its own rules, as it would be alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inference.sampling import MAX_TOP_LOGPROBS, Row, Sampled, Sampler
from parts import SamplingParams

VOCAB = 40


def make_logits(seed: int, rows: int = 1, vocab: int = VOCAB) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 3, (rows, vocab)).astype(np.float32)


def row(
    seed: int = 0, prompt: Sequence[int] = (), generated: Sequence[int] = (), **params: Any
) -> Row:
    defaults: dict[str, Any] = {"temperature": 1.0, "top_p": 1.0}
    return Row(SamplingParams(**defaults | params), seed, list(prompt), list(generated))


def sample(rows: Sequence[Row], logits: np.ndarray, vocab: int = VOCAB) -> Sampled:
    return Sampler(rows, vocab).sample(mx.array(logits))


def draws(logits: np.ndarray, number: int, **params: Any) -> np.ndarray:
    """One draw for each of `number` seeds."""
    rows = [row(seed, **params) for seed in range(number)]
    sampled = sample(rows, np.repeat(logits, number, axis=0), logits.shape[1])
    return np.array(sampled.tokens)


ROWS = st.builds(
    row,
    seed=st.integers(0, 2**64 - 1),
    prompt=st.lists(st.integers(0, VOCAB - 1), max_size=6),
    generated=st.lists(st.integers(0, VOCAB - 1), max_size=6),
    temperature=st.sampled_from([0.0, 0.3, 1.0, 2.0]),
    top_p=st.sampled_from([0.05, 0.5, 0.95, 1.0]),
    top_k=st.sampled_from([0, 1, 5, VOCAB, 1000]),
    min_p=st.sampled_from([0.0, 0.1, 1.0]),
    repetition_penalty=st.sampled_from([0.8, 1.0, 1.3]),
    presence_penalty=st.sampled_from([-2.0, 0.0, 0.5]),
    frequency_penalty=st.sampled_from([0.0, 0.7]),
    logit_bias=st.dictionaries(st.integers(0, VOCAB - 1), st.floats(-100, 100), max_size=3),
    top_logprobs=st.sampled_from([None, 0, 5]),
)


@settings(deadline=None, max_examples=60)
@given(st.lists(ROWS, min_size=1, max_size=5), st.integers(0, 1000))
def test_a_row_in_a_batch_draws_what_it_draws_alone(rows: list[Row], seed: int) -> None:
    logits = make_logits(seed, len(rows))
    batch = Sampler(rows, VOCAB)
    alone = [Sampler([one], VOCAB) for one in rows]
    for _ in range(3):
        together = batch.sample(mx.array(logits))
        for i, sampler in enumerate(alone):
            mine = sampler.sample(mx.array(logits[i : i + 1]))
            assert mine.tokens.tolist() == [together.tokens.tolist()[i]]
            if mine.logprobs is not None:
                assert together.logprobs is not None
                assert mine.logprobs.tolist() == [together.logprobs.tolist()[i]]
            sampler.advance(mine.tokens)
        batch.advance(together.tokens)


@settings(deadline=None, max_examples=40)
@given(ROWS, st.integers(0, 1000))
def test_a_sampler_made_anew_goes_on_where_the_old_one_was(one: Row, seed: int) -> None:
    logits = mx.array(make_logits(seed))
    sampler = Sampler([one], VOCAB)
    generated = list(one.generated)
    for _ in range(4):
        anew = Sampler([Row(one.params, one.seed, one.prompt, generated)], VOCAB).sample(logits)
        tokens = sampler.sample(logits).tokens
        assert tokens.tolist() == anew.tokens.tolist()
        sampler.advance(tokens)
        generated = [*generated, *tokens.tolist()]


def test_temperature_0_takes_the_likeliest() -> None:
    logits = make_logits(1, rows=8)
    tokens = sample([row(temperature=0.0)] * 8, logits).tokens
    assert tokens.tolist() == logits.argmax(axis=1).tolist()


@pytest.mark.parametrize("temperature", [1e-5, 1e-9, 1e-40, 1e-300])
def test_a_temperature_near_0_takes_the_likeliest(temperature: float) -> None:
    logits = make_logits(2)
    logits[0, 3] = 0.0
    tokens = sample([row(temperature=temperature)], logits).tokens
    assert tokens.tolist() == logits.argmax(axis=1).tolist()


def test_seeds_and_positions_give_different_draws_that_can_be_had_again() -> None:
    flat = np.zeros((1, 1000), np.float32)
    by_seed = draws(flat, 200)
    assert by_seed.tolist() == draws(flat, 200).tolist()
    assert len(set(by_seed.tolist())) > 150
    by_position = [sample([row(7, generated=[0] * n)], flat, 1000).tokens.item() for n in range(50)]
    assert len(set(by_position)) > 40


def test_neighbouring_seeds_do_not_share_their_draws_at_shifted_positions() -> None:
    flat = np.zeros((1, 1000), np.float32)
    shifted = [
        sample([row(seed, generated=[0] * (20 - seed))], flat, 1000).tokens.item()
        for seed in range(20)
    ]
    assert len(set(shifted)) > 15


# What the filters leave


def kept_by(
    logits: np.ndarray, *, top_k: int = 0, top_p: float = 1.0, min_p: float = 0.0
) -> set[int]:
    """The plain rule, one token at a time."""
    order = np.argsort(-logits, kind="stable")
    probs = np.exp(logits - logits.max(), dtype=np.float64)
    order = np.array([t for t in order if probs[t] >= min_p])
    order = order[: top_k or None]
    probs /= probs[order].sum()
    kept, total = set(), 0.0
    for token in order:
        if kept and total >= top_p:
            break
        kept.add(int(token))
        total += float(probs[token])
    return kept


@settings(deadline=None, max_examples=25)
@given(
    st.integers(0, 10_000),
    st.sampled_from([0, 1, 3, 12, 99]),
    st.sampled_from([0.01, 0.3, 0.6, 0.9, 1.0]),
    st.sampled_from([0.0, 0.05, 0.4, 1.0]),
)
def test_only_what_the_filters_leave_is_drawn_and_all_of_it(
    seed: int, top_k: int, top_p: float, min_p: float
) -> None:
    logits = np.random.default_rng(seed).normal(0, 1, (1, 12)).astype(np.float32)
    drawn = draws(logits, 3000, top_k=top_k, top_p=top_p, min_p=min_p)
    kept = kept_by(logits[0], top_k=top_k, top_p=top_p, min_p=min_p)
    assert set(drawn.tolist()) <= kept
    probs = np.exp(logits[0], dtype=np.float64)
    share = {t: probs[t] / sum(probs[k] for k in kept) for t in kept}
    assert {t for t in kept if share[t] > 0.01} <= set(drawn.tolist())


def tied_logits() -> np.ndarray:
    return np.array([[1, 3, 3, 0, 3, 3, 2, 2, -1, 3]], np.float32)


@pytest.mark.parametrize(
    ("filters", "kept"),
    [
        ({"top_k": 1}, {1}),
        ({"top_k": 3}, {1, 2, 4}),
        ({"top_k": 6}, {1, 2, 4, 5, 9, 6}),
        ({"top_p": 0.01}, {1}),
        ({"top_p": 0.4}, {1, 2, 4}),
        ({"top_k": 4, "top_p": 0.6}, {1, 2, 4}),
        ({"top_k": 99}, set(range(10))),
    ],
)
def test_of_equally_likely_tokens_no_more_are_kept_than_asked_for(
    filters: dict[str, Any], kept: set[int]
) -> None:
    drawn = set(draws(tied_logits(), 2000, temperature=2.0, **filters).tolist())
    assert drawn <= kept
    assert len(kept) > 6 or drawn == kept


def test_a_filter_for_all_keeps_what_the_mask_allows() -> None:
    mask = mx.array([[0b1001000]], dtype=mx.uint32)
    rows = [row(seed, top_k=5, top_p=0.99) for seed in range(200)]
    logits = mx.repeat(mx.array(tied_logits()), 200, axis=0)
    tokens = Sampler(rows, 10).sample(logits, mx.repeat(mask, 200, axis=0)).tokens
    assert set(tokens.tolist()) <= {3, 6}


def test_what_is_left_to_the_model_filters_nothing_here() -> None:
    logits = make_logits(4)
    named = draws(logits, 300, top_k=0, min_p=0.0)
    assert draws(logits, 300, top_k=None, min_p=None).tolist() == named.tolist()


@pytest.mark.parametrize("temperature", [0.5, 1.0, 1.7])
def test_the_draws_follow_the_distribution(temperature: float) -> None:
    logits = np.array([[2.0, 1.0, 0.5, 0.0, -1.0, -2.0]], np.float32)
    number = 20_000
    counts = np.bincount(draws(logits, number, temperature=temperature), minlength=6)
    probs = np.exp(logits[0] / temperature)
    expected = number * probs / probs.sum()
    # Chi-square, 5 degrees of freedom: 20.5 is passed once in a thousand times.
    assert float(((counts - expected) ** 2 / expected).sum()) < 20.5


def test_the_draws_of_one_seed_over_its_positions_follow_the_distribution() -> None:
    logits = np.array([[1.0, 0.0, -1.0]], np.float32)
    sampler = Sampler([row(123)], 3)
    counts = np.zeros(3)
    for _ in range(3000):
        tokens = sampler.sample(mx.array(logits)).tokens
        counts[tokens.item()] += 1
        sampler.advance(tokens)
    probs = np.exp(logits[0])
    expected = 3000 * probs / probs.sum()
    # Chi-square, 2 degrees of freedom: 13.8 is passed once in a thousand times.
    assert float(((counts - expected) ** 2 / expected).sum()) < 13.8


# Penalties and biases


@settings(deadline=None, max_examples=80)
@given(
    st.integers(0, 1000),
    st.lists(st.integers(0, VOCAB - 1), max_size=8),
    st.lists(st.integers(0, VOCAB - 1), max_size=8),
    st.sampled_from([0.5, 1.0, 1.8]),
    st.sampled_from([-1.5, 0.0, 2.0]),
    st.sampled_from([-1.0, 0.0, 1.5]),
    st.dictionaries(st.integers(0, VOCAB - 1), st.floats(-5, 5, width=32), max_size=4),
)
def test_penalties_and_biases_move_the_likeliest(
    seed: int,
    prompt: list[int],
    generated: list[int],
    repetition: float,
    presence: float,
    frequency: float,
    bias: dict[int, float],
) -> None:
    logits = np.random.default_rng(seed).normal(0, 1, VOCAB).astype(np.float32)
    expected = logits.astype(np.float64)
    for token, value in bias.items():
        expected[token] += value
    for token in {*prompt, *generated}:
        expected[token] *= 1 / repetition if expected[token] > 0 else repetition
    for token in generated:
        expected[token] -= frequency
    for token in set(generated):
        expected[token] -= presence
    one = row(
        prompt=prompt,
        generated=generated,
        temperature=0.0,
        repetition_penalty=repetition,
        presence_penalty=presence,
        frequency_penalty=frequency,
        logit_bias=bias,
    )
    token = sample([one], logits[None]).tokens.item()
    assert expected[token] >= expected.max() - 1e-5


def test_the_tokens_of_the_prompt_count_only_for_the_repetition_penalty() -> None:
    logits = np.array([[2.0, 1.9, 0.0]], np.float32)
    by_presence = row(prompt=[0], temperature=0.0, presence_penalty=2.0, frequency_penalty=2.0)
    by_repetition = row(prompt=[0], temperature=0.0, repetition_penalty=2.0)
    assert sample([by_presence, by_repetition], logits.repeat(2, 0), 3).tokens.tolist() == [0, 1]


def test_a_token_of_the_prompt_beyond_the_vocabulary_is_not_counted() -> None:
    one = row(prompt=[VOCAB, 10**6], temperature=0.0, repetition_penalty=2.0)
    logits = make_logits(5)
    assert sample([one], logits).tokens.item() == logits.argmax()


def test_a_bias_of_100_forces_a_token_and_of_minus_100_bans_it() -> None:
    logits = make_logits(3)
    likeliest = int(logits.argmax())
    forced, banned = row(logit_bias={7: 100.0}), row(logit_bias={likeliest: -100.0})
    assert set(draws(logits, 200, logit_bias={7: 100.0}).tolist()) == {7}
    assert sample([forced], logits).tokens.item() == 7
    assert sample([banned], logits).tokens.item() != likeliest
    assert likeliest not in draws(logits, 500, logit_bias={likeliest: -100.0}).tolist()


def test_the_padding_of_the_vocabulary_is_never_drawn() -> None:
    logits = np.zeros((300, 16), np.float32)
    logits[:, 10:] = 50.0
    tokens = sample([row(seed) for seed in range(300)], logits, vocab=10).tokens
    assert max(tokens.tolist()) < 10
    assert sample([row(temperature=0.0)], logits[:1], vocab=10).tokens.item() < 10


# Log-probabilities


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 1000), st.sampled_from([0.0, 0.7]), st.integers(0, 2))
def test_logprobs_are_the_models_own(seed: int, temperature: float, place: int) -> None:
    logits = make_logits(seed, rows=3)
    rows = [row(), row(temperature=0.0), row()]
    rows[place] = row(temperature=temperature, top_k=5, logit_bias={3: 9.0}, top_logprobs=4)
    sampled = sample(rows, logits)
    exact = logits.astype(np.float64)
    exact -= np.log(np.exp(exact).sum(axis=1, keepdims=True))
    assert sampled.logprobs is not None
    assert sampled.top_tokens is not None
    assert sampled.top_logprobs is not None
    mine = exact[place]
    chosen = mine[sampled.tokens.tolist()[place]]
    assert np.allclose(np.array(sampled.logprobs)[place], chosen, atol=1e-4)
    order = np.argsort(-mine)[:MAX_TOP_LOGPROBS]
    assert np.array(sampled.top_tokens)[place].tolist() == order.tolist()
    assert np.allclose(np.array(sampled.top_logprobs)[place], mine[order], atol=1e-4)


def test_logprobs_of_a_vocabulary_smaller_than_the_most_that_are_given() -> None:
    sampled = sample([row(top_logprobs=20)], make_logits(1, vocab=5), vocab=5)
    assert sampled.top_tokens is not None
    assert sorted(sampled.top_tokens.tolist()[0]) == [0, 1, 2, 3, 4]


def test_logprobs_that_no_one_asked_for_are_not_computed() -> None:
    assert sample([row(), row(temperature=0.0)], make_logits(1, rows=2)).logprobs is None


def test_what_the_kernel_reads_lies_side_by_side() -> None:
    params = [SamplingParams(temperature=t, top_p=0.9, min_p=0.1, top_k=3) for t in (0.5, 1, 2)]
    sampler = Sampler([Row(p, 7, [1], [2]) for p in params], 64)
    rules = (sampler._inverse_temperature, sampler._top_p, sampler._min_p, sampler._top_k)
    for rule in rules:
        seen = np.array(rule, copy=False)
        assert seen.shape == (3, 1)
        assert seen.strides[0] == seen.itemsize
    assert np.allclose(np.array(rules[0])[:, 0], [2, 1, 0.5])
