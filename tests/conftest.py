"""Fixtures that several rooms' tests share."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
DEMO = ROOT / "demo" / "model"


@pytest.fixture(scope="session")
def float32_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo model in float32, where batched and solo answers are equal to the last bit."""
    import mlx.core as mx

    folder = tmp_path_factory.mktemp("demo-float32")
    for path in DEMO.iterdir():
        if path.suffix == ".json":
            (folder / path.name).write_bytes(path.read_bytes())
    weights = mx.load(str(DEMO / "model.safetensors"))
    mx.save_safetensors(
        str(folder / "model.safetensors"),
        {name: array.astype(mx.float32) for name, array in weights.items()},
        {"format": "mlx"},
    )
    return folder
