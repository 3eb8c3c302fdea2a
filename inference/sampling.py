"""Sampling chooses the next token of every row of a batch, in one pass, each row by its own rules.

A row's random numbers depend on its seed and on how many tokens it has, on nothing else: the same
request with the same seed draws the same tokens alone and in a busy batch, and again after its
batch had to be rebuilt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import numpy as np

from inference import mask_kernel, nucleus
from parts import SamplingParams

MAX_TOP_LOGPROBS = 20
COLDEST = 1e-5
"""Temperatures below it take the likeliest token, as 0 does: its inverse is still a number."""


@dataclass(frozen=True, slots=True)
class Row:
    """What sampling must know of one sequence."""

    params: SamplingParams
    seed: int
    """64 bits."""
    prompt: Sequence[int]
    generated: Sequence[int]


@dataclass(frozen=True, slots=True)
class Sampled:
    """The arrays of one step, perhaps not yet computed. B rows, k = `MAX_TOP_LOGPROBS`."""

    tokens: mx.array
    """[B] uint32, for the model."""
    told: mx.array
    """[B] int32, for the host: the same, or -1 where the model gave no numbers."""
    logprobs: mx.array | None = None
    """[B] float32, when a row asked for log-probabilities."""
    top_tokens: mx.array | None = None
    """[B, k], likeliest first."""
    top_logprobs: mx.array | None = None

    @property
    def arrays(self) -> list[mx.array]:
        found = (self.tokens, self.told, self.logprobs, self.top_tokens, self.top_logprobs)
        return [a for a in found if a is not None]


class Sampler:
    """The rules of all rows as arrays, kept up to date on the device from step to step.

    A row pays for what it asks for: a greedy one for an argmax, though others beside it draw.
    """

    def __init__(self, rows: Sequence[Row], vocab_size: int) -> None:
        params = [row.params for row in rows]
        self._vocab_size = vocab_size
        self._drawing = [i for i, p in enumerate(params) if _draws(p)]
        self._is_penalised = any(_is_penalised(p) for p in params)
        self._telling = [i for i, p in enumerate(params) if p.top_logprobs is not None]
        self._bias = _bias(params, vocab_size)
        # Numbers of the host's that each step needs are sent to the device once.
        self._none = mx.array(-1, mx.int32)
        self._unpacking: tuple[mx.array, mx.array, mx.array] | None = None
        self._counts: mx.array
        self._states: Any
        if self._drawing:
            self._init_random([rows[i] for i in self._drawing])
        if self._is_penalised:
            self._init_penalties(rows)

    def advance(self, tokens: mx.array) -> None:
        """Take note of the tokens ([B]) that the rows have got since."""
        if self._drawing:
            self._states = self._states + self._one_further
        if self._is_penalised:
            self._counts = self._counts.at[self._rows, tokens].add(1.0)

    def sample(self, logits: mx.array, mask: mx.array | None = None) -> Sampled:
        """Choose a token for each row of `logits` ([B, vocabulary]).

        `mask` ([B, ⌈vocabulary / 32⌉] uint32) has a bit for each token that may be chosen.
        """
        # Rows of the embedding beyond the tokenizer's last token are padding.
        logits = logits[:, : self._vocab_size]
        adjusted = logits if self._bias is None else logits + self._bias
        if self._is_penalised:
            adjusted = self._penalised(adjusted)
        if mask is not None:
            adjusted = self._masked(adjusted, mask)
        tokens = self._chosen(adjusted)
        is_nan = mx.isnan(mx.take_along_axis(logits, tokens[:, None], axis=-1)[:, 0])
        # One array for the host to read: each that it looks at has to come over.
        told = mx.where(is_nan, self._none, tokens.astype(mx.int32))
        if not self._telling:
            return Sampled(tokens, told)
        if len(self._telling) == logits.shape[0]:
            return Sampled(tokens, told, *_logprobs(tokens, logits))
        telling = mx.array(self._telling)
        of_these = _logprobs(tokens[telling], logits[telling])
        return Sampled(tokens, told, *(_spread(x, telling, logits.shape[0]) for x in of_these))

    def _masked(self, logits: mx.array, mask: mx.array) -> mx.array:
        """`logits` where `mask` has its bit set, lowest bit first, and -inf elsewhere."""
        if (apply := mask_kernel.kernel()) is not None:
            return apply(logits, mask)
        if self._unpacking is None:
            one = mx.array(1, mx.uint8)
            self._unpacking = mx.arange(8, dtype=mx.uint8), one, mx.array(-mx.inf, logits.dtype)
        places, one, nothing = self._unpacking
        # In bytes: a quarter of what the same takes in words.
        bits = (mask.view(mx.uint8)[:, :, None] >> places) & one
        may = bits.reshape(mask.shape[0], -1)[:, : self._vocab_size].astype(mx.bool_)
        return mx.where(may, logits, nothing)

    def _chosen(self, logits: mx.array) -> mx.array:
        if len(self._drawing) == logits.shape[0]:
            return self._drawn(logits)
        tokens = mx.argmax(logits, axis=-1)
        if self._drawing:
            drawing = mx.array(self._drawing)
            tokens[drawing] = self._drawn(logits[drawing])
        return tokens

    # Drawing

    def _init_random(self, rows: Sequence[Row]) -> None:
        params = [row.params for row in rows]
        rules = [(1 / p.temperature, p.top_p, p.min_p or 0.0) for p in params]
        # Each kind side by side, as the kernel reads them.
        self._inverse_temperature, self._top_p, self._min_p = mx.array(
            np.ascontiguousarray(np.array(rules, np.float32).T[:, :, None])
        )
        v = self._vocab_size
        self._top_k = mx.array([min(p.top_k or v, v) for p in params])[:, None]
        self._kernel = nucleus.kernel()
        self._has_top_p = any(p.top_p < 1 for p in params)
        self._has_top_k = any(p.top_k for p in params)
        self._has_min_p = any(p.min_p for p in params)
        seeds = _mixed(np.array([row.seed for row in rows], np.uint64))
        positions = np.array([len(row.generated) for row in rows], np.uint64)
        states = (seeds + positions * _GOLDEN)[:, None]
        # On the device where they are used there: to send a few numbers each step takes as long as
        # a dozen operations.
        self._states = states if self._kernel is None else mx.array(states)
        self._one_further: Any = _GOLDEN if self._kernel is None else mx.array(np.array(_GOLDEN))

    def _drawn(self, logits: mx.array) -> mx.array:
        """Draw from what the filters leave, by the inverse of the cumulative distribution.

        `logits` are those of the rows that draw. With the likeliest first, each filter keeps a
        beginning of the row, and one number between 0 and 1 says which of the tokens kept it is.
        """
        if self._kernel is not None:
            rules = (self._inverse_temperature, self._top_p, self._min_p, self._top_k)
            return self._kernel(logits, *rules, self._states)
        logits = logits.astype(mx.float32) * self._inverse_temperature
        order = mx.argsort(-logits, axis=-1)
        probs = mx.softmax(mx.take_along_axis(logits, order, axis=-1), axis=-1)
        if self._has_min_p:
            probs = mx.where(probs >= self._min_p * probs[:, :1], probs, 0.0)
        if self._has_top_k:
            probs = mx.where(mx.arange(self._vocab_size) < self._top_k, probs, 0.0)
        sums = mx.cumsum(probs, axis=-1)
        # Rounding may leave an index behind the last token kept: what no filter kept, or a grammar
        # forbids, has no probability at all and is never drawn.
        num_kept = mx.sum(probs > 0, axis=-1, keepdims=True)
        if self._has_top_p:
            # The first token that brings the sum to top_p is the last one kept.
            by_p = mx.sum(sums - probs < self._top_p * sums[:, -1:], axis=-1, keepdims=True)
            by_p = mx.where(self._top_p < 1, mx.maximum(by_p, 1), num_kept)
            num_kept = mx.minimum(num_kept, by_p)
        total = mx.take_along_axis(sums, num_kept - 1, axis=-1)
        index = mx.sum(sums <= mx.array(self._uniform()) * total, axis=-1, keepdims=True)
        return mx.take_along_axis(order, mx.minimum(index, num_kept - 1), axis=-1)[:, 0]

    def _uniform(self) -> np.ndarray:
        """A number in [0, 1) for each row, by its seed and position: [B, 1] float32."""
        bits: np.ndarray = _mixed(self._states)
        return (bits >> np.uint64(40)).astype(np.float32) / np.float32(2**24)

    # Penalties

    def _init_penalties(self, rows: Sequence[Row]) -> None:
        params = [row.params for row in rows]
        v = self._vocab_size
        self._repetition = mx.array([p.repetition_penalty for p in params])[:, None]
        self._presence = mx.array([p.presence_penalty for p in params])[:, None]
        self._frequency = mx.array([p.frequency_penalty for p in params])[:, None]
        self._rows = mx.arange(len(rows))
        self._counts = mx.stack([_counts(row.generated, v) for row in rows])
        in_prompt = mx.stack([_counts(row.prompt, v) for row in rows])
        self._in_prompt = in_prompt > 0

    def _penalised(self, logits: mx.array) -> mx.array:
        seen = self._in_prompt | (self._counts > 0)
        repeated = mx.where(logits > 0, logits / self._repetition, logits * self._repetition)
        logits = mx.where(seen, repeated, logits)
        return logits - self._frequency * self._counts - self._presence * (self._counts > 0)


def _draws(params: SamplingParams) -> bool:
    """Whether there is more than one token to choose from."""
    return params.temperature >= COLDEST and params.top_k != 1


def _is_penalised(params: SamplingParams) -> bool:
    return bool(
        params.presence_penalty or params.frequency_penalty or params.repetition_penalty != 1
    )


def _bias(params: Sequence[SamplingParams], vocab_size: int) -> mx.array | None:
    """Every row's logit_bias as [B, vocabulary], or None when no row has one."""
    if not any(p.logit_bias for p in params):
        return None
    rows = []
    for p in params:
        row = mx.zeros(vocab_size)
        if p.logit_bias:
            row[mx.array(list(p.logit_bias))] = mx.array(list(p.logit_bias.values()))
        rows.append(row)
    return mx.stack(rows)


