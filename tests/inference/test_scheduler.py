"""First come, first served; never more than there is room for; and how long a chunk may be."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.detokenizer import Detokenizer
from inference.parser import Markers, Parser
from inference.scheduler import Pace, Scheduler
from inference.sequence import Sequence
from parts import QueueFull, SamplingParams


def make_sequence(tokenizer: Any) -> Sequence:
    return Sequence([1, 2], SamplingParams(), Parser(Detokenizer(tokenizer), Markers()))


def run_next(scheduler: Scheduler) -> Sequence | None:
    sequence = scheduler.next_prefill()
    if sequence is not None:
        scheduler.run(sequence)
    return sequence


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
                scheduler.add(here[-1])
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
    first, second = make_sequence(tokenizer), make_sequence(tokenizer)
    scheduler.add(first)
    scheduler.add(second)
    assert scheduler.next_prefill() is first
    assert scheduler.next_prefill() is first
    assert (scheduler.num_running, scheduler.num_waiting) == (1, 1)
    scheduler.remove(first)
    assert scheduler.next_prefill() is second


def test_a_full_queue_says_how_many_wait(tokenizer: Any) -> None:
    scheduler = Scheduler(max_batch=1, max_queue=2)
    scheduler.add(make_sequence(tokenizer))
    scheduler.add(make_sequence(tokenizer))
    with pytest.raises(QueueFull, match="2 requests are waiting"):
        scheduler.add(make_sequence(tokenizer))


def test_those_who_start_again_come_before_those_who_never_ran(tokenizer: Any) -> None:
    scheduler = Scheduler(max_batch=2, max_queue=9)
    sequences = [make_sequence(tokenizer) for _ in range(4)]
    for sequence in sequences:
        scheduler.add(sequence)
    run_next(scheduler)
    run_next(scheduler)
    assert scheduler.restart() == sequences[:2]
    assert list(scheduler) == sequences


def test_whoever_was_in_two_failed_steps_runs_alone(tokenizer: Any) -> None:
    scheduler = Scheduler(max_batch=4, max_queue=9)
    suspect, other = make_sequence(tokenizer), make_sequence(tokenizer)
    suspect.num_faults = 2
    scheduler.add(suspect)
    scheduler.add(other)
    assert run_next(scheduler) is suspect
    assert scheduler.next_prefill() is None
    scheduler.remove(suspect)
    assert run_next(scheduler) is other


def test_removing_what_is_not_there_does_nothing(tokenizer: Any) -> None:
    scheduler = Scheduler(max_batch=1, max_queue=1)
    scheduler.remove(make_sequence(tokenizer))
    assert not scheduler.has_work


def test_a_chunk_beside_others_is_shorter_the_slower_the_machine() -> None:
    fast, slow = Pace(), Pace()
    for _ in range(40):
        fast.observe_prefill(512, 0.01)
        slow.observe_prefill(512, 10.0)
    assert slow.num_tokens(1) == Pace.SMALLEST
    assert slow.num_tokens(1) < fast.num_tokens(1) <= fast.num_tokens(0) == Pace.LARGEST


def test_a_chunk_takes_as_long_as_the_steps_it_stands_for() -> None:
    pace = Pace()
    for _ in range(100):
        pace.observe_prefill(100, 0.1)
        pace.observe_decode(0.1)
    assert pace.num_tokens(3) == pytest.approx(1000 * 0.1 * Pace.SHARED_STEPS, rel=0.02)
    assert pace.num_tokens(0) == pytest.approx(1000 * Pace.ALONE_S, rel=0.02)


def test_a_chunk_too_short_to_time_changes_nothing() -> None:
    pace = Pace()
    before = pace.num_tokens(0)
    pace.observe_prefill(Pace.SMALLEST - 1, 0.0)
    pace.observe_prefill(0, 1.0)
    assert pace.num_tokens(0) == before
