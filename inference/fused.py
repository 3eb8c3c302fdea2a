"""Fused projections: what a layer makes of one input by several products is made by one.

Every product costs the host time to start it: 10 to 20 µs on CUDA, where there are two hundred of
them in a step of a small model, and the device waits for the host. The weights of queries, keys and
values, and those of an MLP's gate and its companion, are put side by side. And where there is a
quicker way to multiply than MLX's own, all of a layer's projections are computed by it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import mlx.core as mx
import mlx.nn as nn

SIBLINGS = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))
"""Names of projections of one input, as mlx-lm's layers call them."""

Product = Callable[[mx.array, mx.array], mx.array]
"""Of an input ([..., K]) and the weights of a projection ([N, K])."""


def product_of(x: mx.array, weight: mx.array) -> mx.array:
    """The product, as MLX computes it."""
    return x @ weight.T


def fuse(model: Any, product: Product = product_of) -> int:
    """Fuse what can be fused in a model; give how many products it needs less.

    The outputs are the same but for the order in which a product adds up.
    """
    num_saved = 0
    for layer in model.modules():
        for names in SIBLINGS:
            parts = [getattr(layer, name, None) for name in names]
            if all(type(part) is nn.Linear for part in parts) and _are_alike(parts):
                whole = _Whole(parts, product)
                for name, share in zip(names, whole.shares, strict=True):
                    setattr(layer, name, share)
                num_saved += len(parts) - 1
        if product is not product_of:
            for name, part in list(layer.items()):
                if type(part) is nn.Linear:
                    setattr(layer, name, _Projection(part, product))
    return num_saved


def _are_alike(parts: Sequence[Any]) -> bool:
    kinds = {(p.weight.shape[1], p.weight.dtype, "bias" in p) for p in parts}
    return len(kinds) == 1


class _Projection(nn.Linear):  # type: ignore[misc]
    """A projection that is computed in another way."""

    def __init__(self, given: Any, product: Product) -> None:
        nn.Module.__init__(self)  # not the parent's, which would make weights
        self._product = product
        self.weight = given.weight
        if "bias" in given:
            self.bias = given.bias

    def __call__(self, x: mx.array) -> mx.array:
        found = self._product(x, self.weight)
        return found + self.bias if "bias" in self else found


class _Whole:
    """The product of which each projection is a share."""

    def __init__(self, parts: Sequence[Any], product: Product) -> None:
        self._multiply = product
        self._weight = mx.concatenate([part.weight for part in parts])
        self._bias = mx.concatenate([part.bias for part in parts]) if "bias" in parts[0] else None
        mx.eval(self._weight, self._bias)
        ends = [0]
        for part in parts:
            ends.append(ends[-1] + part.weight.shape[0])
        self.shares = [_Share(self, start, end) for start, end in pairwise(ends)]
        self._of: mx.array | None = None
        self._product: mx.array | None = None
        self._taken: set[int] = set()

    def share(self, x: mx.array, start: int, end: int) -> mx.array:
        """One projection of `x`. Its siblings' are kept until they are asked for."""
        if self._of is not x or start in self._taken:
            product = self._multiply(x, self._weight)
            self._product = product if self._bias is None else product + self._bias
            self._of = x
            self._taken.clear()
        assert self._product is not None
        found = self._product[..., start:end]
        self._taken.add(start)
        if len(self._taken) == len(self.shares):
            self._of = self._product = None
        return found


class _Share(nn.Module):  # type: ignore[misc]
    """Stands where a layer has a projection of its own."""

    def __init__(self, whole: _Whole, start: int, end: int) -> None:
        super().__init__()
        self._whole, self._start, self._end = whole, start, end

    def __call__(self, x: mx.array) -> mx.array:
        return self._whole.share(x, self._start, self._end)
