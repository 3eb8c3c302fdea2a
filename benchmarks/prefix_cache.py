"""What finding a prompt's prefix costs, as the prefix cache fills.

    python benchmarks/prefix_cache.py

Microseconds per call for prompts of 8,192 tokens; every entry begins with the same 4,000 and goes
on with 256 of its own. `hit` asks for a prompt that goes on behind an entry, `shared` for one that
leaves them all behind the shared tokens, `miss` for one that begins like none. `match` is a hit
with the copy of 28 layers that it gives. `scan` is a comparison with every entry, as arrays.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from mlx_lm.models.cache import KVCache

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from inference.prefix_cache import PrefixCache  # noqa: E402

SIZES = (10, 100, 1_000, 10_000, 100_000)
NUM_LAYERS, NUM_SHARED, NUM_OWN, NUM_TOKENS = 28, 4_000, 256, 8_192
VOCAB_SIZE = 151_936


def microseconds(call: Callable[[list[int]], Any], prompts: list[list[int]]) -> float:
    """The median over prompts, each asked once: nothing is hot but what the cache keeps hot."""
    times = []
    for prompt in prompts:
        began = time.perf_counter()
        call(prompt)
        times.append(time.perf_counter() - began)
    return statistics.median(times) * 1e6


def scan(entries: list[np.ndarray], tokens: list[int]) -> int:
    wanted, best = np.asarray(tokens, np.uint32), 0
    for entry in entries:
        differs = entry != wanted[: len(entry)]
        first = int(differs.argmax())
        best = max(best, first if differs[first] else len(entry))
    return best


def layers() -> list[KVCache]:
    made = [KVCache() for _ in range(NUM_LAYERS)]
    for layer in made:
        layer.update_and_fetch(mx.zeros((1, 1, 8, 8)), mx.zeros((1, 1, 8, 8)))
        layer.offset = NUM_SHARED + NUM_OWN
    mx.eval([layer.state for layer in made])
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description="What finding a prompt's prefix costs.")
    parser.add_argument("--prompts", type=int, default=200, help="of each kind and size")
    given = parser.parse_args()
    rng = np.random.default_rng(0)

    def random(count: int) -> list[int]:
        return rng.integers(0, VOCAB_SIZE, count).tolist()

    shared, kept = random(NUM_SHARED), layers()
    cache, entries = PrefixCache(2**60), list[np.ndarray]()
    print(f"{'entries':>10} {'hit':>8} {'shared':>8} {'miss':>8} {'match':>8} {'scan':>10}")
    for size in SIZES:
        while len(entries) < size:
            tokens = [*shared, *random(NUM_OWN)]
            cache.insert(tokens, kept)
            entries.append(np.asarray(tokens, np.uint32))
        chosen = rng.integers(0, size, given.prompts)
        rest = NUM_TOKENS - NUM_SHARED - NUM_OWN
        hits = [[*entries[i].tolist(), *random(rest)] for i in chosen]
        leaving = [[*shared, *random(NUM_TOKENS - NUM_SHARED)] for _ in chosen]
        misses = [random(NUM_TOKENS) for _ in chosen]
        assert cache.peek(hits[0]) == scan(entries, hits[0]) == NUM_SHARED + NUM_OWN
        row = [microseconds(cache.peek, prompts) for prompts in (hits, leaving, misses)]
        row.append(microseconds(cache.match, hits))
        row.append(microseconds(lambda tokens: scan(entries, tokens), hits[:5]))
        print(f"{size:>10,} " + " ".join(f"{us:>8.0f}" for us in row), flush=True)


if __name__ == "__main__":
    main()
