"""A prefix file holds one prompt's cache on the disk, under a name that is a checksum of its bytes.

It is a safetensors file as mlx-lm writes it; the tokens and the model's key stand in its header. A
file never changes: it is written under another name, then renamed. No symbolic link is followed.
"""

from __future__ import annotations

import base64
import fcntl
import hashlib
import io
import json
import os
import re
import secrets
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx_lm.models import cache as mlx_caches
from mlx_lm.models.cache import load_prompt_cache, save_prompt_cache

from inference.cache_layers import Cache, can_trim
from inference.token_tree import WIDTH

NAME = re.compile(r"prefix-(?P<key>[0-9a-f]{16})-(?P<digest>[0-9a-f]{64})\.safetensors")
"""Files that are ours. All others are left alone."""
PARTIAL = re.compile(r"prefix-[0-9a-f]{32}\.partial")
"""Files of ours that are being written, and locked as long as they are."""

_LARGEST_HEADER = 64 * 2**20
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class Unusable(Exception):
    """A file does not hold what its name promises."""


@dataclass(frozen=True, slots=True, eq=False)
class PrefixFile:
    """What is known of a file without reading its arrays."""

    name: str
    num_bytes: int
    tokens: bytes
    can_trim: bool


def write(folder: int, key: str, tokens: bytes, cache: Cache) -> PrefixFile:
    """Write a file into an open folder. Runs on any thread; the arrays must be under way at least.

    Raises:
        OSError: nothing is left behind.
        Unusable: these caches cannot be written, or not so that mlx-lm could read them back.
    """
    if not all(_is_known(type(layer).__name__) for layer in cache):
        raise Unusable("mlx-lm does not know these caches")
    partial = f"prefix-{secrets.token_hex(16)}.partial"
    can = can_trim(cache)
    said = {
        "key": key,
        "tokens": base64.b64encode(tokens).decode("ascii"),
        "can_trim": str(int(can)),
    }
    try:
        opened = os.open(partial, _CREATE, 0o600, dir_fd=folder)
        with _Digested(opened, "w") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            save_prompt_cache(file, cache, said)
            name = f"prefix-{key}-{file.digest.hexdigest()}.safetensors"
            size = file.tell()
            os.rename(partial, name, src_dir_fd=folder, dst_dir_fd=folder)
    except RuntimeError as error:  # MLX's, for arrays that were never computed
        remove(folder, partial)
        raise Unusable(str(error)) from error
    except BaseException:
        remove(folder, partial)
        raise
    return PrefixFile(name, size, tokens, can)


def read_header(folder: int, name: str) -> PrefixFile:
    """Read what a file says of itself.

    Raises:
        OSError, Unusable: it cannot be read, or is not whole.
    """
    with _opened(folder, name) as file:
        num_bytes = os.fstat(file.fileno()).st_size
        length = int.from_bytes(file.read(8), "little")
        if not 0 < length <= min(num_bytes - 8, _LARGEST_HEADER):
            raise Unusable("it has no header")
        text = _read(file, length)
    try:
        header = json.loads(text)
        said = header.pop("__metadata__")
        end = max(array["data_offsets"][1] for array in header.values())
        tokens = base64.b64decode(said["0.tokens"], validate=True)
        key, can = said["0.key"], said["0.can_trim"] == "1"
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise Unusable("its header cannot be read") from error
    if end != num_bytes - 8 - length or len(tokens) % WIDTH or not tokens:
        raise Unusable("it is not whole")
    if not isinstance(key, str) or _name(name)["key"] != key:
        raise Unusable("it is of another model")
    return PrefixFile(name, num_bytes, tokens, can)


def read(folder: int, path: Path, file: PrefixFile) -> Cache:
    """Read a file's cache, after its checksum. `path` is the open folder's. Runs on any thread.

    Raises:
        OSError, Unusable: it cannot be read, or is not what was written.
    """
    with _opened(folder, file.name) as opened:
        digest = hashlib.file_digest(opened, "sha256").hexdigest()
    if digest != _name(file.name)["digest"]:
        raise Unusable("its checksum is wrong")
    if read_header(folder, file.name).tokens != file.tokens:
        raise Unusable("it holds another prompt")
    try:
        cache: Cache = load_prompt_cache(str(path / file.name))
        mx.eval([layer.state for layer in cache])
    except (RuntimeError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise Unusable("mlx-lm cannot read it") from error
    num_tokens = len(file.tokens) // WIDTH
    if any(getattr(layer, "offset", num_tokens) != num_tokens for layer in cache):
        raise Unusable("its caches hold another number of tokens")
    return cache


def remove(folder: int, name: str) -> None:
    """Delete a file, if it is there and may be deleted."""
    try:
        os.unlink(name, dir_fd=folder)
    except OSError:
        return


def remove_torn(folder: int, name: str) -> None:
    """Delete a file that was being written by a process which is no more."""
    try:
        with _opened(folder, name) as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return
    except (OSError, Unusable):
        pass
    remove(folder, name)


class _Digested(io.FileIO):
    """A file that keeps a checksum of what is written to it, from its beginning to its end."""

    def __init__(self, opened: int, mode: str) -> None:
        super().__init__(opened, mode)
        self.digest = hashlib.sha256()

    def write(self, data: Any, /) -> int:
        view = memoryview(data).cast("B") if memoryview(data).nbytes else memoryview(b"")
        self.digest.update(view)
        size = len(view)
        while view:
            view = view[super().write(view) or 0 :]
        return size


def _opened(folder: int, name: str) -> io.FileIO:
    file = io.FileIO(os.open(name, _READ, dir_fd=folder), "r")
    if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        return file
    file.close()
    raise Unusable("it is no file")


def _read(file: io.FileIO, length: int) -> bytes:
    parts = []
    while length and (part := file.read(length)):
        parts.append(part)
        length -= len(part)
    return b"".join(parts)


def _name(name: str) -> dict[str, Any]:
    match = NAME.fullmatch(name)
    assert match is not None
    return match.groupdict()


def _is_known(name: str) -> bool:
    """Whether mlx-lm finds a cache's class by its name."""
    return hasattr(getattr(mlx_caches, name, None), "from_state")
