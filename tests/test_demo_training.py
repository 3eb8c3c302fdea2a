"""The demo model is made by one script, from a seed that gives the same data everywhere."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import mlx_lm
import pytest

from demo import train
from demo.tokenizer import save_tokenizer
from demo.train import Recipe, Shape, learn_tokenizer, make_model
from tests.serving import ROOT

MODEL = ROOT / "demo" / "model"


FIRST_DIALOGUES = """
import hashlib, itertools
from demo.dialogues import dialogues
found = hashlib.sha256()
for shard in range(2):
    for dialogue in itertools.islice(dialogues(0, shard), 300):
        found.update(repr((dialogue.messages, dialogue.tools)).encode())
print(found.hexdigest())
"""


def test_a_seed_gives_the_same_dialogues_in_every_process() -> None:
    def told(hash_seed: str) -> str:
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
        program = [sys.executable, "-c", FIRST_DIALOGUES]
        return subprocess.check_output(program, env=environment, cwd=ROOT, text=True)

    assert told("1") == told("2")


def test_the_tokenizer_that_ships_is_made_by_the_script(tmp_path: Path) -> None:
    save_tokenizer(learn_tokenizer(Recipe.seed), tmp_path)
    made = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert made == {name: (MODEL / name).read_bytes() for name in made} and len(made) == 2


def test_the_model_that_ships_is_small() -> None:
    assert sum(path.stat().st_size for path in MODEL.iterdir()) < 8 * 10**6


def test_what_the_script_makes_is_a_model_that_mlx_lm_loads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = learn_tokenizer(Recipe.seed, num_dialogues=300)
    monkeypatch.setattr(train, "learn_tokenizer", lambda seed: tokenizer)
    small = Shape(hidden=64, layers=1, heads=2, key_heads=1, head_dim=32, feed_forward=64)
    monkeypatch.setattr(train, "Shape", lambda: small)
    make_model(Recipe(2_000, 0, 0, 1_024, workers=1), tmp_path / "model")
    model, loaded, *_ = mlx_lm.load(str(tmp_path / "model"))
    prompt = loaded.apply_chat_template([{"role": "user", "content": "Hello!"}])
    assert mlx_lm.generate(model, loaded, prompt, max_tokens=3)
