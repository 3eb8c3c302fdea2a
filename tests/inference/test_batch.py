"""A busy batch answers each of its rows as if it were alone: joins, leaves, cancels, failures."""

from __future__ import annotations

import io
from collections.abc import Sequence as Tokens
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mlx_lm.models.cache import make_prompt_cache

from inference import rows as kv
from inference.detokenizer import Detokenizer
from inference.loader import LoadOptions, load
from inference.parser import Markers, Parser
from inference.prefix_cache import PrefixCache
from inference.runner import Runner
from inference.sequence import Sequence
from inference.shapes import Shapes
from parts import Message, Prompt, SamplingParams, TokenLogprob
from tests.demo import VOCAB_SIZE

TEXT = (
    "Once upon a time there was a little cat who lived in a big house. What is your name? My name "
    "is Anna. How much is 12 plus 30? The king had three sons, and the youngest went out to see "
    "the sea. Tell me a story about a dog and a bird. I like apples, pears and plums."
)


@dataclass
class Guest:
    """Someone who comes to the batch at one step and may leave at another."""

    prompt: tuple[int, ...]
    params: SamplingParams
    comes: int = 0
    leaves: int | None = None
    logprobs: list[TokenLogprob] = field(default_factory=list, compare=False)


def make_runner(
    model: Any,
    tokenizer: Any,
    *,
    num_bytes: int = 2**28,
    vocab: int = VOCAB_SIZE,
    is_planned: bool = False,
    max_padding_bytes: int = 2**31,
) -> Runner:
    return Runner(
        model,
        tokenizer,
        vocab_size=vocab,
        prefix_cache=PrefixCache(num_bytes),
        shapes=Shapes(is_planned),
        max_padding_bytes=max_padding_bytes,
    )


def make_sequence(tokenizer: Any, guest: Guest) -> Sequence:
    parser = Parser(Detokenizer(tokenizer), Markers())
    return Sequence(guest.prompt, guest.params, parser)


def answers(
    runner: Runner, tokenizer: Any, guests: Tokens[Guest], *, chunk: int = 64, fails_at: int = -1
) -> list[list[int]]:
    """Serve all guests, as the engine does, and give each one's tokens."""
    sequences = [make_sequence(tokenizer, guest) for guest in guests]
    waiting, running = list(zip(guests, sequences, strict=True)), list[Sequence]()
    step = 0
    while waiting or running:
        leaving = [s for g, s in zip(guests, sequences, strict=True) if g.leaves == step]
        runner.remove(leaving)
        running = [s for s in running if s not in leaving]
        waiting = [(g, s) for g, s in waiting if s not in leaving]
        here = [s for g, s in waiting if g.comes <= step]
        group = [s for s in here if runner.is_short(s)] if step % 2 else []
        group = group or here[:1]
        if group and runner.prefill(group, chunk):
            runner.join()
            running += group
            waiting = [(g, s) for g, s in waiting if s not in group]
        step += 1
        if step == fails_at:
            runner.reset()
            for sequence in sequences:
                sequence.start_again()
            by_sequence = dict(zip(map(id, sequences), guests, strict=True))
            waiting = [(by_sequence[id(s)], s) for s in running] + waiting
            running = []
            continue
        for sequence, token, logprob in runner.decode():
            sequence.append(token)
            if logprob is not None:
                guests[sequences.index(sequence)].logprobs.append(logprob)
        over = [s for s in running if s.is_finished]
        runner.remove(over)
        running = [s for s in running if s not in over]
    return [s.generated for s in sequences]


@pytest.fixture(scope="module")
def words(tokenizer: Any) -> list[int]:
    return list(tokenizer.encode(TEXT, add_special_tokens=False))


def solo(model: Any, tokenizer: Any, guest: Guest) -> list[int]:
    """The answer to a guest who is alone with a fresh runner, computed once."""
    key = (id(model), guest.prompt, repr(guest.params))
    if key not in _solo:
        alone = Guest(guest.prompt, guest.params)
        _solo[key] = answers(make_runner(model, tokenizer), tokenizer, [alone])[0]
    return _solo[key]


