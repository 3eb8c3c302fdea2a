"""A batch is the sequences that decode together: their KV caches and the step that is under way.

One row alone keeps its plain caches, which need no attention mask; two or more share the padded
caches of `rows`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import mlx.core as mx

from inference import rows as kv
from inference.decoder import Decoder
from inference.masks import MaskFiller, filled
from inference.rows import Cache
from inference.sampling import Row, Sampled, Sampler
from inference.sequence import Sequence

SETTLE_EVERY = 64
"""Steps between two looks at whether all is computed that a layer keeps."""


@dataclass(slots=True)
class Arrivals:
    """Sequences whose prompts have been computed, with their first tokens under way."""

    rows: list[Sequence]
    cache: Cache
    """Plain when there is one row, else as in a batch."""
    sampled: Sampled


class Batch:
    """Rows that advance by one token a step. The next step is under way while the last is read."""

    def __init__(self, decoder: Decoder, masks: MaskFiller, vocab_size: int) -> None:
        self._decoder = decoder
        self._masks = masks
        self._vocab_size = vocab_size
        self.rows: list[Sequence] = []
        self._cache: Cache = []
        self._sampled: Sampled | None = None
        """The tokens that no one has read yet."""
        self._sampler: Sampler | None = None
        self._num_steps = 0
        self._is_new = False
        """Whether nobody has read a token of these rows, with which the batch begins."""
        self._is_behind = False
        """Whether tokens were read before the step that follows them was started."""

    def __len__(self) -> int:
        return len(self.rows)

    def as_arrivals(self) -> Arrivals:
        """What another batch must be given to take in these rows."""
        self._catch_up()
        assert self._sampled is not None
        return Arrivals(self.rows, self._cache, self._sampled)

    def num_padding(self, others: Iterable[Sequence] = ()) -> int:
        """The tokens for which there would be room and no use, with these others."""
        lengths = [sequence.num_tokens for sequence in (*self.rows, *others)]
        return max(lengths, default=0) * len(lengths) - sum(lengths)

    @property
    def num_bytes(self) -> int:
        """What the caches take."""
        return sum(layer.nbytes for layer in self._cache)

    def join(self, arrivals: Arrivals) -> None:
        """Take in sequences whose prompts have been computed."""
        self._catch_up()
        self._is_new = not self.rows
        if not self.rows:
            self._cache, self._sampled = arrivals.cache, arrivals.sampled
        else:
            assert self._sampled is not None
            if len(self.rows) == 1:
                self._cache = kv.merged(self._cache)
            is_plain = len(arrivals.rows) == 1
            kv.extend(self._cache, kv.merged(arrivals.cache) if is_plain else arrivals.cache)
            kv.settle(self._cache)
            self._sampled = _concatenated(self._sampled, arrivals.sampled)
        self.rows = [*self.rows, *arrivals.rows]
        self._sampler = None

    def step(self) -> Sampled:
        """Give the tokens of the step under way, and start the next.

        First tokens with which a batch begins are given before: to start a step takes about as long
        as one, because MLX lets only so much be under way.
        """
        self._catch_up()
        current = self._sampled
        assert current is not None
        if self._is_new:
            self._is_new, self._is_behind = False, True
            self._make_sampler()  # which is to know the rows as they were before these tokens
        elif not all(sequence.ends_with_next for sequence in self.rows):
            self._start(current)
        mx.eval(current.arrays)
        return current

    def _catch_up(self) -> None:
        """Start the step that follows what was read already."""
        if self._is_behind:
            self._is_behind = False
            assert self._sampled is not None
            self._start(self._sampled)

    def _make_sampler(self) -> Sampler:
        if self._sampler is None:
            self._sampler = Sampler([row(s) for s in self.rows], self._vocab_size)
        return self._sampler

    def _start(self, current: Sampled) -> None:
        sampler = self._make_sampler()
        sampler.advance(current.tokens)
        logits = self._decoder(current.tokens, self._cache)
        for sequence in self.rows:
            sequence.num_computed += 1
        self._num_steps += 1
        if self._num_steps % SETTLE_EVERY == 0:
            kv.settle(self._cache)
        guides = [sequence.guide for sequence in self.rows]
        if any(guides):
            # What may come next depends on what has come. While the step is put under way, the
            # guides read the tokens behind which they stand.
            with self._masks.filling(guides, current.told) as mask:
                mx.async_eval(logits)
                sampled = sampler.sample(logits, mask)
            mx.async_eval([*sampled.arrays, *self._masks.posting(sampled.told)])
        else:
            sampled = sampler.sample(logits)
            mx.async_eval(sampled.arrays)
        self._sampled = sampled

    def extract(self, sequence: Sequence) -> Cache:
        """Give a row's caches, as plain caches of its own."""
        if len(self.rows) == 1:
            return self._cache
        index = self.rows.index(sequence)
        cache = [layer.extract(index) for layer in self._cache]
        mx.async_eval(kv.states(cache))
        return cache

    def remove(self, leaving: Iterable[Sequence]) -> None:
        """Let rows go; the step under way goes on for the others."""
        gone = {id(sequence) for sequence in leaving}
        keep = [i for i, sequence in enumerate(self.rows) if id(sequence) not in gone]
        if len(keep) == len(self.rows):
            return
        if not keep:
            self.clear()
            return
        self._catch_up()
        if len(keep) == 1:
            self._cache = self.extract(self.rows[keep[0]])
        else:
            for layer in self._cache:
                layer.filter(keep)
            kv.settle(self._cache)
        assert self._sampled is not None
        self._sampled = _filtered(self._sampled, keep)
        self.rows = [self.rows[i] for i in keep]
        self._sampler = None

    def clear(self) -> None:
        """Forget every row and all their caches."""
        self.rows, self._cache = [], []
        self._sampled = self._sampler = None
        self._is_new = self._is_behind = False


