"""Trains the demo model from nothing, on MLX alone: `python demo/train.py`."""

import argparse
import json
import os
import sys
import time
from collections import defaultdict, deque
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from demo.dialogues import dialogues
from demo.tokenizer import CONTEXT, VOCAB_SIZE, Encoder, save_tokenizer, texts_of, train_tokenizer

if TYPE_CHECKING:
    from demo.learner import Learner

ROW_LENGTHS = (64, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048, 3072, CONTEXT)
"""Dialogues are padded to the next of these lengths, in tokens; longer ones are dropped."""

SHARD_TOKENS = 1 << 19
EARLY_SHARE = 0.06
"""The part of the training that sees short dialogues only, most of them copying."""

Row = tuple[NDArray[np.uint16], NDArray[np.bool_]]
"""Token ids and whether each is learned, both [length + 1]."""


@dataclass(frozen=True)
class Shape:
    """The sizes of the model."""

    hidden: int = 192
    layers: int = 6
    heads: int = 4
    key_heads: int = 2
    head_dim: int = 64
    feed_forward: int = 512

    def configuration(self, tokenizer: Tokenizer) -> dict[str, Any]:
        """config.json in the form of a qwen3 model."""
        return {
            "architectures": ["Qwen3ForCausalLM"],
            "model_type": "qwen3",
            "hidden_size": self.hidden,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.key_heads,
            "head_dim": self.head_dim,
            "intermediate_size": self.feed_forward,
            "vocab_size": VOCAB_SIZE,
            "rope_theta": 10000.0,
            "rms_norm_eps": 1e-6,
            "max_position_embeddings": CONTEXT,
            "tie_word_embeddings": True,
            "hidden_act": "silu",
            "attention_bias": False,
            "eos_token_id": tokenizer.token_to_id("<|im_end|>"),
            "pad_token_id": tokenizer.token_to_id("<|endoftext|>"),
            "torch_dtype": "bfloat16",
        }


@dataclass(frozen=True)
class Recipe:
    """How to train."""

    num_tokens: int
    minutes: float
    seed: int = 0
    batch_tokens: int = 1 << 16
    learning_rate: float = 3e-3
    weight_decay: float = 0.05
    warm_up_steps: int = 200
    decay_from: float = 0.4
    """From this part of the training on, the learning rate falls in a straight line to zero."""
    workers: int = max(1, (os.cpu_count() or 2) - 1)

    def rate(self, step: int, progress: float) -> float:
        """The learning rate of a step; progress runs from 0 to 1."""
        warm = min(1.0, (step + 1) / self.warm_up_steps)
        left = min(1.0, (1.0 - progress) / (1.0 - self.decay_from))
        return self.learning_rate * warm * max(left, 0.002)

    def is_early(self, shard: int) -> bool:
        return shard * SHARD_TOKENS < EARLY_SHARE * self.num_tokens


def learn_tokenizer(seed: int, num_dialogues: int = 6000) -> Tokenizer:
    sample = islice(dialogues(seed, -1), num_dialogues)
    return train_tokenizer(text for conversation in sample for text in texts_of(conversation))


def write_rows(tokenizer_json: str, seed: int, shard: int, early: bool) -> list[Row]:
    """One shard of the training data, padded: the work of a data process."""
    encoder = Encoder(_tokenizer(tokenizer_json))
    rows, size = [], 0
    for conversation in dialogues(seed, shard, early):
        ids, learned = encoder(conversation)
        length = next((length for length in ROW_LENGTHS if length >= len(ids) - 1), None)
        if length is None:
            continue
        row = np.zeros(length + 1, np.uint16), np.zeros(length + 1, np.bool_)
        row[0][: len(ids)] = ids
        row[1][: len(ids)] = learned
        rows.append(row)
        size += length
        if size >= SHARD_TOKENS:
            return rows
    raise AssertionError("the dialogues never end")


_tokenizers: dict[str, Tokenizer] = {}


def _tokenizer(tokenizer_json: str) -> Tokenizer:
    """Parsed once in each process."""
    if tokenizer_json not in _tokenizers:
        _tokenizers[tokenizer_json] = Tokenizer.from_str(tokenizer_json)
    return _tokenizers[tokenizer_json]


def shards(tokenizer: Tokenizer, recipe: Recipe) -> Iterator[list[Row]]:
    """The shards in order, written ahead by the data processes."""
    write = partial(write_rows, tokenizer.to_str(), recipe.seed)
    with ProcessPoolExecutor(recipe.workers, mp_context=get_context("spawn")) as pool:
        ahead: deque[Future[list[Row]]] = deque()
        shard = 0
        try:
            while True:
                while len(ahead) < 3 * recipe.workers:
                    ahead.append(pool.submit(write, shard, recipe.is_early(shard)))
                    shard += 1
                yield ahead.popleft().result()
        finally:
            for future in ahead:
                future.cancel()


