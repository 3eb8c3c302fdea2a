"""Sampling chooses the next token of every row of a batch, in one pass, each row by its own rules.

A row's random numbers depend on its seed and on how many tokens it has, on nothing else: the same
request with the same seed draws the same tokens alone and in a busy batch, and again after its
batch had to be rebuilt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import mlx.core as mx

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
    """[B] uint32."""
    logprobs: mx.array | None = None
    """[B] float32, when a row asked for log-probabilities."""
    top_tokens: mx.array | None = None
    """[B, k], likeliest first."""
    top_logprobs: mx.array | None = None

    @property
    def arrays(self) -> list[mx.array]:
        found = (self.tokens, self.logprobs, self.top_tokens, self.top_logprobs)
        return [a for a in found if a is not None]


class Sampler:
    """The rules of all rows as arrays, kept up to date on the device from step to step.

    What no row asks for is not computed.
    """

    def __init__(self, rows: Sequence[Row], vocab_size: int) -> None:
        params = [row.params for row in rows]
        self._vocab_size = vocab_size
        self._is_greedy = [p.temperature < COLDEST for p in params]
        self._is_penalised = any(_is_penalised(p) for p in params)
        self._wants_logprobs = any(p.top_logprobs is not None for p in params)
        self._bias = _bias(params, vocab_size)
        self._position: mx.array
        self._counts: mx.array
        if not all(self._is_greedy):
            self._init_random(rows)
        if self._is_penalised:
            self._init_penalties(rows)

    def advance(self, tokens: mx.array) -> None:
        """Take note of the tokens ([B]) that the rows have got since."""
        if not all(self._is_greedy):
            self._position = self._position + mx.array([0, 1], dtype=mx.uint32)
        if self._is_penalised:
            self._counts = self._counts.at[self._rows, tokens].add(1.0)

    def sample(self, logits: mx.array, mask: mx.array | None = None) -> Sampled:
        """Choose a token for each row of `logits` ([B, vocabulary]).

        `mask` ([B, ⌈vocabulary / 32⌉] uint32) has a bit for each token that may be chosen.
        """
        logits = logits.astype(mx.float32)
        # Rows of the embedding beyond the tokenizer's last token are padding.
        logits = logits[:, : self._vocab_size]
        adjusted = logits if self._bias is None else logits + self._bias
        if self._is_penalised:
            adjusted = self._penalised(adjusted)
        if mask is not None:
            adjusted = mx.where(_bits(mask, self._vocab_size), adjusted, -mx.inf)
        tokens = mx.argmax(adjusted, axis=-1)
        if not all(self._is_greedy):
            tokens = mx.where(self._greedy, tokens, self._drawn(adjusted))
        if not self._wants_logprobs:
            return Sampled(tokens)
        return _with_logprobs(tokens, logits)

    # Drawing

    def _init_random(self, rows: Sequence[Row]) -> None:
        params = [row.params for row in rows]
        self._greedy = mx.array(self._is_greedy)
        self._inverse_temperature = mx.array([1 / max(p.temperature, COLDEST) for p in params])[
            :, None
        ]
        self._top_p = mx.array([p.top_p for p in params])[:, None]
        self._min_p = mx.array([p.min_p or 0.0 for p in params])[:, None]
        v = self._vocab_size
        self._top_k = mx.array([min(p.top_k or v, v) for p in params])[:, None]
        # A greedy row's filters are not used.
        drawn = [p for p in params if p.temperature >= COLDEST]
        self._has_top_p = any(p.top_p < 1 for p in drawn)
        self._has_top_k = any(p.top_k for p in drawn)
        self._has_min_p = any(p.min_p for p in drawn)
        self._keys = mx.array([_key(row.seed) for row in rows], dtype=mx.uint32)
        self._position = mx.array([[0, len(row.generated)] for row in rows], dtype=mx.uint32)

    def _drawn(self, logits: mx.array) -> mx.array:
        """Draw from the filtered distribution by the Gumbel-max trick, in vocabulary order."""
        logits = logits * self._inverse_temperature
        logits = self._filtered(logits)
        keys = self._keys + self._position
        noise = mx.vmap(lambda key: mx.random.gumbel((self._vocab_size,), key=key))(keys)
        return mx.argmax(logits + noise, axis=-1)

    def _filtered(self, logits: mx.array) -> mx.array:
        """Set to -inf what top_k, top_p and min_p leave out, each row by its own rules."""
        if self._has_min_p:
            highest = mx.max(logits, axis=-1, keepdims=True)
            # log 0 = -inf leaves every token in.
            logits = mx.where(logits < highest + mx.log(self._min_p), -mx.inf, logits)
        if not (self._has_top_k or self._has_top_p):
            return logits
        descending = -mx.sort(-logits, axis=-1)
        num_kept = self._top_k
        if self._has_top_p:
            is_among_k = mx.arange(self._vocab_size) < self._top_k
            probs = mx.softmax(mx.where(is_among_k, descending, -mx.inf), axis=-1)
            before = mx.cumsum(probs, axis=-1) - probs
            # The first token that brings the sum to top_p is the last one kept.
            by_p = mx.maximum(mx.sum(before < self._top_p, axis=-1, keepdims=True), 1)
            num_kept = mx.where(self._top_p < 1, mx.minimum(num_kept, by_p), num_kept)
        threshold = mx.take_along_axis(descending, num_kept - 1, axis=-1)
        # Of several equally likely tokens at the threshold, the first are kept.
        is_above, is_at = logits > threshold, logits == threshold
        num_at = num_kept - mx.sum(is_above, axis=-1, keepdims=True)
        is_kept = is_above | (is_at & (mx.cumsum(is_at.astype(mx.int32), axis=-1) <= num_at))
        return mx.where(is_kept, logits, -mx.inf)

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


def _bits(mask: mx.array, vocab_size: int) -> mx.array:
    """Unpack a bitmask: [B, words] to [B, vocabulary] booleans, lowest bit first."""
    bits = (mask[:, :, None] >> mx.arange(32, dtype=mx.uint32)) & 1
    return bits.reshape(mask.shape[0], -1)[:, :vocab_size].astype(mx.bool_)


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


def _key(seed: int) -> tuple[int, int]:
    """Spread a seed over the two words of a random key (splitmix64, Steele et al. 2014).

    Neighbouring seeds, and one seed's neighbouring positions, must give unrelated numbers: the
    position is added to the second word.
    """
    z = (seed + 0x9E3779B97F4A7C15) & 0xFFFFFFFFFFFFFFFF
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & 0xFFFFFFFFFFFFFFFF
    z ^= z >> 31
    return z >> 32, z & 0xFFFFFFFF


def _with_logprobs(tokens: mx.array, logits: mx.array) -> Sampled:
    """Add the log-probabilities that the model itself gave, before bias, penalties and filters."""
    logprobs = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
    k = min(MAX_TOP_LOGPROBS, logits.shape[-1])
    top = mx.argpartition(-logprobs, k - 1, axis=-1)[:, :k]
    values = mx.take_along_axis(logprobs, top, axis=-1)
    order = mx.argsort(-values, axis=-1)
    return Sampled(
        tokens,
        mx.take_along_axis(logprobs, tokens[:, None], axis=-1)[:, 0],
        mx.take_along_axis(top, order, axis=-1),
        mx.take_along_axis(values, order, axis=-1),
    )
