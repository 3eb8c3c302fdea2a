"""A tree is a conversation with all its branches: each turn holds what it added and knows its past.

    first ── second ── third            asking `second` twice makes a branch; the branches share
                  └─── another third    `first` and `second`, so memory is linear in turns

A turn whose response was deleted stays as a ghost for as long as another turn was built on it.
Items are kept as JSON text: what is counted is what is there, and nobody can change it by accident.
Knows neither files nor clocks nor who asks.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from sys import getsizeof
from typing import Any

from protocol import json_text
from protocol.items import Item

TREE_BYTES = 768
TURN_BYTES = 768
ID_BYTES = 128
"""What a tree, a turn and an id take besides their text, their places in tables included."""
TITLE_LENGTH = 80
MAX_TITLE_SOURCE = 2000
"""Characters in which a title is looked for."""
ENDS = frozenset({"completed", "incomplete", "failed", "cancelled"})
"""The statuses of a response that is no longer in progress."""

_encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode


def pack(value: Any) -> bytes:
    """The JSON text of a value. Half a surrogate pair becomes the escape that stands for it."""
    return json_text.joined(json_text.pieces(value, _encode), "backslashreplace")


@dataclass(frozen=True, slots=True)
class Question:
    """What a response is asked, as it is kept: this can be made before there is an answer."""

    input: bytes
    input_ids: tuple[str, ...]
    settings: Mapping[str, bytes] = field(default_factory=dict)
    """What the response object says of it from its first moment to its last, by key."""


def question_of(items: list[Item], settings: Mapping[str, Any] | None = None) -> Question:
    """Write a question down. Takes as long as it has to say: from a thread when that is much."""
    written = {name: pack(value) for name, value in (settings or {}).items()}
    return Question(pack(items), _ids(items), written)


@dataclass(frozen=True, slots=True)
class Timings:
    """How quickly an answer came, as its server measured it; None where nothing is known."""

    first_token_s: float | None = None
    """Seconds from the request to the first token."""
    thinking_s: float | None = None
    tokens_per_s: float | None = None
    """From the first token to the last."""


@dataclass(slots=True, eq=False)
class Turn:
    """What one response added to a conversation, or one addition of items without a response."""

    created_at: float
    input: bytes
    output: bytes = b"[]"
    response_id: str | None = None
    response: bytes = b""
    """The response object with its output left out."""
    input_ids: tuple[str, ...] = ()
    output_ids: tuple[str, ...] = ()
    status: str = ""
    """How the response ended."""
    in_conversation: bool = False
    """Whether its items are in the conversation that clients see under a `conv_` id."""
    source: str = ""
    """The user agent that asked."""
    timings: Timings | None = None
    parent: Turn | None = None

    @property
    def is_ghost(self) -> bool:
        """Whether it is there only for those that were built on it."""
        return self.response_id is None and not self.in_conversation

    @property
    def is_empty(self) -> bool:
        return self.response_id is None and not self.input_ids and not self.output_ids

    @property
    def num_bytes(self) -> int:
        text = len(self.input) + len(self.output) + len(self.response) + getsizeof(self.source)
        ids = (*self.input_ids, *self.output_ids)
        return TURN_BYTES + text + sum(ID_BYTES + getsizeof(name) for name in ids)

    def names(self) -> tuple[str, ...]:
        """The ids by which it is found: its response's, and those of the items the model made."""
        return () if self.response_id is None else (self.response_id, *self.output_ids)

    def items(self) -> list[Item]:
        """What it added: the question, then the answer."""
        return self.input_items() + self.output_items()

    def input_items(self) -> list[Item]:
        items: list[Item] = json_text.read(self.input)
        return items

    def output_items(self) -> list[Item]:
        items: list[Item] = json_text.read(self.output)
        return items

    def whole_response(self) -> dict[str, Any]:
        """The response object as it went over the wire."""
        response: dict[str, Any] = json_text.read(self.response)
        response["output"] = self.output_items()
        return response

    def bury(self) -> None:
        """Forget the response; its items stay for those that were built on them."""
        self.response_id, self.response, self.source, self.timings = None, b"", "", None

    def remove(self, removal: Removal) -> None:
        """Forget an item, here and in the response that it belongs to."""
        self.input, self.input_ids = removal.of(self.input)
        self.output, self.output_ids = removal.of(self.output)


class Removal:
    """An item is taken out of texts: each is read and written once, also if it is asked for twice.

    What was found out about a copy of a tree is done to the tree in no time.
    """

    def __init__(self, item_id: str) -> None:
        self.item_id = item_id
        self._done: list[tuple[bytes, bytes, tuple[str, ...]]] = []

    def of(self, text: bytes) -> tuple[bytes, tuple[str, ...]]:
        """The text of a list of items without this one, and the ids of the others."""
        for before, after, ids in self._done:
            if before is text:
                return after, ids
        rest = [item for item in json_text.read(text) if item["id"] != self.item_id]
        self._done.append((text, pack(rest), _ids(rest)))
        return self._done[-1][1:]


def turn_of_items(items: list[Item], created_at: float) -> Turn:
    """Make the turn that puts items into a conversation by hand."""
    return Turn(created_at, pack(items), input_ids=_ids(items), in_conversation=True)


def turn_of_response(
    response: dict[str, Any],
    asked: list[Item] | Question,
    *,
    created_at: float,
    source: str = "",
    timings: Timings | None = None,
) -> Turn:
    """Make the turn of a finished response."""
    question = asked if isinstance(asked, Question) else question_of(asked)
    output: list[Item] = response["output"]
    rest = {name: value for name, value in response.items() if name not in question.settings}
    return Turn(
        created_at,
        question.input,
        pack(output),
        response["id"],
        _with_members(pack({**rest, "output": []}), question.settings),
        question.input_ids,
        _ids(output),
        status=response["status"],
        source=source,
        timings=timings,
    )


