"""Models whose caches differ answer in a batch as they do alone: tiny ones, with random weights."""

from __future__ import annotations

import importlib
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from inference.loader import _quantize_caches
from parts import SamplingParams
from tests.demo import VOCAB_SIZE
from tests.inference.test_batch import Guest, answers, make_runner

COMMON: dict[str, Any] = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "intermediate_size": 96,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "rms_norm_eps": 1e-6,
    "vocab_size": VOCAB_SIZE,
    "rope_theta": 10000.0,
    "max_position_embeddings": 512,
    "tie_word_embeddings": True,
}
MOE: dict[str, Any] = {
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "decoder_sparse_step": 1,
    "mlp_only_layers": [],
    "norm_topk_prob": True,
}
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {},
    "qwen3_moe": MOE,
    "gemma3_text": {
        "num_hidden_layers": 4,
        "query_pre_attn_scalar": 16,
        "sliding_window": 24,
        "sliding_window_pattern": 2,
        "rope_global_base_freq": 10000.0,
    },
    "mamba2": {
        "num_heads": 8,
        "head_dim": 16,
        "state_size": 16,
        "conv_kernel": 4,
        "n_groups": 1,
        "time_step_limit": (0.0, 100.0),
        "time_step_rank": 4,
        "use_bias": False,
        "use_conv_bias": True,
        "layer_norm_epsilon": 1e-5,
    },
    "qwen3_next": {
        **MOE,
        "num_hidden_layers": 4,
        "linear_num_value_heads": 4,
        "linear_num_key_heads": 2,
        "linear_key_head_dim": 16,
        "linear_value_head_dim": 16,
        "linear_conv_kernel_dim": 4,
        "shared_expert_intermediate_size": 32,
        "full_attention_interval": 4,
        "partial_rotary_factor": 0.5,
    },
    "gpt_oss": {
        "num_hidden_layers": 4,
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
        "sliding_window": 24,
        "layer_types": ["sliding_attention", "full_attention"] * 2,
        "rope_scaling": {
            "rope_type": "yarn",
            "factor": 2.0,
            "original_max_position_embeddings": 256,
        },
    },
}


def tiny(name: str, **rest: Any) -> Any:
    """A model of a family, with random weights."""
    module = importlib.import_module(f"mlx_lm.models.{name}")
    config = {"model_type": name, **COMMON, **FAMILIES[name], **rest}
    mx.random.seed(0)
    model = module.Model(module.ModelArgs.from_dict(config))
    model.eval()
    mx.eval(model.parameters())
    return model


@pytest.fixture(scope="module", params=sorted(FAMILIES))
def family(request: pytest.FixtureRequest) -> Any:
    return tiny(request.param)


def prompts(lengths: list[int]) -> list[list[int]]:
    rng = np.random.default_rng(1)
    return [rng.integers(0, VOCAB_SIZE, n).tolist() for n in lengths]


def greedy(prompt: list[int], max_tokens: int, **rest: Any) -> Guest:
    return Guest(tuple(prompt), SamplingParams(temperature=0.0, max_tokens=max_tokens), **rest)


@pytest.mark.parametrize("chunk", [7, 512])
def test_a_ragged_batch_with_late_guests_answers_as_each_alone(
    family: Any, tokenizer: Any, chunk: int
) -> None:
    arrivals = zip(prompts([5, 60, 1, 33, 23]), [0, 0, 3, 9, 14], strict=True)
    guests = [greedy(prompt, 16, comes=comes) for prompt, comes in arrivals]
    guests[1].leaves = 24
    found = answers(make_runner(family, tokenizer), tokenizer, guests, chunk=chunk)
    for guest, tokens in zip(guests, found, strict=True):
        alone = greedy(list(guest.prompt), 16)
        solo = answers(make_runner(family, tokenizer), tokenizer, [alone])[0]
        assert tokens == solo[: len(tokens)]
        assert len(tokens) == 16 or guest.leaves is not None


def test_an_answer_out_of_the_prefix_cache_is_the_same(family: Any, tokenizer: Any) -> None:
    runner = make_runner(family, tokenizer)
    first, other = prompts([50, 41])
    said = answers(runner, tokenizer, [greedy(first, 10), greedy(other, 10)])[0]
    for prompt in (first, [*first, *said, *other[:5]], [*first[:30], 1, 2, 3]):
        fresh = answers(make_runner(family, tokenizer), tokenizer, [greedy(prompt, 8)])
        assert answers(runner, tokenizer, [greedy(prompt, 8)]) == fresh


@pytest.mark.parametrize("bits", [4, 8])
def test_caches_in_fewer_bits_answer_in_a_batch_as_they_do_alone(tokenizer: Any, bits: int) -> None:
    model = tiny("llama", head_dim=32)
    _quantize_caches(model, bits)
    runner = make_runner(model, tokenizer)
    assert runner.can_batch
    arrivals = zip(prompts([5, 60, 33]), [0, 0, 3], strict=True)
    guests = [greedy(prompt, 12, comes=comes) for prompt, comes in arrivals]
    for guest, tokens in zip(guests, answers(runner, tokenizer, guests), strict=True):
        alone = greedy(list(guest.prompt), 12)
        assert tokens == answers(make_runner(model, tokenizer), tokenizer, [alone])[0]
