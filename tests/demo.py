"""What the tests must know of the demo model's tokens, read from its own files."""

from __future__ import annotations

import json
from pathlib import Path

FOLDER = Path(__file__).resolve().parent.parent / "demo" / "model"
_CONFIG = json.loads((FOLDER / "config.json").read_text(encoding="utf-8"))
_GENERATION = json.loads((FOLDER / "generation_config.json").read_text(encoding="utf-8"))
_ADDED = {
    token["content"]: token["id"]
    for token in json.loads((FOLDER / "tokenizer.json").read_text(encoding="utf-8"))["added_tokens"]
}

VOCAB_SIZE: int = _CONFIG["vocab_size"]
CONTEXT_WINDOW: int = _CONFIG["max_position_embeddings"]
"""Tokens."""
ENDS: list[int] = _GENERATION["eos_token_id"]
"""The tokens that end an answer."""
END: int = _ADDED["<|im_end|>"]
THINK: int = _ADDED["<think>"]
END_THINK: int = _ADDED["</think>"]
FIRST_CONTROL_TOKEN: int = min(_ADDED.values())
NEVER_END = {str(token): -100 for token in ENDS}
"""A `logit_bias` under which an answer goes on until its limit."""


def in_float32(folder: Path) -> Path:
    """Put the model into a folder in float32, where batched and solo answers are equal."""
    import mlx.core as mx

    for path in FOLDER.iterdir():
        if path.suffix == ".json":
            (folder / path.name).write_bytes(path.read_bytes())
    weights = mx.load(str(FOLDER / "model.safetensors"))
    mx.save_safetensors(
        str(folder / "model.safetensors"),
        {name: array.astype(mx.float32) for name, array in weights.items()},
        {"format": "mlx"},
    )
    return folder
