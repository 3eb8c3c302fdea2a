"""The library in this process: what the machine gives when nothing stands between it and the model.

    echo '{"model": …, "batches": [1, 8, 32], …}' | python benchmarks/library.py

Batch 1 is mlx-lm's `generate_step`, larger ones its `BatchGenerator`, greedy, timed from the moment
when all rows decode. Each line of the output is a JSON object.
"""

from __future__ import annotations

import json
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx_lm import load
from mlx_lm.generate import BatchGenerator, generate_step
from mlx_lm.utils import load_tokenizer
from prompts import Prompts

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from inference.repository import locate

UNCOUNTED = 5
"""Tokens that are not timed: the first ones compile kernels and fill the pipeline."""


def tell(**values: Any) -> None:
    print(json.dumps(values), flush=True)


def about(model: str) -> None:
    """Tell the context window, and how many tokens a made-up word has."""
    path = locate(model)
    config = json.loads((path / "config.json").read_text(encoding="utf-8"))
    config = config.get("text_config") or config
    words = Prompts(seed=0).words(500)
    num_tokens = len(load_tokenizer(path).encode(words))
    tell(
        window=config.get("max_position_embeddings", 4096),
        tokens_per_word=num_tokens / 500,
        device=str(mx.device_info().get("device_name") or mx.default_device()),
        versions=", ".join(f"{name} {version(name)}" for name in ("mlx", "mlx-lm")),
    )


def alone(model: Any, prompt: list[int], num_tokens: int) -> float:
    """Tokens per second of `generate_step`."""
    began = 0.0
    for index, _ in enumerate(generate_step(mx.array(prompt), model, max_tokens=num_tokens)):
        if index == UNCOUNTED - 1:
            began = time.perf_counter()
    return (num_tokens - UNCOUNTED) / (time.perf_counter() - began)


def batched(model: Any, prompts: list[list[int]], num_tokens: int) -> tuple[float, float]:
    """Tokens per second of all rows while all decode, and bytes of the caches for each token."""
    batch = BatchGenerator(model, completion_batch_size=len(prompts))
    batch.insert(prompts, max_tokens=[num_tokens] * len(prompts))
    began, num_counted, num_bytes, num_steps = 0.0, 0, 0, 0
    while True:
        prefilled, rows = batch.next()
        if not prefilled and not rows:
            break
        num_steps += len(rows) == len(prompts)
        if num_steps == UNCOUNTED and not began:
            began = time.perf_counter()
        elif began:
            if len(rows) < len(prompts) or any(row.finish_reason for row in rows):
                break
            num_counted += len(rows)
            num_bytes = batch.prompt_cache_nbytes
    elapsed = time.perf_counter() - began
    batch.close()
    num_held = sum(map(len, prompts)) + len(prompts) * UNCOUNTED + num_counted
    return num_counted / elapsed, num_bytes / num_held


def measure(job: dict[str, Any]) -> None:
    model, tokenizer = load(str(locate(job["model"])))
    made = Prompts(seed=7)

    def prompt() -> list[int]:
        tokens = tokenizer.apply_chat_template(
            [made.turn(job["words"])], add_generation_prompt=True
        )
        return list(tokens)

    for batch in job["batches"]:
        for run in range(job["runs"] + 1):
            prompts = [prompt() for _ in range(batch)]
            if batch == 1:
                rate = alone(model, prompts[0], job["tokens"])
                told = {"tokens_per_s": rate}
            else:
                rate, num_bytes = batched(model, prompts, job["tokens"])
                told = {"tokens_per_s": rate, "bytes_per_token": num_bytes}
            if run:  # the first one warms up
                tell(batch=batch, **told)


def main() -> None:
    job = json.loads(sys.stdin.readline())
    if job.get("about"):
        about(job["model"])
    else:
        measure(job)


if __name__ == "__main__":
    main()
