"""The token tree finds what a search through every list would find, after any puts and takes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from inference.token_tree import Node, TokenTree, packed


@dataclass(frozen=True, eq=False)
class Kept:
    tokens: tuple[int, ...]
    can_trim: bool


TOKENS = st.lists(st.integers(0, 2), max_size=7).map(tuple)
"""Few tokens, so that lists often share what they begin with."""


def common(a: tuple[int, ...], b: tuple[int, ...]) -> int:
    return next(
        (i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b))
    )


class Trees(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.tree: TokenTree[Kept] = TokenTree()
        self.values: dict[tuple[int, ...], Kept] = {}
        self.kept: set[tuple[int, ...]] = set()

    @rule(tokens=TOKENS, can_trim=st.booleans())
    def put(self, tokens: tuple[int, ...], can_trim: bool) -> None:
        node = self.tree.place(packed(tokens))
        assert (node.path(), node.end) == (packed(tokens), len(tokens))
        if tokens in self.values:
            assert node.value is self.values[tokens]
            node.is_kept, was = True, node.is_kept
            self.tree.take(node)
            node.is_kept = was
        self.values[tokens] = Kept(tokens, can_trim)
        self.tree.put(node, self.values[tokens])

    @rule(data=st.data())
    def take(self, data: st.DataObject) -> None:
        if self.values:
            tokens = data.draw(st.sampled_from(sorted(self.values)))
            del self.values[tokens]
            self.tree.take(self.tree.place(packed(tokens)))

    @rule(tokens=TOKENS)
    def keep(self, tokens: tuple[int, ...]) -> None:
        self.kept.add(tokens)
        self.tree.place(packed(tokens)).is_kept = True

    @rule(data=st.data())
    def let_go(self, data: st.DataObject) -> None:
        if self.kept:
            tokens = data.draw(st.sampled_from(sorted(self.kept)))
            self.kept.remove(tokens)
            node = self.tree.place(packed(tokens))
            node.is_kept = False
            self.tree.prune(node)

    @rule(tokens=TOKENS)
    def walk(self, tokens: tuple[int, ...]) -> None:
        walk = self.tree.walk(packed(tokens))
        lists = [*self.values, *self.kept]
        assert walk.num_shared == max((common(tokens, each) for each in lists), default=0)
        found, length = walk.best()
        assert length == max((self.served(tokens, v) for v in self.values.values()), default=0)
        assert found is None or self.served(tokens, found) == length

    @staticmethod
    def served(tokens: tuple[int, ...], value: Kept) -> int:
        shared = common(tokens, value.tokens)
        return shared if value.can_trim or shared == len(value.tokens) else 0

    @invariant()
    def holds_no_more_than_it_must(self) -> None:
        nodes = list(self.nodes(self.tree.root))
        assert self.tree.num_tokens == sum(len(node.label) // 4 for node in nodes)
        assert {node.path(): node.value for node in nodes if node.value is not None} == {
            packed(tokens): value for tokens, value in self.values.items()
        }
        for node in nodes:
            standing = [child for child in node.children.values() if child.stand_in is not None]
            assert list(map(id, standing)) == [
                id(child) for child in node.children.values() if child.key in node.standing
            ]
            assert all(node.standing[child.key] is child for child in standing)
            assert all(child.parent is node for child in node.children.values())
            is_needed = node.value is not None or node.is_kept or node.branches
            assert is_needed or node is self.tree.root

    def nodes(self, node: Node[Kept]) -> Iterator[Node[Kept]]:
        yield node
        for child in node.children.values():
            yield from self.nodes(child)


TestTrees = Trees.TestCase
TestTrees.settings = settings(deadline=None, max_examples=30, stateful_step_count=30)


def test_a_long_list_is_compared_to_its_last_token() -> None:
    tree: TokenTree[Kept] = TokenTree()
    tokens = list(range(70_000, 78_192))
    tree.put(tree.place(packed(tokens)), Kept((), True))
    for at in (0, 1, 4_000, 8_191):
        other = [*tokens]
        other[at] += 2**16
        assert tree.walk(packed(other)).best()[1] == at
