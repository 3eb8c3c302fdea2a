"""A record is a tree as JSON text: people can read it, and we trust it only when all is checked.

format, id, owner, created, archived, metadata
turns    turn, follows, created, source, in_conversation
         input      what was asked
         response   the response object, whole; null when it was deleted or never was
         timings    how quickly it came; null where nothing is known
         output     in place of a response: the items that it left behind
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from itertools import chain
from typing import Any, NoReturn, TypeVar

from protocol import json_text
from protocol.items import Item
from protocol.tree import ENDS, Timings, Tree, Turn, pack, turn_of_response

FORMAT = "conversation, version 1"
TREE_ID = re.compile(r"(resp|conv)_[0-9a-f]{32}")
RESPONSE_ID = re.compile(r"resp_[0-9a-f]{32}")
MAX_NAME = 512
"""Characters of an id, an owner or a source: room for whatever a client calls its items."""
MAX_FIGURE = 1e12
OPEN_LEVELS = 6
"""Levels that are written one value a line: down to the fields of an item."""

T = TypeVar("T")

_encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False).encode


class Malformed(ValueError):
    """The text is not a record of ours, or not any more."""


def render(tree: Tree, archived_at: float) -> bytes:
    """Write a tree down."""
    record = {
        "format": FORMAT,
        "id": tree.id,
        "owner": tree.owner,
        "created": _iso(tree.created_at),
        "archived": _iso(archived_at),
        "metadata": None if tree.metadata is None else json.loads(tree.metadata),
        "turns": turns(tree),
    }
    return json_text.joined(chain(_layout(record), "\n"), "backslashreplace")


def turns(tree: Tree) -> list[dict[str, Any]]:
    """The turns of a tree as JSON objects."""
    ordinals: dict[Turn | None, int | None] = {None: None}
    ordinals |= {turn: number for number, turn in enumerate(tree.turns, 1)}
    return [_turn_fields(turn, ordinals) for turn in tree.turns]


def parse(text: bytes) -> tuple[Tree, float]:
    """Read a record back: the tree, and when it was archived. Raises `Malformed`."""
    try:
        record = json_text.Reader(text, _DECODER).read()
    except (ValueError, RecursionError) as error:
        raise Malformed("it is not JSON") from error
    if type(record) is not dict or record.get("format") != FORMAT:
        raise Malformed("it is not a conversation")
    tree = Tree(
        _matching(TREE_ID, record, "id"),
        _moment(record, "created"),
        _name(record, "owner"),
        _metadata(record),
    )
    for fields in _list_of_objects(record, "turns"):
        tree.turns.append(_turn(fields, tree.turns))
    _check_whole(tree)
    return tree, _moment(record, "archived")


def _turn_fields(turn: Turn, ordinals: dict[Turn | None, int | None]) -> dict[str, Any]:
    told = {
        "turn": ordinals[turn],
        "follows": ordinals[turn.parent],
        "created": _iso(turn.created_at),
        "source": turn.source,
        "in_conversation": turn.in_conversation,
        "input": turn.input_items(),
    }
    if turn.response_id is None:
        return told | {"response": None, "output": turn.output_items()}
    timings = turn.timings and asdict(turn.timings)
    return told | {"response": turn.whole_response(), "timings": timings}


def _layout(value: Any, depth: int = 0) -> Iterator[str]:
    # The indentation of the json module is written in Python, value by value, and ten times slower.
    if depth == OPEN_LEVELS or not value or not isinstance(value, dict | list):
        yield from json_text.pieces(value, _encode)
        return
    start, end = "[]" if isinstance(value, list) else "{}"
    newline = "\n" + "  " * depth
    separator = start
    members = value.items() if isinstance(value, dict) else ((None, item) for item in value)
    for key, item in members:
        yield f"{separator}{newline}  "
        yield "" if key is None else f"{_encode(key)}: "
        yield from _layout(item, depth + 1)
        separator = ","
    yield newline + end


def _iso(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).isoformat(timespec="microseconds")


# Reading: every field is looked at before it is believed


def _turn(fields: dict[str, Any], earlier: list[Turn]) -> Turn:
    if fields.get("response") is None:
        turn = _turn_without_response(fields)
    else:
        turn = _turn_with_response(fields)
    turn.in_conversation = _typed(fields, "in_conversation", bool)
    turn.parent = _parent(fields, earlier)
    return turn


def _turn_without_response(fields: dict[str, Any]) -> Turn:
    asked, left = _items(fields, "input"), _items(fields, "output")
    return Turn(
        _moment(fields, "created"),
        pack(asked),
        pack(left),
        input_ids=tuple(item["id"] for item in asked),
        output_ids=tuple(item["id"] for item in left),
    )


def _turn_with_response(fields: dict[str, Any]) -> Turn:
    response = _typed(fields, "response", dict)
    _matching(RESPONSE_ID, response, "id")
    _items(response, "output")
    if response.get("object") != "response" or _typed(response, "status", str) not in ENDS:
        raise Malformed("a response is not one that has ended")
    return turn_of_response(
        response,
        _items(fields, "input"),
        created_at=_moment(fields, "created"),
        source=_name(fields, "source"),
        timings=_timings(fields),
    )


def _timings(turn: dict[str, Any]) -> Timings | None:
    """What older records do not have is not known."""
    if turn.get("timings") is None:
        return None
    told = _typed(turn, "timings", dict)
    return Timings(**{name: _figure(told, name) for name in Timings.__slots__})


def _figure(fields: dict[str, Any], key: str) -> float | None:
    value: Any = fields.get(key)
    if value is None:
        return None
    if type(value) not in (int, float) or not 0 <= value < MAX_FIGURE:
        raise Malformed(f"{key} is not a figure")
    return float(value)


def _parent(fields: dict[str, Any], earlier: list[Turn]) -> Turn | None:
    if fields.get("follows") is None:
        return None
    ordinal = _typed(fields, "follows", int)
    if not 1 <= ordinal <= len(earlier):
        raise Malformed("a turn follows one that does not precede it")
    return earlier[ordinal - 1]


def _check_whole(tree: Tree) -> None:
    ids = [name for turn in tree.turns for name in turn.names()]
    if len(ids) != len(set(ids)):
        raise Malformed("an id is there twice")
    if tree.metadata is not None and not tree.id.startswith("conv_"):
        raise Malformed("a conversation has the id of a response")
    expected = None
    for turn in tree.turns:
        if turn.in_conversation and (tree.metadata is None or turn.parent is not expected):
            raise Malformed("a turn is in a conversation where it cannot be")
        expected = turn if turn.in_conversation else expected


def _metadata(record: dict[str, Any]) -> bytes | None:
    if record.get("metadata") is None:
        return None
    metadata = _typed(record, "metadata", dict)
    if not all(type(value) is str for value in metadata.values()):
        raise Malformed("metadata is not all text")
    return pack(metadata)


def _items(fields: dict[str, Any], key: str) -> list[Item]:
    items = _list_of_objects(fields, key)
    for item in items:
        if not _name(item, "id") or not _name(item, "type"):
            raise Malformed(f"{key} has an item without an id or a type")
    return items


def _list_of_objects(fields: dict[str, Any], key: str) -> list[dict[str, Any]]:
    values = _typed(fields, key, list)
    if not all(type(value) is dict for value in values):
        raise Malformed(f"{key} is not a list of objects")
    return values


def _moment(fields: dict[str, Any], key: str) -> float:
    try:
        moment = datetime.fromisoformat(_typed(fields, key, str))
    except ValueError as error:
        raise Malformed(f"{key} is not a time") from error
    if moment.tzinfo is None or moment.year < 1970:
        raise Malformed(f"{key} is not a time")
    return moment.timestamp()


def _name(fields: dict[str, Any], key: str) -> str:
    name = _typed(fields, key, str)
    if len(name) > MAX_NAME:
        raise Malformed(f"{key} is too long")
    return name


def _matching(pattern: re.Pattern[str], fields: dict[str, Any], key: str) -> str:
    value = _typed(fields, key, str)
    if not pattern.fullmatch(value):
        raise Malformed(f"{key} is not an id of ours")
    return value


def _typed(fields: dict[str, Any], key: str, kind: type[T]) -> T:
    value = fields.get(key)
    # Not isinstance: true is an int to it.
    if type(value) is not kind:
        raise Malformed(f"{key} is not a {kind.__name__}")
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise Malformed(f"{name} is not JSON")


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant)
