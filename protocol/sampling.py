"""What a request says of how tokens are chosen, in the words that both APIs share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from parts import InvalidRequest

FIELDS = (
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
    "seed",
    "max_reasoning_tokens",
)
"""Fields of a request that are fields of `SamplingParams` too."""


def read(body: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of `SamplingParams` that a request gives.

    Raises:
        InvalidRequest: a key of `logit_bias` is no token.
    """
    given = {name: body[name] for name in FIELDS if body.get(name) is not None}
    if (bias := body.get("logit_bias")) is not None:
        given["logit_bias"] = _logit_bias(bias)
    return given


def stops(given: str | list[str] | tuple[str, ...]) -> tuple[str, ...]:
    """Stop strings, of which there may be one; empty ones stop nothing."""
    return tuple(s for s in ([given] if isinstance(given, str) else given) if s)


def _logit_bias(given: Mapping[str, float]) -> dict[int, float]:
    try:
        return {int(token): bias for token, bias in given.items()}
    except ValueError:
        raise InvalidRequest(
            "logit_bias maps token ids, written as whole numbers, to biases.", param="logit_bias"
        ) from None
