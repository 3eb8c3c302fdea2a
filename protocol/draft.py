"""A draft is a response in progress, and the conversation that it continues."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from protocol.items import Item
from protocol.live import Live
from protocol.tree import Question, Timings, Turn


class Keeper(Protocol):
    """Whoever made the draft and remembers what it becomes."""

    def remember(
        self,
        draft: Draft,
        response: dict[str, Any],
        input_items: list[Item],
        timings: Timings | None = None,
    ) -> None: ...

    def abandon(self, draft: Draft) -> None: ...

    def write_down(
        self, draft: Draft, items: list[Item], settings: Mapping[str, Any]
    ) -> Question: ...


@dataclass(slots=True, eq=False)
class Draft:
    """A response in progress. As a context it is abandoned at the end, unless it was remembered."""

    store: Keeper
    id: str
    created_at: float
    owner: str
    source: str
    is_kept: bool
    """False when nothing of it may be remembered."""
    in_conversation: bool
    live: Live | None
    """The conversation that it continues."""
    parent: Turn | None
    past: list[Turn]
    is_open: bool = True
    response: dict[str, Any] | None = None
    input_items: list[Item] = field(default_factory=list)
    question: Question | None = None
    """What it is asked, once that is written down."""

    def __enter__(self) -> Draft:
        return self

    def __exit__(self, *_: object) -> None:
        self.abandon()

    def recall(self) -> list[Item]:
        """Everything that was said before, the oldest item first."""
        return [item for turn in self.past for item in turn.items()]

    def write_down(self, items: list[Item], settings: Mapping[str, Any]) -> None:
        """Write down what it is asked, so that `remember` need not. From a thread when it is much.

        `settings` are what the response object will say of it at its end, too.
        """
        self.question = self.store.write_down(self, items, settings)

    def show(self, response: dict[str, Any], input_items: list[Item]) -> None:
        """Say what `retrieve` and `input_items` answer until the response is finished."""
        self.response, self.input_items = response, input_items

    def remember(
        self,
        response: dict[str, Any],
        input_items: list[Item],
        timings: Timings | None = None,
    ) -> None:
        """Add the finished response to its conversation, unless it was deleted meanwhile."""
        self.store.remember(self, response, input_items, timings)

    def abandon(self) -> None:
        """Let go of the conversation. Harmless when the response was remembered."""
        self.store.abandon(self)