_solo: dict[Any, list[int]] = {}


def assert_as_alone(
    model: Any, tokenizer: Any, guests: Tokens[Guest], found: list[list[int]]
) -> None:
    for guest, tokens in zip(guests, found, strict=True):
        alone = solo(model, tokenizer, guest)
        assert tokens == alone[: len(tokens)]
        assert len(tokens) == len(alone) or guest.leaves is not None


def guests_of(
    words: list[int], params: st.SearchStrategy[SamplingParams]
) -> st.SearchStrategy[Any]:
    prompts = st.builds(
        lambda start, length: tuple(words[start : start + length]),
        st.sampled_from([0, 0, 0, 7, 20]),
        st.sampled_from([1, 2, 5, 17, 30, 60]),
    )
    guest = st.builds(
        Guest,
        prompts,
        params,
        comes=st.integers(0, 12),
        leaves=st.none() | st.none() | st.integers(0, 14),
    )
    return st.lists(guest, min_size=2, max_size=5)


GREEDY = st.builds(SamplingParams, temperature=st.just(0.0), max_tokens=st.integers(1, 10))
SEEDED = st.builds(
    SamplingParams,
    temperature=st.just(0.8),
    top_p=st.sampled_from([0.9, 1.0]),
    top_k=st.sampled_from([0, 20]),
    seed=st.integers(0, 3),
    repetition_penalty=st.sampled_from([1.0, 1.2]),
    presence_penalty=st.sampled_from([0.0, 0.5]),
    frequency_penalty=st.sampled_from([0.0, 0.3]),
    max_tokens=st.integers(1, 10),
)


PADDING = st.sampled_from([0, 100_000, 2**31])
"""Bytes: none at all, some tokens of the demo model's, or what there may be."""


@settings(deadline=None, max_examples=30, derandomize=True)
@given(st.data(), st.sampled_from([3, 16, 64]), st.booleans(), PADDING)
def test_greedy_answers_do_not_depend_on_who_else_is_there(
    model: Any,
    tokenizer: Any,
    words: list[int],
    data: st.DataObject,
    chunk: int,
    is_planned: bool,
    padding: int,
) -> None:
    guests = data.draw(guests_of(words, GREEDY))
    runner = make_runner(model, tokenizer, is_planned=is_planned, max_padding_bytes=padding)
    found = answers(runner, tokenizer, guests, chunk=chunk)
    assert_as_alone(model, tokenizer, guests, found)


@settings(deadline=None, max_examples=25, derandomize=True)
@given(st.data(), st.integers(1, 14), PADDING)
def test_seeded_answers_are_the_same_in_company_and_after_a_failed_step(
    model: Any,
    tokenizer: Any,
    words: list[int],
    data: st.DataObject,
    fails_at: int,
    padding: int,
) -> None:
    guests = data.draw(guests_of(words, SEEDED))
    runner = make_runner(model, tokenizer, max_padding_bytes=padding)
    found = answers(runner, tokenizer, guests, fails_at=fails_at)
    assert_as_alone(model, tokenizer, guests, found)


def greedy(prompt: Tokens[int], max_tokens: int = 12, **rest: Any) -> Guest:
    return Guest(tuple(prompt), SamplingParams(temperature=0.0, max_tokens=max_tokens), **rest)


def test_a_prompt_seen_before_is_not_computed_again_and_answered_the_same(
    model: Any, tokenizer: Any, words: list[int]
) -> None:
    runner = make_runner(model, tokenizer)
    guest = greedy(words[:50])
    first = answers(runner, tokenizer, [guest])
    sequence = make_sequence(tokenizer, guest)
    runner.prefill([sequence], 1000)
    assert sequence.num_cached == 49
    runner.remove([sequence])
    assert answers(runner, tokenizer, [guest]) == first


