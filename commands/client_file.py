"""A client's configuration file, changed so that nothing is lost: backed up first, and undone.

What was there is kept beside it, under its name and the moment it was replaced.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from pathlib import Path
from typing import Any

from commands.presets import Entry
from parts import Unavailable

MARK = ".before-mlx-server-"
ABSENT = ".absent"
"""Ends the name of a backup that stands for no file."""
COMMENTS = "has comments, which would be lost"


def write(entry: Entry) -> Path | None:
    """Put our part into the file. Returns the backup, or None when nothing had to change.

    Raises:
        Unavailable: the file cannot be changed without losing something.
    """
    path = entry.path.expanduser().resolve()  # what a link points to, not the link
    old = _text(path)
    new = _merged(entry, old)
    if new == old:
        return None
    backup = _backup(path)
    _replace(path, new)
    return backup


def undo(entry: Entry) -> Path | None:
    """Put back what was there before the last `write`; what is there now becomes a backup too.

    Returns the file, or None when it did not exist then. Raises `Unavailable`.
    """
    path = entry.path.expanduser().resolve()
    backups = sorted(path.parent.glob(f"{path.name}{MARK}*"))
    if not backups:
        raise Unavailable(f"There is no backup of {path}.")
    last = backups[-1]
    if path.exists():
        shutil.copy2(path, path.with_name(f"{path.name}.undone-{_now()}"))
    if last.name.endswith(ABSENT):
        path.unlink(missing_ok=True)
        last.unlink()
        return None
    os.replace(last, path)
    return path


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise Unavailable(f"{path} cannot be read: {error}.") from error


def _merged(entry: Entry, old: str | None) -> str:
    """The file's new text. Raises `Unavailable`."""
    parsed = _parsed(entry, old)
    if parsed is not None and type(parsed) is not type(entry.merge(None)):
        raise _by_hand(entry, "holds something else than this client's settings")
    try:
        return _rendered(entry.kind, entry.merge(parsed))
    except ValueError as error:
        raise _by_hand(entry, f"cannot be changed ({error})") from None


def _parsed(entry: Entry, text: str | None) -> Any:
    """What the file says; None when that is nothing. Raises `Unavailable`."""
    if text is None or not text.strip():
        return None
    if entry.kind == "toml":
        return text
    return (_json if entry.kind == "json" else _yaml)(entry, text)


def _json(entry: Entry, text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        problem = f"is not plain JSON ({error})"
        raise _by_hand(entry, COMMENTS if _has_json_comments(text) else problem) from None


def _has_json_comments(text: str) -> bool:
    """Whether there is a comment, as editors allow in JSON: outside of strings."""
    return bool(re.search(r"//|/\*", re.sub(r'"(?:\\.|[^"\\\n])*"', "", text)))


def _yaml(entry: Entry, text: str) -> Any:
    import yaml

    try:
        if _has_yaml_comments(text):
            raise _by_hand(entry, COMMENTS)
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise _by_hand(entry, f"is not plain YAML ({str(error).splitlines()[0]})") from None


def _has_yaml_comments(text: str) -> bool:
    """Whether there is a # that is no part of a value."""
    import yaml

    plain = list(text)
    for token in yaml.scan(text):
        if isinstance(token, yaml.ScalarToken):
            start, end = token.start_mark.index, token.end_mark.index
            if token.style in ("|", ">"):  # a comment may follow the mark that begins it
                start = min((text + "\n").index("\n", start), end)
            plain[start:end] = "x" * (end - start)
    return bool(re.search(r"(?:^|\s)#", "".join(plain)))


def _by_hand(entry: Entry, problem: str) -> Unavailable:
    return Unavailable(f"{entry.path} {problem}: add the lines above by hand.")


def _rendered(kind: str, value: Any) -> str:
    if kind == "toml":
        return str(value)
    if kind == "json":
        return json.dumps(value, indent=2, ensure_ascii=False) + "\n"
    import yaml

    return str(yaml.safe_dump(value, sort_keys=False, allow_unicode=True))


def _backup(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    backup = path.with_name(f"{path.name}{MARK}{_now()}")
    if path.exists():
        shutil.copy2(path, backup)
        return backup
    absent = backup.with_name(backup.name + ABSENT)
    absent.touch()
    return absent


def _now() -> str:
    moment = time.time_ns()
    return time.strftime("%Y%m%d-%H%M%S", time.localtime(moment / 1e9)) + f"-{moment % 10**9:09d}"


def _replace(path: Path, text: str) -> None:
    """Write beside the file and rename: whoever reads it meanwhile sees the old or the new."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        if path.exists():
            shutil.copymode(path, temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
