"""How long a chunk may be, as the machine turns out to be."""

from __future__ import annotations

import pytest

from inference.pace import Pace


def observe(pace: Pace, seconds: float, num_prefilled: int = 0, num_running: int = 0) -> None:
    pace.observe(seconds, num_prefilled=num_prefilled, num_running=num_running)


def test_a_chunk_beside_others_is_shorter_the_slower_the_machine() -> None:
    fast, slow = Pace(), Pace()
    for _ in range(40):
        observe(fast, 0.01, num_prefilled=512)
        observe(slow, 10.0, num_prefilled=512)
    assert slow.num_tokens(1) == Pace.SMALLEST
    assert slow.num_tokens(1) < fast.num_tokens(1) <= fast.num_tokens(0) == Pace.LARGEST


def test_a_chunk_takes_as_long_as_the_steps_it_stands_for() -> None:
    pace = Pace()
    for _ in range(100):
        observe(pace, 0.1, num_running=3)
    for _ in range(100):
        observe(pace, 0.3, num_prefilled=200, num_running=3)
    assert pace.num_tokens(3) == pytest.approx(1000 * 0.1 * Pace.SHARED_STEPS, rel=0.02)
    assert pace.num_tokens(0) == pytest.approx(1000 * Pace.ALONE_S, rel=0.02)


def test_a_step_is_as_long_as_the_chunk_before_it_made_it() -> None:
    pace = Pace()
    for _ in range(100):
        observe(pace, 0.01, num_running=1)
    for _ in range(100):  # the device is one step behind
        observe(pace, 0.01, num_prefilled=100, num_running=1)
        observe(pace, 0.11, num_running=1)
    assert pace.num_tokens(0) == pytest.approx(1000 * Pace.ALONE_S, rel=0.02)
    assert pace.num_tokens(1) == Pace.SMALLEST


def test_a_chunk_too_short_to_time_changes_nothing() -> None:
    pace = Pace()
    before = pace.num_tokens(0)
    observe(pace, 0.0, num_prefilled=Pace.SMALLEST - 1)
    observe(pace, 5.0)
    assert pace.num_tokens(0) == before
