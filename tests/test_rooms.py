"""The house keeps its walls: who may import what."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MLX = {"mlx", "mlx_lm", "transformers", "tokenizers", "llguidance"}
WEB = {"fastapi", "starlette", "uvicorn", "sse_starlette", "prometheus_client"}
BANS = {
    "parts.py": MLX | WEB | {"door", "protocol", "inference", "server", "pydantic"},
    "protocol": MLX | WEB | {"door", "inference", "server", "commands"},
    "inference": WEB | {"door", "protocol", "server", "commands", "pydantic"},
    "door": MLX | {"inference", "server", "commands"},
    # The doctor looks at the device, and waits with it until it is asked.
    "commands": MLX - {"mlx"} | WEB | {"server", "pydantic"},
    "server.py": MLX,
}


SLOW = MLX | {"inference", "huggingface_hub", "rich", "shtab", "yaml"}
"""What a command imports only when it runs: a mistyped one is answered at once."""


def imports(path: Path, *, at_once: bool = False) -> Iterator[str]:
    """The top-level names that a file imports: anywhere in it, or when it is imported itself."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in tree.body if at_once else ast.walk(tree):
        match node:
            case ast.Import(names):
                yield from (name.name.split(".")[0] for name in names)
            case ast.ImportFrom(module=str(module)):
                yield module.split(".")[0]


def files(room: str) -> list[Path]:
    path = ROOT / room
    return [path] if path.is_file() else sorted(path.rglob("*.py"))


@pytest.mark.parametrize("room", BANS)
def test_a_room_imports_nothing_that_is_banned_from_it(room: str) -> None:
    found = {str(p.relative_to(ROOT)): BANS[room] & set(imports(p)) for p in files(room)}
    assert found, "the room is empty"
    assert not {path: names for path, names in found.items() if names}


def test_a_command_is_imported_fast() -> None:
    found = {path.name: SLOW & set(imports(path, at_once=True)) for path in files("commands")}
    assert len(found) > 7
    assert not {name: names for name, names in found.items() if names}


def test_every_file_opens_with_the_sentence_that_defines_it() -> None:
    for room in BANS:
        for path in files(room):
            assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))), path


def test_the_door_and_the_engine_can_be_imported_without_mlx() -> None:
    code = (
        "import sys, server, inference.engine, inference.repository; "
        "sys.exit('mlx' in sys.modules or 'mlx_lm' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
