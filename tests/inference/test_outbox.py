"""News is handed over in the order in which it came, at once or in larger pieces."""

from __future__ import annotations

from typing import Any

import pytest

from inference.detokenizer import Detokenizer
from inference.outbox import LONGEST_WAIT_S, SHORTEST_WAIT_S, Outbox, is_last
from inference.parser import Markers, Parser
from inference.sequence import Sequence
from parts import EngineFailed, Finish, SamplingParams, Text, Usage


@pytest.fixture
def sequences(tokenizer: Any) -> list[Sequence]:
    parser = Parser(Detokenizer(tokenizer), Markers())
    return [Sequence([1], SamplingParams(), parser) for _ in range(2)]


def test_what_a_sequence_said_in_several_steps_is_one_piece(sequences: list[Sequence]) -> None:
    outbox, (a, b) = Outbox(), sequences
    outbox.put(a, [Text("x")])
    outbox.put(b, [Text("1")])
    outbox.put(a, [Text("y"), Finish("stop", Usage())])
    taken = outbox.take()
    assert taken == [(a, [Text("x"), Text("y"), Finish("stop", Usage())]), (b, [Text("1")])]
    assert [is_last(news) for _, news in taken] == [True, False]
    assert outbox.take() == []


def test_a_failure_comes_after_what_was_said(sequences: list[Sequence]) -> None:
    outbox, (a, _) = Outbox(), sequences
    failure = EngineFailed("no")
    outbox.put(a, [Text("x")])
    outbox.put(a, failure)
    assert outbox.take() == [(a, [Text("x")]), (a, failure)]
    assert is_last(failure)


def test_what_comes_after_a_pause_does_not_wait_and_the_rest_not_long(
    sequences: list[Sequence],
) -> None:
    outbox = Outbox()
    assert not outbox.is_due(0.0, num_running=1)
    outbox.put(sequences[0], [Text("x")])
    outbox.take()
    outbox.put(sequences[0], [Text("y")])
    at = outbox._last_taken
    assert not outbox.is_due(at + SHORTEST_WAIT_S / 2, num_running=1)
    assert outbox.is_due(at + SHORTEST_WAIT_S * 1.01, num_running=1)
    assert not outbox.is_due(at + SHORTEST_WAIT_S * 1.01, num_running=40)
    assert outbox.is_due(at + LONGEST_WAIT_S * 1.01, num_running=1000)
    assert outbox.is_due(at, num_running=0)


def test_what_comes_after_a_pause_does_not_wait_though_somebody_looked_for_more_before(
    sequences: list[Sequence],
) -> None:
    outbox = Outbox()
    outbox.put(sequences[0], [Text("x")])
    outbox.take()
    at = outbox._last_taken
    assert outbox.take() == []
    outbox.put(sequences[0], [Text("y")])
    assert outbox.is_due(at + SHORTEST_WAIT_S * 1.01, num_running=1)
    assert outbox._last_taken == at
