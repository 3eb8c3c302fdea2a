"""The models on this disk, with what they take and whether they fit this machine."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from commands.table import aligned
from door.settings import DEMO_MODEL, Settings


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
    return entry["model"], in_words(entry["num_bytes"]), fit, entry["last_used"]


def _cached() -> list[dict[str, Any]]:
    """The models in the hub's cache that may be language models for MLX, and the demo model."""
    from inference.repository import weight_bytes

    found = [_entry(repo.repo_id, repo.size_on_disk, _day(repo.last_accessed)) for repo in _scan()]
    return [_entry("demo", weight_bytes(DEMO_MODEL), "", DEMO_MODEL), *found]


def _entry(name: str, num_bytes: int, last_used: str, folder: Path | None = None) -> dict[str, Any]:
    from inference.repository import find
    from inference.sizes import fit

    folder = folder or find(name)
    return {
        "model": name,
        "num_bytes": num_bytes,
        "fit": fit(num_bytes),
        "is_whole": folder is not None,
        "last_used": last_used,
    }


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
