"""The shapes in which prompts are computed, where the device plans each new one anew."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Shapes:
    """The shapes that prompts are rounded up to, where the device plans each new shape anew.

    On CUDA a length that was never seen costs 50 to 90 ms of planning (attention, matrix products),
    and padding next to nothing. A device that does not plan takes every prompt as it is.
    """

    is_planned: bool = False
    few: int = 0
    """Tokens, at most, that attend without a plan."""
    most_scores: int = 2**31
    """What they and their context may multiply to, for which there is memory."""
    grid: int = 256
    """Tokens of the smallest chunk whose attention is planned."""

    def tokens(self, number: int) -> int:
        """What so many tokens of a short prompt are rounded up to."""
        return max(1 << (number - 1).bit_length(), 32) if self.is_planned else number

    def rows(self, number: int) -> int:
        """What so many prompts are rounded up to."""
        return 1 << (number - 1).bit_length() if self.is_planned else number

    def context(self, number: int) -> int:
        """What a context of so many tokens is rounded up to."""
        return -(-number // 256) * 256 if self.is_planned else number

    def few_behind(self, start: int) -> int:
        """Tokens, at most, that attend without a plan when so many stand before them.

        None where the context is so long that there would be next to none.
        """
        sizes = (self.few >> power for power in range(4))
        return next((size for size in sizes if size * (start + size) <= self.most_scores), 0)

    def chunk(self, start: int, number: int, left: int) -> int:
        """How many tokens of a long prompt come next, of which `start` are computed and `left` not.

        Where shapes are planned, as many as divide `start`: so a context of any length is made of
        few shapes. And not many more than there are, for which the last chunk is filled up. What
        needs no plan leads to where such a chunk may begin, or goes on where less is asked for.
        """
        if not self.is_planned:
            return number
        to_grid = -start % self.grid
        few = self.few_behind(start)
        if few and (to_grid or number < self.grid):
            return min(1 << (min(number, few).bit_length() - 1), to_grid or few)
        if to_grid:
            return to_grid
        fitting = [size for size in self._sizes if size <= number and start % size == 0]
        return max((size for size in fitting if 3 * size <= 4 * left), default=self.grid)

    def end(self, start: int, number: int) -> int:
        """What the last chunk is filled up to, of so many tokens behind `start`."""
        if not self.is_planned or number <= self.few_behind(start):
            return number
        return min(size for size in self._sizes if size >= number)

    @property
    def least(self) -> int:
        """Tokens of the smallest chunk that is worth computing by itself."""
        return self.grid if self.is_planned else 1

    @property
    def most_spare(self) -> int:
        """By how many tokens a chunk is filled up, at most."""
        return self._sizes[-1] if self.is_planned else 0

    def planned(self, longest: int) -> list[tuple[int, int]]:
        """The chunks that a prompt of up to so many tokens is made of, each with its context."""
        longest = -(-longest // self._sizes[-1]) * self._sizes[-1]  # the last one is filled up
        ends = [(size, end) for size in self._sizes for end in range(size, longest + 1, size)]
        return ends if self.is_planned else []

    @property
    def _sizes(self) -> list[int]:
        """Of the chunks that are planned for."""
        return [self.grid << power for power in range(4)]


AS_THEY_ARE = Shapes()
"""For a device that plans nothing: every length as it is."""
