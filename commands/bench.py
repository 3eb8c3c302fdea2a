"""The bench measures how fast the server answers: tokens a second, and how soon the first comes.

Each client asks for the same number of tokens, by streaming, as people's programs do. A prompt
that nobody sent before is cold; sent once more, it is found in the prefix cache.
"""

from __future__ import annotations

import argparse
import secrets
import statistics
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

from commands.remote import Remote, reached
from commands.table import aligned
from door.settings import Settings
from parts import EngineFailed, ServerError

WORDS = ("The fox ran over the hill and looked for the river that it had seen in the spring. ") * 12


@dataclass(frozen=True, slots=True)
class Timing:
    """One answer. Seconds are from the moment it was asked for."""

    first_s: float
    total_s: float
    num_tokens: int
    num_cached: int


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--clients", type=_numbers, default=(1, 8), help="how many at once (1,8)", metavar="N,N"
    )
    parser.add_argument(
        "--tokens", type=int, default=128, help="of each answer at most (128)", metavar="N"
    )


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(max(int(word), 1) for word in text.split(","))


def run(settings: Settings, options: argparse.Namespace) -> int:
    with reached(settings) as server:
        model = server.model()
        print(f"{model['id']} at {server.url}, up to {options.tokens} tokens an answer\n")
        _ask(server, "Hello!", 8)  # what is compiled once does not count
        rows: list[tuple[str, ...]] = [
            ("clients", "tok/s", "tok/s each", "first token", "same prompt again", "cached")
        ]
        rows += [_row(server, number, options.tokens) for number in options.clients]
    print(aligned(rows, numeric=range(6)))
    return 0


def _row(server: Remote, num_clients: int, max_tokens: int) -> tuple[str, ...]:
    prompts = [f"{secrets.token_hex(8)} {WORDS} Tell me more." for _ in range(num_clients)]
    cold, elapsed = _together(server, prompts, max_tokens)
    warm, _ = _together(server, prompts, max_tokens)
    return (
        str(num_clients),
        f"{sum(timing.num_tokens for timing in cold) / elapsed:.1f}",
        f"{statistics.median(map(_pace, cold)):.1f}",
        f"{statistics.median(timing.first_s for timing in cold):.2f} s",
        f"{statistics.median(timing.first_s for timing in warm):.2f} s",
        f"{statistics.median(timing.num_cached for timing in warm):.0f}",
    )


def _pace(timing: Timing) -> float:
    """Tokens a second, once the first has come."""
    return (timing.num_tokens - 1) / max(timing.total_s - timing.first_s, 1e-9)


def _together(
    server: Remote, prompts: Sequence[str], max_tokens: int
) -> tuple[list[Timing], float]:
    """Ask all at once. Returns the timings, and the seconds until the last was done."""
    timings: list[Timing] = []
    failures: list[ServerError] = []

    def ask(prompt: str) -> None:
        try:
            timings.append(_ask(server, prompt, max_tokens))
        except ServerError as error:
            failures.append(error)

    threads = [threading.Thread(target=ask, args=(prompt,)) for prompt in prompts]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    return timings, time.perf_counter() - began


def _ask(server: Remote, prompt: str, max_tokens: int) -> Timing:
    began, first = time.perf_counter(), None
    body = {
        "messages": [{"role": "user", "content": prompt}],
        "max_tokens": max_tokens,
        "temperature": 0,
        "stream_options": {"include_usage": True},
    }
    usage = None
    for chunk in server.events("/v1/chat/completions", body):
        usage = chunk.get("usage") or usage
        if first is None and any(_says(choice["delta"]) for choice in chunk["choices"]):
            first = time.perf_counter() - began
    total = time.perf_counter() - began
    if usage is None:
        raise EngineFailed("The stream ended without its usage.")
    cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens", 0)
    return Timing(first or total, total, usage["completion_tokens"], cached)


def _says(delta: dict[str, object]) -> bool:
    return any(delta.get(key) for key in ("content", "reasoning_content", "tool_calls"))
