"""The runner is what computes by MLX while serving; it lives and dies on the GPU thread.

It does what it is told: which sequence is next, and what a failure means, is decided elsewhere.
Nothing here waits for the device but `decode`, a chunk of a prompt for the chunk before it, and
what goes to the disk.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import mlx.core as mx
import numpy as np
from mlx_lm.models.cache import (
    can_trim_prompt_cache,
    make_prompt_cache,
    trim_prompt_cache,
)

from inference import rows as kv
from inference.batch import Arrivals, Batch, first_tokens
from inference.cache_layers import copied
from inference.cuda_mailbox import mailbox
from inference.decoder import CompiledDecoder, Decoder
from inference.detokenizer import token_bytes
from inference.masks import MaskFiller
from inference.prefix_cache import PrefixCache
from inference.rows import Cache
from inference.sampling import Row, Sampled, Sampler
from inference.scheduler import have_one_prompt
from inference.sequence import Sequence
from inference.shapes import AS_THEY_ARE, Shapes
from inference.token_tree import packed
from parts import Memory, SamplingParams, TokenLogprob

Step = list[tuple[Sequence, int, TokenLogprob | None]]
"""What a step gave each running sequence."""


SHORT = 512
"""Tokens of a prompt that are computed in one go, with the first token of the answer.

