"""A download: what a model will take is said first, then its files come, from where they stopped.

Finished files are kept, and so is the beginning of one that was interrupted, which the hub's own
library throws away; what was continued is compared with its checksum.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import queue
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from inference.sizes import advice, fit, free_disk, in_words, physical_memory
from parts import Unavailable

SPARE_BYTES = 200 * 10**6
"""What a download leaves free on the disk."""
AT_ONCE = 4
"""Files that are downloaded at the same time."""
LOOK_EVERY_S = 0.2
CHUNK_BYTES = 256 * 2**10
"""How much comes before it is written: what is not written is not seen, nor kept."""


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file of the repository that a model needs."""

    name: str
    num_bytes: int
    blob: str
    """The name of its content in the cache: its SHA-256, or git's checksum of a small file."""
    has_sha256: bool


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be fetched, and where to."""

    repo: str
    commit: str
    files: tuple[RemoteFile, ...]
    blobs: Path
    """The folder of the cache in which contents lie."""

    @property
    def num_bytes(self) -> int:
        return sum(file.num_bytes for file in self.files)

    @property
    def weight_bytes(self) -> int:
        return sum(file.num_bytes for file in self.files if file.name.endswith(".safetensors"))

    def num_here(self) -> int:
        """Bytes that are on the disk already, those of unfinished files too."""
        return sum(min(_num_here(self.blobs, file), file.num_bytes) for file in self.files)


def fetch(repo: str, patterns: list[str], *, is_forced: bool = False) -> Path:
    """Fetch what is missing of a repository's files, and show how far it is.

    Raises:
        Unavailable: with one sentence that says why not, and what to try.
        Exception: whatever the hub's library raises when the hub says no or cannot be reached.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.utils import disable_progress_bars

    plan = _plan(repo, patterns)
    if not is_forced:
        _check_memory(plan)
    _check_room(plan)
    print(_announcement(plan), file=sys.stderr, flush=True)
    disable_progress_bars()
    try:
        with _shown(plan):
            _fetch_large(plan)
            # It fetches the small files, and finds the large ones in the cache.
            folder = snapshot_download(repo, revision=plan.commit, allow_patterns=patterns)
    except Exception as error:  # whatever a network and a disk can do
        _explain(plan, error)
        raise
    _remember_main(plan)
    return Path(folder)


def _explain(plan: Plan, error: Exception) -> None:
    """Raise `Unavailable` for what went wrong on the way, unless the hub said no."""
    from huggingface_hub.errors import RepositoryNotFoundError

    if isinstance(error, Unavailable | RepositoryNotFoundError):
        return
    percent = f"{plan.num_here() / max(plan.num_bytes, 1):.0%}"
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        problem = f"stopped at {percent}: the disk is full. Make room, then start again"
    else:
        problem = f"broke off at {percent}. Start again"
    raise Unavailable(f"The download of {plan.repo!r} {problem}: it goes on there.") from error


def _plan(repo: str, patterns: list[str]) -> Plan:
    from huggingface_hub import HfApi, constants
    from huggingface_hub.file_download import repo_folder_name
    from huggingface_hub.utils import filter_repo_objects

    found = HfApi().model_info(repo, files_metadata=True, timeout=20)
    siblings = found.siblings or []
    names = [sibling.rfilename for sibling in siblings]
    wanted = set(filter_repo_objects(names, allow_patterns=patterns))
    _check_format(repo, names)
    folder = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=repo, repo_type="model")
    return Plan(
        repo,
        found.sha or "main",
        tuple(_remote_file(sibling) for sibling in siblings if sibling.rfilename in wanted),
        folder / "blobs",
    )


def _remote_file(sibling: Any) -> RemoteFile:
    sha256 = sibling.lfs.sha256 if sibling.lfs else None
    blob = sha256 or sibling.blob_id or ""
    return RemoteFile(sibling.rfilename, sibling.size or 0, blob, sha256 is not None)


def _check_format(repo: str, names: list[str]) -> None:
    if any(name.startswith("model") and name.endswith(".safetensors") for name in names):
        return
    kinds = {name.rpartition(".")[2] for name in names}
    if "gguf" in kinds:
        problem = "holds GGUF files, which MLX does not serve: look for it at mlx-community"
    elif kinds & {"bin", "pt", "pth"}:
        problem = "holds its weights as pickles, which can run code and are never loaded"
    else:
        problem = "holds no weights (model*.safetensors)"
    raise Unavailable(f"The model {repo!r} {problem}.")


def _check_memory(plan: Plan) -> None:
    if fit(plan.weight_bytes) == "too big":
        raise Unavailable(
            f"The weights of {plan.repo!r} take {in_words(plan.weight_bytes)}, and this machine "
            f"has {in_words(physical_memory())} of memory; nothing was downloaded: {advice()}"
        )


