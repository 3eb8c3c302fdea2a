"""The prefix cache keeps the KV caches of prompts already computed, found again by their tokens.

A match is by the tokens themselves, so that no two prompts can be mistaken for one another.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from mlx_lm.models.cache import can_trim_prompt_cache, trim_prompt_cache

Cache = list[Any]
"""One mlx-lm cache a layer, of one row."""

_SHORTEST = 16
"""Tokens; what is shorter is computed faster than it is kept."""


@dataclass(slots=True, eq=False)
class _Entry:
    tokens: np.ndarray
    cache: Cache
    num_bytes: int


class PrefixCache:
    """Least recently used entries, bounded in bytes. Lives on the GPU thread."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.num_bytes = 0
        self._entries: list[_Entry] = []
        """Most recently used last."""

    def __len__(self) -> int:
        return len(self._entries)

    def match(self, tokens: Sequence[int]) -> tuple[Cache | None, int]:
        """Find the longest prefix of `tokens` that was computed before.

        Returns a cache of the caller's own and the number of tokens that it holds, at least one
        less than `tokens` has: the last one must be computed to know what follows.
        """
        wanted = np.asarray(tokens[:-1], dtype=np.uint32)
        best, best_length = None, 0
        for entry in self._entries:
            length = _common_length(entry.tokens, wanted)
            if length < len(entry.tokens) and not _can_trim(entry.cache):
                continue
            if length > best_length:
                best, best_length = entry, length
        if best is None or best_length < _SHORTEST:
            return None, 0
        self._entries.remove(best)
        self._entries.append(best)
        cache = copy.deepcopy(best.cache)
        trim_prompt_cache(cache, len(best.tokens) - best_length)
        return cache, best_length

    def peek(self, tokens: Sequence[int]) -> int:
        """How many tokens a match would give."""
        wanted = np.asarray(tokens[:-1], dtype=np.uint32)
        found = [
            length
            for entry in self._entries
            if (length := _common_length(entry.tokens, wanted)) == len(entry.tokens)
            or _can_trim(entry.cache)
        ]
        return max(found, default=0)

    def insert(self, tokens: Sequence[int], cache: Cache) -> None:
        """Keep `cache`, which holds exactly `tokens` and is not written to by anyone any more."""
        if len(tokens) < _SHORTEST:
            return
        entry = _Entry(
            np.asarray(tokens, dtype=np.uint32), cache, sum(layer.nbytes for layer in cache)
        )
        if entry.num_bytes > self.max_bytes:
            return
        can_trim = _can_trim(cache)
        for other in list(self._entries):
            common = _common_length(other.tokens, entry.tokens)
            is_same = common == len(other.tokens) == len(entry.tokens)
            # A cache that can be trimmed stands for all of its prefixes.
            if is_same or (can_trim and common == len(other.tokens)):
                self._drop(other)
            elif common == len(entry.tokens) and _can_trim(other.cache):
                return
        self._entries.append(entry)
        self.num_bytes += entry.num_bytes
        while self.num_bytes > self.max_bytes and self._entries:
            self._drop(self._entries[0])

    def shrink(self, num_bytes: int) -> int:
        """Drop entries until so many bytes are free, or none is left; give how many are."""
        before = self.num_bytes
        while self._entries and before - self.num_bytes < num_bytes:
            self._drop(self._entries[0])
        return before - self.num_bytes

    def _drop(self, entry: _Entry) -> None:
        self._entries.remove(entry)
        self.num_bytes -= entry.num_bytes


def _can_trim(cache: Cache) -> bool:
    """Whether tokens can be taken off the end, and all that came before them is still there.

    mlx-lm says so of chunked caches (Llama 4) even when they have dropped their beginning.
    """
    is_whole = not any(getattr(layer, "start_position", 0) for layer in cache)
    return is_whole and bool(can_trim_prompt_cache(cache))


def _common_length(a: np.ndarray, b: np.ndarray) -> int:
    n = min(len(a), len(b))
    differs = a[:n] != b[:n]
    first = int(differs.argmax()) if n else 0
    return first if n and differs[first] else n
