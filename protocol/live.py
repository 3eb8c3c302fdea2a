"""The live trees: conversations in memory, found by their ids, counted, the least used first.

Not locked and without a clock: their store sees to both.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from protocol.tree import Summary, Tree, Turn


@dataclass(slots=True, eq=False)
class Live:
    """A tree in memory."""

    tree: Tree
    last_used: float
    num_bytes: int = 0
    held: list[Turn | None] = field(default_factory=list)
    """What the responses in progress follow; while there are any, the tree stays in memory."""
    is_answering: bool = False
    """Whether a response in progress will be part of the conversation object."""
    version: int = 1
    saved_version: int = 0
    wanted_until: float = float("-inf")
    """It stays until then, for somebody has asked for it and is about to use it."""

    summary: Summary | None = None
    """How it is listed, as of `summary_version`."""
    summary_version: int = 0

    @property
    def is_saved(self) -> bool:
        return self.saved_version == self.version


class LiveTrees:
    """Trees by the id of every response, item of the model and conversation object in them."""

    def __init__(self) -> None:
        self.num_bytes = 0
        """What they take, counted generously."""
        self._lives: OrderedDict[str, Live] = OrderedDict()
        self._places: dict[str, tuple[Live, Turn | None]] = {}

    def __len__(self) -> int:
        return len(self._lives)

    def __iter__(self) -> Iterator[Live]:
        """The least recently used first."""
        return iter(self._lives.values())

    def __contains__(self, live: Live) -> bool:
        return self._lives.get(live.tree.id) is live

    def get(self, tree_id: str) -> Live | None:
        """The tree of this id, whatever is left in it."""
        return self._lives.get(tree_id)

    def find(self, name: str) -> tuple[Live, Turn | None] | None:
        """Where something is: its tree, and its turn unless it is the conversation object."""
        return self._places.get(name)

    def touch(self, live: Live, now: float) -> None:
        """Note that a tree is being used."""
        live.last_used = now
        self._lives.move_to_end(live.tree.id)

    def adopt(self, live: Live) -> bool:
        """Take a tree in, unless it or one of its ids is here already."""
        tree = live.tree
        if tree.id in self._lives or any(name in self._places for name in tree.names()):
            return False
        self._lives[tree.id] = live
        if tree.metadata is not None:
            self._places[tree.id] = (live, None)
        for turn in tree.turns:
            self._place(live, turn)
        self._count(live)
        return True

    def append(self, live: Live, turn: Turn) -> None:
        """Add a turn to a tree."""
        live.tree.turns.append(turn)
        live.version += 1
        live.num_bytes += turn.num_bytes
        self.num_bytes += turn.num_bytes
        self._place(live, turn)

    def change(self, live: Live, change: Callable[[Tree], object]) -> None:
        """Do something to a tree that adds no ids, prune it, and drop it if nothing is left."""
        before = live.tree.names()
        change(live.tree)
        live.tree.prune(live.held)
        for name in before - live.tree.names():
            del self._places[name]
        live.version += 1
        self._count(live)
        if live.tree.is_empty:
            self.drop(live)

    def drop(self, live: Live) -> None:
        """Forget a tree."""
        del self._lives[live.tree.id]
        self.num_bytes -= live.num_bytes
        for name in live.tree.names():
            del self._places[name]

    def _place(self, live: Live, turn: Turn) -> None:
        place = (live, turn)
        for name in turn.names():
            self._places[name] = place

    def _count(self, live: Live) -> None:
        num_bytes = live.tree.num_bytes
        self.num_bytes += num_bytes - live.num_bytes
        live.num_bytes = num_bytes
