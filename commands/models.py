"""The models on this disk, with what they take and whether they fit this machine."""

from __future__ import annotations

import argparse
import fnmatch
from collections.abc import Collection
from pathlib import Path
from typing import Any

from commands.table import aligned
from door.settings import DEMO_MODEL, Settings

WEIGHTS = (".safetensors", ".bin", ".gguf", ".pt", ".pth", ".onnx", ".npz")
"""How the names of files with weights end, MLX's own and others."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", default=False, help="as JSON")


def run(settings: Settings, options: argparse.Namespace) -> int:
    from inference.sizes import in_words, physical_memory, suggested

    found = _cached()
    if options.json:
        import json

        print(json.dumps(found, indent=2))
        return 0
    if found:
        rows = [("model", "size", "fit", "last used"), *map(_row, found)]
        print(aligned(rows, numeric=(1,)))
    else:
        print("No model is in the cache yet; the demo model comes with the server.")
    print(f"\nOthers that fit this machine's {in_words(physical_memory())}, with their sizes:")
    here = {entry["model"] for entry in found}
    others = [known for known in suggested() if known.repo not in here]
    offers = [(f"  make serve MODEL={known.repo}", in_words(known.num_bytes)) for known in others]
    print(aligned(offers, numeric=(1,)) if offers else "  none")
    return 0


def _row(entry: dict[str, Any]) -> tuple[str, str, str, str]:
    from inference.sizes import in_words

    fit = entry["fit"] if entry["is_whole"] else "not whole: serving it fetches the rest"
    fit = fit if entry["is_for_mlx"] else "not for MLX"
    return entry["model"], in_words(entry["num_bytes"]), fit, entry["last_used"]


def _cached() -> list[dict[str, Any]]:
    """The demo model and what is in the hub's cache, the last used first."""
    from inference.repository import cached_repositories, weight_bytes

    found = [
        _entry(
            repo.repo_id,
            repo.size_on_disk,
            files=_files(repo),
            last_used=_day(repo.last_accessed),
        )
        for repo in _scan()
    ]
    scanned = {entry["model"] for entry in found}
    begun = [name for name in cached_repositories() if name not in scanned]
    demo = _entry("demo", weight_bytes(DEMO_MODEL), folder=DEMO_MODEL)
    return [demo, *found, *(_entry(name, _blob_bytes(name)) for name in begun)]


def _entry(
    name: str,
    num_bytes: int,
    *,
    files: Collection[str] = (),
    last_used: str = "",
    folder: Path | None = None,
) -> dict[str, Any]:
    from inference.repository import find
    from inference.sizes import fit

    folder = folder or find(name)
    return {
        "model": name,
        "num_bytes": num_bytes,
        "fit": fit(num_bytes),
        "is_for_mlx": _is_for_mlx(files),
        "is_whole": folder is not None,
        "last_used": last_used,
    }


def _is_for_mlx(files: Collection[str]) -> bool:
    """Whether files may be those of a model for MLX; of no files it is not known yet."""
    weights = [name for name in files if name.endswith(WEIGHTS)]
    has_ours = any(fnmatch.fnmatch(name, "model*.safetensors") for name in weights)
    return not files or ("config.json" in files and (has_ours or not weights))


def _files(repo: Any) -> set[str]:
    """The names of a repository's files, with the folders that they are in."""
    return {
        file.file_path.relative_to(revision.snapshot_path).as_posix()
        for revision in repo.revisions
        for file in revision.files
    }


def _blob_bytes(name: str) -> int:
    """What is here of a download that has only begun."""
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    folder = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=name, repo_type="model")
    return sum(path.stat().st_size for path in folder.glob("blobs/*"))


def _scan() -> list[Any]:
    from huggingface_hub import constants, scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    try:
        repos = scan_cache_dir(constants.HF_HUB_CACHE).repos
    except (CacheNotFound, ValueError):  # a fresh machine has no cache
        return []
    models = [repo for repo in repos if repo.repo_type == "model"]
    return sorted(models, key=lambda repo: repo.last_accessed, reverse=True)


def _day(moment: float) -> str:
    import datetime

    return datetime.datetime.fromtimestamp(moment).strftime("%Y-%m-%d")
