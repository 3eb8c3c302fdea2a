"""JSON that is read and written in pieces is what it is in one go, and no piece is large."""

from __future__ import annotations

import gc
import json
import math
import random
import string
import weakref
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from parts import InvalidRequest
from protocol import json_text, strict_json
from protocol.json_text import NotJson, Reader

SMALL = 96
"""Bytes of a piece here: numbers are shorter."""
TEXTS = st.text(st.sampled_from('ab,]}"\\\n\té😀\ud83d\ude00\x00'), max_size=300)
SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), TEXTS
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=40), st.dictionaries(TEXTS, inner, max_size=10)
    ),
    max_leaves=60,
)


@pytest.fixture(autouse=True)
def _small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_text, "PIECE", SMALL)
    monkeypatch.setattr(json_text, "SHORTEST_RUN", 4)


def in_one_go(text: bytes) -> Any:
    """What the library says to a text."""
    try:
        return json.loads(text.decode())
    except ValueError:
        return ValueError


def in_pieces(text: bytes) -> Any:
    try:
        return json_text.read(text)
    except ValueError:
        return ValueError


def same(one: Any, other: Any) -> bool:
    """Whether two values are equal, types and the order of keys too."""
    return repr(one) == repr(other)


WRITTEN = st.builds(
    lambda value, is_ascii, indent: json.dumps(value, ensure_ascii=is_ascii, indent=indent).encode(
        "utf-8", "backslashreplace"
    ),
    VALUES,
    st.booleans(),
    st.sampled_from([None, 1]),
)


@settings(max_examples=150)
@given(WRITTEN)
@example(json.dumps(["\ud83d" * 100]).encode())
@example(b'["' + b"\\ud83d\\ude00" * 50 + b'"]')
@example(b"[" + b" " * 500 + b"1 , 2" + b"\n" * 500 + b"]")
@example(b'{"a": 1, "b": 2, "a": 3}')
def test_what_is_read_in_pieces_is_what_is_read_in_one_go(text: bytes) -> None:
    assert same(in_pieces(text), in_one_go(text))


@settings(max_examples=200)
@given(WRITTEN, st.randoms(use_true_random=False))
@example(b"[1,,2]", random.Random(0))
@example(b"[1,]", random.Random(0))
@example(b'{"a":1,}', random.Random(0))
@example(b'["a" "b"]', random.Random(0))
def test_what_is_broken_is_refused_as_it_is_in_one_go(text: bytes, chance: random.Random) -> None:
    broken = bytearray(text)
    for _ in range(chance.randrange(3)):
        at = chance.randrange(len(broken) + 1)
        if chance.random() < 0.5:
            broken[at : at + chance.randrange(4)] = b""
        else:
            broken[at:at] = chance.choice(
                [b",", b"]", b"}", b"[", b'"', b"\\", b"1", b":", b"\xff"]
            )
    assert same(in_pieces(bytes(broken)), in_one_go(bytes(broken)))


@pytest.mark.parametrize(
    ("text", "message", "position"),
    [
        (b"", "Expecting value", 0),
        (b'{"a": nul}', "Expecting value", 6),
        (b"[1 2]", "Expecting ',' delimiter", 3),
        (b'{"a" 1}', "Expecting ':' delimiter", 5),
        (b"{1: 2}", "Expecting property name enclosed in double quotes", 1),
        (b"[1] 2", "Extra data", 4),
        ('["é", "abc'.encode() + b"d" * 300, "Unterminated string starting at", 6),
        (b'["' + b"a" * 300 + b'\n"]', "Invalid control character at", 302),
        (b'["' + b"a" * 300 + b'\\x"]', "Invalid \\escape", 302),
    ],
)
def test_it_is_said_what_is_broken_and_where(text: bytes, message: str, position: int) -> None:
    with pytest.raises(NotJson) as caught:
        json_text.read(text)
    assert caught.value.message.startswith(message)
    assert caught.value.position == position


class Watched(json.JSONDecoder):
    """Reads in one go, and notes the longest text that it was given."""

    longest = 0

    def raw_decode(self, text: str, at: int = 0) -> tuple[Any, int]:
        self.longest = max(self.longest, len(text))
        return super().raw_decode(text, at)