def test_a_conversation_goes_on_from_the_answer_before(
    model: Any, tokenizer: Any, words: list[int]
) -> None:
    runner = make_runner(model, tokenizer)
    first = greedy(words[:40])
    said = answers(runner, tokenizer, [first, greedy(words[5:25])])[0]
    second = greedy([*words[:40], *said, *words[60:70]])
    sequence = make_sequence(tokenizer, second)
    runner.prefill([sequence], 1000)
    assert sequence.num_cached >= 40 + len(said) - 1
    runner.remove([sequence])
    assert answers(runner, tokenizer, [second])[0] == solo(model, tokenizer, second)


@pytest.mark.parametrize("num_guests", [1, 2, 3])
def test_what_a_finished_sequence_leaves_behind_holds_its_tokens_and_no_more(
    model: Any, tokenizer: Any, words: list[int], num_guests: int
) -> None:
    runner = make_runner(model, tokenizer)
    guests = [greedy(words[i : i + 30 + i], max_tokens=6 + i) for i in range(num_guests)]
    found = answers(runner, tokenizer, guests)
    for guest, said in zip(guests, found, strict=True):
        tokens = [*guest.prompt, *said]
        cache, length = runner.prefix_cache.match([*tokens, 0])
        assert cache is not None
        assert len(tokens) - 1 <= length <= len(tokens)
        fresh = make_prompt_cache(model)
        model(mx.array([tokens[:length]]), cache=fresh)
        for mine, its in zip(fresh, cache, strict=True):
            assert its.offset == mine.offset == length
            difference = mine.keys[..., :length, :] - its.keys[..., :length, :]
            assert mx.abs(difference).max().item() < 1e-3


def test_after_a_failed_step_cached_tokens_are_still_those_found_at_the_start(
    model: Any, tokenizer: Any, words: list[int]
) -> None:
    runner = make_runner(model, tokenizer)
    sequence = make_sequence(tokenizer, greedy(words[:40]))
    assert runner.prefill([sequence], 1000)
    runner.reset()
    sequence.start_again()
    sequence.num_faults += 1
    assert runner.prefill([sequence], 1000)
    assert sequence.num_cached == 0


def test_logprobs_are_given_to_those_who_asked(
    model: Any, tokenizer: Any, words: list[int]
) -> None:
    params = SamplingParams(temperature=0.0, max_tokens=6, top_logprobs=3)
    asking, silent = Guest(tuple(words[:20]), params), greedy(words[:30], max_tokens=8)
    late = Guest(tuple(words[:25]), params, comes=3)
    found = answers(make_runner(model, tokenizer), tokenizer, [asking, silent, late])
    assert not silent.logprobs
    for guest, tokens in ((asking, found[0]), (late, found[2])):
        assert len(guest.logprobs) == len(tokens) == 6
        logits = model(mx.array([[*guest.prompt, *tokens[:-1]]]))[0, len(guest.prompt) - 1 :]
        exact = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
        for i, (token, entry) in enumerate(zip(tokens, guest.logprobs, strict=True)):
            assert entry.logprob == pytest.approx(exact[i, token].item(), abs=1e-3)
            assert len(entry.top) == 3
            assert entry.top[0].logprob == entry.logprob


@pytest.mark.parametrize("is_alone", [True, False])
def test_no_step_is_begun_when_all_end_with_the_one_under_way(
    model: Any, tokenizer: Any, words: list[int], is_alone: bool
) -> None:
    runner = make_runner(model, tokenizer)
    guests = [greedy(words[:20], max_tokens=1)] * (1 if is_alone else 2)
    sequences = [make_sequence(tokenizer, guest) for guest in guests]
    for sequence in sequences:
        runner.prefill([sequence], 1000)
        runner.join()
    assert len(runner.decode()) == len(guests)
    assert [s.num_computed for s in sequences] == [20] * len(guests)


