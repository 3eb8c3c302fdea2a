"""Random histories of a store, against a model that only knows who said what after what."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from parts import NotFound, NotReady, Unavailable
from protocol.archive import Archive
from protocol.conversations import Store
from protocol.draft import Draft
from protocol.forest import WANTED_FOR
from tests.protocol.turns import (
    Clock,
    answer,
    faulty_disk,
    heard,
    no_space,
    question,
    response,
    revived,
    say,
    words,
)


class Histories(RuleBasedStateMachine):
    """Each text comes once, so that a history is a list of them."""

    responses = Bundle("responses")
    conversations = Bundle("conversations")
    drafts = Bundle("drafts")

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.clock = Clock()
        self.store = self.opened()
        self.num_texts = 0
        self.heard: dict[str, list[str]] = {}
        """What each response that is there was built on, and its own words."""
        self.said_in: dict[str, str] = {}
        """The conversation of each response that has one."""
        self.contents: dict[str, list[str]] = {}
        """What is in each conversation that is there."""
        self.removed: set[str] = set()
        """Texts of items that were deleted one by one."""
        self.open_drafts: list[Draft] = []

    def opened(self) -> Store:
        archive = Archive(self.folder, clock=self.clock)
        store = Store(archive, clock=self.clock, max_conversations=4, max_bytes=40_000)
        store.open()
        return store

    def text(self) -> str:
        self.num_texts += 1
        return f"q{self.num_texts}"

    def expected(self, texts: list[str]) -> list[str]:
        return [text for text in texts if text not in self.removed]

    # Saying

    @rule(target=responses)
    def start(self) -> str:
        text = self.text()
        id = say(self.store, text)
        self.heard[id] = [text, text.upper()]
        return id

    @rule(target=responses, previous=responses)
    def follow(self, previous: str) -> str:
        if previous not in self.heard:
            return previous
        text = self.text()
        id = revived(
            self.store, previous, lambda: say(self.store, text, previous_response_id=previous)
        )
        self.heard[id] = [*self.heard[previous], text, text.upper()]
        return id

    @rule(target=drafts, previous=responses)
    def begin(self, previous: str) -> tuple[Draft, list[str]] | None:
        if previous not in self.heard:
            return None
        draft = revived(
            self.store, previous, lambda: self.store.begin(previous_response_id=previous)
        )
        self.open_drafts.append(draft)
        with pytest.raises(NotReady):
            self.store.begin(previous_response_id=draft.id)
        return draft, self.heard[previous]

    @rule(target=responses, begun=consumes(drafts))
    def remember(self, begun: tuple[Draft, list[str]] | None) -> str:
        if begun is None or begun[0] not in self.open_drafts:
            return ""
        draft, past = begun
        text = self.text()
        draft.remember(response(draft.id, answer(text.upper())), [question(text)])
        self.open_drafts.remove(draft)
        self.heard[draft.id] = [*past, text, text.upper()]
        return draft.id

    @rule(begun=consumes(drafts))
    def abandon(self, begun: tuple[Draft, list[str]] | None) -> None:
        if begun is not None and begun[0] in self.open_drafts:
            begun[0].abandon()
            self.open_drafts.remove(begun[0])

    @rule(begun=consumes(drafts))
    def delete_in_progress(self, begun: tuple[Draft, list[str]] | None) -> None:
        if begun is not None and begun[0] in self.open_drafts:
            self.store.delete(begun[0].id)
            begun[0].remember(response(begun[0].id, answer("never")), [question("never")])
            self.open_drafts.remove(begun[0])

    # Conversation objects

    @rule(target=conversations, has_items=st.booleans())
    def create(self, has_items: bool) -> str:
        texts = [self.text()] if has_items else []
        id: str = self.store.create_conversation({}, [question(text) for text in texts])["id"]
        self.contents[id] = texts
        return id

    @rule(target=responses, conversation=conversations)
    def say_in(self, conversation: str) -> str:
        if conversation not in self.contents:
            return ""
        text = self.text()
        id = revived(
            self.store, conversation, lambda: say(self.store, text, conversation_id=conversation)
        )
        self.contents[conversation] += [text, text.upper()]
        self.heard[id] = self.contents[conversation][:]
        self.said_in[id] = conversation
        return id

    @rule(conversation=conversations)
    def add_item(self, conversation: str) -> None:
        if conversation in self.contents:
            text = self.text()
            items = [question(text)]
            revived(self.store, conversation, lambda: self.store.add_items(conversation, items))
            self.contents[conversation].append(text)

    @rule(conversation=conversations, choice=st.integers(0, 99))
    def delete_item(self, conversation: str, choice: int) -> None:
        if conversation not in self.contents:
            return
        self.store.revive(conversation)
        items = self.store.conversation_items(conversation, limit=100).entries
        if items:
            item = items[choice % len(items)]
            self.store.delete_item(conversation, item["id"])
            self.removed.update(words([item]))

    @rule(conversation=conversations)
    def delete_conversation(self, conversation: str) -> None:
        if conversation not in self.contents:
            with pytest.raises(NotFound):
                self.store.delete_conversation(conversation)
            return
        self.store.delete_conversation(conversation)
        del self.contents[conversation]
        for id in [id for id, where in self.said_in.items() if where == conversation]:
            self.heard.pop(id, None)

    # Forgetting and coming back

    @rule(id=responses, is_disk_full=st.booleans(), at=st.integers(1, 12))
    def delete(self, id: str, is_disk_full: bool, at: int) -> None:
        if id not in self.heard:
            with pytest.raises(NotFound):
                self.store.delete(id)
            return
        self.store.index_some()
        try:
            with faulty_disk(no_space, at if is_disk_full else 0):
                self.store.delete(id)
        except (Unavailable, NotFound):
            assert is_disk_full
        else:
            del self.heard[id]

    @rule(id=responses)
    def delete_all_of_it(self, id: str) -> None:
        if id not in self.heard:
            return
        tree_id = self.store.tree_id(id)
        assert tree_id is not None and self.store.look(tree_id) is not None
        gone = self.store.delete_tree(tree_id)
        assert id in gone and self.store.look(tree_id) is None
        for name in gone:
            self.heard.pop(name, None)
            self.contents.pop(name, None)
        for draft in [draft for draft in self.open_drafts if draft.id in gone]:
            draft.remember(response(draft.id, answer("never")), [question("never")])
            self.open_drafts.remove(draft)
        assert tree_id not in [each.summary.id for each in self.store.listed()]

    @rule(seconds=st.sampled_from([1, 60, 1800, 3600]))
    def time_passes(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.store.sweep()
        is_wanted = seconds <= WANTED_FOR
        assert self.open_drafts or is_wanted or not self.store.is_over

    @rule(at=st.integers(1, 20))
    def disk_is_full_for_a_while(self, at: int) -> None:
        with faulty_disk(no_space, at):
            self.store.flush()

    @rule()
    def index(self) -> None:
        self.store.index_some()

    @rule()
    def restart(self) -> None:
        for draft in self.open_drafts:
            draft.abandon()
        self.open_drafts.clear()
        assert self.store.flush() == 0
        self.store = self.opened()

    # Looking

    @rule(id=responses)
    def look_at_a_response(self, id: str) -> None:
        if id in self.heard:
            assert heard(self.store, id) == self.expected(self.heard[id])
            assert self.store.retrieve(id)["id"] == id
            return
        for _ in range(2):
            with pytest.raises(NotFound, match=r"not found\.$"):
                self.store.begin(previous_response_id=id)
            self.store.revive(id)

    @rule(id=conversations)
    def look_at_a_conversation(self, id: str) -> None:
        self.store.revive(id)
        if id in self.contents:
            page = self.store.conversation_items(id, order="asc", limit=100)
            assert words(page.entries) == self.expected(self.contents[id])
        else:
            with pytest.raises(NotFound):
                self.store.conversation(id)

    @invariant()
    def nothing_is_lost_and_all_is_counted(self) -> None:
        trees = [live.tree for live in self.store._trees]
        assert self.store.num_lost == 0
        assert self.store.num_bytes == sum(tree.num_bytes for tree in trees)
        assert set(self.store._trees._places) == {name for tree in trees for name in tree.names()}

    def teardown(self) -> None:
        for id, texts in self.heard.items():
            assert heard(self.store, id) == self.expected(texts)
        shutil.rmtree(self.folder)


TestHistories = Histories.TestCase
TestHistories.settings = settings(
    max_examples=60,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
