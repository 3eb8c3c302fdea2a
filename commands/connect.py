"""Connect tells a client of this server: the exact settings, printed or written into its file."""

from __future__ import annotations

import argparse
import sys

from commands import client_file, remote
from commands.presets import PRESETS, Entry, Target
from door.settings import Settings
from parts import ServerError, Unavailable


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("client", choices=tuple(PRESETS), help=", ".join(PRESETS), metavar="CLIENT")
    parser.add_argument(
        "--write", action="store_true", default=False, help="write it into the client's file"
    )
    parser.add_argument(
        "--undo", action="store_true", default=False, help="put back what was there before"
    )


def run(settings: Settings, options: argparse.Namespace) -> int:
    target = _target(settings)
    preset = PRESETS[options.client](target)
    if options.undo:
        path = client_file.undo(_entry(preset.entry, options.client))
        print(f"Put back {path}." if path else "Removed the file, which was not there before.")
        return 0
    if preset.where:
        print(f"# {preset.where}", file=sys.stderr)
    print(preset.text, end="", flush=True)
    if options.write:
        entry = _entry(preset.entry, options.client)
        backup = client_file.write(entry)
        said = f"Written to {entry.path}." if backup else f"{entry.path} says it already."
        print(f"\n{said}", file=sys.stderr)
    if preset.then:
        print(f"\n# then: {preset.then}", file=sys.stderr)
    return 0


def _entry(entry: Entry | None, client: str) -> Entry:
    if entry is None:
        raise Unavailable(f"{client} has no file that could be written; copy what is printed.")
    return entry


def _target(settings: Settings) -> Target:
    """The model that is running, or the one that the flags say."""
    server = remote.at(settings)
    try:
        entry = server.model()
    except Unavailable:
        print(f"# nothing answers at {server.url} yet: from the flags", file=sys.stderr)
        entry = {"id": settings.model_name, "context_window": settings.ctx_size}
    except ServerError as error:
        raise Unavailable(error.message) from error
    return Target(
        server.url + "/v1",
        entry["id"],
        entry.get("context_window"),
        (entry.get("capabilities") or {}).get("tools", True),
        settings.api_key,
    )
