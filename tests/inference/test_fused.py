"""Fused projections give what each gave by itself."""

from __future__ import annotations

import gc
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import mlx_lm
import pytest

from inference import fused


class Layer(nn.Module):
    def __init__(self, bias: bool, widths: tuple[int, int, int] = (24, 8, 8)) -> None:
        super().__init__()
        self.q_proj, self.k_proj, self.v_proj = (nn.Linear(16, n, bias=bias) for n in widths)

    def __call__(self, x: mx.array) -> list[mx.array]:
        return [self.q_proj(x), self.k_proj(x), self.v_proj(x)]


@pytest.mark.parametrize("bias", [False, True])
def test_a_layer_gives_the_same(bias: bool) -> None:
    layer = Layer(bias)
    inputs = [mx.random.normal((2, 3, 16)) for _ in range(3)]
    before = [layer(x) for x in inputs]
    assert fused.fuse(layer) == 2
    for x, wanted in zip(inputs, before, strict=True):
        for found, other in zip(layer(x), wanted, strict=True):
            assert mx.allclose(found, other, atol=1e-5)


def test_what_is_asked_for_twice_out_of_order_or_not_at_all_is_right() -> None:
    layer = Layer(bias=False)
    x, y = mx.random.normal((1, 16)), mx.random.normal((1, 16))
    wanted = {
        (name, of): getattr(layer, name)(x if of == "x" else y)
        for name in ("q_proj", "k_proj", "v_proj")
        for of in "xy"
    }
    fused.fuse(layer)
    for name, of in [
        ("v_proj", "x"),
        ("v_proj", "x"),
        ("q_proj", "x"),
        ("q_proj", "y"),
        ("q_proj", "x"),
        ("k_proj", "y"),
        ("k_proj", "x"),
        ("v_proj", "y"),
    ]:
        found = getattr(layer, name)(x if of == "x" else y)
        assert mx.allclose(found, wanted[name, of], atol=1e-5)


def test_nothing_is_kept_when_all_have_been_taken() -> None:
    layer = Layer(bias=False)
    fused.fuse(layer)
    layer(mx.random.normal((1, 16)))
    whole = layer.q_proj._whole
    assert whole._of is None
    assert whole._product is None


def test_what_is_not_alike_is_left_alone() -> None:
    layer = Layer(bias=False)
    layer.k_proj = nn.QuantizedLinear.from_linear(nn.Linear(64, 8, bias=False))
    assert fused.fuse(layer) == 0
    layer.k_proj = nn.Linear(16, 8, bias=True)
    assert fused.fuse(layer) == 0


def test_the_demo_model_answers_the_same_with_no_more_memory(float32_model: Any) -> None:
    model, tokenizer = mlx_lm.load(str(float32_model))
    tokens = mx.array([tokenizer.encode("Hello, my name is Ada. What is my name?")])
    before = model(tokens)
    mx.eval(before)
    gc.collect()
    num_bytes = mx.get_active_memory()
    num_layers = len(model.layers)
    assert fused.fuse(model) == 3 * num_layers
    gc.collect()
    assert mx.get_active_memory() <= 1.01 * num_bytes
    assert mx.allclose(model(tokens), before, atol=1e-3)
