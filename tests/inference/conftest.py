"""Fixtures of the inference room: the demo model's own tokenizer, and the demo model in float32."""

from __future__ import annotations

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
