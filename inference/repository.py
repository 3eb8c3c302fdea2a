"""Where a model's files are (a folder, the Hugging Face cache, the hub), and if they are whole.

Found out before anything else starts, without importing MLX, so that a mistake costs a second.
Only safetensors are ever read: a pickle can run code.
"""

from __future__ import annotations

import difflib
import json
import os
from pathlib import Path

from inference.sizes import KNOWN, advice, in_words, physical_memory
from parts import Unavailable

# The hub's library tells the hub about this machine, unless told not to before it is imported.
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

PATTERNS = [
    "*.json",
    "model*.safetensors",
    "*.py",
    "tokenizer.model",
    "*.tiktoken",
    "*.txt",
    "*.jinja",
]
"""What a model folder needs; repositories often hold the weights in other formats too."""
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json")


def locate(model: str, *, is_forced: bool = False) -> Path:
    """Give the folder of a model named by a path or by a repository id, downloading it if need be.

    What does not fit into memory is refused, unless it is `is_forced`.

    Raises:
        Unavailable: with one sentence that says what is wrong and what to try.
    """
    folder = Path(model).expanduser()
    if not folder.exists():
        if model.startswith((".", "/", "~")) or model.count("/") != 1:
            raise Unavailable(
                f"There is no folder {model!r}. Give a folder with a model in it, or the id of a "
                "Hugging Face repository such as mlx-community/Qwen3-8B-4bit."
            )
        folder = _from_hub(model, is_forced=is_forced)
    check(folder, is_forced=is_forced)
    return folder


def find(model: str) -> Path | None:
    """The folder of a model that is on this machine, all of it. Fetches nothing."""
    folder = Path(model).expanduser()
    if folder.exists():
        return folder
    return _cached(model) if model.count("/") == 1 else None


def check(folder: Path, *, is_forced: bool = False) -> None:
    """See that a folder holds a model that can be loaded here. Raises `Unavailable`."""
    if not folder.is_dir():
        raise Unavailable(f"{folder} is a file; give the folder that holds the model.")
    config = read_config(folder)
    if "model_type" not in config:
        raise Unavailable(f"{folder / 'config.json'} names no model_type: is it a language model?")
    _check_weights(folder)
    if not any((folder / name).exists() for name in TOKENIZER_FILES):
        raise Unavailable(
            f"There is no tokenizer.json in {folder}; copy it from the original model."
        )
    num_bytes, memory = weight_bytes(folder), physical_memory()
    if num_bytes > memory and not is_forced:
        raise Unavailable(
            f"The weights in {folder} take {in_words(num_bytes)}, but this machine has "
            f"{in_words(memory)} of memory: {advice()}"
        )


def read_config(folder: Path) -> dict[str, object]:
    """Read `config.json`. Raises `Unavailable`."""
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        hint = (
            " It holds GGUF files, which MLX does not serve." if list(folder.glob("*.gguf")) else ""
        )
        raise Unavailable(
            f"There is no config.json in {folder}: it is not a model folder.{hint}"
        ) from None
    except (OSError, ValueError):
        raise Unavailable(f"{path} cannot be read as JSON; download the model again.") from None
    if not isinstance(config, dict):
        raise Unavailable(f"{path} is not a JSON object; download the model again.")
    return config


def weight_files(folder: Path) -> list[Path]:
    """The files that mlx-lm reads the weights from."""
    return sorted(folder.glob("model*.safetensors"))


def weight_bytes(folder: Path) -> int:
    """Bytes of the weights on disk, which is what they take in memory."""
    return sum(path.stat().st_size for path in weight_files(folder))


def _from_hub(repo: str, *, is_forced: bool) -> Path:
    from huggingface_hub.errors import (
        GatedRepoError,
        HFValidationError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
    )

    from inference import download

    cached = _cached(repo)
    if cached is not None:
        return cached
    try:
        return download.fetch(repo, PATTERNS, is_forced=is_forced)
    except Unavailable:
        raise
    except GatedRepoError:
        problem = (
            f"is gated: accept its licence on https://huggingface.co/{repo} and log in with "
            "`hf auth login`."
        )
    except (RepositoryNotFoundError, HFValidationError):
        problem = "does not exist on the hub, or is private: check the spelling." + _near(repo)
    except OfflineModeIsEnabled:
        problem = (
            "is not in the cache, or not whole, and HF_HUB_OFFLINE is set: go online once, or give "
            f"a folder.{_near(repo)}"
        )
    except Exception:  # every way in which a network can fail
        problem = (
            "is not in the cache, or not whole, and the hub cannot be reached: go online once, or "
            f"give a folder.{_near(repo)}"
        )
    raise Unavailable(f"The model {repo!r} {problem}")


def _cached(repo: str) -> Path | None:
    """The folder of a model that is in the cache, all of it."""
    from huggingface_hub import snapshot_download

    try:
        folder = Path(snapshot_download(repo, allow_patterns=PATTERNS, local_files_only=True))
        read_config(folder)
        _check_weights(folder)
    except Exception:  # not there, or not whole: the hub has the rest
        return None
    return folder


def cached_repositories() -> list[str]:
    """The ids of the models of which something is in the cache; none on a fresh machine."""
    from huggingface_hub.constants import HF_HUB_CACHE

    folders = sorted(Path(HF_HUB_CACHE).glob("models--*--*"))
    return [folder.name.removeprefix("models--").replace("--", "/", 1) for folder in folders]


def _near(repo: str) -> str:
    """What may have been meant: models that are here, then those that many people use."""
    known = [*(known.repo for known in KNOWN), *cached_repositories()]
    by_name = {repo.rpartition("/")[2].lower(): repo for repo in known}
    wanted = repo.rpartition("/")[2].lower()
    near = [by_name[name] for name in difflib.get_close_matches(wanted, by_name, cutoff=0.75)]
    return f" Did you mean {' or '.join(near)}?" if near else ""


def _check_weights(folder: Path) -> None:
    files = weight_files(folder)
    if not files:
        other = next(folder.glob("*.bin"), None) or next(folder.glob("*.pt*"), None)
        hint = f" ({other.name} is a pickle, which is never loaded)" if other else ""
        if gguf := next(folder.glob("*.gguf"), None):
            hint = f" ({gguf.name} is GGUF, which MLX does not serve)"
        raise Unavailable(f"There are no weights (model*.safetensors) in {folder}{hint}.")
    for path in [*files, *_missing_shards(folder)]:
        if not _is_whole(path):
            raise Unavailable(f"{path} is missing or cut short; download the model again.")


def _missing_shards(folder: Path) -> list[Path]:
    index = folder / "model.safetensors.index.json"
    try:
        names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        return []
    return [folder / name for name in sorted(names) if not (folder / name).exists()]


def _is_whole(path: Path) -> bool:
    """Compare a file's size with what its header promises.

    The format: 8 bytes of header length, a JSON header, the tensors
    (https://huggingface.co/docs/safetensors).
    """
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            length = int.from_bytes(file.read(8), "little")
            if not 0 < length <= size - 8:
                return False
            header = json.loads(file.read(length))
        ends = [t["data_offsets"][1] for name, t in header.items() if name != "__metadata__"]
        return bool(size == 8 + length + max(ends, default=0))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError):
        return False