def first_tokens(sequences: list[Sequence], logits: mx.array, vocab_size: int) -> Sampled:
    """Sample what follows the last known token of each sequence, from `logits` ([B, V])."""
    for sequence in sequences:
        if sequence.guide is not None:
            sequence.guide.catch_up(sequence.generated)
    mask = filled([sequence.guide for sequence in sequences], vocab_size)
    sampled = Sampler([row(s) for s in sequences], vocab_size).sample(logits, mask)
    mx.async_eval(sampled.arrays)
    return sampled


def row(sequence: Sequence) -> Row:
    """What sampling must know of a sequence."""
    return Row(sequence.params, sequence.seed, sequence.prompt, sequence.generated)


def _concatenated(a: Sampled, b: Sampled) -> Sampled:
    num_a, num_b = a.tokens.shape[0], b.tokens.shape[0]

    def joined(x: mx.array | None, y: mx.array | None) -> mx.array | None:
        if x is None and y is None:
            return None
        # Rows that asked for no log-probabilities have none to lose.
        if x is None:
            x = mx.zeros((num_a, *y.shape[1:]), y.dtype)  # type: ignore[union-attr]
        if y is None:
            y = mx.zeros((num_b, *x.shape[1:]), x.dtype)
        return mx.concatenate([x, y])

    tokens = mx.concatenate([a.tokens, b.tokens])
    return Sampled(
        tokens,
        mx.concatenate([a.told, b.told]),
        joined(a.logprobs, b.logprobs),
        joined(a.top_tokens, b.top_tokens),
        joined(a.top_logprobs, b.top_logprobs),
    )


def _filtered(sampled: Sampled, keep: list[int]) -> Sampled:
    index = mx.array(keep)

    def kept(x: mx.array | None) -> mx.array | None:
        return None if x is None else x[index]

    return Sampled(
        sampled.tokens[index],
        sampled.told[index],
        kept(sampled.logprobs),
        kept(sampled.top_tokens),
        kept(sampled.top_logprobs),
    )
