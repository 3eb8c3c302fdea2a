"""Encoding turns a rendered prompt into tokens, piece by piece; what was encoded before is known.

A conversation's next turn repeats all the turns before it. Between two control tokens a text is
encoded by itself, so its tokens can be kept.
"""

from __future__ import annotations

import re
from array import array
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

SHORTEST = 64
"""Characters; a shorter piece is encoded faster than it is found."""
MAX_CHARACTERS = 4 * 2**20
"""Of all pieces that are kept."""


PROBES = ("word", " two  words ", "\n\n1234 ä", "日本語🙂", "<|im_end|></s>[INST]", "\ta = b[0];\n")


def encoder_of(tokenizer: Any) -> Callable[[str], list[int]]:
    """What encodes a text as it stands. `tokenizer` is mlx-lm's `TokenizerWrapper`.

    A tokenizer of Hugging Face's finds out, too, where in the text each token is: that takes twice
    as long, and half of it lets no other thread run. Where it says the same without, it is asked
    not to.
    """

    def whole(text: str) -> list[int]:
        return list(tokenizer.encode(text, add_special_tokens=False))

    def bare(text: str) -> list[int]:
        [found] = tokenizer.backend_tokenizer.encode_batch_fast([text], add_special_tokens=False)
        return list(found.ids)

    try:
        # Asked second: the first makes it forget a length that its file may cut texts to.
        is_same = all(whole(text) == bare(text) for text in PROBES)
    except Exception:  # it is written in Python, or of another kind
        return whole
    return bare if is_same else whole


class PieceEncoder:
    """Encodes like `encode`, and remembers the pieces between control tokens."""

    def __init__(self, encode: Callable[[str], list[int]], controls: re.Pattern[str] | None):
        self._encode = encode
        self._controls = re.compile(f"({controls.pattern})") if controls else None
        self._known: OrderedDict[str, array[int]] = OrderedDict()
        self._num_characters = 0
        self._can_split = self._controls is not None and self._splits_evenly()

    def encode(self, text: str) -> list[int]:
        """Give the tokens of a text."""
        if not self._can_split or len(text) < SHORTEST:
            return self._encode(text)
        tokens: list[int] = []
        for piece in self._pieces(text):
            tokens += self._encoded(piece)
        return tokens

    def _pieces(self, text: str) -> list[str]:
        """Long stretches without control tokens by themselves, and what is between them."""
        assert self._controls is not None
        pieces, rest = [], ""
        for piece in self._controls.split(text):
            if len(piece) >= SHORTEST:
                pieces += [rest, piece]
                rest = ""
            else:
                rest += piece
        return [piece for piece in (*pieces, rest) if piece]

    def _encoded(self, piece: str) -> list[int]:
        if len(piece) < SHORTEST:
            return self._encode(piece)
        if (known := self._known.get(piece)) is not None:
            self._known.move_to_end(piece)
            return known.tolist()
        tokens = self._encode(piece)
        self._known[piece] = array("I", tokens)
        self._num_characters += len(piece)
        while self._num_characters > MAX_CHARACTERS:
            self._num_characters -= len(self._known.popitem(last=False)[0])
        return tokens

    def _splits_evenly(self) -> bool:
        """Whether a text's tokens are those of its pieces: some tokenizers look across the border.

        Found out with texts that begin and end in the ways that matter to them.
        """
        assert self._controls is not None
        controls = [c for c in re.split(r"(?<!\\)\|", self._controls.pattern[1:-1]) if c][:8]
        for control in (re.sub(r"\\(.)", r"\1", c) for c in controls):
            for text in ("word", " word ", "\n\nword\n", "  ", "ä1"):
                whole = self._encode(f"a{control}{text}{control}b")
                pieces = [f"a{control}", text, f"{control}b"]
                if whole != [token for piece in pieces for token in self._encode(piece)]:
                    return False
        return True
