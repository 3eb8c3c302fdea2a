"""A model comes from a hub: only what is needed, from where it stopped, with one sentence for each
way in which it cannot come. The hub is a small one on this machine."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import hub as hubs
from tests.conftest import DEMO, ROOT
from tests.serving import PATIENCE_S, wait_until

LOCATE = """
import sys
from huggingface_hub import constants
from inference.repository import locate
from parts import Unavailable
constants.DOWNLOAD_CHUNK_SIZE = 2**16  # of 10 MB, of which the demo model has not one
try:
    print(locate(sys.argv[1]))
except Unavailable as error:
    print(error.message)
"""
REPO = "mlx-community/Demo-4bit"


@pytest.fixture
def hub() -> Iterator[hubs.Hub]:
    """A hub with the demo model in it, and files that nobody needs beside it."""
    with hubs.running() as found:
        found.repos[REPO] = {p.name: p.read_bytes() for p in DEMO.iterdir() if p.is_file()}
        found.repos[REPO] |= {"pytorch_model.bin": b"pickle", "README.md": b"# Demo"}
        yield found


class Fetching:
    """A process that looks for a model with a cache of its own."""

    def __init__(self, cache: Path, hub: hubs.Hub | str, **env: str) -> None:
        self.cache = cache
        url = hub if isinstance(hub, str) else hub.url
        self._environment = {
            **os.environ,
            "HF_HOME": str(cache),
            "HF_ENDPOINT": url,
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            **env,
        }

    def start(self, repo: str = REPO) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-c", LOCATE, repo],
            cwd=ROOT,
            env=self._environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, repo: str = REPO) -> tuple[str, str]:
        """The one line that was printed, and what was said on the way."""
        said, errors = self.start(repo).communicate(timeout=PATIENCE_S)
        assert "Traceback" not in errors, errors
        (line,) = said.splitlines()
        return line, errors

    def blobs(self) -> Path:
        return self.cache / "hub" / "models--mlx-community--Demo-4bit" / "blobs"

    def num_partial(self) -> int:
        return sum(path.stat().st_size for path in self.blobs().glob("*.partial"))


def test_what_a_model_takes_is_said_and_only_what_it_needs_is_fetched(
    tmp_path: Path, hub: hubs.Hub
) -> None:
    fetching = Fetching(tmp_path, hub)
    folder, said = fetching.run()
    assert {path.name for path in Path(folder).iterdir()} == set(os.listdir(DEMO))
    assert (Path(folder) / "model.safetensors").read_bytes() == hub.repos[REPO]["model.safetensors"]
    assert f"{REPO} is not in the cache yet." in said
    for words in ("download  6.2 MB", "disk      ", "memory    6.1 MB of ", ": fits"):
        assert words in said
    hub.asked.clear()
    again, said = fetching.run()
    assert (again, said, hub.asked) == (folder, "", [])


def test_a_download_that_was_killed_goes_on_where_it_was(tmp_path: Path, hub: hubs.Hub) -> None:
    fetching = Fetching(tmp_path, hub)
    hub.held = threading.Event()
    first = fetching.start()
    assert hub.begun.wait(PATIENCE_S)
    num_bytes = len(hub.repos[REPO]["model.safetensors"])
    wait_until(lambda: fetching.num_partial() >= num_bytes // 4, "half of the file is on the disk")
    first.kill()
    first.communicate()
    hub.held.set()
    hub.held, begun = None, fetching.num_partial()
    hub.asked.clear()
    folder, said = fetching.run()
    assert "already here" in said
    assert ("GET", f"/{REPO}/resolve/{hubs.COMMIT}/model.safetensors", f"bytes={begun}-") in (
        hub.asked
    )
    assert (Path(folder) / "model.safetensors").read_bytes() == hub.repos[REPO]["model.safetensors"]
    assert not list(fetching.blobs().glob("*.partial"))


def test_a_beginning_that_is_damaged_is_found_out(tmp_path: Path, hub: hubs.Hub) -> None:
    fetching = Fetching(tmp_path, hub)
    (entry,) = (e for e in hub.entries(REPO) if "lfs" in e)
    fetching.blobs().mkdir(parents=True)
    (fetching.blobs() / f"{entry['lfs']['oid']}.partial").write_bytes(b"not the beginning")
    assert fetching.run()[0] == (f"model.safetensors of '{REPO}' arrived damaged; start again.")
    assert Path(fetching.run()[0]).is_dir()


def test_a_model_of_which_a_part_is_missing_is_completed(tmp_path: Path, hub: hubs.Hub) -> None:
    fetching = Fetching(tmp_path, hub)
    folder = Path(fetching.run()[0])
    weights = folder / "model.safetensors"
    weights.resolve().unlink()
    weights.unlink()
    assert fetching.run()[0] == str(folder)
    assert weights.exists()


@pytest.mark.parametrize(
    ("repo", "said"),
    [
        ("mlx-community/Demo-4bits", f"Did you mean {REPO}?"),
        ("mlx-community/Qwen3-8b-4bit", "Did you mean mlx-community/Qwen3-8B-4bit or "),
        ("nobody/nothing-at-all", "check the spelling."),
        ("some/gated", "is gated: accept its licence on https://huggingface.co/some/gated"),
        ("some/gguf", "holds GGUF files, which MLX does not serve"),
        ("some/pickle", "holds its weights as pickles"),
        ("some/nothing", "holds no weights"),
        ("some/giant", "of memory; nothing was downloaded"),
        ("some/long", "There is no room for 'some/long'"),
    ],
)
def test_a_model_that_cannot_come_is_one_clear_sentence(
    tmp_path: Path, hub: hubs.Hub, repo: str, said: str
) -> None:
    hub.repos["some/gated"] = dict(hub.repos[REPO])
    hub.gated.add("some/gated")
    hub.repos["some/gguf"] = {"model.Q4_K_M.gguf": b"GGUF", "config.json": b"{}"}
    hub.repos["some/pickle"] = {"pytorch_model.bin": b"x", "config.json": b"{}"}
    hub.repos["some/nothing"] = {"README.md": b"x"}
    hub.repos["some/giant"] = {"model.safetensors": b"x"}
    hub.repos["some/long"] = {"model.safetensors": b"x", "long.json": b"{}"}
    if repo != "nobody/nothing-at-all":
        hub.sizes = {"model.safetensors": 10**15} if repo == "some/giant" else {}
        hub.sizes["long.json"] = 10**16
    fetching = Fetching(tmp_path, hub)
    (tmp_path / "hub" / "models--mlx-community--Demo-4bit").mkdir(parents=True)
    line, _ = fetching.run(repo)
    assert repo in line
    assert said in line


def test_a_connection_that_breaks_leaves_what_came(tmp_path: Path, hub: hubs.Hub) -> None:
    """The hub's library tries again and again; here the hub is gone for good."""
    fetching = Fetching(tmp_path, hub)
    hub.sizes["model.safetensors"] = len(hub.repos[REPO]["model.safetensors"]) + 1
    line, _ = fetching.run()
    assert line == f"The download of '{REPO}' broke off at 100%. Start again: it goes on there."


def test_without_a_network_it_is_one_clear_sentence(tmp_path: Path) -> None:
    line, _ = Fetching(tmp_path, "http://127.0.0.1:9").run()
    assert line == (
        f"The model '{REPO}' is not in the cache, or not whole, and the hub cannot be reached: "
        "go online once, or give a folder."
    )


def test_two_processes_do_not_write_one_file(tmp_path: Path, hub: hubs.Hub) -> None:
    fetching = Fetching(tmp_path, hub)
    hub.held = threading.Event()
    first = fetching.start()
    assert hub.begun.wait(PATIENCE_S)
    assert fetching.run()[0] == f"'{REPO}' is being downloaded by another process."
    hub.held.set()
    folder, _ = first.communicate(timeout=PATIENCE_S)
    assert Path(folder.strip()).is_dir()