More are computed without their logits, which take a vocabulary of memory for each token, and the
last one after them."""
MANY = 32
"""Rows up to which a batch is planned for at load."""
WORTH_SHARING = 16
"""Tokens computed anew that make a prompt worth keeping before its answer is complete."""


class Runner:
    """A model, the batch that decodes on it, and the prefixes that it remembers."""

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        vocab_size: int,
        prefix_cache: PrefixCache,
        num_opening: int = 0,
        can_batch: bool = True,
        can_pad: bool = True,
        is_compiled: bool = False,
        shapes: Shapes = AS_THEY_ARE,
        max_logits_bytes: int = 2**30,
        max_padding_bytes: int = 2**31,
    ) -> None:
        """`num_opening` tokens end every prompt and open the answer, in the model's template.

        `is_compiled` where decode steps are recorded and played back, see `CompiledDecoder`.

        `max_logits_bytes` is what the logits of prompts computed together may take: a vocabulary of
        numbers for each token, padding among them.

        `max_padding_bytes` is what a batch may waste on short rows beside long ones. Where it would
        be more, they decode in batches of their own, in turns.
        """
        self.model = model
        self.tokenizer = tokenizer
        self.vocab_size = vocab_size
        """Tokens that may be sampled, and that a request may name."""
        self.prefix_cache = prefix_cache
        cache = make_prompt_cache(model)
        self.can_batch = can_batch and kv.can_merge(cache)
        """Whether mlx-lm can put this model's caches into a batch; if not, sequences take turns."""
        self.can_pad = can_pad and self.can_batch and kv.can_pad(cache)
        """Whether prompts of different lengths can be computed in one go."""
        self._can_trim = can_trim_prompt_cache(cache)
        self.max_together = max(SHORT, max_logits_bytes // (4 * vocab_size))
        """Tokens of prompts computed together."""
        self._decoder = CompiledDecoder(model) if is_compiled else Decoder(model)
        self._guiding = ThreadPoolExecutor(1, "guides")
        """A thread for all guides: they share what their lexers remember."""
        self._num_opening = num_opening
        self.shapes = shapes
        self._max_padding_bytes = max_padding_bytes
        self._batches: list[Batch] = []
        self._arrivals: Arrivals | None = None
        self._under_way: list[Any] = []
        """The state of the chunk that the device may still be computing."""
        self.num_prefilled = 0
        """Tokens that the last prefill computed: not those that were found, nor what fills up a
        shape."""
        self.waited_s = 0.0
        """Seconds for which it waited for the chunk before it."""

    def is_short(self, sequence: Sequence) -> bool:
        """Whether a sequence that waits can be computed in one go with others like it."""
        if not self.can_pad or sequence.cache is not None or sequence.num_tokens > SHORT:
            return False
        return self.prefix_cache.peek(sequence.tokens) < sequence.num_tokens // 2

    def prefill(self, sequences: list[Sequence], max_tokens: int) -> bool:
        """Compute up to `max_tokens` more tokens of the prompt that all have, or several whole.

        Returns whether all is computed, and the first token under way: then they can `join`.
        """
        self.num_prefilled, self.waited_s = 0, 0.0
        is_planned = self.shapes.is_planned and self.is_short(sequences[0])
        if is_planned or not have_one_prompt(sequences):
            self._arrivals = self._prefill_together(sequences)
        else:
            self._arrivals = self._prefill_chunk(sequences, max_tokens)
        return self._arrivals is not None

    def join(self) -> None:
        """Let the sequences whose prompts were computed last join the batch."""
        arrivals, self._arrivals = self._arrivals, None
        assert arrivals is not None
        if self.prefix_cache.has_folder:
            kv.own(arrivals.cache)
        self._batch_for(arrivals).join(arrivals)
        for sequence in arrivals.rows:
            sequence.cache = sequence.sent = None

    def _batch_for(self, arrivals: Arrivals) -> Batch:
        """The first batch where they fit, or a new one."""
        for batch in self._batches:
            if self._fit(batch, arrivals):
                return batch
        masks = MaskFiller(self._guiding, self.vocab_size, mailbox())
        self._batches.append(Batch(self._decoder, masks, self.vocab_size))
        return self._batches[-1]

    def _fit(self, batch: Batch, arrivals: Arrivals) -> bool:
        num_bytes = kv.bytes_per_token(arrivals.cache)
        return batch.num_padding(arrivals.rows) * num_bytes <= self._max_padding_bytes

    def _batch_of(self, sequence: Sequence) -> Batch | None:
        return next((batch for batch in self._batches if sequence in batch.rows), None)

    def _prefill_together(self, sequences: list[Sequence]) -> Arrivals:
        cache, logits = self._computed_once([sequence.tokens for sequence in sequences])
        sampled = first_tokens(sequences, logits, self.vocab_size)
        known = set[tuple[int, ...]]()
        for sequence in sequences:
            tokens = tuple(sequence.tokens)
            if tokens in known and not sequence.generated:  # all but the logits behind the last
                sequence.num_cached = len(tokens) - 1
            known.add(tokens)
            sequence.num_computed = sequence.num_tokens
        self.num_prefilled = sum(map(len, known))
        return Arrivals(sequences, cache, sampled)

    def _computed_once(self, prompts: list[list[int]]) -> tuple[Cache, mx.array]:
        """The same as `_computed`, where several may ask with one prompt."""
        different = dict.fromkeys(tuple(tokens) for tokens in prompts)
        places = {tokens: place for place, tokens in enumerate(different)}
        rows = [places[tuple(tokens)] for tokens in prompts]
        cache, logits = self._computed([list(tokens) for tokens in places])
        if len(places) == len(prompts):
            return cache, logits
        if len(places) == 1:
            return kv.repeated(cache, len(rows)), mx.repeat(logits, len(rows), axis=0)
        for layer in cache:
            layer.filter(rows)
        return cache, logits[mx.array(rows)]

    def _computed(self, prompts: list[list[int]]) -> tuple[Cache, mx.array]:
        """The caches of several prompts, and the logits behind them ([B, V])."""
        longest = self.shapes.tokens(max(map(len, prompts)))
        # Rows that only make the shape a known one have one token each.
        spare = [[0]] * (self.shapes.rows(len(prompts)) - len(prompts))
        padding = [longest - len(tokens) for tokens in (*prompts, *spare)]
        rows = [[0] * p + t for p, t in zip(padding, (*prompts, *spare), strict=True)]
        cache = kv.empty(make_prompt_cache(self.model), padding)
        logits = self.model(mx.array(rows), cache=cache)[: len(prompts), -1, :]
        if len(prompts) == 1:
            return kv.plain(cache), logits
        if spare:
            for layer in cache:
                layer.filter(range(len(prompts)))
        return cache, logits

    def _computed_until(self, sequence: Sequence, end: int) -> mx.array:
        """Compute a chunk; give the logits behind it ([1, V]).

        What fills up the last chunk comes behind all that counts, which does not see it.
        """
        start, spare = sequence.num_computed, 0
        if self._can_trim and end - start > 1 and end < sequence.num_tokens:
            spare = self.shapes.end(start, end - start) - (end - start)
        logits = self.model(self._tokens(sequence, start, end + spare), cache=sequence.cache)
        trim_prompt_cache(sequence.cache, spare)
        return logits[:, end - start - 1, :]

    def _tokens(self, sequence: Sequence, start: int, end: int) -> mx.array:
        """Some tokens of a prompt ([1, n]), or what fills it up where it has no more.

        All are sent to the device at once: to send some may have to wait until it is idle, and so
        it would be.
        """
        length = sequence.num_tokens + self.shapes.most_spare
        if sequence.sent is None or sequence.sent.shape[1] != length:
            tokens = np.zeros((1, length), np.uint32)
            tokens[0, : sequence.num_tokens] = np.frombuffer(packed(sequence.tokens), np.uint32)
            sequence.sent = mx.array(tokens)
        sent: mx.array = sequence.sent[:, start:end]
        return sent

    def _continued(self, sequence: Sequence) -> mx.array:
        """The logits behind a prompt that was found in the prefix cache but for its end.

        A little of what was found is computed once more, for the sake of a known shape.
        """
        length = self.shapes.tokens(sequence.num_tokens - sequence.num_computed)
        length = min(length, sequence.num_tokens)
        trim_prompt_cache(sequence.cache, length - (sequence.num_tokens - sequence.num_computed))
        tokens = self._tokens(sequence, sequence.num_tokens - length, sequence.num_tokens)
        if length <= self.shapes.few_behind(sequence.num_tokens - length):
            return self.model(tokens, cache=sequence.cache)[:, -1, :]
        padding = self.shapes.context(sequence.num_tokens) - sequence.num_tokens
        cache = kv.padded(sequence.cache, padding)
        logits = self.model(tokens, cache=cache)[:, -1, :]
        sequence.cache = kv.plain(cache)
        return logits

    def warm_up(self, max_tokens: int = 2048) -> None:
        """Plan the shapes of short prompts, so that the first clients do not wait for it.

        And sample behind a mask, once greedily and once by every rule, and try the mailbox, which
        compiles what they need.
        """
        logits = mx.zeros((2, self.vocab_size))
        mask = mx.full((2, -(-self.vocab_size // 32)), 2**32 - 1, mx.uint32)
        rules = (SamplingParams(temperature=0), SamplingParams(top_k=9, min_p=0.1, top_logprobs=1))
        for params in rules:
            sampler = Sampler([Row(params, 0, [0], [0])] * 2, self.vocab_size)
            mx.eval(sampler.sample(logits, mask).arrays)
        mailbox()
        if self.shapes.is_planned and self.can_pad:
            for num_rows in (1, 2, 4, 8):
                for num_tokens in (32, 64, 128, 256, 512):
                    if num_rows * num_tokens <= max_tokens:
                        mx.eval(self._computed([[0] * num_tokens] * num_rows)[1])

    def plan_batches(self) -> None:
        """Have a step planned for every likely number of rows for which there is room."""
        decoder = Decoder(self.model)
        for num_rows in range(2, MANY + 1):
            cache = kv.empty(make_prompt_cache(self.model), [1] + [0] * (num_rows - 1))
            for _ in range(2):  # until each row has begun
                mx.eval(decoder(mx.zeros(num_rows, mx.uint32), cache))
            num_bytes = sum(layer.nbytes for layer in cache)
            if num_bytes * (num_rows + 1) > self._max_padding_bytes * num_rows:
                break

    def _prefill_chunk(self, sequences: list[Sequence], max_tokens: int) -> Arrivals | None:
        """Compute a chunk of the first one's prompt, which the others share."""
        sequence, *others = sequences
        if sequence.cache is None:
            self._begin(sequence)
        end = self._end_of_chunk(sequence, max_tokens)
        is_end = end == sequence.num_tokens
        self.num_prefilled = num_left = end - sequence.num_computed
        can_continue = self.shapes.is_planned and self.can_pad and sequence.num_computed
        if is_end and can_continue:
            kv.make_room(sequence.cache, end)
        if is_end and num_left > 1 and can_continue:
            logits = self._continued(sequence)
        else:
            logits = self._computed_until(sequence, end)
        sequence.num_computed = end
        for other in others:  # any may go on alone if those before it leave
            other.cache, other.num_computed = sequence.cache, end
            if not other.generated:  # all but the logits behind the last
                other.num_cached = sequence.num_tokens - 1
        if not is_end:
            self._wait_for_the_one_before(kv.states(sequence.cache))
            self._keep_checkpoint(sequence)
            return None
        cache = sequence.cache
        if others:
            cache = kv.repeated(cache, len(sequences))
            logits = mx.repeat(logits, len(sequences), axis=0)
        sampled = first_tokens(sequences, logits, self.vocab_size)
        self._keep_prompt(sequence)  # while the device computes
        self._under_way = []
        return Arrivals(sequences, cache, sampled)

    def _begin(self, sequence: Sequence) -> None:
        cache, num_cached = self.prefix_cache.match(sequence.tokens)
        sequence.cache = make_prompt_cache(self.model) if cache is None else cache
        spare = num_cached % self.shapes.grid
        is_long = sequence.num_tokens - num_cached > self.shapes.few_behind(num_cached)
        if self._can_trim and is_long and spare <= self.shapes.few:
            num_cached -= trim_prompt_cache(sequence.cache, spare)
        sequence.num_computed = num_cached
        # Computed again after it began, it would find what it computed itself.
        if not (sequence.num_faults or sequence.generated):
            sequence.num_cached = num_cached

    def _wait_for_the_one_before(self, state: list[Any]) -> None:
        """Let the device work on one chunk while the next is prepared, and no further ahead."""
        mx.async_eval(state)
        before, self._under_way = self._under_way, state
        began = time.monotonic()
        mx.eval(before)
        self.waited_s = time.monotonic() - began

    @property
    def num_bytes(self) -> int:
        """What the running sequences' caches take."""
        return sum(batch.num_bytes for batch in self._batches)

    def memory(self) -> Memory:
        """What is taken now."""
        return Memory(
            active=mx.get_active_memory(),
            kv_caches=self.num_bytes,
            prefix_cache=self.prefix_cache.num_bytes,
        )

    def limit_prefixes(self, num_bytes: int) -> None:
        """Let the prompts kept for later take so many bytes at most."""
        if (excess := self.prefix_cache.num_bytes - num_bytes) > 0:
            self.prefix_cache.shrink(excess)
            mx.clear_cache()

    # Prompts worth keeping

    def _end_of_chunk(self, sequence: Sequence, max_tokens: int) -> int:
        """How many tokens are computed after the next chunk."""
        start, num_left = sequence.num_computed, sequence.num_tokens - sequence.num_computed
        if num_left <= self._most_at_end(start, max_tokens):
            return sequence.num_tokens
        size = self.shapes.chunk(start, max_tokens, num_left - 1)
        if self._batches and num_left - size <= self._most_at_end(start + size, max_tokens):
            # The end of a prompt waits for the chunk before it, and so do those who decode: that
            # one has half of what others may have.
            half = min(size, max_tokens) // 2
            is_large = min(size, num_left) > max_tokens // 2 and half >= self.shapes.least
            size = self.shapes.chunk(start, half, num_left - 1) if is_large else size
        stops = [*self._checkpoints(sequence), sequence.num_tokens - 1]
        return min(start + size, *(stop for stop in stops if stop > start))

    def _most_at_end(self, start: int, max_tokens: int) -> int:
        """Tokens, at most, that are computed with the first of the answer, behind so many."""
        if not self._can_trim:
            return 1
        most = self.shapes.few_behind(start) if start and self.shapes.few else SHORT
        return max(1, min(most, max_tokens))

    def _checkpoints(self, sequence: Sequence) -> list[int]:
        """Where to keep what cannot be trimmed later.

        At the end of the last turn, and where other prompts were seen to part from this one.
        """
        if self._can_trim:
            return []
        end_of_turn = len(sequence.prompt) - self._num_opening
        return [end_of_turn, *self.prefix_cache.checkpoints(sequence.tokens)]

    def _keep_checkpoint(self, sequence: Sequence) -> None:
        if sequence.num_computed in self._checkpoints(sequence):
            self._remember(sequence, copied(sequence.cache))

    def _keep_prompt(self, sequence: Sequence) -> None:
        """Keep a prompt at once, for those who ask with the same one meanwhile."""
        if self._can_trim and sequence.num_tokens - sequence.num_cached >= WORTH_SHARING:
            self._remember(sequence, copied(sequence.cache))

    def _remember(self, sequence: Sequence, cache: Cache) -> None:
        self.prefix_cache.insert(sequence.tokens[: sequence.num_computed], cache)

    # Decoding

    def decode(self) -> Step:
        """Give the next token of each running sequence; -1 where the model gave no numbers."""
        return [token for batch in self._batches for token in self._step(batch)]

    def _step(self, batch: Batch) -> Step:
        rows = list(batch.rows)
        sampled = batch.step()
        tokens: Any = sampled.told.tolist()
        logprobs = self._logprobs(rows, sampled, tokens)
        return list(zip(rows, tokens, logprobs, strict=True))

    def remove(self, leaving: Iterable[Sequence]) -> None:
        """Let sequences leave the batch; those that finished leave their prefix behind."""
        leaving = list(leaving)
        for sequence in leaving:
            batch = self._batch_of(sequence)
            if batch is None:
                if sequence.cache is not None:  # else it has only been waiting
                    self._under_way = []  # it would keep the caches of a prompt nobody wants
            elif sequence.is_finished:
                if self.prefix_cache.has_folder and len(batch) == 1:
                    kv.finish_writing()  # of several, each is given copies
                self._remember(sequence, batch.extract(sequence))
            sequence.cache = sequence.sent = None
        for batch in self._batches:
            batch.remove(leaving)
        self._batches = [batch for batch in self._batches if batch]
        self._unite()

    def _unite(self) -> None:
        """Let batches become one that no longer waste too much together."""
        for batch in self._batches[1:]:
            arrivals = batch.as_arrivals()
            if self._fit(self._batches[0], arrivals):
                self._batches[0].join(arrivals)
                self._batches.remove(batch)

    def check(self) -> None:
        """Compute a token. Raises what the device has to say when it cannot."""
        mx.eval(self.model(mx.zeros((1, 1), mx.uint32), cache=make_prompt_cache(self.model)))

    def settle(self) -> None:
        """Wait until the device has done what is under way."""
        mx.synchronize()

    def close(self) -> None:
        """Write to the disk what is to be found there the next time. On any thread."""
        self.prefix_cache.close()

    def reset(self) -> None:
        """Forget the batch, after a step that failed."""
        self._decoder.forget()
        self._batches.clear()
        self._arrivals, self._under_way = None, []
        mx.clear_cache()

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
            if k is not None and tokens[i] >= 0:
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
