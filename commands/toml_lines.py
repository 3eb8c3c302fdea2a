"""TOML as lines: some keys and one table are replaced, every other line stays as it is.

Python reads TOML and does not write it; so the result is read again, and has to say what it should.
"""

from __future__ import annotations

import re
import tomllib
from typing import Any

Toml = dict[str, Any]

_TABLE = re.compile(r"^\s*\[")
_KEY = re.compile(r"""^\s*["']?([\w-]+)["']?\s*=""")


class Untouchable(ValueError):
    """The text cannot be changed line by line."""


def replaced(old: str, ours: str, keys: frozenset[str], table: str) -> str:
    """`old` with what `ours` says for `keys`, all at the top, and for the table `a.b`.

    Raises:
        Untouchable: `old` is no TOML, or says these things in a way that lines cannot tell.
    """
    wanted = _with_ours(_read(old), _read(ours), keys, table)
    top, tables = _split(old)
    our_top, our_tables = _split(ours)
    kept = [line for line in top if not ((found := _KEY.match(line)) and found[1] in keys)]
    others = _without_table(tables, table)
    text = "".join([*_trimmed(our_top), *_section(kept), *_section(others), "\n", *our_tables])
    if not _says(text, wanted):
        raise Untouchable("it says the same things in another way")
    return text


def _says(text: str, wanted: Toml) -> bool:
    try:
        return _read(text) == wanted
    except Untouchable:
        return False


def _read(text: str) -> Toml:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise Untouchable(f"it is no TOML: {error}") from None


def _with_ours(old: Toml, ours: Toml, keys: frozenset[str], table: str) -> Toml:
    """What the new text has to say."""
    outer, _, inner = table.partition(".")
    tables = old.get(outer, {})
    if not isinstance(tables, dict):
        raise Untouchable(f"{outer} is no table in it")
    kept = {name: value for name, value in old.items() if name not in keys}
    return {**kept, **ours, outer: {**tables, inner: ours[outer][inner]}}


def _split(text: str) -> tuple[list[str], list[str]]:
    """The lines before the first table, and those from it on; each ends with a newline."""
    lines = [f"{line}\n" for line in text.splitlines()]
    first = next((at for at, line in enumerate(lines) if _TABLE.match(line)), len(lines))
    return lines[:first], lines[first:]


def _without_table(lines: list[str], table: str) -> list[str]:
    kept, is_ours = [], False
    for line in lines:
        if _TABLE.match(line):
            name = line.strip().lstrip("[").partition("]")[0].replace('"', "").replace(" ", "")
            is_ours = name == table or name.startswith(f"{table}.")
        if not is_ours:
            kept.append(line)
    return kept


def _section(lines: list[str]) -> list[str]:
    trimmed = _trimmed(lines)
    return ["\n", *trimmed] if trimmed else []


def _trimmed(lines: list[str]) -> list[str]:
    """Lines without the empty ones at both ends."""
    filled = [at for at, line in enumerate(lines) if line.strip()]
    return lines[filled[0] : filled[-1] + 1] if filled else []