def test_a_prompt_is_kept_when_its_first_token_is_under_way(
    model: Any, tokenizer: Any, words: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = make_runner(model, tokenizer)
    order: list[str] = []

    def noting(owner: Any, name: str) -> None:
        call = getattr(owner, name)
        monkeypatch.setattr(owner, name, lambda *args: (order.append(name), call(*args))[1])

    noting(mx, "async_eval")
    noting(runner.prefix_cache, "insert")
    assert runner.prefill([make_sequence(tokenizer, greedy(words[:40]))], 1000)
    assert order == ["async_eval", "insert"]


def test_a_first_token_waits_for_no_step_behind_it_unless_others_run(
    model: Any, tokenizer: Any, words: list[int]
) -> None:
    calls: list[int] = []

    class Counted:
        """The model, and how many rows each of its steps had."""

        layers = model.layers

        def __call__(self, tokens: Any, **options: Any) -> Any:
            calls.append(tokens.shape[0])
            return model(tokens, **options)

    runner = make_runner(Counted(), tokenizer)
    guests = [greedy(words[:20]), greedy(words[5:30])]
    expected = [solo(model, tokenizer, guest)[:2] for guest in guests]
    first, second = (make_sequence(tokenizer, guest) for guest in guests)

    def join(sequence: Sequence) -> None:
        assert runner.prefill([sequence], 1000)
        runner.join()

    def steps() -> list[int]:
        calls.clear()
        for sequence, token, _ in runner.decode():
            sequence.append(token)
        return calls

    join(first)
    assert steps() == []
    assert len(first.generated) == 1
    join(second)  # the step for the first alone is begun, so that all are as far
    assert steps() == [2]
    assert [first.generated, second.generated] == [expected[0], expected[1][:1]]


def test_known_shapes_change_nothing_but_what_is_computed_again(
    model: Any, tokenizer: Any, words: list[int]
) -> None:
    runner = make_runner(model, tokenizer, is_planned=True)
    seen = set()

    class Watched:
        layers = model.layers

        def __call__(self, tokens: mx.array, cache: Any) -> Any:
            seen.add(tokens.shape)
            return model(tokens, cache=cache)

    runner.model = Watched()
    runner.warm_up(max_tokens=64)
    assert seen == {(1, 32), (1, 64), (2, 32)}
    runner.plan_batches()
    assert seen > {(rows, 1) for rows in range(2, 33)}
    seen.clear()
    runner._max_padding_bytes = 5 * 256 * 6 * 2 * 2 * 64 * 4  # rows, room, layers, both, …
    runner.plan_batches()
    assert seen == {(rows, 1) for rows in range(2, 6)}
    runner.model = model
    first = greedy(words[:70])
    said = answers(runner, tokenizer, [first])[0]
    assert said == solo(model, tokenizer, first)
    second = greedy([*words[:70], *said, *words[20:40]])
    assert answers(runner, tokenizer, [second])[0] == solo(model, tokenizer, second)


def test_long_rows_and_short_ones_share_no_room_that_would_be_wasted(
    model: Any, tokenizer: Any, words: list[int]
) -> None:
    long, *short = [greedy(words[:60], 30), greedy(words[:5], 4), greedy(words[3:9], 30)]
    alone = [solo(model, tokenizer, guest) for guest in (long, *short)]
    runner: Any = make_runner(model, tokenizer, max_padding_bytes=100_000)
    sequences = [make_sequence(tokenizer, guest) for guest in (long, *short)]
    for sequence in sequences:
        while not runner.prefill([sequence], 512):
            pass
        runner.join()
    assert [[s.number for s in batch.rows] for batch in runner._batches] == [
        [sequences[0].number],
        [sequences[1].number, sequences[2].number],
    ]
    num_batches = []
    while running := [s for s in sequences if not s.is_finished]:
        for sequence, token, _ in runner.decode():
            sequence.append(token)
        runner.remove([s for s in running if s.is_finished])
        num_batches.append(len(runner._batches))
    assert [s.generated for s in sequences] == alone
    assert num_batches[0] == 2
    assert num_batches[-1] == 0


def test_batches_become_one_when_little_is_wasted(
    model: Any, tokenizer: Any, words: list[int]
) -> None:
    guests = [greedy(words[:length], number) for length, number in LENGTHS_AND_NUMBERS]
    alone = [solo(model, tokenizer, guest) for guest in guests]
    per_token = 6 * 2 * 2 * 64 * 4  # layers, keys and values, heads, their width, float32
    runner: Any = make_runner(model, tokenizer, max_padding_bytes=16 * per_token)
    sequences = [make_sequence(tokenizer, guest) for guest in guests]
    for sequence in sequences:
        while not runner.prefill([sequence], 512):
            pass
        runner.join()
    sizes = [[len(batch) for batch in runner._batches]]
    while running := [s for s in sequences if not s.is_finished]:
        for sequence, token, _ in runner.decode():
            sequence.append(token)
        runner.remove([s for s in running if s.is_finished])
        sizes.append([len(batch) for batch in runner._batches])
    assert [s.generated for s in sequences] == alone
    assert sizes == [[2, 2], [2, 2], *([[2]] * 10), []]


LENGTHS_AND_NUMBERS = ((30, 12), (20, 2), (6, 2), (20, 12))
"""Of prompts, and of the tokens of their answers: with what it has, the first batch refuses the
third and the last, until those who end early have gone."""


def test_where_rows_begin_and_end_is_known_to_all_layers_and_not_computed_by_each(
    model: Any, tokenizer: Any, words: list[int]
) -> None:
    runner: Any = make_runner(model, tokenizer)
    for number in (20, 12, 9):
        sequence = make_sequence(tokenizer, greedy(words[:number]))
        assert runner.prefill([sequence], 1000)
        runner.join()
    for _ in range(2):
        runner.decode()
    layers = runner._batches[0]._cache
    assert len({id(layer.offset) for layer in layers}) == 1
    assert len({id(layer.left_padding) for layer in layers}) == 1
    assert layers[0].offset.tolist() == [22, 14, 11]
    assert layers[0].left_padding.tolist() == [0, 8, 11]


def test_what_a_layer_keeps_does_not_grow_with_those_who_come_and_go(float32_model: Path) -> None:
    """Left alone, it is a chain of sums that nobody ever computes: some kilobytes a request."""
    loaded = load(LoadOptions(folder=float32_model, name="demo"))
    runner: Any = loaded.runner

    def joined(length: int) -> Sequence:
        prompt = Prompt((Message("user", "x"),))
        params = SamplingParams(temperature=0, max_tokens=500)
        sequence = Sequence(list(range(5, 5 + length)), params, loaded.make_parser([1], prompt))
        assert runner.prefill([sequence], 4096)
        runner.join()
        return sequence

    def links() -> int:
        drawn = io.StringIO()
        layers = runner._batches[0]._cache
        mx.export_to_dot(drawn, *(array for layer in layers for array in kv._places(layer)))
        return drawn.getvalue().count("->")

    for length in (3, 40):
        joined(length)
    seen = []
    for length in (7, 50, 9):
        for _ in range(2):
            other = joined(length)
            runner.decode()
            runner.remove([other])
            runner.decode()
        seen.append(links())
    assert seen[0] == seen[-1]


def test_what_was_found_is_not_counted_as_computed(
    model: Any, tokenizer: Any, words: list[int]
) -> None:
    """The pace learns by it how long a chunk takes."""
    runner = make_runner(model, tokenizer)
    prompt = tuple(words[:60])

    def computed(*prompts: tuple[int, ...]) -> list[int]:
        rows = [make_sequence(tokenizer, Guest(p, SamplingParams())) for p in prompts]
        found = []
        while not runner.prefill(rows, 40):
            found.append(runner.num_prefilled)
        found.append(runner.num_prefilled)
        runner.join()
        runner.remove(rows)
        return found

    assert sum(computed(prompt)) == 60
    assert computed(prompt) == [1]
    assert computed((*prompt, *words[:9])) == [9]
    assert computed((3, *prompt[:20]), (4, *prompt[:30]), (3, *prompt[:20])) == [21 + 31]


def test_a_chunk_is_still_waited_for_when_somebody_who_only_waited_leaves(
    model: Any, tokenizer: Any, words: list[int]
) -> None:
    runner = make_runner(model, tokenizer)
    long, other = (
        make_sequence(tokenizer, Guest(tuple(words[start:] * 20), SamplingParams()))
        for start in (0, 1)
    )
    assert not runner.prefill([long], 64)
    runner.remove([other])
    assert runner._under_way
    runner.remove([long])
    assert not runner._under_way
