"""What choosing the next token costs, on the default device.

    python benchmarks/sampling.py                    µs per token and row, at two vocabularies
    python benchmarks/sampling.py --model FOLDER     and the throughput of constrained batches,
                                                     and what n choices cost beside one

`host` is the computation of the masks by llguidance, on the CPU, beside which the device computes
logits; `mask` is what their application adds on the device, so the column holds sampling with it.
The throughput is of `Runner.decode` alone: prompts are computed before the clock starts.
The prefill of choices is the other way round: from a prompt to the first token of all of them.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from llguidance import LLMatcher, LLTokenizer

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from inference import masks  # noqa: E402
from inference.engine import SWITCH_S  # noqa: E402
from inference.grammar import SLICES  # noqa: E402
from inference.guide import Compiled, Guide  # noqa: E402
from inference.loader import LoadOptions, load  # noqa: E402
from inference.parser import Markers  # noqa: E402
from inference.sampling import Row, Sampler  # noqa: E402
from inference.sequence import Sequence  # noqa: E402
from parts import Constraint, Message, Prompt, SamplingParams  # noqa: E402

VOCABULARIES = (1_024, 151_936)
BATCHES = (1, 8, 32)
TURNS = 7
"""How often free and constrained rows are compared."""
GREEDY = SamplingParams(temperature=0)
MIXED = (
    SamplingParams(temperature=0.7, top_p=0.95),
    SamplingParams(temperature=1, top_k=40),
    SamplingParams(temperature=1.3, min_p=0.05),
    GREEDY,
)
PENALISED = SamplingParams(temperature=0, repetition_penalty=1.1, presence_penalty=0.5)
RECORDS = {
    "type": "array",
    "minItems": 1000,
    "items": {
        "type": "object",
        "properties": {
            "name": {"type": "string", "maxLength": 12},
            "count": {"type": "integer"},
            "kind": {"enum": ["red", "green", "blue"]},
        },
        "required": ["name", "count", "kind"],
        "additionalProperties": False,
    },
}
"""A schema whose answer does not end while it is watched."""


def median_us(step: Callable[[], Any], *, num_steps: int) -> float:
    """The median time of a step, in µs, after three that are not counted."""
    for _ in range(3):
        step()
    times = []
    for _ in range(num_steps):
        began = time.perf_counter()
        step()
        times.append(time.perf_counter() - began)
    return statistics.median(times) * 1e6


# Sampling


def rows(params: tuple[SamplingParams, ...], batch: int) -> list[Row]:
    seen = list(range(100))
    return [Row(params[i % len(params)], i, seen, seen[:50]) for i in range(batch)]


def sampling_us(
    params: tuple[SamplingParams, ...], vocab_size: int, batch: int, *, has_mask: bool = False
) -> float:
    """µs per step of a batch whose rows have these parameters in turn."""
    sampler = Sampler(rows(params, batch), vocab_size)
    logits = mx.random.normal((batch, vocab_size)).astype(mx.bfloat16)
    words = np.full((batch, (vocab_size + 31) // 32), 0x55555555, np.uint32)
    mx.eval(logits)

    def step() -> None:
        sampled = sampler.sample(logits, mx.array(words) if has_mask else None)
        sampler.advance(sampled.tokens)
        mx.eval(sampled.arrays)

    return median_us(step, num_steps=30)


# Masks


def vocabulary(vocab_size: int) -> LLTokenizer:
    """The demo model's tokenizer, filled up to a size with made-up words."""
    given = json.loads((ROOT / "demo" / "model" / "tokenizer.json").read_text(encoding="utf-8"))
    known = given["model"]["vocab"]
    number = len(known) + len(given["added_tokens"])
    letters = "etaoinshrdlucmfwypvbgkjqxz"
    word = 0
    while number < vocab_size:
        text, rest = "Ġ" if word % 2 else "", word
        for _ in range(4):
            rest, letter = divmod(rest, len(letters))
            text += letters[letter]
        if text not in known:
            known[text] = number
            number += 1
        word += 1
    end = next(t["id"] for t in given["added_tokens"] if t["special"])
    return LLTokenizer(
        json.dumps(given), n_vocab=max(vocab_size, number), eos_token=end, slices=SLICES
    )


def masks_us(tokens: LLTokenizer, batch: int) -> float:
    """µs per step of the guides of a batch: reading a token each, and filling the mask."""
    grammar = LLMatcher.grammar_from_json_schema(
        json.dumps(RECORDS), defaults={"whitespace_flexible": False}
    )
    compiled = Compiled(lambda: LLMatcher(tokens, grammar))
    guides = [Guide(compiled, Markers()) for _ in range(batch)]
    mask = mx.array(0)
    numbers = np.random.default_rng(0)

    def step() -> None:
        nonlocal mask
        mask = masks.filled(guides, tokens.vocab_size)

    def go_on() -> None:
        bits = np.unpackbits(np.array(mask).view(np.uint8), axis=1, bitorder="little")
        for row, guide in enumerate(guides):
            guide.accept(int(numbers.choice(np.flatnonzero(bits[row]))))

    times = []
    for _ in range(40):
        times.append(timed_us(step))
        go_on()
    assert not any(guide.error for guide in guides)
    return statistics.median(times[3:])


