"""First come, first served; never more than there is room for; and how long a chunk may be."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.detokenizer import Detokenizer
from inference.parser import Markers, Parser
from inference.scheduler import Scheduler
from inference.sequence import Sequence
from parts import QueueFull, SamplingParams


def make_sequence(tokenizer: Any, num_tokens: int = 2) -> Sequence:
    parser = Parser(Detokenizer(tokenizer), Markers())
    return Sequence([1] * num_tokens, SamplingParams(), parser)


def run_next(scheduler: Scheduler) -> Sequence | None:
    group = scheduler.next_prefill(64)
    scheduler.run(group)
    return group[0] if group else None


@given(
    st.lists(
        st.sampled_from(["add", "run", "remove first", "remove last", "restart"]), max_size=30
    ),
    st.integers(1, 3),
)
def test_whoever_came_first_is_never_overtaken(
    tokenizer: Any, acts: list[str], max_batch: int
) -> None:
    scheduler = Scheduler(max_batch=max_batch, max_queue=100)
    here: list[Sequence] = []
    for act in acts:
        match act:
            case "add":
                here.append(make_sequence(tokenizer))
                scheduler.add([here[-1]])
            case "run":
                run_next(scheduler)
            case "restart":
                was_running = list(scheduler.running)
                assert scheduler.restart() == was_running
            case "remove first" | "remove last" if here:
                scheduler.remove(here.pop(0 if act == "remove first" else -1))
        assert [*scheduler.running, *scheduler.waiting] == here
        assert len(scheduler.running) <= max_batch
        assert (scheduler.num_running + scheduler.num_waiting, scheduler.has_work) == (
            len(here),
            bool(here),
        )


def test_only_one_prompt_is_computed_at_a_time(tokenizer: Any) -> None:
    scheduler = Scheduler(max_batch=4, max_queue=4)
    first, second = make_sequence(tokenizer), make_sequence(tokenizer, 3)
    scheduler.add([first])
    scheduler.add([second])
    assert scheduler.next_prefill(64) == [first]
    assert scheduler.next_prefill(64) == [first]
    assert (scheduler.num_running, scheduler.num_waiting) == (1, 1)
    scheduler.remove(first)
    assert scheduler.next_prefill(64) == [second]


def test_who_waits_is_told_so_and_who_is_read_is_not(tokenizer: Any) -> None:
    scheduler = Scheduler(max_batch=2, max_queue=4)
    first, second, third = (make_sequence(tokenizer, length) for length in (2, 3, 4))
    scheduler.add([first, second, third])

    def seen() -> list[tuple[str, int]]:
        found = map(scheduler.progress, (first, second, third))
        return [(progress.stage, progress.num_ahead) for progress in found]

    assert seen() == [("reading", 0), ("waiting", 1), ("waiting", 2)]
    group = scheduler.next_prefill(64)
    assert seen() == [("reading", 0), ("waiting", 0), ("waiting", 1)]
    scheduler.run(group)
    assert seen() == [("reading", 0), ("reading", 0), ("waiting", 1)]
    run_next(scheduler)
    assert seen() == [("reading", 0), ("reading", 0), ("waiting", 0)]


def test_a_full_queue_says_how_many_wait(tokenizer: Any) -> None:
    scheduler = Scheduler(max_batch=1, max_queue=2)
    for _ in range(3):
        scheduler.add([make_sequence(tokenizer)])
    run_next(scheduler)
    with pytest.raises(QueueFull, match="2 requests are waiting"):
        scheduler.add([make_sequence(tokenizer)])


def test_a_free_place_needs_no_queue(tokenizer: Any) -> None:
    scheduler = Scheduler(max_batch=2, max_queue=0)
    scheduler.add([make_sequence(tokenizer), make_sequence(tokenizer)])
    with pytest.raises(QueueFull):
        scheduler.add([make_sequence(tokenizer)])


def test_all_choices_of_a_request_are_queued_or_none(tokenizer: Any) -> None:
    scheduler = Scheduler(max_batch=1, max_queue=2)
    with pytest.raises(QueueFull):
        scheduler.add([make_sequence(tokenizer) for _ in range(4)])
    assert scheduler.num_waiting == 0


def test_those_who_start_again_come_before_those_who_never_ran(tokenizer: Any) -> None:
    scheduler = Scheduler(max_batch=2, max_queue=9)
    sequences = [make_sequence(tokenizer) for _ in range(4)]
    for sequence in sequences:
        scheduler.add([sequence])
    run_next(scheduler)
    run_next(scheduler)
    assert scheduler.restart() == sequences[:2]
    assert list(scheduler) == sequences


def test_whoever_was_in_two_failed_steps_runs_alone(tokenizer: Any) -> None:
    scheduler = Scheduler(max_batch=4, max_queue=9)
    suspect, other = make_sequence(tokenizer), make_sequence(tokenizer)
    suspect.num_faults = 2
    scheduler.add([suspect])
    scheduler.add([other])
    assert run_next(scheduler) is suspect
    assert scheduler.next_prefill(64) == []
    scheduler.remove(suspect)
    assert run_next(scheduler) is other


def test_removing_what_is_not_there_does_nothing(tokenizer: Any) -> None:
    scheduler = Scheduler(max_batch=1, max_queue=1)
    scheduler.remove(make_sequence(tokenizer))
    assert not scheduler.has_work


def made(tokenizer: Any, *lengths: int) -> tuple[Scheduler, list[Sequence]]:
    scheduler = Scheduler(max_batch=6, max_queue=99)
    sequences = [make_sequence(tokenizer, length) for length in lengths]
    for sequence in sequences:
        scheduler.add([sequence])
    return scheduler, sequences


def is_short(sequence: Sequence) -> bool:
    return sequence.num_tokens < 50


def test_short_prompts_are_computed_together_as_far_as_their_padding_allows(
    tokenizer: Any,
) -> None:
    scheduler, sequences = made(tokenizer, 10, 12, 30, 9)
    assert scheduler.next_prefill(64, is_short) == sequences[:2]
    scheduler.run(sequences[:2])
    assert scheduler.next_prefill(64, is_short) == sequences[2:]
    scheduler.run(sequences[2:])
    assert scheduler.next_prefill(64, is_short) == []


def test_no_more_are_computed_than_may_run(tokenizer: Any) -> None:
    scheduler, sequences = made(tokenizer, *[5] * 9)
    assert scheduler.next_prefill(1000, is_short) == sequences[:6]
    scheduler.run(sequences[:6])
    assert scheduler.next_prefill(1000, is_short) == []


def test_short_prompts_are_computed_between_the_chunks_of_a_long_one(tokenizer: Any) -> None:
    scheduler, (long, *short) = made(tokenizer, 500, 5, 5)
    assert scheduler.next_prefill(64, is_short) == [long]
    assert scheduler.next_prefill(64, is_short) == short
    scheduler.run(short)
    assert scheduler.next_prefill(64, is_short) == [long]
    scheduler.run([long])
    assert scheduler.running == [*short, long]


def test_two_groups_never_come_between_two_chunks(tokenizer: Any) -> None:
    scheduler, (long, *short) = made(tokenizer, 500, 5)
    assert scheduler.next_prefill(64, is_short) == [long]
    assert scheduler.next_prefill(64, is_short) == short
    scheduler.run(short)
    scheduler.add([make_sequence(tokenizer, 5)])
    assert scheduler.next_prefill(64, is_short) == [long]


def test_long_prompts_are_computed_together_if_they_are_the_same(tokenizer: Any) -> None:
    scheduler, sequences = made(tokenizer, 500, 500, 500, 400)
    assert scheduler.next_prefill(64, is_short) == sequences[:3]
    assert scheduler.num_running == 3
    scheduler.remove(sequences[0])
    assert scheduler.next_prefill(64, is_short) == sequences[1:3]
    scheduler.run(sequences[1:3])
    assert scheduler.next_prefill(64, is_short) == sequences[3:]


def test_a_short_prompt_is_not_computed_with_a_long_one_that_came_before(tokenizer: Any) -> None:
    scheduler, sequences = made(tokenizer, 60, 5, 5)
    assert scheduler.next_prefill(1000, is_short) == sequences[:1]


def test_whoever_was_in_a_failed_step_is_computed_alone(tokenizer: Any) -> None:
    scheduler, sequences = made(tokenizer, 5, 5, 5)
    sequences[1].num_faults = 1
    assert scheduler.next_prefill(64, is_short) == sequences[:1]
    scheduler.run(sequences[:1])
    assert scheduler.next_prefill(64, is_short) == sequences[1:2]


def test_what_starts_again_has_nothing_computed(tokenizer: Any) -> None:
    scheduler, (first, second) = made(tokenizer, 500, 400)
    run_next(scheduler)
    assert scheduler.next_prefill(64) == [second]
    first.num_computed, second.num_computed, second.cache = 500, 64, object()
    assert scheduler.restart() == [first, second]
    assert [s.num_computed for s in (first, second)] == [0, 0]
    assert second.cache is None
    assert scheduler.next_prefill(64) == [first]


def test_between_the_chunks_of_a_long_prompt_come_only_prompts_that_fit_into_one(
    tokenizer: Any,
) -> None:
    """What is computed in part has to be the one that goes on next."""
    scheduler, (long, _, short) = made(tokenizer, 500, 40, 5)
    assert scheduler.next_prefill(32, is_short) == [long]
    assert scheduler.next_prefill(32, is_short) == [long]
    scheduler.run([long])
    assert scheduler.next_prefill(8, is_short) == [scheduler.prefilling[0]]
    assert scheduler.waiting[0] is short


@given(
    st.lists(st.tuples(st.integers(1, 60), st.integers(1, 3)), min_size=1, max_size=12),
    st.lists(st.sampled_from([8, 32, 64, 200]), min_size=1, max_size=6),
)
def test_everybody_is_computed_whatever_the_pace(
    tokenizer: Any, prompts: list[tuple[int, int]], paces: list[int]
) -> None:
    """Each group is computed as the runner does it: whole, or a chunk that is gone on with."""
    scheduler, sequences = made(tokenizer, *[n for n, times in prompts for _ in range(times)])
    for number in itertools.count():
        assert number < 100 * len(sequences), "nobody gets on"
        pace = paces[number % len(paces)]
        group = scheduler.next_prefill(pace, is_short)
        if not group:
            break
        prompt = group[0].tokens
        is_whole = any(s.tokens != prompt for s in group)
        assert not is_whole or all(is_short(s) for s in group)
        assert not is_whole or max(s.num_tokens for s in group) <= pace
        for sequence in group:
            sequence.num_computed = min(sequence.num_computed + pace, sequence.num_tokens)
        if is_whole or group[0].num_computed == group[0].num_tokens:
            scheduler.run(group)
            for sequence in group:
                scheduler.remove(sequence)
                sequence.num_computed = sequence.num_tokens
        assert {*scheduler} == {s for s in sequences if s.num_computed < s.num_tokens}
