"""A self-test at load: does this model answer in company as it does alone?

mlx-lm batches many families, and is wrong for a few. Two prompts of different lengths are computed
alone and together, with tokens given to them, so that rounding cannot lead them apart; what
disagrees is not done. The same steps compile the kernels that the first clients would wait for.
"""

from __future__ import annotations

import logging
from typing import Any

import mlx.core as mx
import numpy as np
from mlx_lm.models.cache import make_prompt_cache

from inference import rows as kv
from inference.decoder import CompiledDecoder, Decoder

log = logging.getLogger(__name__)

LENGTHS = (3, 10)
"""Tokens of the two prompts."""
NUM_STEPS = 3
LEAST_CORRELATION = 0.97
"""Of logits. Rounding in 16 bits leaves 0.99 and more; a wrong mask or position next to nothing."""


def run(model: Any, vocab_size: int, *, level: int = logging.WARNING) -> tuple[bool, bool]:
    """Say whether rows can decode together, and whether prompts can be computed together.

    What is found wrong is logged at `level`.
    """
    cache = make_prompt_cache(model)
    if not kv.can_merge(cache):
        return False, False
    texts = _texts(vocab_size)
    alone = [_alone(model, text) for text in texts]
    can_batch = _agrees(alone, lambda: _joined(model, texts), "decoded together", level)
    can_pad = can_batch and kv.can_pad(cache)
    return can_batch, can_pad and _agrees(
        alone, lambda: _padded(model, texts, Decoder(model)), "computed together", level
    )


def can_compile(model: Any, vocab_size: int) -> bool:
    """Say whether decode steps that are recorded give what the model gives."""
    if not kv.can_pad(make_prompt_cache(model)):
        return False
    texts = _texts(vocab_size)
    alone = [_alone(model, text) for text in texts]
    recorded = CompiledDecoder(model, worth=0)
    agrees = all(
        _agrees(some, compute, "decoded by steps that are recorded", logging.INFO)
        for some, compute in (
            (alone, lambda: _padded(model, texts, recorded)),
            (alone[:1], lambda: [_alone(model, texts[0], recorded)]),
        )
    )
    return agrees and not recorded.has_given_up


def _texts(vocab_size: int) -> list[mx.array]:
    tokens = np.random.default_rng(0).integers(0, vocab_size, (2, max(LENGTHS) + NUM_STEPS))
    return [mx.array(row[: n + NUM_STEPS])[None] for row, n in zip(tokens, LENGTHS, strict=True)]


def _alone(model: Any, text: mx.array, decoder: Decoder | None = None) -> list[mx.array]:
    """The logits behind a prompt, computed in two pieces, and each of the tokens that follow."""
    cache = make_prompt_cache(model)
    prompt = text[:, :-NUM_STEPS]
    model(prompt[:, :1], cache=cache)
    first = model(prompt[:, 1:], cache=cache)[0, -1]
    return _decoded(decoder or Decoder(model), [text], cache, [first])[0]


def _joined(model: Any, texts: list[mx.array]) -> list[list[mx.array]]:
    """The same for prompts that were computed alone and decode together."""
    caches, first = [], []
    for text in texts:
        cache = make_prompt_cache(model)
        first.append(model(text[:, :-NUM_STEPS], cache=cache)[0, -1])
        caches.append(kv.merged(cache))
    together, joining = caches
    kv.extend(together, joining)
    return _decoded(Decoder(model), texts, together, first)


def _padded(model: Any, texts: list[mx.array], decoder: Decoder) -> list[list[mx.array]]:
    """The same for prompts that were computed together too."""
    longest = max(text.shape[1] for text in texts)
    padding = [longest - text.shape[1] for text in texts]
    prompts = [
        mx.pad(text[:, :-NUM_STEPS], [(0, 0), (p, 0)])
        for text, p in zip(texts, padding, strict=True)
    ]
    cache = kv.empty(make_prompt_cache(model), padding)
    logits = model(mx.concatenate(prompts), cache=cache)[:, -1]
    return _decoded(decoder, texts, cache, list(logits))


def _decoded(
    decoder: Decoder, texts: list[mx.array], cache: kv.Cache, first: list[mx.array]
) -> list[list[mx.array]]:
    rest = mx.concatenate([text[:, -NUM_STEPS:] for text in texts])
    steps = []
    for i in range(NUM_STEPS):
        steps.append(decoder(rest[:, i], cache))
        mx.eval(steps)  # as it is done while serving: each before the next
    return [[first[row], *(step[row] for step in steps)] for row in range(len(texts))]


def _agrees(alone: list[list[mx.array]], compute: Any, deed: str, level: int) -> bool:
    try:
        together = compute()
        worst = min(
            _correlation(mine, its)
            for some, others in zip(alone, together, strict=True)
            for mine, its in zip(some, others, strict=True)
        )
    except Exception as error:  # whatever a model's code makes of a batch
        log.log(level, "this model's sequences cannot be %s: %s", deed, error)
        return False
    if not worst >= LEAST_CORRELATION:
        log.log(
            level,
            "this model's sequences are not %s: they would be answered otherwise than alone "
            "(correlation %.2f)",
            deed,
            worst,
        )
        return False
    return True


def _correlation(a: mx.array, b: mx.array) -> float:
    x, y = (np.array(v.astype(mx.float32), dtype=np.float64) for v in (a, b))
    x, y = x - x.mean(), y - y.mean()
    norm = float(np.sqrt((x @ x) * (y @ y)))
    return float(x @ y) / norm if norm else float(np.array_equal(x, y))