def _counts(tokens: Sequence[int], vocab_size: int) -> mx.array:
    """How often each token of the vocabulary occurs: [vocabulary] float32."""
    counts = mx.zeros(vocab_size)
    known = [t for t in tokens if t < vocab_size]
    return counts.at[mx.array(known)].add(1.0) if known else counts


_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def _mixed(numbers: np.ndarray) -> np.ndarray:
    """Spread 64-bit numbers, so that neighbours become unrelated (splitmix64, Steele et al. 2014).

    Made on the host: the same numbers on every device.
    """
    z = numbers + _GOLDEN
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def _logprobs(tokens: mx.array, logits: mx.array) -> tuple[mx.array, mx.array, mx.array]:
    """The log-probabilities that the model itself gave, before bias, penalties and filters.

    Those of `tokens` ([B]), the likeliest tokens ([B, k]), and theirs.
    """
    logits = logits.astype(mx.float32)
    logprobs = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
    k = min(MAX_TOP_LOGPROBS, logits.shape[-1])
    top = mx.argpartition(-logprobs, k - 1, axis=-1)[:, :k]
    values = mx.take_along_axis(logprobs, top, axis=-1)
    order = mx.argsort(-values, axis=-1)
    return (
        mx.take_along_axis(logprobs, tokens[:, None], axis=-1)[:, 0],
        mx.take_along_axis(top, order, axis=-1),
        mx.take_along_axis(values, order, axis=-1),
    )


def _spread(array: mx.array, rows: mx.array, num_rows: int) -> mx.array:
    """Put what some rows have into their places among all; the others have zeros."""
    spread = mx.zeros((num_rows, *array.shape[1:]), array.dtype)
    spread[rows] = array
    return spread
