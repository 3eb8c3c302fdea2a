"""Characters and emoji arrive whole, and the pieces join to the text of all tokens."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

from inference.detokenizer import Detokenizer, token_bytes
from tests.demo import FIRST_CONTROL_TOKEN, VOCAB_SIZE

FAMILY, WALES, FRANCE, GERMANY = "👨‍👩‍👧‍👦", "🏴󠁧󠁢󠁷󠁬󠁳󠁿", "🇫🇷", "🇩🇪"
THUMB, ASTRONAUT, HEART, EYE = "👍🏽", "🧑🏽‍🚀", "❤️", "👁️‍🗨️"
EMOJI = [FAMILY, WALES, FRANCE, GERMANY, THUMB, ASTRONAUT, HEART, EYE, "😀"]
KEYCAP = "1️⃣"
"""Not among the emoji: no one waits at every digit for the keycap that may be drawn around it."""


def byte_tokens(tokenizer: Any, text: str) -> list[int]:
    """The text as one token a byte: every character is cut wherever it can be cut."""
    tokens = (t for t in range(FIRST_CONTROL_TOKEN) if tokenizer.decode([t]))
    alphabet = {token_bytes(tokenizer, t): t for t in tokens}
    return [alphabet[bytes([b])] for b in text.encode()]


def pieces(tokenizer: Any, tokens: list[int]) -> list[str]:
    detokenizer = Detokenizer(tokenizer)
    return [p for p in [*map(detokenizer.add, tokens), detokenizer.flush()] if p]


def tokens_of(tokenizer: Any, text: str, *, in_bytes: bool) -> list[int]:
    if in_bytes:
        return byte_tokens(tokenizer, text)
    return list(tokenizer.encode(text, add_special_tokens=False))


@pytest.mark.parametrize("in_bytes", [True, False])
@pytest.mark.parametrize("emoji", EMOJI)
def test_an_emoji_of_many_code_points_arrives_whole(
    tokenizer: Any, emoji: str, in_bytes: bool
) -> None:
    found = pieces(tokenizer, tokens_of(tokenizer, f"so {emoji}!", in_bytes=in_bytes))
    assert "".join(found) == f"so {emoji}!"
    assert any(emoji in piece for piece in found)


def test_a_row_of_flags_is_cut_between_flags_only(tokenizer: Any) -> None:
    text = FRANCE + GERMANY + FRANCE + GERMANY + "!"
    found = pieces(tokenizer, byte_tokens(tokenizer, text))
    assert "".join(found) == text
    letters = [len(re.findall("[\U0001f1e6-\U0001f1ff]", piece)) for piece in found]
    assert all(n % 2 == 0 for n in letters)


@settings(deadline=None)
@given(
    st.lists(st.sampled_from([*"ab1# é日ß€", KEYCAP, *EMOJI]), max_size=12).map("".join)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
)
def test_the_pieces_join_to_the_decoded_whole(tokenizer: Any, text: str) -> None:
    tokens = byte_tokens(tokenizer, text)
    assert "".join(pieces(tokenizer, tokens)) == text


@settings(deadline=None)
@given(st.lists(st.integers(0, 1268), max_size=24))
def test_any_tokens_join_to_what_the_tokenizer_decodes(tokenizer: Any, tokens: list[int]) -> None:
    whole = tokenizer.decode(tokens, skip_special_tokens=False)
    assert "".join(pieces(tokenizer, tokens)) == whole


def test_a_character_cut_short_is_replaced_only_at_the_very_end(tokenizer: Any) -> None:
    tokens = byte_tokens(tokenizer, "hi 日")[:-1]
    found = pieces(tokenizer, tokens)
    assert "".join(found[:-1]) == "hi "
    assert set(found[-1]) == {"\ufffd"}


def test_plain_words_are_given_token_by_token(tokenizer: Any) -> None:
    tokens = tokenizer.encode("The little cat went home", add_special_tokens=False)
    detokenizer = Detokenizer(tokenizer)
    assert all(detokenizer.add(token) for token in tokens)


def test_a_detokenizer_can_be_used_again_after_its_end(tokenizer: Any) -> None:
    detokenizer = Detokenizer(tokenizer)
    detokenizer.add(byte_tokens(tokenizer, "é")[0])
    detokenizer.flush()
    assert detokenizer.add(byte_tokens(tokenizer, "a")[0]) == "a"


@settings(deadline=None)
@given(st.lists(st.integers(0, VOCAB_SIZE - 1), max_size=24))
def test_the_bytes_of_tokens_join_to_the_text(tokenizer: Any, tokens: list[int]) -> None:
    raw = b"".join(token_bytes(tokenizer, token) for token in tokens)
    assert raw.decode("utf-8", "replace") == tokenizer.decode(tokens, skip_special_tokens=False)


def test_a_token_outside_the_vocabulary_has_no_bytes(tokenizer: Any) -> None:
    assert token_bytes(tokenizer, 5000) == b""


def test_a_piece_not_written_in_the_alphabet_of_bytes_has_its_own_bytes() -> None:
    raw = Tokenizer(models.BPE({"a": 0, "日 b": 1}, []))
    raw.decoder = decoders.ByteLevel()
    assert token_bytes(PreTrainedTokenizerFast(tokenizer_object=raw), 1) == "日 b".encode()