def _check_room(plan: Plan) -> None:
    missing, free = plan.num_bytes - plan.num_here(), free_disk(plan.blobs)
    if missing and missing + SPARE_BYTES > free:
        raise Unavailable(
            f"There is no room for {plan.repo!r}: {in_words(missing)} are still to come, and "
            f"{in_words(free)} are free in {plan.blobs.parent.parent} (HF_HOME moves the cache)."
        )


def _announcement(plan: Plan) -> str:
    here = plan.num_here()
    already = f", {in_words(here)} of it already here" if here else ""
    return (
        f"{plan.repo} is not in the cache yet.\n"
        f"  download  {in_words(plan.num_bytes)}{already}\n"
        f"  disk      {in_words(free_disk(plan.blobs))} free\n"
        f"  memory    {in_words(plan.weight_bytes)} of {in_words(physical_memory())}: "
        f"{fit(plan.weight_bytes)}"
    )


# Files


def _large(plan: Plan) -> list[RemoteFile]:
    """The files that are worth continuing and not here yet."""
    return [f for f in plan.files if f.has_sha256 and not (plan.blobs / f.blob).exists()]


def _num_here(blobs: Path, file: RemoteFile) -> int:
    for path in (blobs / file.blob, _partial(blobs, file)):
        with contextlib.suppress(OSError):
            return path.stat().st_size
    return 0


def _partial(blobs: Path, file: RemoteFile) -> Path:
    return blobs / f"{file.blob}.partial"


def _fetch_large(plan: Plan) -> None:
    """Fetch several files at a time. Raises the first failure, when all threads have ended."""
    waiting: queue.SimpleQueue[RemoteFile] = queue.SimpleQueue()
    failures: list[Exception] = []

    def work() -> None:
        while not failures:
            try:
                _fetch_file(plan, waiting.get_nowait())
            except queue.Empty:
                return
            except Exception as error:  # raised below, on the caller's thread
                failures.append(error)

    for file in _large(plan):
        waiting.put(file)
    # As daemons, so that Ctrl-C does not wait for a file to be whole.
    threads = [threading.Thread(target=work, daemon=True) for _ in range(AT_ONCE)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


def _fetch_file(plan: Plan, file: RemoteFile) -> None:
    """Fetch a file, or what is missing of it, to where the hub's library looks for it."""
    plan.blobs.mkdir(parents=True, exist_ok=True)
    partial = _partial(plan.blobs, file)
    with partial.open("ab") as opened:
        try:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise Unavailable(f"{plan.repo!r} is being downloaded by another process.") from None
        begun = opened.tell()
        if begun < file.num_bytes:
            _append(plan, file, opened)
    if begun and _sha256(partial) != file.blob:
        partial.unlink()
        raise Unavailable(f"{file.name} of {plan.repo!r} arrived damaged; start again.")
    partial.replace(plan.blobs / file.blob)


def _append(plan: Plan, file: RemoteFile, opened: BinaryIO) -> None:
    from huggingface_hub import constants, hf_hub_url
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import build_hf_headers

    constants.DOWNLOAD_CHUNK_SIZE = CHUNK_BYTES
    http_get(
        hf_hub_url(plan.repo, file.name, revision=plan.commit),
        opened,
        resume_size=opened.tell(),
        # Compressed, the parts would not add up.
        headers={**build_hf_headers(), "accept-encoding": "identity"},
        expected_size=file.num_bytes,
    )


def _sha256(path: Path) -> str:
    with path.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _remember_main(plan: Plan) -> None:
    """Note which commit `main` is, so that the model is found by its name without the hub."""
    ref = plan.blobs.parent / "refs" / "main"
    with contextlib.suppress(OSError):
        ref.parent.mkdir(parents=True, exist_ok=True)
        ref.write_text(plan.commit, encoding="utf-8")


# How far it is


@contextlib.contextmanager
def _shown(plan: Plan) -> Iterator[None]:
    """Show how far the download is, for as long as the block lasts."""
    over = threading.Event()
    show = _bar if sys.stderr.isatty() else _lines
    watcher = threading.Thread(target=show, args=(plan, over))
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()


def _bar(plan: Plan, over: threading.Event) -> None:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    columns = (BarColumn(24), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress("[progress.percentage]{task.percentage:>3.0f}%", *columns,
                  console=Console(stderr=True)) as progress:  # fmt: skip
        task = progress.add_task("", total=plan.num_bytes, completed=plan.num_here())
        while not over.wait(LOOK_EVERY_S):
            progress.update(task, completed=plan.num_here())
        progress.update(task, completed=plan.num_here())


def _lines(plan: Plan, over: threading.Event) -> None:
    """A line every ten seconds, for a log."""
    while not over.wait(10):
        print(
            f"  {plan.num_here() / plan.num_bytes:.0%} of {in_words(plan.num_bytes)}",
            file=sys.stderr,
            flush=True,
        )
