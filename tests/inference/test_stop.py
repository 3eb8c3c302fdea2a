"""Stop strings cut a text at the same place, however the text is cut into pieces."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import example, given
from hypothesis import strategies as st

from inference.stop import StopScanner


def scanned(pieces: list[str], stop: list[str]) -> tuple[str, bool]:
    scanner = StopScanner(stop)
    said = "".join(scanner.add(piece) for piece in pieces)
    return said + scanner.flush(), scanner.has_stopped


def cut_at(text: str, points: set[int]) -> list[str]:
    edges = [0, *sorted(p for p in points if 0 < p < len(text)), len(text)]
    return [text[a:b] for a, b in pairwise(edges)]


def reference(text: str, stop: list[str]) -> tuple[str, bool]:
    """Letter by letter: the first stop string to be complete ends the text, before its start."""
    for end in range(len(text) + 1):
        complete = [s for s in stop if s and text[:end].endswith(s)]
        if complete:
            return text[: end - max(map(len, complete))], True
    return text, False


@given(
    st.text("abc ", max_size=30),
    st.lists(st.text("abc ", min_size=1, max_size=4), max_size=4),
    st.sets(st.integers(0, 30)),
)
@example("abcd", ["abcd", "c"], set())
@example("aab", ["ab"], {1, 2})
def test_any_split_is_cut_before_the_first_stop_string(
    text: str, stop: list[str], points: set[int]
) -> None:
    assert scanned(cut_at(text, points), stop) == reference(text, stop)


def test_a_stop_string_inside_a_word_cuts_the_word() -> None:
    assert scanned(["once a st", "ory of"], ["tory"]) == ("once a s", True)


def test_of_stop_strings_that_begin_alike_the_shortest_is_enough() -> None:
    assert scanned(["x", "a", "b", "c"], ["abc", "ab"]) == ("x", True)


def test_what_only_began_a_stop_string_is_given_at_the_end() -> None:
    assert scanned(["say ST", "O"], ["STOP"]) == ("say STO", False)


def test_nothing_is_said_after_the_stop_string() -> None:
    assert scanned(["a|b", "c", "d"], ["|"]) == ("a", True)


def test_text_that_begins_no_stop_string_is_given_at_once() -> None:
    scanner = StopScanner(["STOP"])
    assert scanner.add("hello S") == "hello "
    assert scanner.add("o") == "So"


def test_emoji_can_be_a_stop_string() -> None:
    assert scanned(["a 🙂", "🙃 b"], ["🙂🙃"]) == ("a ", True)