def timed_us(step: Callable[[], Any]) -> float:
    began = time.perf_counter()
    step()
    return (time.perf_counter() - began) * 1e6


def print_costs() -> None:
    print("µs per token and row")
    heads = ("vocabulary", "batch", "greedy", "mixed", "penalties", "mask", "host")
    print(" ".join(f"{head:>10}" for head in heads))
    for vocab_size in VOCABULARIES:
        tokens = vocabulary(vocab_size)
        for batch in BATCHES:
            costs = (
                sampling_us((GREEDY,), vocab_size, batch),
                sampling_us(MIXED, vocab_size, batch),
                sampling_us((PENALISED,), vocab_size, batch),
                sampling_us((GREEDY,), vocab_size, batch, has_mask=True),
                masks_us(tokens, batch),
            )
            told = " ".join(f"{cost / batch:>10.1f}" for cost in costs)
            print(f"{vocab_size:>10} {batch:>10} {told}", flush=True)


# Throughput


def prefill(runner: Any, sequences: list[Sequence]) -> None:
    """Compute the prompt that all of these have, and let them join the batch."""
    while not runner.prefill(sequences, 512):
        pass
    runner.join()


def tokens_per_s(model: Any, constraint: Constraint | None, batch: int, num_steps: int) -> float:
    """Tokens per second of a batch whose rows are all constrained, or all free."""
    prompt = Prompt(
        (Message("user", "List a thousand things as JSON."),),
        template_args={"enable_thinking": False},
        constraint=constraint,
    )
    tokens = model.render(prompt)
    sequences = []
    for seed in range(batch):
        # As with clients of their own, rows say different things at one time.
        params = SamplingParams(temperature=0.7, seed=seed, max_tokens=10 * num_steps)
        guide = model.make_guide(tokens, prompt, params)
        sequence = Sequence(tokens, params, model.make_parser(tokens, prompt), guide=guide)
        prefill(model.runner, [sequence])
        sequences.append(sequence)

    def step() -> None:
        # An answer that would end goes on: every step of both batches has all rows.
        for sequence, token, _ in model.runner.decode():
            sequence.generated.append(token)

    for _ in range(10):
        step()
    began = time.perf_counter()
    for _ in range(num_steps):
        step()
    elapsed = time.perf_counter() - began
    assert not any(s.guide and s.guide.error for s in sequences)
    model.runner.remove(sequences)
    return batch * num_steps / elapsed


def print_throughput(folder: Path, num_steps: int) -> None:
    model = load(LoadOptions(folder, folder.name))
    constraint = Constraint("json", RECORDS)
    print(f"\ntokens per second of {folder.name}, vocabulary {model.vocab_size}")
    print(f"{'batch':>10} {'free':>10} {'JSON':>10} {'ratio':>10}")
    for batch in BATCHES:
        # Once each for the kernels to be compiled, then in turn: the machine may be shared, and
        # faster in one second than in the next.
        found = [
            [tokens_per_s(model, kind, batch, num_steps) for kind in (None, constraint)]
            for _ in range(1 + TURNS)
        ][1:]
        free, constrained = (statistics.median(rates) for rates in zip(*found, strict=True))
        ratio = statistics.median(b / a for a, b in found)
        print(f"{batch:>10} {free:>10.0f} {constrained:>10.0f} {ratio:>10.2f}", flush=True)


# Choices


def prefill_s(model: Any, num_tokens: int, n: int) -> float:
    """Seconds until each of `n` choices of a new prompt of so many tokens has its first token."""
    prompt = Prompt((Message("user", "a"),))
    tokens = np.random.default_rng().integers(0, 1000, num_tokens).tolist()
    sequences = [
        Sequence(tokens, SamplingParams(seed=seed), model.make_parser(tokens, prompt))
        for seed in range(n)
    ]
    began = time.perf_counter()
    prefill(model.runner, sequences)
    model.runner.decode()
    elapsed = time.perf_counter() - began
    model.runner.remove(sequences)
    return elapsed


def print_choices(folder: Path, num_tokens: int) -> None:
    model = load(LoadOptions(folder, folder.name))
    prefill_s(model, num_tokens, 4)
    print(f"\nms to the first token of n choices, a prompt of {num_tokens} tokens")
    alone = statistics.median(prefill_s(model, num_tokens, 1) for _ in range(3))
    for n in (1, 4, 16):
        taken = statistics.median(prefill_s(model, num_tokens, n) for _ in range(3))
        print(f"{n:>10} {taken * 1e3:>10.0f} {taken / alone:>9.2f} ×", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="What choosing the next token costs.")
    parser.add_argument("--model", type=Path, help="a model's folder, for the throughput")
    parser.add_argument("--steps", type=int, default=100, help="of each measured batch")
    given = parser.parse_args()
    sys.setswitchinterval(SWITCH_S)  # as the server does
    print(f"device: {mx.default_device()}")
    print_costs()
    if given.model:
        print_throughput(given.model, given.steps)
        print_choices(given.model, 1000)


if __name__ == "__main__":
    main()
