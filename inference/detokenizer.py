"""A detokenizer turns tokens into text, never splitting a character or an emoji between two pieces.

It knows nothing of what the text means.
"""

from __future__ import annotations

import re
from typing import Any

from tokenizers.decoders import DecodeStream

_PICTOGRAPH = "\u203c-\u27bf\u2934-\u2b55\u3030\u303d\u3297\u3299\U0001f000-\U0001faff"
_MODIFIER = "\ufe0f\u20e3\U0001f3fb-\U0001f3ff\U000e0020-\U000e007f"
_LAST_EMOJI = re.compile(
    "(?:[\U0001f1e6-\U0001f1ff]{2})*"  # whole flags before the last one
    "(?P<last>"
    "[\U0001f1e6-\U0001f1ff]{1,2}"  # a flag is two regional indicators
    "|[#*0-9]\ufe0f\u20e3?"  # a keycap in the making
    f"|(?:[{_PICTOGRAPH}][{_MODIFIER}]*\u200d)*[{_PICTOGRAPH}][{_MODIFIER}]*\u200d?"
    ")\\Z"
)
"""The emoji that ends a text and that the next token may still change (skin, joiner, flag)."""
_MAY_GROW = re.compile(f"[\u200d{_PICTOGRAPH}{_MODIFIER}]\\Z")
_LONGEST_EMOJI = 40


class Detokenizer:
    """The text of a growing list of tokens, in pieces that join to the text of the whole."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._stream = _Stream(tokenizer)
        self._held = ""

    def add(self, token: int) -> str:
        """Take a token; give the text that is certain by now, often a word, sometimes nothing."""
        return self._release(self._stream.step(token))

    @property
    def num_held(self) -> int:
        """Bytes that were taken and not given: an emoji held back, a character not yet whole."""
        return len(self._held.encode("utf-8", "replace")) + self._stream.num_pending

    def flush(self) -> str:
        """Give all that is held back. An unfinished character becomes U+FFFD."""
        text = self._held + self._stream.flush()
        self._held = ""
        return text

    def _release(self, text: str) -> str:
        if not text:
            return ""
        text = self._held + text
        self._held = ""
        if _MAY_GROW.search(text):
            found = _LAST_EMOJI.search(text, max(0, len(text) - _LONGEST_EMOJI))
            if found:
                self._held = found["last"]
                text = text[: found.start("last")]
        return text


def _fast(tokenizer: Any) -> Any:
    """The `tokenizers.Tokenizer` inside, or None for a tokenizer written in Python."""
    return getattr(tokenizer, "backend_tokenizer", None)


class _Stream:
    """mlx-lm's detokenizers are O(line) or drop a leading space; `DecodeStream` is exact."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._fast = _fast(tokenizer)
        self._start()

    def _start(self) -> None:
        self._pending: list[int] = []
        self._decoder: Any = (
            DecodeStream(skip_special_tokens=False) if self._fast else self._tokenizer.detokenizer
        )

    def step(self, token: int) -> str:
        if not self._fast:
            self._decoder.add_token(token)
            return str(self._decoder.last_segment)
        text = self._decoder.step(self._fast, token)
        if text is None:
            self._pending.append(token)
            return ""
        self._pending.clear()
        return str(text)

    @property
    def num_pending(self) -> int:
        """Bytes of tokens that make no whole character yet, where the decoder tells."""
        return sum(len(token_bytes(self._tokenizer, token)) for token in self._pending)

    def flush(self) -> str:
        if not self._fast:
            self._decoder.finalize()
            text = str(self._decoder.last_segment)
        else:
            text = self._fast.decode(self._pending, skip_special_tokens=False)
        self._start()
        return text


def token_bytes(tokenizer: Any, token: int) -> bytes:
    """The bytes that a token stands for, which need not be whole characters."""
    piece = tokenizer.convert_ids_to_tokens(token)
    if piece is None:
        return b""
    if token in tokenizer.added_tokens_decoder:
        return str(piece).encode()
    if _is_byte_level(tokenizer):
        # A piece may be plain text even so: it is no reason to fail a step.
        return b"".join(bytes([_BYTES[c]]) if c in _BYTES else c.encode() for c in piece)
    if len(piece) == 6 and piece.startswith("<0x"):
        return bytes([int(piece[3:5], 16)])
    return str(piece).replace("▁", " ").encode()


def _is_byte_level(tokenizer: Any) -> bool:
    fast = _fast(tokenizer)
    return fast is not None and "ByteLevel" in repr(fast.decoder)


def _byte_alphabet() -> dict[str, int]:
    """The letters that byte-level BPE writes bytes with (Radford et al. 2019, GPT-2)."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [b for b in range(256) if b not in printable]
    return {chr(b): b for b in printable} | {chr(256 + i): b for i, b in enumerate(rest)}


_BYTES = _byte_alphabet()
