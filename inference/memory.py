"""How much memory there is, and how much of it sequences may come to need.

MLX cannot be asked to fail gracefully: on Metal an allocation too many aborts the process, on
Linux it may be killed. So everything here is decided before memory is taken.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from parts import Unavailable

SHARE = 0.85
"""The part of what a device recommends that the engine allows itself."""
STEP = 256
"""mlx-lm's caches grow by so many tokens at a time."""
LEAST_CACHE_TOKENS = 1024
"""A model that leaves no room for a conversation of so many tokens is not worth loading."""


@dataclass(frozen=True, slots=True)
class Growth:
    """What a layer's cache takes: so much at once, and so much a token up to a number of tokens."""

    at_once: int = 0
    per_token: int = 0
    max_tokens: int | None = None

    def num_bytes(self, num_tokens: int) -> int:
        if self.max_tokens is not None:
            num_tokens = min(num_tokens, self.max_tokens)
        return self.at_once + self.per_token * num_tokens


def growth_of(layer: Any) -> list[Growth]:
    """How a layer's cache will grow, seen from one that holds a few tokens.

    By what mlx-lm's caches have in common: keys and values, of which some keep a window only; lists
    of caches; and states that do not grow.
    """
    parts = getattr(layer, "caches", None)
    if parts is not None:
        return [growth for part in parts for growth in growth_of(part)]
    keys, values = getattr(layer, "keys", None), getattr(layer, "values", None)
    if keys is None or values is None:
        return [Growth(at_once=layer.nbytes)]
    arrays = [a for x in (keys, values) for a in (x if isinstance(x, tuple | list) else [x])]
    per_token = sum(a.nbytes // a.shape[2] for a in arrays)
    return [Growth(per_token=per_token, max_tokens=getattr(layer, "max_size", None))]


@dataclass(frozen=True, slots=True)
class Budget:
    """What all KV caches together may take, and what a sequence takes of it."""

    limit: int = 0
    """Bytes of the whole process; 0 where nothing is known, and nothing is refused."""
    fixed: int = 0
    """Bytes that are gone before the first request: the weights, and what a step needs."""
    layers: tuple[Growth, ...] = ()

    @property
    def for_caches(self) -> int:
        """Bytes that KV caches may take, those of the prefix cache among them."""
        return max(self.limit - self.fixed, 0)

    def cost(self, num_tokens: int, num_rows: int = 1) -> int:
        """Bytes for so many rows of so many tokens each, padding among them."""
        rounded = -(-num_tokens // STEP) * STEP
        return num_rows * sum(layer.num_bytes(rounded) for layer in self.layers)

    def fits(self, lengths: Iterable[int]) -> bool:
        """Whether rows of these lengths can run together, all as wide as the widest."""
        lengths = list(lengths)
        return not self.limit or self.cost(max(lengths), len(lengths)) <= self.for_caches

    def max_tokens(self, at_most: int) -> int:
        """How many tokens one sequence may have when it is alone."""
        if not self.limit or self.cost(at_most) <= self.for_caches:
            return at_most
        low, high = 0, at_most
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self.cost(middle) <= self.for_caches else (low, middle)
        return low


def recommended(device: Mapping[str, Any]) -> int:
    """Bytes that a process may use on this device: what Metal recommends, or what there is.

    `device` is `mx.device_info()`; it names no memory on a Linux CPU.
    """
    for name in ("max_recommended_working_set_size", "total_memory"):
        if number := device.get(name):
            return int(number)
    return min(psutil.virtual_memory().total, _allowed())


def available(device: Mapping[str, Any]) -> int:
    """Bytes that a model may take now."""
    if free := device.get("free_memory"):
        return int(free)
    here = min(psutil.virtual_memory().available, _allowed() - _used_of_allowed())
    return max(min(recommended(device), here), 0)


CONTAINER = Path("/sys/fs/cgroup")
"""Where Linux says what a container may use, in version 2 of its control groups."""


def _allowed() -> int:
    """What a container lets its processes have."""
    return _number_in("memory.max", "", 2**63)


def _used_of_allowed() -> int:
    """What they have of it, but for files that are only kept because there is room."""
    return _number_in("memory.current", "", 0) - _number_in("memory.stat", "inactive_file ", 0)


def _number_in(name: str, label: str, otherwise: int) -> int:
    try:
        lines = (CONTAINER / name).read_text(encoding="ascii").splitlines()
        return next(int(line.removeprefix(label)) for line in lines if line.startswith(label))
    except (OSError, ValueError, StopIteration):
        return otherwise


def is_shortage(error: BaseException) -> bool:
    """Whether it says that memory could not be had, as Python and MLX's devices put it."""
    said = str(error).lower()
    return isinstance(error, MemoryError) or "malloc" in said or "out of memory" in said


def check_weights(num_bytes: int, device: Mapping[str, Any]) -> None:
    """Refuse a model that this machine cannot hold. Raises `Unavailable` with what would fit."""
    free = available(device)
    if num_bytes <= free:
        return
    raise Unavailable(
        f"The model needs {_gigabytes(num_bytes)} for its weights, but {_gigabytes(free)} are free "
        f"here; one of up to {_gigabytes(int(free * SHARE))} would fit. Close other programs, take "
        "a smaller or a more quantized model, or try all the same with --force."
    )


def check_room(budget: Budget, context_window: int) -> None:
    """Refuse a model beside which no conversation fits. Raises `Unavailable` with what would help.

    Within `Budget.limit`, which may be less than what is free.
    """
    least = min(LEAST_CACHE_TOKENS, context_window)
    if budget.max_tokens(least) >= least:
        return
    needed = budget.fixed + budget.cost(least)
    raise Unavailable(
        f"With a conversation of {least:,} tokens the model needs {_gigabytes(needed)}, but the "
        f"server may use {_gigabytes(budget.limit)}. Start it with a larger --memory-limit, take a "
        "smaller or a more quantized model, or try all the same with --force."
    )


def _gigabytes(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:.1f} GB"
