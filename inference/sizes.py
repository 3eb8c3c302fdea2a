"""Sizes: what a model takes on disk and in memory, and what this machine has of both."""

from __future__ import annotations

import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Fit = Literal["fits", "tight", "too big"]

USABLE = 0.7 if sys.platform == "darwin" else 0.85
"""The part of the memory that a model may take; on a Mac the GPU may wire no more of it."""
CACHE = 1.15
"""What a model takes with the KV caches of a few conversations, over its weights alone."""


@dataclass(frozen=True, slots=True)
class KnownModel:
    """A model that many people use, as it is found on the hub."""

    repo: str
    num_bytes: int
    """Of the weights, on disk and in memory."""


KNOWN = tuple(
    KnownModel(f"mlx-community/{name}", int(gigabytes * 1e9))
    for name, gigabytes in (
        ("Qwen2.5-0.5B-Instruct-4bit", 0.28),
        ("Qwen3-0.6B-4bit", 0.34),
        ("Llama-3.2-1B-Instruct-4bit", 0.70),
        ("Qwen3-1.7B-4bit", 0.97),
        ("Llama-3.2-3B-Instruct-4bit", 1.8),
        ("Qwen3-4B-Instruct-2507-4bit", 2.3),
        ("Qwen3-8B-4bit", 4.6),
        ("Qwen3-14B-4bit", 8.3),
        ("gpt-oss-20b-MXFP4-Q8", 12.1),
        ("Qwen3-30B-A3B-Instruct-2507-4bit", 17.2),
        ("Qwen3-32B-4bit", 18.4),
        ("Llama-3.3-70B-Instruct-4bit", 39.7),
        ("gpt-oss-120b-MXFP4-Q8", 63.4),
        ("Qwen3-235B-A22B-Instruct-2507-4bit", 132.0),
    )
)
"""Quantised for MLX, the smaller ones first."""


def physical_memory() -> int:
    """Bytes; on a Mac the GPU shares them."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def free_disk(folder: Path) -> int:
    """Bytes that can still be written in a folder, which need not be there yet."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def fit(num_bytes: int, memory: int | None = None) -> Fit:
    """Whether weights of this size can be served from so much memory, this machine's by default."""
    memory = physical_memory() if memory is None else memory
    if num_bytes > memory:
        return "too big"
    return "fits" if num_bytes * CACHE <= memory * USABLE else "tight"


def suggested(memory: int | None = None) -> list[KnownModel]:
    """Three known models that fit: the best one, and smaller ones, which answer faster."""
    fitting = [known for known in reversed(KNOWN) if fit(known.num_bytes, memory) == "fits"]
    found: list[KnownModel] = []
    for known in fitting:
        if not found or known.num_bytes <= found[-1].num_bytes / 2:
            found.append(known)
    # Where there is little memory, few are half as large as another.
    found += [known for known in fitting if known not in found]
    return sorted(found[:3], key=lambda known: -known.num_bytes)


def advice(memory: int | None = None) -> str:
    """What to do about a model that is too big, as the end of a sentence."""
    best = next(iter(suggested(memory)), None)
    smaller = f"{best.repo} fits" if best else "try a smaller one"
    return f"{smaller}, and --force tries this one all the same."


def in_words(num_bytes: float) -> str:
    """A size as people say it."""
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if num_bytes >= size * 0.9995:
            return f"{num_bytes / size:.1f} {unit}"
    return f"{num_bytes:.0f} bytes"