def _with_members(text: bytes, members: Mapping[str, bytes]) -> bytes:
    """The text of an object that is not empty, with more members."""
    more = (b"," + pack(name) + b":" + value for name, value in members.items())
    return b"".join((text[:-1], *more, b"}"))


@dataclass(frozen=True, slots=True)
class Summary:
    """A conversation in one line of a list."""

    id: str
    created_at: float
    num_responses: int
    last_response_id: str | None
    title: str
    """The first words of its first user."""
    updated_at: float = 0.0
    """When its last turn began."""
    source: str = ""
    """The user agent that began it."""


@dataclass(slots=True, eq=False)
class Tree:
    """Turns that belong together, the older ones first, and the conversation object, if any."""

    id: str
    """The id of its first response or of its conversation; it outlives both."""
    created_at: float
    owner: str = ""
    metadata: bytes | None = None
    """The JSON text of the conversation's metadata; None when there is no conversation object."""
    turns: list[Turn] = field(default_factory=list)

    @property
    def is_empty(self) -> bool:
        """Whether, once pruned, there is nothing left that anybody could ask for."""
        return not self.turns and self.metadata is None

    @property
    def num_bytes(self) -> int:
        return TREE_BYTES + len(self.metadata or b"") + sum(turn.num_bytes for turn in self.turns)

    @property
    def tip(self) -> Turn | None:
        """The last turn of the conversation object."""
        return next((turn for turn in reversed(self.turns) if turn.in_conversation), None)

    def names(self) -> set[str]:
        """Every id under which something here may be asked for."""
        found = {name for turn in self.turns for name in turn.names()}
        return found if self.metadata is None else found | {self.id}

    def find(self, response_id: str) -> Turn | None:
        return next((turn for turn in self.turns if turn.response_id == response_id), None)

    def copy(self) -> Tree:
        """A pruned tree that can be changed, or read by another thread, without this one."""
        twins: dict[Turn | None, Turn | None] = {None: None}
        turns = []
        for turn in self.turns:
            twin = twins[turn] = replace(turn, parent=twins[turn.parent])
            turns.append(twin)
        tree = replace(self, turns=turns)
        tree.prune()
        return tree

    def delete_response(self, response_id: str) -> bool:
        """Forget a response; whether there was one. Call `prune` when done."""
        turn = self.find(response_id)
        if turn is None:
            return False
        turn.bury()
        return True

    def delete_conversation(self) -> bool:
        """Forget the conversation object, its items and its responses. Call `prune` when done."""
        was_there, self.metadata = self.metadata is not None, None
        for turn in self.turns:
            if turn.in_conversation:
                turn.bury()
                turn.in_conversation = False
        return was_there

    def delete_all(self) -> bool:
        """Forget everything that is not yet deleted. Call `prune` when done."""
        self.metadata = None
        for turn in self.turns:
            turn.bury()
            turn.in_conversation = False
        return True

    def delete_item(self, removal: Removal) -> bool:
        """Forget an item of the conversation; whether there was one. Call `prune` when done."""
        for turn in chain(self.tip):
            if removal.item_id in (*turn.input_ids, *turn.output_ids):
                turn.remove(removal)
                return True
        return False

    def prune(self, held: Iterable[Turn | None] = ()) -> None:
        """Drop the ghosts that no turn was built on, and those that hold nothing; not the held."""
        needed = {turn for turn in held if turn is not None}
        for turn in reversed(self.turns):
            _skip_empty_parents(turn, needed)
            if turn.parent is not None and (turn in needed or _stays(turn)):
                needed.add(turn.parent)
        self.turns = [turn for turn in self.turns if turn in needed or _stays(turn)]

    def summary(self) -> Summary:
        responses = [turn.response_id for turn in self.turns if turn.response_id]
        return Summary(
            id=self.id,
            created_at=self.created_at,
            num_responses=len(responses),
            last_response_id=responses[-1] if responses else None,
            title=_title(self.turns),
            updated_at=max((turn.created_at for turn in self.turns), default=self.created_at),
            source=next((turn.source for turn in self.turns if turn.source), ""),
        )


def chain(turn: Turn | None) -> list[Turn]:
    """The turns from the first to this one."""
    turns = []
    while turn is not None:
        turns.append(turn)
        turn = turn.parent
    return turns[::-1]


def _stays(turn: Turn) -> bool:
    return not turn.is_ghost and not turn.is_empty


def _skip_empty_parents(turn: Turn, held: set[Turn]) -> None:
    while (parent := turn.parent) is not None and parent.is_empty and parent not in held:
        turn.parent = parent.parent


def _ids(items: list[Item]) -> tuple[str, ...]:
    return tuple(item["id"] for item in items)


def _title(turns: list[Turn]) -> str:
    if not turns:
        return ""
    said = [_words(item) for item in turns[0].input_items() if item.get("role") == "user"]
    # Agents put what they know of their surroundings, in tags, before what was asked.
    words = next((text for text in said if not text.lstrip().startswith("<")), "".join(said[:1]))
    return " ".join(words[:MAX_TITLE_SOURCE].split())[:TITLE_LENGTH]


def _words(item: Item) -> str:
    match item.get("content"):
        case str(text) | [{"text": str(text)}, *_]:
            return text
        case _:
            return ""
