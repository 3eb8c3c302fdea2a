"""How long a chunk may be, as the machine turns out to be."""

from __future__ import annotations

import math

import pytest

from inference.outbox import seconds_between_pieces
from inference.pace import Pace


def observe(
    pace: Pace,
    seconds: float,
    num_prefilled: int = 0,
    num_running: int = 0,
    *,
    waited_s: float = 0.0,
    is_whole: bool = False,
) -> None:
    pace.observe(
        seconds,
        num_prefilled=num_prefilled,
        num_running=num_running,
        waited_s=waited_s,
        is_whole=is_whole,
    )


@pytest.fixture(params=[True, False], ids=["a step behind", "at once"])
def is_behind(request: pytest.FixtureRequest) -> bool:
    """Whether a chunk is waited for by the next step, or takes its own."""
    return bool(request.param)


def served(
    pace: Pace, *, step_s: float, at_once: float, per_token: float, is_behind: bool = True
) -> int:
    """Prefill beside three others on such a machine; give the size that the chunks come to."""
    for _ in range(60):
        observe(pace, step_s, num_running=3)
    waited_s, num_tokens = 0.0, 0
    for _ in range(40):
        num_tokens = pace.num_tokens(3)
        chunk_s = at_once + per_token * num_tokens
        own_s, next_s = (0.0, chunk_s) if is_behind else (chunk_s, 0.0)
        observe(pace, step_s + waited_s + own_s, num_tokens, 3, waited_s=waited_s)
        waited_s = next_s
    observe(pace, step_s + waited_s, num_running=3)
    return num_tokens


def test_a_chunk_and_a_step_take_no_longer_than_a_pause_may(is_behind: bool) -> None:
    pace = Pace()
    found = served(pace, step_s=0.1, at_once=0.0, per_token=0.001, is_behind=is_behind)
    assert found == pytest.approx(100 * (Pace.PAUSE - 1), rel=0.1)
    assert pace.num_tokens(0) == pytest.approx(1000 * Pace.ALONE_S, rel=0.1)


def test_a_fast_stream_is_read_in_pieces_and_a_chunk_may_take_as_long_as_these() -> None:
    piece_s = math.ceil(seconds_between_pieces(1) / 0.003) * 0.003
    found = served(Pace(), step_s=0.003, at_once=0.0, per_token=1e-5)
    assert found == pytest.approx((Pace.PAUSE * piece_s - 0.003) / 1e-5, rel=0.1)


def test_a_slow_machine_computes_little_at_a_time() -> None:
    assert served(Pace(), step_s=0.1, at_once=0.0, per_token=0.02) == Pace.SMALLEST


def test_a_fast_machine_computes_much_at_a_time() -> None:
    assert served(Pace(), step_s=0.1, at_once=0.0, per_token=1e-6) == Pace.LARGEST


def test_where_a_chunk_costs_much_at_once_it_is_not_made_too_small_to_be_worth_it(
    is_behind: bool,
) -> None:
    found = served(Pace(), step_s=0.007, at_once=0.011, per_token=1e-6, is_behind=is_behind)
    assert found >= 0.9 * Pace.WORTH * 0.011 / 1e-6


def test_chunks_grow_step_by_step_on_a_machine_that_is_not_known_yet() -> None:
    pace = Pace()
    assert pace.num_tokens(0) == Pace.FIRST
    observe(pace, 0.001, num_prefilled=Pace.FIRST)
    observe(pace, 0.001, num_prefilled=Pace.FIRST)
    assert pace.num_tokens(0) == Pace.FIRST * Pace.LEAP


def test_chunks_of_many_sizes_are_each_taken_for_what_they_cost(is_behind: bool) -> None:
    """A step that is put down to the wrong chunk would show a machine of another kind."""
    pace = Pace()
    waited_s = 0.0
    for number in range(120):
        num_tokens = (40, 900, 200, 3000, 64)[number % 5]
        chunk_s = 0.004 * num_tokens
        own_s, next_s = (0.0, chunk_s) if is_behind else (chunk_s, 0.0)
        observe(pace, waited_s + own_s, num_tokens, waited_s=waited_s)
        waited_s = next_s
        assert number < 3 or pace.num_tokens(0) == pytest.approx(Pace.ALONE_S / 0.004, rel=0.3)


def test_short_prompts_are_waited_for_in_the_step_that_computes_them() -> None:
    """A chunk that is no end is not; a device to which prompts seem to cost nothing gets all."""
    pace = Pace()
    found = served(pace, step_s=0.007, at_once=0.001, per_token=3e-5)
    for _ in range(5):
        observe(pace, 0.007 + 0.001 + 3e-5 * 1800, 1800, 3, is_whole=True)
        for _ in range(20):
            observe(pace, 0.007, num_running=11)
    assert pace.num_tokens(3) == pytest.approx(found, rel=0.2)


