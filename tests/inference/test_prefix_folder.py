"""The prefix folder outlives a restart, and whatever happens to its files is a miss at most."""

from __future__ import annotations

import fcntl
import logging
import os
import stat
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import mlx.core as mx
import pytest
from mlx_lm.models.cache import make_prompt_cache

from inference import prefix_file, prefix_folder
from inference.cache_layers import Cache, num_bytes
from inference.loader import LoadOptions, load
from inference.prefix_cache import PrefixCache
from inference.prefix_file import PrefixFile
from inference.prefix_folder import PrefixFolder, key_of
from inference.token_tree import packed
from parts import Message, Prompt
from tests.conftest import DEMO
from tests.inference.test_families import tiny
from tests.inference.test_prefix_cache import (
    assert_same,
    compute,
    filled,
    held_by,
    layers_of_every_kind,
    snapshot,
)
from tests.serving import running

KEY, OTHER_KEY = "0123456789abcdef", "fedcba9876543210"
LONG = list(range(100, 700))
"""Long enough for a file to be worth reading."""

Opener = Callable[..., PrefixFolder]


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(prefix_folder, "_HEADER_BYTES", 4096)  # the caches here are small
    return tmp_path / "prefixes"


@pytest.fixture
def open_folder(path: Path) -> Iterator[Opener]:
    """Opens the folder, as a server that starts does."""
    opened: list[PrefixFolder] = []

    def open_it(**options: Any) -> PrefixFolder:
        said = {"path": path, "key": KEY, "max_bytes": 10**9, "idle_s": 1000.0, **options}
        folder = PrefixFolder(**said)
        opened.append(folder)
        assert folder.wait_until_indexed(10)
        return folder

    yield open_it
    for folder in opened:
        folder.close()


def evaluated(cache: Cache) -> Cache:
    mx.eval([layer.state for layer in cache])
    return cache


def written(open_folder: Opener, *prompts: list[int], **options: Any) -> None:
    """A server that has seen these prompts, one after another, and stopped."""
    for prompt in prompts:
        folder = open_folder(**options)
        PrefixCache(10**9, folder).insert(prompt, evaluated(filled(prompt)))
        folder.close()


def found(open_folder: Opener, tokens: list[int], **options: Any) -> int:
    """How many tokens of a prompt a server that starts now finds; they are the right ones."""
    folder = open_folder(**options)
    cache, length = PrefixCache(10**9, folder).match(tokens)
    assert (held_by(cache) if cache else []) == tokens[:length]
    folder.close()
    return length


def files(path: Path) -> list[Path]:
    return sorted(path.glob("*.safetensors"))


def test_a_restart_keeps_the_prefixes(open_folder: Opener, path: Path) -> None:
    written(open_folder, LONG, [7, *LONG])
    assert found(open_folder, [*LONG, 1]) == 600
    assert found(open_folder, [7, *LONG[:300], 1]) == 301
    assert found(open_folder, [8, *LONG]) == 0
    assert stat.S_IMODE(path.stat().st_mode) == 0o700
    assert [stat.S_IMODE(p.stat().st_mode) for p in files(path)] == [0o600] * 2


def test_a_server_that_is_stopped_leaves_its_prefixes_to_the_next(path: Path) -> None:
    text = "Once upon a time there was a little cat who lived in a big house. " * 20
    with running(path.parent, "--prompt-cache-dir", str(path)) as server:
        body = {"messages": [{"role": "user", "content": text}], "max_tokens": 1}
        answer = httpx.post(f"{server.base_url}/v1/chat/completions", json=body, timeout=60)
        assert server.stop() == 0
    next_one = load(LoadOptions(folder=DEMO, name="demo", prefix_cache_folder=path))
    cache: PrefixCache = next_one.runner.prefix_cache
    assert cache._folder is not None
    assert cache._folder.wait_until_indexed(10)
    tokens = next_one.render(Prompt((Message("user", text),)))
    assert len(tokens) == answer.json()["usage"]["prompt_tokens"]
    assert cache.match(tokens)[1] == len(tokens) - 1
    cache.close()


def test_a_cache_of_every_kind_comes_back_as_it_was(open_folder: Opener, path: Path) -> None:
    cache, tokens = layers_of_every_kind(), LONG[:300]
    for layer in cache:
        compute(layer, 300, 1)
    folder = open_folder()
    folder.put(packed(tokens), evaluated(cache), num_bytes(cache))
    folder.close()
    file, length = open_folder().find(packed(tokens))
    assert file is not None
    assert (length, file.can_trim) == (300, False)
    loaded = folder.load(file)
    assert loaded is not None
    assert_same(snapshot(loaded), snapshot(cache))