def batches(tokenizer: Tokenizer, recipe: Recipe) -> Iterator[Row]:
    """Batches of rows of one length: token ids and what is learned, both [rows, length + 1]."""
    waiting: defaultdict[int, list[Row]] = defaultdict(list)
    for shard in shards(tokenizer, recipe):
        for row in shard:
            length = len(row[0]) - 1
            waiting[length].append(row)
            if len(waiting[length]) * length >= recipe.batch_tokens:
                rows = waiting.pop(length)
                yield np.stack([ids for ids, _ in rows]), np.stack([learned for _, learned in rows])


class Progress:
    """How far the training is, by tokens or by time, whichever ends first; drawn as a bar."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.begun: float | None = None
        self.drawn = 0.0
        self.num_tokens = 0

    @property
    def seconds(self) -> float:
        """Since the first step ended: the time that the data needs to start does not count."""
        return time.monotonic() - self.begun if self.begun else 0.0

    @property
    def share(self) -> float:
        by_time = self.seconds / 60 / self.recipe.minutes if self.recipe.minutes else 0.0
        return min(1.0, max(by_time, self.num_tokens / self.recipe.num_tokens))

    def advance(self, num_tokens: int) -> None:
        self.begun = self.begun or time.monotonic()
        self.num_tokens += num_tokens

    def draw(self, loss: float) -> None:
        if time.monotonic() - self.drawn < 2 and self.share < 1:
            return
        self.drawn = time.monotonic()
        filled = int(30 * self.share)
        speed = self.num_tokens / max(self.seconds, 1e-3)
        bar = "█" * filled + "░" * (30 - filled)
        line = (
            f"{bar} {self.share:4.0%}  {self.num_tokens / 1e6:7.1f} M tokens  "
            f"{speed / 1e3:6.0f} k/s  loss {loss:.4f}  {self.seconds:4.0f} s"
        )
        print(line, end="\r" if sys.stdout.isatty() else "\n", flush=True)


def train(learner: "Learner", tokenizer: Tokenizer, recipe: Recipe) -> None:
    """Show the learner one batch after the other until the tokens or the minutes are over."""
    progress = Progress(recipe)
    previous = None
    for step, (ids, learned) in enumerate(batches(tokenizer, recipe)):
        loss = learner.step(ids, learned, recipe.rate(step, progress.share))
        progress.advance(ids[:, 1:].size)
        if previous is not None:  # the loss of the step before: this one still runs
            progress.draw(float(previous.item()))  # type: ignore[arg-type]
        previous = loss
        if progress.share >= 1:
            return


def write_generation_defaults(folder: Path, configuration: dict[str, Any]) -> None:
    """Write how to sample when a request says nothing."""
    end, padding = configuration["eos_token_id"], configuration["pad_token_id"]
    defaults = {
        "eos_token_id": [end, padding],
        "pad_token_id": padding,
        "do_sample": True,
        "temperature": 0.7,
        "top_p": 0.95,
    }
    (folder / "generation_config.json").write_text(json.dumps(defaults, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--out",
        type=Path,
        default=Path(__file__).parent / "model",
        help="folder to write the model to",
    )
    parser.add_argument("--tokens", type=float, default=750e6, help="train on so many tokens")
    parser.add_argument(
        "--minutes", type=float, default=0, help="stop after so many minutes, if that comes first"
    )
    parser.add_argument(
        "--batch-tokens", type=int, default=Recipe.batch_tokens, help="tokens in one step"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--workers", type=int, default=Recipe.workers, help="processes that write dialogues"
    )
    parser.add_argument(
        "--no-evaluation", action="store_true", help="do not print the table of skills at the end"
    )
    arguments = parser.parse_args()
    recipe = Recipe(
        int(arguments.tokens),
        arguments.minutes,
        arguments.seed,
        arguments.batch_tokens,
        workers=arguments.workers,
    )
    make_model(recipe, arguments.out)
    if not arguments.no_evaluation:
        from demo.evaluate import evaluate_in_process

        evaluate_in_process(str(arguments.out))


def make_model(recipe: Recipe, folder: Path) -> None:
    """Train tokenizer and model, and write both to a folder that mlx-lm loads."""
    from demo.learner import Learner, new_model  # not above: the data processes need no MLX

    print("learning the tokenizer", flush=True)
    tokenizer = learn_tokenizer(recipe.seed)
    configuration = Shape().configuration(tokenizer)
    learner = Learner(new_model(configuration, recipe.seed), recipe.weight_decay)
    train(learner, tokenizer, recipe)
    folder.mkdir(parents=True, exist_ok=True)
    learner.save(folder, configuration)
    write_generation_defaults(folder, configuration)
    save_tokenizer(tokenizer, folder)
    print(f"\nwrote {folder}", flush=True)


if __name__ == "__main__":
    main()
