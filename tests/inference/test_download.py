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
from pathlib import Path
from inference.repository import locate
from parts import Unavailable
for word in sys.argv[1:]:
    is_forced = word.startswith("!")
    try:
        if word.startswith("-"):
            print(Path(word[1:]).unlink())
        else:
            print(locate(word.lstrip("!"), is_forced=is_forced))
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
            **env,
        }

    def start(self, *words: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-c", LOCATE, *(words or [REPO])],
            cwd=ROOT,
            env=self._environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *words: str) -> tuple[list[str], str]:
        """Look for each; a word that begins with - is a file that is removed, one with ! is forced.

        Returns the line that came of each, and what was said on the way.
        """
        said, errors = self.start(*words).communicate(timeout=PATIENCE_S)
        assert "Traceback" not in errors, errors
        assert said.count("\n") == (len(words) or 1)
        return said.splitlines(), errors

    def blobs(self) -> Path:
        return self.cache / "hub" / "models--mlx-community--Demo-4bit" / "blobs"

    def num_partial(self) -> int:
        return sum(path.stat().st_size for path in self.blobs().glob("*.partial"))


WEIGHTS = "model.safetensors"


def test_what_a_model_takes_is_said_and_only_what_it_needs_is_fetched(
    tmp_path: Path, hub: hubs.Hub
) -> None:
    fetching = Fetching(tmp_path, hub)
    (folder, again), said = fetching.run(REPO, REPO)
    assert {path.name for path in Path(folder).iterdir()} == set(os.listdir(DEMO))
    assert (Path(folder) / WEIGHTS).read_bytes() == hub.repos[REPO][WEIGHTS]
    assert said.count(f"{REPO} is not in the cache yet.") == 1
    for words in ("download  6.2 MB", "disk      ", "memory    6.1 MB of ", ": fits"):
        assert words in said
    assert again == folder
    # Nothing is told to the hub about this machine.
    assert not [path for _, path, _ in hub.asked if REPO not in path]
    gone = (Path(folder) / WEIGHTS).resolve()
    hub.asked.clear()
    (_, _, once_more), _ = fetching.run(f"-{gone}", f"-{folder}/{WEIGHTS}", REPO)
    assert once_more == folder
    assert (Path(folder) / WEIGHTS).exists()
    fetched = {path for method, path, _ in hub.asked if method == "GET" and "/api/" not in path}
    assert fetched == {f"/{REPO}/resolve/{hubs.COMMIT}/{WEIGHTS}", f"/elsewhere/{REPO}/{WEIGHTS}"}


def test_a_download_that_was_killed_goes_on_where_it_was(tmp_path: Path, hub: hubs.Hub) -> None:
    fetching = Fetching(tmp_path, hub)
    hub.held = threading.Event()
    first = fetching.start()
    assert hub.begun.wait(PATIENCE_S)
    few = len(hub.repos[REPO][WEIGHTS]) // 4
    wait_until(lambda: fetching.num_partial() >= few, "a part of the file is on the disk")
    (other,), _ = fetching.run()
    assert other == f"'{REPO}' is being downloaded by another process."
    first.kill()
    first.communicate()
    hub.held.set()
    hub.held, begun = None, fetching.num_partial()
    hub.asked.clear()
    (folder,), said = fetching.run()
    assert "already here" in said
    assert ("GET", f"/elsewhere/{REPO}/{WEIGHTS}", f"bytes={begun}-") in hub.asked
    assert (Path(folder) / WEIGHTS).read_bytes() == hub.repos[REPO][WEIGHTS]
    assert not list(fetching.blobs().glob("*.partial"))


def test_a_beginning_that_is_damaged_is_found_out(tmp_path: Path, hub: hubs.Hub) -> None:
    fetching = Fetching(tmp_path, hub)
    (entry,) = (e for e in hub.entries(REPO) if "lfs" in e)
    fetching.blobs().mkdir(parents=True)
    (fetching.blobs() / f"{entry['lfs']['oid']}.partial").write_bytes(b"not the beginning")
    (said, folder), _ = fetching.run(REPO, REPO)
    assert said == f"{WEIGHTS} of '{REPO}' arrived damaged; start again."
    assert Path(folder).is_dir()


def test_a_model_that_cannot_come_is_one_clear_sentence(tmp_path: Path, hub: hubs.Hub) -> None:
    said = {
        "mlx-community/Demo-4bits": f"check the spelling. Did you mean {REPO}?",
        "qwen/Qwen3-8b-4bits": "Did you mean mlx-community/Qwen3-8B-4bit",
        "nobody/nothing-at-all": "check the spelling.",
        "some/gated": "is gated: accept its licence on https://huggingface.co/some/gated",
        "some/gguf": "holds GGUF files, which MLX does not serve",
        "some/pickle": "holds its weights as pickles",
        "some/nothing": "holds no weights",
        "some/giant": "of memory; nothing was downloaded",
        "some/long": "There is no room for 'some/long'",
        "some/broken": "The download of 'some/broken' broke off at ",
    }
    hub.repos["some/gated"] = dict(hub.repos[REPO])
    hub.gated.add("some/gated")
    hub.repos["some/gguf"] = {"model.Q4_K_M.gguf": b"GGUF", "config.json": b"{}"}
    hub.repos["some/pickle"] = {"pytorch_model.bin": b"x", "config.json": b"{}"}
    hub.repos["some/nothing"] = {"README.md": b"x"}
    hub.repos["some/giant"] = {"model-giant.safetensors": b"x"}
    hub.repos["some/long"] = {"model.safetensors": b"x", "long.json": b"{}"}
    hub.repos["some/broken"] = {"model-longer.safetensors": b"y"}
    hub.sizes = {"model-giant.safetensors": 10**15, "long.json": 10**16}
    hub.sizes["model-longer.safetensors"] = 2
    (tmp_path / "hub" / "models--mlx-community--Demo-4bit").mkdir(parents=True)
    lines, _ = Fetching(tmp_path, hub).run(*said)
    for repo, line in zip(said, lines, strict=True):
        assert repo in line
        assert said[repo] in line


def test_a_model_that_is_too_big_comes_when_it_is_forced(tmp_path: Path, hub: hubs.Hub) -> None:
    hub.repos["some/giant"] = {"model.safetensors": b"x"}
    hub.sizes = {"model.safetensors": 10**15}
    (refused, forced), _ = Fetching(tmp_path, hub).run("some/giant", "!some/giant")
    assert "nothing was downloaded: mlx-community/" in refused
    assert refused.endswith(" fits, and --force tries this one all the same.")
    # Not the memory, but the disk, which cannot be forced.
    assert forced.startswith("There is no room for 'some/giant'")


def test_without_a_network_it_is_one_clear_sentence(tmp_path: Path) -> None:
    (line,), _ = Fetching(tmp_path, "http://127.0.0.1:9").run()
    assert line == (
        f"The model '{REPO}' is not in the cache, or not whole, and the hub cannot be reached: "
        "go online once, or give a folder."
    )
