"""A folder that cannot be served is found out at once, and said in one sentence."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from inference.repository import check, locate
from parts import Unavailable
from tests.conftest import DEMO, ROOT


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A whole model, to be broken."""
    for path in DEMO.iterdir():
        shutil.copy(path, tmp_path / path.name)
    return tmp_path


def remove_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def break_config(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type": "qw')


def make_config_a_list(folder: Path) -> None:
    (folder / "config.json").write_text("[]")


def make_config_latin1(folder: Path) -> None:
    (folder / "config.json").write_bytes(b'{"model_type": "\xe9"}')


def remove_type(folder: Path) -> None:
    (folder / "config.json").write_text("{}")


def remove_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def cut_weights(folder: Path) -> None:
    path = folder / "model.safetensors"
    os.truncate(path, path.stat().st_size - 1)


def empty_weights(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"")


def scramble_header(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"<html>Not found</html>" * 10)


def leave_a_pickle(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def leave_gguf(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "model.Q4_K_M.gguf")


def leave_only_gguf(folder: Path) -> None:
    leave_gguf(folder)
    remove_config(folder)


def lose_a_shard(folder: Path) -> None:
    index = {"weight_map": {"a": "model.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def remove_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer_config.json").unlink()


def outgrow_memory(folder: Path) -> None:
    size = 10**13
    header = {"a": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}
    text = json.dumps(header).encode()
    path = folder / "model.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text)
    os.truncate(path, 8 + len(text) + size)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (remove_config, "There is no config.json"),
        (break_config, "cannot be read as JSON"),
        (make_config_a_list, "is not a JSON object"),
        (make_config_latin1, "cannot be read as JSON"),
        (remove_type, "names no model_type"),
        (remove_weights, "There are no weights"),
        (cut_weights, "is missing or cut short"),
        (empty_weights, "is missing or cut short"),
        (scramble_header, "is missing or cut short"),
        (leave_a_pickle, "pytorch_model.bin is a pickle"),
        (leave_gguf, "GGUF"),
        (leave_only_gguf, "GGUF"),
        (lose_a_shard, "model-00002-of-00002.safetensors is missing"),
        (remove_tokenizer, "There is no tokenizer.json"),
        (outgrow_memory, "of memory"),
    ],
)
def test_a_broken_folder_is_refused_in_a_sentence(
    folder: Path, damage: Callable[[Path], None], said: str
) -> None:
    damage(folder)
    with pytest.raises(Unavailable) as caught:
        locate(str(folder))
    assert said in caught.value.message
    assert "\n" not in caught.value.message
    assert "Traceback" not in caught.value.message


def test_a_folder_that_outgrows_the_memory_may_be_forced(folder: Path) -> None:
    outgrow_memory(folder)
    with pytest.raises(Unavailable, match=r"mlx-community/\S+ fits, and --force tries"):
        check(folder)
    check(folder, is_forced=True)
    assert locate(str(folder), is_forced=True) == folder


def test_a_whole_folder_is_found(folder: Path) -> None:
    assert locate(str(folder)) == folder


def test_a_file_is_no_folder(folder: Path) -> None:
    with pytest.raises(Unavailable, match="is a file"):
        locate(str(folder / "config.json"))
    with pytest.raises(Unavailable, match="is a file"):
        check(folder / "config.json")


@pytest.mark.parametrize(
    "name", ["/no/such/folder", "./nowhere", "~/nowhere/at/all", "qwen", "a/b/c"]
)
def test_what_is_neither_a_folder_nor_a_repository_is_refused(name: str) -> None:
    with pytest.raises(Unavailable, match="There is no folder"):
        locate(name)


@pytest.mark.parametrize(
    ("repo", "said"),
    [
        ("nobody/nothing-at-all", "HF_HUB_OFFLINE is set: go online once, or give a folder."),
        ("a b/c?", "check the spelling"),
        ("--/..", "check the spelling"),
    ],
)
def test_a_repository_that_is_not_cached_is_refused_offline(
    repo: str, said: str, tmp_path: Path
) -> None:
    code = (
        "import sys\n"
        "from inference.repository import locate\n"
        "from parts import Unavailable\n"
        "try:\n"
        "    locate(sys.argv[1])\n"
        "except Unavailable as error:\n"
        "    print(error.message)\n"
    )
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    found = subprocess.run(
        [sys.executable, "-c", code, repo],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert repo in found.stdout
    assert found.stdout.count("\n") == 1
    assert said in found.stdout
    assert "Traceback" not in found.stderr
