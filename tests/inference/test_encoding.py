"""Piece by piece, a text has the tokens that it has as a whole."""

from __future__ import annotations

import re
from typing import Any

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from inference import encoding
from inference.encoding import PieceEncoder, encoder_of

CONTROLS = re.compile(r"<\|im_start\|>|<\|im_end\|>|</?think>")
WORDS = st.text(st.sampled_from("ab c\n.é日🙂'"), max_size=150)
TEXTS = st.lists(
    st.one_of(WORDS, st.sampled_from(["<|im_start|>", "<|im_end|>", "<think>", "user\n"])),
    max_size=8,
).map("".join)


class Counting:
    """The demo model's tokenizer, and how many characters it was given."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self.num_characters = 0

    def __call__(self, text: str) -> list[int]:
        self.num_characters += len(text)
        return list(self._tokenizer.encode(text, add_special_tokens=False))


@settings(deadline=None, max_examples=60)
@given(st.lists(TEXTS, min_size=1, max_size=3))
def test_the_tokens_are_those_of_the_whole_text(tokenizer: Any, texts: list[str]) -> None:
    plain = Counting(tokenizer)
    pieces = PieceEncoder(plain, CONTROLS)
    for text in [*texts, *texts]:
        assert pieces.encode(text) == plain(text)


def test_what_was_encoded_before_is_not_encoded_again(tokenizer: Any) -> None:
    counting = Counting(tokenizer)
    pieces = PieceEncoder(counting, CONTROLS)
    turns = [f"<|im_start|>user\n{letter * 500}<|im_end|>" for letter in "abc"]
    pieces.encode("".join(turns))
    before = counting.num_characters
    pieces.encode("".join([*turns, "<|im_start|>user\nnew<|im_end|>"]))
    assert counting.num_characters - before < 150


def test_no_more_is_remembered_than_there_is_room_for(tokenizer: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(encoding, "MAX_CHARACTERS", 1000)
    counting = Counting(tokenizer)
    pieces = PieceEncoder(counting, CONTROLS)
    first = "<|im_start|>" + "a" * 400 + "<|im_end|>"
    for letter in "abcd":
        pieces.encode("<|im_start|>" + letter * 400 + "<|im_end|>")
    before = counting.num_characters
    pieces.encode(first)
    assert counting.num_characters - before >= 400


def test_a_tokenizer_that_looks_across_the_border_is_given_whole_texts() -> None:
    given_texts: list[str] = []

    def encode(text: str) -> list[int]:
        given_texts.append(text)
        return [ord(c) for c in text.replace("> ", ">")]  # drops what follows a control token

    text = "<think> " + "a" * 100
    assert PieceEncoder(encode, CONTROLS).encode(text) == encode(text)
    assert given_texts[-2] == text


@settings(deadline=None, max_examples=100)
@given(TEXTS)
def test_a_text_is_encoded_alike_without_finding_out_where_its_tokens_are(
    tokenizer: Any, text: str
) -> None:
    encode = encoder_of(tokenizer)
    assert encode.__name__ == "bare"
    assert encode(text) == list(tokenizer.encode(text, add_special_tokens=False))


class Written:
    """A tokenizer written in Python, or one that does more than its backend."""

    def __init__(self, backend: Any) -> None:
        if backend is not None:
            self.backend_tokenizer = backend

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        return [ord(c) for c in text]


@pytest.mark.parametrize("has_backend", [False, True])
def test_a_tokenizer_with_words_of_its_own_is_asked_itself(
    tokenizer: Any, has_backend: bool
) -> None:
    written = Written(tokenizer.backend_tokenizer if has_backend else None)
    assert encoder_of(written)("abc") == [97, 98, 99]


def test_a_length_that_texts_are_cut_to_is_forgotten(tokenizer: Any) -> None:
    copy = tokenizers.Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    copy.enable_truncation(3)
    cutting = PreTrainedTokenizerFast(tokenizer_object=copy)
    text = "a long text, and then some more"
    assert encoder_of(cutting)(text) == list(tokenizer.encode(text, add_special_tokens=False))
