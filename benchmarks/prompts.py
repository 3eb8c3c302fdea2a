"""Prompts of made-up words: ragged, and no two with the same beginning."""

from __future__ import annotations

import random
from typing import Any

SYLLABLES = [a + b for a in "bcdfghklmnprst" for b in "aeiou"]


class Prompts:
    """An endless supply. The same seed gives the same ones."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def words(self, num_words: int) -> str:
        """So many words."""
        syllables = self._random.choices(SYLLABLES, k=2 * num_words)
        return " ".join(a + b for a, b in zip(syllables[::2], syllables[1::2], strict=True))

    def turn(self, num_words: int, *, is_ragged: bool = True) -> dict[str, str]:
        """A user's message that asks for a long answer. What all have in common comes last."""
        if is_ragged:
            num_words = max(1, round(num_words * self._random.uniform(0.8, 1.2)))
        return {
            "role": "user",
            "content": f"{self.words(num_words)}. Tell me a very long story.",
        }

    def settings(self) -> dict[str, Any]:
        """Sampling as clients ask for it, a little different in every request."""
        settings: dict[str, Any] = {
            "temperature": round(self._random.uniform(0.6, 0.8), 2),
            "top_p": round(self._random.uniform(0.9, 0.97), 3),
        }
        if self._random.random() < 0.3:
            settings["top_k"] = self._random.choice([20, 40, 64])
        return settings