def test_the_end_of_a_long_prompt_is_waited_for_with_the_chunk_before_it() -> None:
    pace = Pace()
    for _ in range(30):
        observe(pace, 0.0, num_prefilled=1000)
        observe(pace, 0.1, num_prefilled=500, waited_s=0.1)
        observe(pace, 0.06, num_prefilled=100, is_whole=True)
        assert pace.num_tokens(0) == pytest.approx(Pace.ALONE_S / 0.0001, rel=0.1)


def test_one_that_took_long_is_soon_forgotten() -> None:
    """A device that plans a new shape takes a hundred times as long, once."""
    pace = Pace()
    found = served(pace, step_s=0.01, at_once=0.002, per_token=1e-5)
    for seconds in (4.5, 0.7):
        observe(pace, seconds, num_running=3)
        observe(pace, 0.01, num_prefilled=100, num_running=3)
        observe(pace, seconds, num_prefilled=100, num_running=3, waited_s=seconds - 0.01)
        observe(pace, seconds, num_running=3)
    for _ in range(4):
        num_tokens = pace.num_tokens(3)
        observe(pace, 0.01, num_prefilled=num_tokens, num_running=3)
        observe(pace, 0.012 + 1e-5 * num_tokens, num_running=3)
        for _ in range(5):
            observe(pace, 0.01, num_running=3)
    assert pace.num_tokens(3) == pytest.approx(found, rel=0.3)


def test_a_first_one_that_took_long_is_forgotten_with_the_next() -> None:
    pace = Pace()
    observe(pace, 5.0, num_prefilled=Pace.FIRST)
    observe(pace, 5.0)
    for _ in range(3):
        num_tokens = pace.num_tokens(0)
        observe(pace, 0.0, num_prefilled=num_tokens)
        observe(pace, 1e-5 * num_tokens)
    assert pace.num_tokens(0) == Pace.LARGEST


def test_a_chunk_too_short_to_time_changes_nothing() -> None:
    pace = Pace()
    before = pace.num_tokens(0)
    observe(pace, 0.0, num_prefilled=Pace.SMALLEST - 1)
    observe(pace, 5.0)
    assert pace.num_tokens(0) == before


def test_what_the_first_chunk_is_not_waited_for_is_not_taken_for_speed() -> None:
    """MLX lets a device be a part of a chunk behind, whose rest is in the time of the next."""
    pace, step_s, per_token, behind = Pace(), 0.008, 33e-6, 0.65
    wanted = (Pace.PAUSE * 2 - 1) * step_s / per_token
    sizes: list[int] = []
    for _ in range(6):
        for _ in range(60):
            observe(pace, step_s, num_running=3)
        left, rest_s = 16_000, 0.0
        while left:
            num_tokens = min(pace.num_tokens(3), left)
            left -= num_tokens
            chunk_s = per_token * num_tokens
            own_s = chunk_s if not left else (1 - behind) * chunk_s
            observe(pace, step_s + rest_s + own_s, num_tokens, 3, is_whole=not left)
            sizes.append(num_tokens)
            rest_s = chunk_s - own_s
    known = sizes[len(sizes) // 3 :]
    assert max(known) < 1.1 * wanted
    assert sum(known) / len(known) > 0.8 * wanted


def test_a_prompt_of_two_chunks_is_learnt_as_the_mean_of_them() -> None:
    """The first has not been waited for, and the last for both."""
    pace = Pace()
    for _ in range(20):
        observe(pace, 0.01, num_prefilled=1000)
        observe(pace, 0.0, num_prefilled=1000)
        observe(pace, 0.2, num_prefilled=100, is_whole=True)
    assert pace.num_tokens(0) == pytest.approx(Pace.ALONE_S / 1e-4, rel=0.1)


def test_an_end_that_is_too_short_to_time_does_not_count() -> None:
    """Nor is the first chunk then half of what it was."""
    pace = Pace()
    for _ in range(20):
        observe(pace, 0.1, num_prefilled=1000)
        observe(pace, 0.0, num_prefilled=Pace.SMALLEST - 1)
        observe(pace, 9.0)
    assert pace.num_tokens(0) == pytest.approx(Pace.ALONE_S / 1e-4, rel=0.1)


@pytest.mark.parametrize("has_failed", [False, True])
def test_a_prompt_that_was_given_up_is_not_taken_for_the_next_ones_beginning(
    has_failed: bool,
) -> None:
    pace = Pace()
    known = served(pace, step_s=0.008, at_once=0.0, per_token=33e-6)
    for _ in range(3):
        for number in range(3):
            observe(pace, 0.008, known, 3, waited_s=0.033e-3 * known if number else 0.0)
        if has_failed:  # nothing was observed of the step that failed
            pace.forget_under_way()
        else:
            observe(pace, 0.008 + 0.033e-3 * known, num_running=3)
        # The first of the next seems to cost nothing.
        observe(pace, 0.008, known, 3)
        observe(pace, 0.008, known, 3)
        assert pace.num_tokens(3) == pytest.approx(known, rel=0.1)
        pace.forget_under_way()
