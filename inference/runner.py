"""The runner is everything that touches MLX while serving; it lives and dies on the GPU thread.

It does what it is told: which sequence is next, and what a failure means, is decided elsewhere.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable
from typing import Any

import mlx.core as mx
from mlx_lm.models.cache import make_prompt_cache

from inference.batch import Batch
from inference.detokenizer import token_bytes
from inference.prefix_cache import PrefixCache
from inference.sampling import Sampled
from inference.sequence import Sequence
from parts import TokenLogprob

Step = list[tuple[Sequence, int, TokenLogprob | None]]
"""What a step gave each running sequence."""


class Runner:
    """A model, the batch that decodes on it, and the prefixes that it remembers."""

    def __init__(
        self, model: Any, tokenizer: Any, *, vocab_size: int, prefix_cache: PrefixCache
    ) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.vocab_size = vocab_size
        """Tokens that may be sampled, and that a request may name."""
        self.prefix_cache = prefix_cache
        self.can_batch = all(hasattr(layer, "merge") for layer in make_prompt_cache(model))
        """Whether mlx-lm can put this model's caches into a batch; if not, sequences take turns."""
        self._batch = Batch(model, vocab_size)

    def prefill(self, sequence: Sequence, max_tokens: int) -> bool:
        """Compute up to `max_tokens` more tokens of a sequence that is not running yet.

        When only the last is left, its first step is computed, alone, so that what fails here
        fails for this sequence only; then it joins the batch. Returns whether it has.
        """
        if sequence.cache is None:
            self._begin(sequence)
        last = sequence.num_tokens - 1
        end = min(sequence.num_computed + max_tokens, last)
        if end > sequence.num_computed:
            chunk = mx.array([sequence.tokens[sequence.num_computed : end]])
            self.model(chunk, cache=sequence.cache)
            mx.eval([layer.state for layer in sequence.cache])
            mx.clear_cache()
            sequence.num_computed = end
        if end < last:
            return False
        self._remember(sequence, copy.deepcopy(sequence.cache))
        self._batch.join(sequence, self._batch.first_step(sequence))
        return True

    def _begin(self, sequence: Sequence) -> None:
        cache, num_cached = self.prefix_cache.match(sequence.tokens)
        sequence.cache = make_prompt_cache(self.model) if cache is None else cache
        sequence.num_computed = num_cached
        if not sequence.num_faults:  # after a failed step it finds what it computed itself
            sequence.num_cached = num_cached

    def decode(self) -> Step:
        """Give the next token of each running sequence."""
        if not self._batch:
            return []
        rows = list(self._batch.rows)
        sampled = self._batch.step()
        tokens: Any = sampled.tokens.tolist()
        logprobs = self._logprobs(rows, sampled, tokens)
        return list(zip(rows, tokens, logprobs, strict=True))

    def remove(self, leaving: Iterable[Sequence]) -> None:
        """Let sequences leave the batch; those that finished leave their prefix behind."""
        leaving = list(leaving)
        for sequence in leaving:
            if sequence.is_finished and sequence in self._batch.rows:
                self._remember(sequence, self._batch.extract(sequence))
            sequence.cache = None
        self._batch.remove(leaving)

    def reset(self) -> None:
        """Forget the batch, after a step that failed."""
        for sequence in self._batch.rows:
            sequence.cache, sequence.num_computed = None, 0
        self._batch.clear()
        mx.clear_cache()

    def _remember(self, sequence: Sequence, cache: list[Any]) -> None:
        # What cannot be computed must fail now, not in whoever finds it later.
        mx.eval([layer.state for layer in cache])
        self.prefix_cache.insert(sequence.tokens[: sequence.num_computed], cache)

    def _logprobs(
        self, rows: list[Sequence], sampled: Sampled, tokens: list[int]
    ) -> list[TokenLogprob | None]:
        found: list[TokenLogprob | None] = [None] * len(rows)
        if sampled.logprobs is None:
            return found
        assert sampled.top_tokens is not None
        assert sampled.top_logprobs is not None
        chosen: Any = sampled.logprobs.tolist()
        top_tokens: Any = sampled.top_tokens.tolist()
        top_logprobs: Any = sampled.top_logprobs.tolist()
        for i, sequence in enumerate(rows):
            k = sequence.params.top_logprobs
            if k is not None:
                top = zip(top_tokens[i][:k], top_logprobs[i][:k], strict=True)
                entries = tuple(self._logprob(token, value) for token, value in top)
                found[i] = self._logprob(tokens[i], chosen[i], entries)
        return found

    def _logprob(
        self, token: int, value: float, top: tuple[TokenLogprob, ...] = ()
    ) -> TokenLogprob:
        raw = token_bytes(self.tokenizer, token)
        value = value if math.isfinite(value) else -9999.0
        return TokenLogprob(raw.decode("utf-8", "replace"), raw, value, top)
