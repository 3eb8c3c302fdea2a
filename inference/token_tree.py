"""A token tree keeps lists of tokens that share what they begin with, and finds the longest match.

One walk costs as much as the list that is looked for is long, however many the tree holds. Lists
are compared token by token, as bytes, four for each token.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

import numpy as np

WIDTH = 4
"""Bytes of a token."""


class Value(Protocol):
    """What a list of tokens stands for."""

    @property
    def can_trim(self) -> bool:
        """Whether it stands for every prefix of its list too."""
        ...


V = TypeVar("V", bound=Value)


@dataclass(slots=True, eq=False)
class Node(Generic[V]):
    """A point where a list ends, or where several part ways."""

    label: bytes
    """The tokens between the parent and here."""
    end: int
    """Tokens from the root to here."""
    parent: Node[V] | None
    children: dict[bytes, Node[V]] = field(default_factory=dict)
    """By their first token."""
    value: V | None = None
    is_kept: bool = False
    """Whether the node stays although it has no value."""
    stand_in: V | None = None
    """A value, here or below, that can be trimmed to end here."""
    standing: dict[bytes, Node[V]] = field(default_factory=dict)
    """The children that have a stand-in."""

    @property
    def branches(self) -> bool:
        """Whether lists that go on differently were seen to share what ends here."""
        return len(self.children) > 1

    @property
    def key(self) -> bytes:
        """The first token of the label, as the parent knows it."""
        return self.label[:WIDTH]

    def ancestors(self) -> Iterator[Node[V]]:
        """From the parent up to the root."""
        node = self.parent
        while node is not None:
            yield node
            node = node.parent

    def path(self) -> bytes:
        """All tokens from the root to here."""
        labels = [self.label, *(node.label for node in self.ancestors())]
        return b"".join(reversed(labels))


@dataclass(frozen=True, slots=True)
class Walk(Generic[V]):
    """How far a tree knows a list of tokens."""

    passed: list[Node[V]]
    """The nodes whose whole path the list begins with, from the root on."""
    last: Node[V]
    """The node in whose label the walk ended; the deepest passed one, if it ended there."""
    num_shared: int
    """Tokens that the list has in common with some list of the tree."""

    def best(self) -> tuple[V | None, int]:
        """Give the value that serves most of the list, and how many tokens of it."""
        if self.last.stand_in is not None:
            return self.last.stand_in, self.num_shared
        for node in reversed(self.passed):
            found = node.value if node.value is not None else node.stand_in
            if found is not None:
                return found, node.end
        return None, 0


class TokenTree(Generic[V]):
    """A radix tree. Its nodes keep their identity as long as they have a value or are kept."""

    def __init__(self) -> None:
        self.root: Node[V] = Node(b"", 0, None)
        self.num_tokens = 0
        """Tokens on all labels together."""

    def walk(self, tokens: bytes) -> Walk[V]:
        """Follow a list as far as it goes."""
        node, passed, at = self.root, [self.root], 0
        while (child := node.children.get(tokens[at : at + WIDTH])) is not None:
            node = child
            if not tokens.startswith(child.label, at):
                at += _common(child.label, tokens, at)
                break
            at += len(child.label)
            passed.append(child)
        return Walk(passed, node, at // WIDTH)

    def place(self, tokens: bytes) -> Node[V]:
        """Give the node at which a list ends; make it if there is none."""
        walk = self.walk(tokens)
        node, at = walk.passed[-1], walk.num_shared * WIDTH
        if walk.last is not node:
            node = self._split(walk.last, walk.num_shared - node.end)
        if at == len(tokens):
            return node
        leaf: Node[V] = Node(tokens[at:], len(tokens) // WIDTH, node)
        node.children[leaf.key] = leaf
        self.num_tokens += len(leaf.label) // WIDTH
        return leaf

    def put(self, node: Node[V], value: V) -> None:
        """Give a node its value; it must have none."""
        assert node.value is None
        node.value = value
        if not value.can_trim:
            return
        node.stand_in = value
        below = node
        for above in node.ancestors():
            above.standing[below.key] = below
            above.stand_in = value
            below = above

    def take(self, node: Node[V]) -> None:
        """Take a node's value away, and the node too if nothing else needs it."""
        value, node.value = node.value, None
        at: Node[V] | None = node
        while at is not None and at.stand_in is value and value is not None:
            at.stand_in = next((child.stand_in for child in at.standing.values()), None)
            if at.stand_in is None and at.parent is not None:
                del at.parent.standing[at.key]
            at = at.parent
        self.prune(node)

    def prune(self, node: Node[V]) -> None:
        """Remove a node that has no value, is not kept, and where no lists part."""
        parent = node.parent
        if parent is None or node.value is not None or node.is_kept or node.branches:
            return
        if node.children:
            self._join(node, parent)
            return
        del parent.children[node.key]
        self.num_tokens -= len(node.label) // WIDTH
        self.prune(parent)

    def _split(self, node: Node[V], num_tokens: int) -> Node[V]:
        """Put a node into the label above another, so many tokens from its beginning."""
        above, cut = node.parent, num_tokens * WIDTH
        assert above is not None
        between: Node[V] = Node(node.label[:cut], above.end + num_tokens, above)
        above.children[between.key] = between
        if between.key in above.standing:
            above.standing[between.key] = between
        node.label, node.parent = node.label[cut:], between
        between.children[node.key] = node
        if node.stand_in is not None:
            between.stand_in = node.stand_in
            between.standing[node.key] = node
        return between

    def _join(self, node: Node[V], above: Node[V]) -> None:
        """Take a node out from between its parent and its only child."""
        (child,) = node.children.values()
        child.label, child.parent = node.label + child.label, above
        above.children[child.key] = child
        if child.key in above.standing:
            above.standing[child.key] = child


def packed(tokens: Sequence[int]) -> bytes:
    """Write tokens as bytes."""
    return array("I", tokens).tobytes()


def _common(label: bytes, tokens: bytes, at: int) -> int:
    """How many bytes of a label are found at a place in `tokens`, in whole tokens."""
    num_bytes = min(len(label), len(tokens) - at)
    mine = np.frombuffer(label, np.uint32, num_bytes // WIDTH)
    differs = mine != np.frombuffer(tokens, np.uint32, num_bytes // WIDTH, at)
    first = int(differs.argmax())
    return first * WIDTH if differs[first] else num_bytes