@pytest.mark.parametrize("family", ["gemma3_text", "qwen3_next"])
def test_an_answer_out_of_a_file_is_the_same(family: str, open_folder: Opener) -> None:
    model, prefix = tiny(family), LONG[:300]
    kept = make_prompt_cache(model)
    model(mx.array([prefix]), cache=kept)
    folder = open_folder()
    PrefixCache(10**9, folder).insert(prefix, evaluated(kept))
    folder.close()
    cache, length = PrefixCache(10**9, open_folder()).match([*prefix, 5])
    assert length == 300
    assert mx.array_equal(model(mx.array([[5]]), cache=cache), model(mx.array([[5]]), cache=kept))


def test_only_what_is_much_longer_than_what_is_in_memory_is_read(open_folder: Opener) -> None:
    written(open_folder, LONG)
    cache = PrefixCache(10**9, open_folder())
    cache.insert(LONG[:400], filled(LONG[:400]))
    assert cache.peek([*LONG, 1]) == cache.match([*LONG, 1])[1] == 400
    cache.shrink(10**9)
    assert cache.peek([*LONG, 1]) == cache.match([*LONG, 1])[1] == 600
    assert len(cache) == 1


def test_what_does_not_fit_into_memory_is_not_read(open_folder: Opener) -> None:
    written(open_folder, LONG)
    cache = PrefixCache(1000, open_folder())
    assert cache.match([*LONG, 1]) == (None, 0)
    assert not cache.fetch([*LONG, 1])


def test_a_file_is_read_ahead_in_the_background(open_folder: Opener, path: Path) -> None:
    written(open_folder, LONG)
    cache = PrefixCache(10**9, open_folder())
    assert not cache.fetch([1, 2, 3] * 10)
    assert cache.fetch([*LONG, 1])
    while cache.is_coming([*LONG, 1]):
        os.sched_yield()
    files(path)[0].unlink()
    assert cache.match([*LONG, 1])[1] == 600


def test_a_longer_prefix_takes_the_place_of_a_shorter_one(open_folder: Opener, path: Path) -> None:
    folder = open_folder()
    cache = PrefixCache(10**9, folder)
    cache.insert(LONG[:300], filled(LONG[:300]))
    cache.insert(LONG[:400], evaluated(filled(LONG[:400])))
    folder.close()
    assert len(files(path)) == 1
    written(open_folder, LONG, LONG[:350])
    assert len(files(path)) == 1
    assert found(open_folder, [*LONG, 1]) == 600


def test_what_goes_from_memory_is_written_before_its_time(open_folder: Opener, path: Path) -> None:
    folder = open_folder()
    cache = PrefixCache(int(1.9 * filled(LONG)[0].nbytes), folder)
    cache.insert(LONG, evaluated(filled(LONG)))
    cache.insert([7, *LONG], evaluated(filled([7, *LONG])))
    while folder.find(packed(LONG))[0] is None:
        os.sched_yield()
    assert cache.match([*LONG, 1])[1] == 600