def large(letters: str = string.ascii_letters) -> Iterator[Any]:
    """Values whose text takes several pieces, each large in another way."""
    size = 2 * json_text.PIECE
    yield letters * (size // len(letters))
    yield [1] * size
    yield {f"k{i}": [] for i in range(size // 4)}
    yield [{"role": "user", "content": [{"type": "text", "text": letters}]}] * (size // 50)
    yield {"a": {"b": {"c": {"d": letters * (size // 9)}}}}
    yield [[[["a\n\"'" * (size // 4)]]], letters * (size // 9)]


@pytest.mark.parametrize("is_real", [False, True])
def test_no_piece_is_large(monkeypatch: pytest.MonkeyPatch, is_real: bool) -> None:
    if is_real:
        monkeypatch.undo()
    for value in [*large(), *large("日本😀")]:
        for text in (json.dumps(value).encode(), json.dumps(value, ensure_ascii=False).encode()):
            watched = Watched()
            assert Reader(text, watched).read() == value
            assert watched.longest <= json_text.PIECE + 2  # as it puts brackets around members
        encode = json.JSONEncoder(separators=(",", ":")).encode
        pieces = list(json_text.pieces(value, encode))
        assert "".join(pieces) == encode(value)
        assert max(map(len, pieces)) <= 12 * json_text.PIECE + 8  # what a letter's escapes take


@settings(max_examples=100)
@given(VALUES, st.booleans())
def test_what_is_written_in_pieces_is_what_is_written_in_one_go(value: Any, is_ascii: bool) -> None:
    encode = json.JSONEncoder(ensure_ascii=is_ascii, separators=(",", ":")).encode
    assert "".join(json_text.pieces(value, encode)) == encode(value)


# Strictly


def refusal(body: bytes) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        strict_json.loads(body)
    return caught.value


def test_a_text_that_is_too_large_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strict_json, "MAX_TEXT", 4 * 2**20)
    for letters, most in (("x", 4 * 2**20), ("é", 2 * 2**20), ("😀", 2**20)):
        text = "x" * (most - 1) + letters
        body = {"messages": [{"content": "short"}, {"content": text}]}
        assert strict_json.loads(json.dumps(body).encode()) == body
        body["messages"][1]["content"] += "x" * json_text.PIECE
        error = refusal(json.dumps(body).encode())
        assert (error.param, error.code) == ("messages[1].content", "string_above_max_length")


def test_values_are_counted_and_commas_are_not() -> None:
    text = "[a, b], {c: d}, " * 1000
    body = json.dumps({"text": text, "values": list(range(990))}).encode()
    assert len(strict_json.loads(body, 1000)["values"]) == 990
    for values in (
        list(range(1001)),
        [[]] * 1001,
        [{"a": 1}] * 501,
        {f"{i}": i for i in range(1001)},
    ):
        with pytest.raises(InvalidRequest, match="more than 1000 values"):
            strict_json.loads(json.dumps(values).encode(), 1000)


@pytest.mark.parametrize("padding", [0, 200, 300_000])
@pytest.mark.parametrize("wrap", [lambda inner: f"[{inner}]", lambda inner: f'{{"a":{inner}}}'])
def test_depth_is_counted_across_pieces(wrap: Any, padding: int) -> None:
    def nested(depth: int) -> bytes:
        text = f'"{"x" * padding}"'
        for _ in range(depth):
            text = wrap(text)
        return text.encode()

    assert strict_json.loads(nested(strict_json.MAX_DEPTH))
    assert "nests deeper" in refusal(nested(strict_json.MAX_DEPTH + 1)).message
    assert "nests deeper" in refusal(nested(3000)).message


@pytest.mark.parametrize("padding", [0, 500_000])
@pytest.mark.parametrize(
    ("odd", "code"),
    [("NaN", "invalid_value"), ("1e999", "invalid_value"), ('"\\ud83d"', "invalid_unicode")],
)
def test_what_is_odd_is_named_wherever_it_stands(odd: str, code: str, padding: int) -> None:
    body = f'{{"a": ["{"x" * padding}", {{"b": {odd}}}], "c": "{"x" * padding}"}}'
    error = refusal(body.encode())
    assert (error.param, error.code) == ("a[1].b", code)


def test_a_whole_number_with_too_many_digits_is_not_finite() -> None:
    assert strict_json.loads(b"[1" + b"0" * 80 + b"]") == [10**80]
    assert refusal(b'{"a": 1' + b"0" * 4400 + b"}").code in ("invalid_value", "invalid_json")
    assert math.isinf(float("1" + "0" * 4400))


def test_a_reader_lets_go_of_what_it_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """At once: garbage is looked for when many objects were made, and a body is one."""
    readers: list[weakref.ref[Reader]] = []
    read = Reader.read

    def noted(self: Reader) -> Any:
        readers.append(weakref.ref(self))
        return read(self)

    monkeypatch.setattr(Reader, "read", noted)
    gc.disable()
    try:
        assert strict_json.loads(b'{"a": [1.5, 2, "x"]}') == {"a": [1.5, 2, "x"]}
        assert [reader() for reader in readers] == [None]
    finally:
        gc.enable()
