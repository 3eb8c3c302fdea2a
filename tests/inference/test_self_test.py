"""A model that answers otherwise in company is found out before anybody asks it."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import pytest

from inference import self_test
from inference.rows import PaddedKVCache
from tests.demo import VOCAB_SIZE


def test_the_demo_model_answers_the_same_in_company(model: Any) -> None:
    assert self_test.run(model, VOCAB_SIZE) == (True, True)


def test_a_model_that_takes_padding_for_text_computes_no_prompts_together(
    model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_mask = PaddedKVCache.make_mask

    def blind(self: Any, N: int, **options: Any) -> Any:
        return "causal" if N > 1 else make_mask(self, N, **options)

    monkeypatch.setattr(PaddedKVCache, "make_mask", blind)
    assert self_test.run(model, VOCAB_SIZE) == (True, False)


def test_a_model_that_mixes_its_rows_up_runs_one_at_a_time(
    model: Any, caplog: pytest.LogCaptureFixture
) -> None:
    def mixed_up(tokens: mx.array, cache: Any) -> mx.array:
        logits = model(tokens, cache=cache)
        return logits[::-1] if logits.shape[0] > 1 else logits

    mixed_up.layers = model.layers  # type: ignore[attr-defined]
    assert self_test.run(mixed_up, VOCAB_SIZE) == (False, False)
    assert "answered otherwise than alone" in caplog.text


def test_a_model_that_fails_in_company_runs_alone(model: Any) -> None:
    def lonely(tokens: mx.array, cache: Any) -> mx.array:
        assert tokens.shape[0] == 1
        return model(tokens, cache=cache)

    lonely.layers = model.layers  # type: ignore[attr-defined]
    assert self_test.run(lonely, VOCAB_SIZE) == (False, False)
