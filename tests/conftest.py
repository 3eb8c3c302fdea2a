"""Fixtures that several rooms' tests share."""

from __future__ import annotations

import json
import shutil
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from door.settings import Settings
from server import create_app
from tests import demo, serving
from tests.scripted import ScriptedEngine

ROOT = Path(__file__).resolve().parent.parent
DEMO = ROOT / "demo" / "model"

# No time is too long: the machine may be busy with something else.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")

# What was started in the background, or by nohup, ignores these signals, and so do its children:
# here, the servers that are to be stopped by them.
if threading.current_thread() is threading.main_thread():
    for number, meaning in (
        (signal.SIGINT, signal.default_int_handler),
        (signal.SIGHUP, signal.SIG_DFL),
    ):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, meaning)


LONGEST_FIRST = ("test_soak.py", "test_parameters.py", "test_demo_model.py", "test_captures.py")
"""Files of few tests that take long, which would be the last ones and leave one process idle."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Where files are shared out among processes, begin with those that take longest."""
    items.sort(key=lambda item: item.path.name not in LONGEST_FIRST)


@pytest.fixture(scope="session")
def float32_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo model in float32, where batched and solo answers are equal to the last bit."""
    return demo.in_float32(tmp_path_factory.mktemp("demo-float32"))


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


@pytest.fixture(scope="session")
def demo_server(
    float32_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[serving.Running]:
    """The server as a user starts it, on the demo model in float32."""
    folder = tmp_path_factory.mktemp("demo-server")
    with serving.running(folder, model=float32_model) as server:
        yield server


@pytest.fixture
def engine() -> ScriptedEngine:
    return ScriptedEngine()


@pytest.fixture
def scripted_url(engine: ScriptedEngine) -> Iterator[str]:
    """The address of the application around the scripted engine."""
    with serving.serving(create_app(Settings(no_conversation_logs=True), engine)) as url:
        yield url


@pytest.fixture(scope="session")
def node_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which Node finds the OpenAI SDK."""
    folder = tmp_path_factory.mktemp("node")
    shutil.copy(ROOT / "tests" / "node" / "package.json", folder)
    serving.run(["npm", "install", "--silent", "--no-audit", "--no-fund"], folder)
    return folder