def test_a_slow_disk_does_not_hold_on_to_memory(
    open_folder: Opener, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written_first, may_go_on = threading.Event(), threading.Event()
    write = prefix_file.write

    def slow(*arguments: Any) -> PrefixFile:
        written_first.set()
        may_go_on.wait(10)
        return write(*arguments)

    monkeypatch.setattr(prefix_folder.prefix_file, "write", slow)
    monkeypatch.setattr(prefix_folder, "_MAX_HURRIED", 2000)
    folder = open_folder()
    for n in range(5):
        folder.put(packed([n, *LONG]), evaluated(filled([n, *LONG])), 1000)
        folder.hurry(packed([n, *LONG]))
        assert written_first.wait(10)
    may_go_on.set()
    folder.close()
    assert [found(open_folder, [n, *LONG]) > 0 for n in range(5)] == [True] * 3 + [False] * 2


def test_what_is_still_being_computed_is_written_when_it_is_there(
    open_folder: Opener, path: Path
) -> None:
    cache = filled(LONG)
    ones = mx.ones((300, 300))
    for _ in range(20):
        ones = mx.minimum(ones @ ones, 1)
    cache[0].keys = cache[0].keys * ones[0, 0]
    folder = open_folder(idle_s=0.0)
    PrefixCache(10**9, folder).insert(LONG, cache)
    folder.close()
    assert found(open_folder, [*LONG, 1]) == 600


def test_what_was_never_computed_is_not_written(
    open_folder: Opener, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = open_folder()
    folder.put(packed(LONG), filled(LONG), 1000)
    folder.put(packed([1, *LONG]), evaluated(filled([1, *LONG])), 1000)
    folder.close()
    assert found(open_folder, [*LONG, 1]) == 0
    assert found(open_folder, [1, *LONG]) == 600
    assert not caplog.records


def test_what_goes_because_memory_is_short_is_not_written(open_folder: Opener, path: Path) -> None:
    folder = open_folder()
    cache = PrefixCache(10**9, folder)
    cache.insert(LONG, evaluated(filled(LONG)))
    cache.shrink(1)
    folder.close()
    assert files(path) == []


# Damage


def damaged(path: Path, change: Callable[[bytes], bytes]) -> None:
    [file] = files(path)
    file.write_bytes(change(file.read_bytes()))


REGIONS = {
    "length": 0,
    "header": 40,
    "tokens": 700,
    "arrays": -2_000,
    "last byte": -1,
}


@pytest.mark.parametrize("at", REGIONS.values(), ids=REGIONS)
def test_a_changed_byte_is_a_miss(at: int, open_folder: Opener, path: Path) -> None:
    written(open_folder, LONG)

    def change(whole: bytes) -> bytes:
        at_byte = at % len(whole)
        return whole[:at_byte] + bytes([whole[at_byte] ^ 1]) + whole[at_byte + 1 :]

    damaged(path, change)
    assert found(open_folder, [*LONG, 1]) == 0
    assert files(path) == []


@pytest.mark.parametrize("size", [0, 4, 8, 500, 3_000, -1])
def test_a_torn_file_is_a_miss(size: int, open_folder: Opener, path: Path) -> None:
    written(open_folder, LONG)
    damaged(path, lambda whole: whole[:size])
    assert found(open_folder, [*LONG, 1]) == 0
    assert files(path) == []


def test_a_file_that_was_cut_while_the_server_runs_is_a_miss(
    open_folder: Opener, path: Path
) -> None:
    written(open_folder, LONG)
    cache = PrefixCache(10**9, open_folder())
    damaged(path, lambda whole: whole[:-100])
    assert cache.peek([*LONG, 1]) == 600
    assert cache.match([*LONG, 1]) == (None, 0)
    assert cache.peek([*LONG, 1]) == 0


@pytest.mark.parametrize("text", [b"[]", b"{}", b'{"__metadata__": 3}', b"\xff", b"[" * 9000])
def test_a_file_that_is_none_of_ours_but_by_name_is_deleted(
    text: bytes, open_folder: Opener, path: Path
) -> None:
    open_folder().close()
    whole = len(text).to_bytes(8, "little") + text
    (path / f"prefix-{KEY}-{'0' * 64}.safetensors").write_bytes(whole)
    (path / "notes.txt").write_text("keep me")
    (path / "other.safetensors").write_bytes(whole)
    assert found(open_folder, [*LONG, 1]) == 0
    assert [p.name for p in sorted(path.iterdir())] == ["notes.txt", "other.safetensors"]


def test_what_a_killed_server_left_half_written_is_deleted(open_folder: Opener, path: Path) -> None:
    open_folder().close()
    torn, alive = (path / f"prefix-{c * 32}.partial" for c in "ab")
    torn.write_bytes(b"half")
    with alive.open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        open_folder()
        assert [p.name for p in path.iterdir()] == [alive.name]


def test_another_models_values_are_never_used(open_folder: Opener, path: Path) -> None:
    written(open_folder, LONG, key=OTHER_KEY)
    assert found(open_folder, [*LONG, 1]) == 0
    [file] = files(path)
    file.rename(path / file.name.replace(OTHER_KEY, KEY))
    assert found(open_folder, [*LONG, 1]) == 0
    assert files(path) == []


def test_a_model_is_known_by_its_files_and_how_it_is_run(tmp_path: Path) -> None:
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(bytes(10**6))
    os.utime(weights, ns=(1, 1))
    keys = {key_of([weights], "KVCache"), key_of([weights], "QuantizedKVCache")}
    os.utime(weights, ns=(1, 2))
    keys.add(key_of([weights], "KVCache"))
    weights.write_bytes(b"\1" * 10**6)
    os.utime(weights, ns=(1, 2))
    keys.add(key_of([weights], "KVCache"))
    assert len(keys) == 4
    assert key_of([weights], "KVCache") in keys


@pytest.mark.parametrize("is_running", [False, True])
def test_a_file_that_may_not_be_read_is_a_miss(
    is_running: bool, open_folder: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuses(*_: Any) -> None:
        raise PermissionError(13, "Permission denied")  # root is never refused

    written(open_folder, LONG)
    if not is_running:
        monkeypatch.setattr(prefix_file, "_opened", refuses)
    cache = PrefixCache(10**9, open_folder())
    monkeypatch.setattr(prefix_file, "_opened", refuses)
    assert cache.match([*LONG, 1]) == (None, 0)


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_what_is_no_file_is_a_miss(
    make: Callable[[Path], None], open_folder: Opener, path: Path
) -> None:
    open_folder().close()
    make(path / f"prefix-{KEY}-{'0' * 64}.safetensors")
    assert found(open_folder, [*LONG, 1]) == 0


def test_links_are_not_followed(open_folder: Opener, path: Path, tmp_path: Path) -> None:
    written(open_folder, LONG)
    [file] = files(path)
    moved = file.rename(tmp_path / "elsewhere")
    file.symlink_to(moved)
    assert found(open_folder, [*LONG, 1]) == 0
    assert moved.exists()
    link = tmp_path / "link"
    link.symlink_to(path)
    moved.rename(path / file.name)
    assert found(open_folder, [*LONG, 1], path=link) == 0
    assert found(open_folder, [*LONG, 1]) == 600


# The disk


def test_a_full_disk_is_warned_of_once_and_left_alone_for_a_while(
    open_folder: Opener,
    path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    tried = []

    def fails(self: Any, data: Any) -> int:
        tried.append(data)
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(prefix_file._Digested, "write", fails)
        folder = open_folder()
        for n in range(3):
            folder.put(packed([n, *LONG]), evaluated(filled([n, *LONG])), 1000)
        folder.close()
    assert len(tried) == 1
    assert list(path.iterdir()) == []
    warnings = [r for r in caplog.records if r.levelno == logging.WARNING]
    assert len(warnings) == 1
    assert "No space left" in warnings[0].getMessage()
    written(open_folder, LONG)
    assert found(open_folder, [*LONG, 1]) == 600


def test_a_disk_that_works_again_is_used_again(
    open_folder: Opener, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(prefix_folder, "_OFF_S", 0.0)
    folder = open_folder(idle_s=0.0)
    with monkeypatch.context() as patch:
        patch.setattr(prefix_folder.prefix_file, "write", fails)
        folder.put(packed(LONG), evaluated(filled(LONG)), 1000)
        while not folder._has_warned:
            os.sched_yield()
    folder.put(packed(LONG), evaluated(filled(LONG)), 1000)
    folder.close()
    assert len(files(path)) == 1


def test_whatever_goes_wrong_in_the_thread_is_no_error(
    open_folder: Opener, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(*_: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(prefix_folder.prefix_file, "write", fails)
    folder = open_folder()
    folder.put(packed(LONG), evaluated(filled(LONG)), 1000)
    folder.close()
    assert "The prompt cache cannot use" in caplog.text


def test_the_folder_never_grows_beyond_its_limit(open_folder: Opener, path: Path) -> None:
    written(open_folder, [99, *LONG], key=OTHER_KEY)
    os.utime(files(path)[0], (1, 1))
    limit = 3 * files(path)[0].stat().st_size + 2**13
    for n in range(5):
        written(open_folder, [n, *LONG], max_bytes=limit)
        os.utime(max(files(path), key=os.path.getctime), (1000 + n, 1000 + n))
        assert sum(p.stat().st_size for p in files(path)) <= limit
    assert [found(open_folder, [n, *LONG], max_bytes=limit) > 0 for n in range(5)] == [
        *[False] * 2,
        *[True] * 3,
    ]
    assert not [p for p in files(path) if OTHER_KEY in p.name]


def test_what_was_used_last_stays(open_folder: Opener, path: Path) -> None:
    written(open_folder, [1, *LONG], [2, *LONG])
    for at, file in enumerate(files(path)):
        os.utime(file, (at, at))
    limit = sum(p.stat().st_size for p in files(path)) + 2**13
    assert found(open_folder, [1, *LONG]) == found(open_folder, [1, *LONG]) == 600
    written(open_folder, [3, *LONG], max_bytes=limit)
    assert [found(open_folder, [n, *LONG]) for n in (1, 2, 3)] == [600, 0, 600]


def test_what_is_larger_than_the_limit_is_not_written(open_folder: Opener, path: Path) -> None:
    written(open_folder, LONG, max_bytes=1000)
    assert files(path) == []


def test_a_folder_of_ours_that_others_may_look_into_is_closed_to_them(
    open_folder: Opener, path: Path
) -> None:
    written(open_folder, LONG)
    path.chmod(0o755)
    assert found(open_folder, [*LONG, 1]) == 600
    assert stat.S_IMODE(path.stat().st_mode) == 0o700


@pytest.mark.parametrize("what", ["open", "file"])
def test_a_folder_that_cannot_be_ours_is_not_used(
    what: str, open_folder: Opener, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    if what == "open":
        path.mkdir()
        (path / "thesis.txt").write_text("keep me")
        path.chmod(0o755)
    else:
        path.write_text("keep me")
    written(open_folder, LONG)
    assert "The prompt cache is not kept on the disk" in caplog.text
    assert path.is_file() or [p.name for p in path.iterdir()] == ["thesis.txt"]
