"""The archived conversations, without a running server: listed, shown, exported, deleted.

Only files that the archive wrote are looked at; what a server still has in memory is not here yet.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from commands.table import aligned
from door.settings import Settings
from parts import NotFound, Unavailable

if TYPE_CHECKING:
    from protocol.tree import Tree


@dataclass(frozen=True, slots=True)
class Filed:
    """A conversation and its file."""

    path: Path
    tree: Tree


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "action", nargs="?", choices=tuple(ACTIONS), default="list", help="list when there is none"
    )
    parser.add_argument(
        "ids", nargs="*", metavar="ID", default=[], help="an id, or the beginning of one"
    )
    parser.add_argument(
        "--format", choices=("md", "json", "jsonl"), default="md", help="of an export (md)"
    )
    parser.add_argument("--to", metavar="FOLDER", default=None, help="export a file each to there")
    parser.add_argument("--all", action="store_true", default=False, help="delete every one")
    parser.add_argument("--yes", action="store_true", default=False, help="delete without asking")


def run(settings: Settings, options: argparse.Namespace) -> int:
    folder = Path(settings.conversation_logs or "").expanduser()
    if not settings.conversation_logs or not folder.is_dir():
        raise Unavailable(f"There is no archive at {folder} (--conversation-logs FOLDER).")
    found = sorted(_filed(folder), key=lambda filed: filed.tree.created_at, reverse=True)
    ACTIONS[options.action](found, options)
    return 0


def _filed(folder: Path) -> Iterator[Filed]:
    """What can be read; what is not ours is passed over."""
    from protocol import record
    from protocol.archive import NAME

    for path in folder.iterdir():
        if NAME.fullmatch(path.name) and path.is_file() and not path.is_symlink():
            try:
                yield Filed(path, record.parse(path.read_bytes())[0])
            except (OSError, record.Malformed) as error:
                print(f"{path.name} is passed over: {error}", file=sys.stderr)


def _list(found: list[Filed], options: argparse.Namespace) -> None:
    if not found:
        print("No conversation is archived yet.")
        return
    print(aligned([("id", "began", "turns", "title"), *map(_row, found)], numeric=(2,)))


def _row(filed: Filed) -> tuple[str, str, str, str]:
    summary = filed.tree.summary()
    began = time.strftime("%Y-%m-%d %H:%M", time.localtime(summary.created_at))
    title = summary.title.encode("unicode_escape").decode() if summary.title else "-"
    printable = summary.title if summary.title.isprintable() and summary.title else title
    return summary.id, began, str(len(filed.tree.turns)), printable[:60]


def _show(found: list[Filed], options: argparse.Namespace) -> None:
    if not options.ids:
        raise Unavailable("Name the conversation to show; `conversations list` lists them.")
    for name in options.ids:
        _write(_chosen(found, name), "md")


def _export(found: list[Filed], options: argparse.Namespace) -> None:
    chosen = [_chosen(found, name) for name in options.ids] or found
    if options.to is None:
        for filed in chosen:
            _write(filed, options.format)
        return
    folder = Path(options.to).expanduser()
    folder.mkdir(parents=True, exist_ok=True)
    for filed in chosen:
        path = folder / f"{filed.tree.id}.{options.format}"
        path.write_bytes(_text(filed, options.format).encode("utf-8", "replace"))
        path.chmod(0o600)
        print(path)


def _delete(found: list[Filed], options: argparse.Namespace) -> None:
    chosen = found if options.all else [_chosen(found, name) for name in options.ids]
    if not chosen:
        raise Unavailable("Name the conversations to delete, or give --all.")
    for filed in chosen:
        print(f"{filed.tree.id}  {filed.tree.summary().title[:60]!r}")
    if options.yes or input(f"Delete {len(chosen)} for good? [y/N] ").strip().lower() == "y":
        for filed in chosen:
            filed.path.unlink()
        print("Deleted. A running server keeps what it still has in memory.")


def _chosen(found: list[Filed], name: str) -> Filed:
    """The conversation with this id, or the only one whose id begins so. Raises `NotFound`."""
    begins = [filed for filed in found if filed.tree.id.startswith(name)]
    within = [filed for filed in found if name in filed.tree.names()]
    match within or begins:
        case [filed]:
            return filed
        case []:
            raise NotFound(f"No archived conversation has the id {name!r}.")
        case several:
            raise NotFound(f"{len(several)} conversations have ids that begin with {name!r}.")


def _write(filed: Filed, kind: str) -> None:
    sys.stdout.buffer.write(_text(filed, kind).encode("utf-8", "replace"))


def _text(filed: Filed, kind: str) -> str:
    from protocol import export

    if kind == "json":
        return filed.path.read_text(encoding="utf-8")
    return export.FORMATS[kind][1](filed.tree, export.branch(filed.tree), time.time())


ACTIONS: dict[str, Callable[[list[Filed], argparse.Namespace], None]] = {
    "list": _list,
    "show": _show,
    "export": _export,
    "delete": _delete,
}
