"""Fixtures of the inference room: the demo model's own tokenizer, and the demo model in float32."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import DEMO
from tests.demo import ENDS


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    """The demo model's tokenizer, as mlx-lm wraps it. Not to be changed by a test."""
    from mlx_lm.tokenizer_utils import load

    return load(DEMO, eos_token_ids=ENDS)


@pytest.fixture(scope="session")
def model(float32_model: Path) -> Any:
    """The demo model in float32, loaded on the test's own thread."""
    import mlx_lm

    return mlx_lm.load(str(float32_model))[0]


@pytest.fixture(scope="session")
def random_model(float32_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that knows nothing: random weights, with the demo model's tokenizer."""
    import mlx.core as mx
    from mlx.utils import tree_flatten
    from mlx_lm.models.qwen3 import Model, ModelArgs

    folder = tmp_path_factory.mktemp("random")
    for path in float32_model.iterdir():
        if path.suffix == ".json":
            (folder / path.name).write_bytes(path.read_bytes())
    config = json.loads((folder / "config.json").read_text())
    config |= {"hidden_size": 32, "num_hidden_layers": 1, "intermediate_size": 32, "head_dim": 8}
    (folder / "config.json").write_text(json.dumps(config))
    mx.random.seed(1)
    weights = dict(tree_flatten(Model(ModelArgs.from_dict(config)).parameters()))
    mx.save_safetensors(str(folder / "model.safetensors"), weights, {"format": "mlx"})
    return folder
