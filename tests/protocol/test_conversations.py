"""The store: what it remembers, what it refuses, what it forgets, and what it takes to do so."""

from __future__ import annotations

import os
import threading
import tracemalloc
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from parts import InvalidRequest, NotFound, NotReady
from protocol.archive import Archive
from protocol.conversations import Store
from protocol.draft import Draft
from protocol.items import new_id
from protocol.tree import Tree, turn_of_items
from tests.protocol.turns import Clock, answer, heard, question, response, revived, say, words

NUM_TURNS = int(os.environ.get("CONVERSATION_TURNS", "100000"))
"""Turns of simulated traffic. 1000000 takes half a minute."""


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(clock: Clock) -> Store:
    return Store(clock=clock)


def archived_store(folder: Path, clock: Clock, **options: Any) -> Store:
    store = Store(Archive(folder, clock=clock), clock=clock, **options)
    store.open()
    return store


def expire(store: Store, clock: Clock) -> None:
    clock.advance(store.ttl)
    store.sweep()
    assert store.num_conversations == 0


# Responses


def test_a_follow_up_reads_what_was_said(store: Store) -> None:
    first = say(store, "one")
    second = say(store, "two", previous_response_id=first)
    third = say(store, "three", previous_response_id=second)
    assert heard(store, third) == ["one", "ONE", "two", "TWO", "three", "THREE"]


def test_branches_share_their_past_and_nothing_else(store: Store) -> None:
    first = say(store, "one")
    left = say(store, "left", previous_response_id=first)
    right = say(store, "right", previous_response_id=first)
    assert heard(store, left) == ["one", "ONE", "left", "LEFT"]
    assert heard(store, right) == ["one", "ONE", "right", "RIGHT"]
    assert store.num_conversations == 1


def test_memory_is_linear_in_turns(store: Store) -> None:
    last = say(store, "x" * 1000)
    first_bytes = store.num_bytes
    for _ in range(999):
        last = say(store, "x" * 1000, previous_response_id=last)
    assert store.num_bytes <= 1000 * first_bytes
    assert len(heard(store, last)) == 2000


def test_retrieve_gives_the_final_object(store: Store) -> None:
    with store.begin() as draft:
        final = response(draft.id, answer("yes"))
        draft.remember(final, [question("well?")])
    assert store.retrieve(draft.id) == final
    assert list(store.retrieve(draft.id)) == list(final)


def test_what_comes_out_can_be_changed_without_harm(store: Store) -> None:
    id = say(store, "one")
    store.retrieve(id)["output"].clear()
    with store.begin(previous_response_id=id) as draft:
        draft.recall()[0]["content"].clear()
    assert heard(store, id) == ["one", "ONE"]


def test_input_items_come_in_pages(store: Store) -> None:
    items = [question(str(number)) for number in range(5)]
    with store.begin() as draft:
        draft.remember(response(draft.id, []), items)
    page = store.input_items(draft.id, order="asc", limit=2)
    assert (words(page.entries), page.has_more) == (["0", "1"], True)
    page = store.input_items(draft.id, order="asc", after=items[1]["id"], limit=10)
    assert (words(page.entries), page.has_more) == (["2", "3", "4"], False)
    assert words(store.input_items(draft.id).entries) == ["4", "3", "2", "1", "0"]


@pytest.mark.parametrize("wrong", [{"after": "msg_nowhere"}, {"limit": 0}, {"limit": 101}])
def test_a_wrong_page_is_refused_by_name(store: Store, wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        store.input_items(say(store, "one"), **wrong)
    assert refusal.value.param in wrong


def test_items_with_one_id_are_told_apart(store: Store) -> None:
    twice = question("again")
    with store.begin() as draft:
        draft.remember(response(draft.id, []), [twice, twice, {**twice, "id": ""}])
    ids = [item["id"] for item in store.input_items(draft.id, order="asc").entries]
    assert len(set(ids)) == 3
    assert ids[0] == twice["id"]


def test_a_question_may_be_written_down_before_its_answer(store: Store) -> None:
    asked = [question("well?"), question("or not?")]
    with store.begin() as draft:
        draft.write_down(asked, {"instructions": "be brief", "tools": []})
        final = response(draft.id, answer("yes")) | {"instructions": "be brief", "tools": []}
        draft.remember(final, asked)
    assert store.retrieve(draft.id) == final
    assert store.input_items(draft.id, order="asc").entries == asked
    assert heard(store, draft.id) == ["well?", "or not?", "yes"]


def test_an_id_that_was_taken_since_a_question_was_written_down_is_told_apart(store: Store) -> None:
    id = store.create_conversation()["id"]
    asked = question("mine")
    with store.begin(conversation_id=id) as draft:
        draft.write_down([asked], {})
        store.add_items(id, [{**question("first"), "id": asked["id"]}])
        draft.remember(response(draft.id, answer("yes")), [asked])
    kept = store.conversation_items(id, order="asc").entries
    assert words(kept) == ["first", "mine", "yes"]
    assert len({item["id"] for item in kept}) == len(kept)


def test_two_that_add_an_item_of_one_id_at_once_are_told_apart(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    id = store.create_conversation()["id"]
    mine = question("mine")
    once = iter([{**question("other"), "id": mine["id"]}])

    def meanwhile(items: Any, created_at: float) -> Any:
        if other := next(once, None):
            store.add_items(id, [other])
        return turn_of_items(items, created_at)

    monkeypatch.setattr("protocol.conversation_objects.turn_of_items", meanwhile)
    added = store.add_items(id, [mine])
    kept = store.conversation_items(id, order="asc").entries
    assert words(kept) == ["other", "mine"]
    assert added == [kept[1]]
    assert kept[0]["id"] == mine["id"] != kept[1]["id"]


def test_items_of_the_model_can_be_referred_to(store: Store) -> None:
    id = say(store, "one")
    made = store.retrieve(id)["output"][1]
    assert store.item(made["id"]) == made
    assert store.item("msg_unknown") is None
    assert store.item(made["id"], owner="another") is None


def test_unknown_deleted_and_foreign_ids_are_refused_alike(store: Store) -> None:
    deleted, foreign = say(store, "one"), say(store, "two", owner="key")
    store.delete(deleted)
    seen = set()
    for id in (new_id("resp"), deleted, foreign, "../../etc/passwd", ""):
        with pytest.raises(NotFound) as refusal:
            store.begin(previous_response_id=id)
        assert refusal.value.code == "previous_response_not_found"
        assert refusal.value.param == "previous_response_id"
        seen.add(refusal.value.message.replace(f"'{id}'", "ID"))
    assert seen == {"Previous response with id ID not found."}


def test_foreign_responses_cannot_be_seen_or_deleted(store: Store) -> None:
    foreign = say(store, "mine", owner="key")
    for ask in (store.retrieve, store.input_items, store.delete):
        with pytest.raises(NotFound):
            ask(foreign)
    assert heard(store, foreign, owner="key") == ["mine", "MINE"]


def test_an_item_is_not_a_response(store: Store) -> None:
    item = store.retrieve(say(store, "one"))["output"][0]["id"]
    for ask in (store.retrieve, store.delete):
        with pytest.raises(NotFound):
            ask(item)
    with pytest.raises(NotFound):
        store.begin(previous_response_id=item)


def test_store_false_leaves_nothing(store: Store) -> None:
    first = say(store, "one")
    num_bytes = store.num_bytes
    with store.begin(previous_response_id=first, is_kept=False) as draft:
        assert words(draft.recall()) == ["one", "ONE"]
        draft.remember(response(draft.id, answer("secret")), [question("secret?")])
    with pytest.raises(NotFound):
        store.retrieve(draft.id)
    assert store.num_bytes == num_bytes
    say(store, "alone", is_kept=False)
    assert store.num_conversations == 1


# In progress


def test_a_response_in_progress_cannot_be_continued(store: Store) -> None:
    with store.begin() as draft:
        with pytest.raises(NotReady) as refusal:
            store.begin(previous_response_id=draft.id)
        assert refusal.value.code == "response_not_ready"
        with pytest.raises(NotFound):
            store.begin(previous_response_id=draft.id, owner="another")
    with pytest.raises(NotFound):
        store.begin(previous_response_id=draft.id)


def test_a_response_in_progress_can_be_looked_at(store: Store) -> None:
    with store.begin() as draft:
        with pytest.raises(NotReady):
            store.retrieve(draft.id)
        asked, running = [question("well?")], response(draft.id, [], "in_progress")
        draft.show(running, asked)
        assert store.retrieve(draft.id) == running
        assert store.input_items(draft.id).entries == asked


@pytest.mark.parametrize("status", ["failed", "cancelled"])
def test_a_failed_response_is_kept_but_not_continued(store: Store, status: str) -> None:
    with store.begin() as draft:
        draft.remember(response(draft.id, [], status), [question("well?")])
    assert store.retrieve(draft.id)["status"] == status
    with pytest.raises(NotReady):
        store.begin(previous_response_id=draft.id)


def test_an_unfinished_response_is_not_remembered(store: Store) -> None:
    with store.begin() as draft, pytest.raises(ValueError, match="not finished"):
        draft.remember(response(draft.id, [], "in_progress"), [])
    with store.begin() as draft, pytest.raises(ValueError, match="not finished"):
        draft.remember(response(new_id("resp"), []), [])
    assert store.num_conversations == 0


def test_a_response_deleted_in_progress_is_not_remembered(store: Store) -> None:
    with store.begin() as draft:
        store.delete(draft.id)
        draft.remember(response(draft.id, answer("late")), [question("early")])
    with pytest.raises(NotFound):
        store.retrieve(draft.id)
    assert store.num_conversations == 0


def test_a_conversation_in_use_does_not_expire(store: Store, clock: Clock) -> None:
    first = say(store, "one")
    with store.begin(previous_response_id=first) as draft:
        clock.advance(10 * store.ttl)
        store.sweep()
        draft.remember(response(draft.id, answer("slow")), [question("two")])
    store.sweep()
    assert heard(store, draft.id) == ["one", "ONE", "two", "slow"]
    expire(store, clock)


# Deleting


def test_children_of_a_deleted_response_keep_their_history(store: Store) -> None:
    first = say(store, "one")
    second = say(store, "two", previous_response_id=first)
    store.delete(first)
    assert heard(store, second) == ["one", "ONE", "two", "TWO"]
    with pytest.raises(NotFound):
        store.retrieve(first)
    with pytest.raises(NotFound):
        store.delete(first)


def test_what_nothing_was_built_on_is_really_gone(store: Store) -> None:
    first = say(store, "one")
    second = say(store, "two", previous_response_id=first)
    store.delete(first)
    store.delete(second)
    assert (store.num_conversations, store.num_bytes) == (0, 0)


def test_a_parent_deleted_meanwhile_is_history_all_the_same(store: Store) -> None:
    first = say(store, "one")
    with store.begin(previous_response_id=first) as draft:
        store.delete(first)
        draft.remember(response(draft.id, answer("TWO")), [question("two")])
    assert heard(store, draft.id) == ["one", "ONE", "two", "TWO"]
    second = say(store, "three", previous_response_id=draft.id)
    with store.begin(previous_response_id=second):
        store.delete(second)
        store.delete(draft.id)
    assert (store.num_conversations, store.num_bytes) == (0, 0)


# Conversation objects


def test_a_conversation_collects_what_is_said_in_it(store: Store) -> None:
    made = store.create_conversation({"topic": "sums"}, [question("zero")])
    assert made["object"] == "conversation"
    assert store.conversation(made["id"]) == made
    say(store, "one", conversation_id=made["id"])
    store.add_items(made["id"], [question("between")])
    say(store, "two", conversation_id=made["id"])
    page = store.conversation_items(made["id"], order="asc")
    assert words(page.entries) == ["zero", "one", "ONE", "between", "two", "TWO"]
    with store.begin(conversation_id=made["id"]) as draft:
        assert draft.recall() == page.entries


def test_a_conversations_metadata_can_be_replaced(store: Store) -> None:
    id = store.create_conversation({"topic": "sums"})["id"]
    assert store.update_conversation(id, {"a": "b"})["metadata"] == {"a": "b"}
    assert store.conversation(id)["metadata"] == {"a": "b"}


def test_a_response_of_a_conversation_can_be_branched_off(store: Store) -> None:
    id = store.create_conversation()["id"]
    first = say(store, "one", conversation_id=id)
    say(store, "two", conversation_id=id)
    branch = say(store, "other", previous_response_id=first)
    assert heard(store, branch) == ["one", "ONE", "other", "OTHER"]
    items = store.conversation_items(id, order="asc").entries
    assert words(items) == ["one", "ONE", "two", "TWO"]


def test_one_response_at_a_time_in_a_conversation(store: Store) -> None:
    id = store.create_conversation()["id"]
    with store.begin(conversation_id=id):
        with pytest.raises(NotReady) as refusal:
            store.begin(conversation_id=id)
        assert refusal.value.code == "conversation_locked"
    say(store, "free again", conversation_id=id)


def test_a_failed_response_adds_nothing_to_its_conversation(store: Store) -> None:
    id = store.create_conversation()["id"]
    with store.begin(conversation_id=id) as draft:
        draft.remember(response(draft.id, [], "failed"), [question("one")])
    assert store.retrieve(draft.id)["status"] == "failed"
    assert store.conversation_items(id).entries == []


def test_a_conversation_or_a_response_not_both(store: Store) -> None:
    conversation, first = store.create_conversation()["id"], say(store, "one")
    with pytest.raises(InvalidRequest):
        store.begin(conversation_id=conversation, previous_response_id=first)


def test_an_item_can_be_retrieved_and_deleted(store: Store) -> None:
    id = store.create_conversation(items=[question("zero")])["id"]
    said = say(store, "one", conversation_id=id)
    made = store.retrieve(said)["output"][1]
    assert store.conversation_item(id, made["id"]) == made
    assert store.delete_item(id, made["id"])["id"] == id
    assert words(store.conversation_items(id, order="asc").entries) == ["zero", "one"]
    assert words(store.retrieve(said)["output"]) == []
    for ask in (store.conversation_item, store.delete_item):
        with pytest.raises(NotFound):
            ask(id, made["id"])


def test_items_that_come_and_go_leave_no_trace(store: Store) -> None:
    id = store.create_conversation()["id"]
    num_bytes = store.num_bytes
    kept = store.add_items(id, [question("first")])
    for number in range(20):
        added = store.add_items(id, [question(str(number))])
        store.delete_item(id, kept[0]["id"])
        kept = added
    assert words(store.conversation_items(id).entries) == ["19"]
    store.delete_item(id, kept[0]["id"])
    assert store.num_bytes == num_bytes


def test_an_items_id_is_its_own_in_a_conversation(store: Store) -> None:
    item = question("zero")
    id = store.create_conversation(items=[item])["id"]
    added = store.add_items(id, [item])
    with store.begin(conversation_id=id) as draft:
        draft.remember(response(draft.id, []), [item])
    ids = [each["id"] for each in store.conversation_items(id, order="asc").entries]
    assert ids[:2] == [item["id"], added[0]["id"]]
    assert len(set(ids)) == 3


def test_deleting_a_conversation_deletes_what_was_said_in_it(store: Store) -> None:
    id = store.create_conversation()["id"]
    first = say(store, "one", conversation_id=id)
    branch = say(store, "other", previous_response_id=first)
    store.delete_conversation(id)
    for ask, name in ((store.conversation, id), (store.retrieve, first)):
        with pytest.raises(NotFound):
            ask(name)
    assert heard(store, branch) == ["one", "ONE", "other", "OTHER"]
    store.delete(branch)
    assert (store.num_conversations, store.num_bytes) == (0, 0)


def test_a_response_of_a_deleted_conversation_is_not_remembered(store: Store) -> None:
    id = store.create_conversation()["id"]
    say(store, "one", conversation_id=id)
    with store.begin(conversation_id=id) as draft:
        store.delete_conversation(id)
        draft.remember(response(draft.id, answer("late")), [question("two")])
    with pytest.raises(NotFound):
        store.retrieve(draft.id)
    assert (store.num_conversations, store.num_bytes) == (0, 0)


def test_a_response_does_not_stand_for_its_conversation(store: Store) -> None:
    id = store.create_conversation(items=[question("zero")])["id"]
    said = say(store, "one", conversation_id=id)
    item = store.conversation_items(id).entries[0]["id"]
    for ask in (store.conversation, store.delete_conversation, store.conversation_items):
        with pytest.raises(NotFound):
            ask(said)
    with pytest.raises(NotFound):
        store.delete_item(said, item)
    with pytest.raises(NotFound):
        store.retrieve(id)


def test_all_conversations_are_listed_the_newest_first(tmp_path: Path, clock: Clock) -> None:
    wall = Clock(1_795_357_805.25)
    store = Store(Archive(tmp_path, clock=clock, now=wall), clock=clock, now=wall)
    old = say(store, "the  first\nwords")
    expire(store, clock)
    wall.advance(1)
    new = store.create_conversation(items=[question("hello")])["id"]
    last = say(store, "again", conversation_id=new)
    say(store, "not yours", owner="another")
    listed = store.listing().entries
    assert [each.summary.id for each in listed] == [new, old]
    assert [each.summary.title for each in listed] == ["hello", "the first words"]
    assert listed[0].summary.last_response_id == last
    assert [each.file for each in listed] == [None, f"2026-11-22T14-30-05Z_{old}.json"]
    assert [each.summary.id for each in store.listing(after=new, limit=1).entries] == [old]


# Expiry and revival


def test_use_of_any_turn_keeps_the_whole_tree(store: Store, clock: Clock) -> None:
    first = say(store, "one")
    second = say(store, "two", previous_response_id=first)
    for _ in range(3):
        clock.advance(store.ttl - 1)
        store.sweep()
        store.retrieve(first)
    assert store.retrieve(second)


def test_a_wall_clock_that_jumps_expires_nothing(clock: Clock) -> None:
    wall = Clock(1_795_357_805)
    store = Store(clock=clock, now=wall)
    first = say(store, "one")
    for jump in (1e9, -2.7e9):
        wall.advance(jump)
        store.sweep()
        first = say(store, "more", previous_response_id=first)
    assert len(heard(store, first)) == 6


def test_the_expired_is_revived(tmp_path: Path, clock: Clock) -> None:
    store = archived_store(tmp_path, clock)
    first = say(store, "one", source="Tester/1.0")
    before = store.retrieve(first)
    expire(store, clock)
    second = revived(store, first, lambda: say(store, "two", previous_response_id=first))
    assert heard(store, second) == ["one", "ONE", "two", "TWO"]
    assert store.retrieve(first) == before
    expire(store, clock)
    assert heard(store, second) == ["one", "ONE", "two", "TWO"]
    assert len(list(tmp_path.iterdir())) == 1


def test_items_and_conversations_are_revived_too(tmp_path: Path, clock: Clock) -> None:
    store = archived_store(tmp_path, clock)
    id = store.create_conversation({"a": "b"}, [question("zero")])["id"]
    made = store.retrieve(say(store, "one", conversation_id=id))["output"][1]
    expire(store, clock)
    store.revive(made["id"])
    assert store.item(made["id"]) == made
    expire(store, clock)
    store.revive(id)
    assert store.conversation(id)["metadata"] == {"a": "b"}
    assert words(store.conversation_items(id, order="asc").entries) == ["zero", "one", "ONE"]


def test_a_restart_forgets_nobody(tmp_path: Path, clock: Clock) -> None:
    store = archived_store(tmp_path, clock)
    first = say(store, "one")
    second = say(store, "two", previous_response_id=first)
    assert store.flush() == 0
    assert heard(store, second) == ["one", "ONE", "two", "TWO"]
    store = archived_store(tmp_path, clock)
    assert heard(store, second) == ["one", "ONE", "two", "TWO"]


def test_without_revival_the_refusal_says_when_and_where(tmp_path: Path, clock: Clock) -> None:
    wall = Clock(1_795_357_805)
    options: dict[str, Any] = {"can_revive": False, "now": wall, "clock": clock}
    store = Store(Archive(tmp_path, clock=clock, now=wall), **options)
    first, foreign = say(store, "one"), say(store, "two", owner="another")
    wall.advance(3600)
    expire(store, clock)
    restarted = Store(Archive(tmp_path, clock=clock, now=wall), **options)
    for each in (store, restarted):
        each.revive(first)
        with pytest.raises(NotFound) as refusal:
            each.begin(previous_response_id=first)
        assert refusal.value.code == "previous_response_not_found"
        assert "expired at 2026-11-22T15:30:05Z" in refusal.value.message
        assert f"2026-11-22T14-30-05Z_{first}.json" in refusal.value.message
        each.revive(foreign)
        with pytest.raises(NotFound, match=r"not found\.$"):
            each.begin(previous_response_id=foreign)


def test_without_an_archive_the_expired_is_gone(store: Store, clock: Clock) -> None:
    first = say(store, "one")
    expire(store, clock)
    store.revive(first)
    with pytest.raises(NotFound, match=r"not found\.$"):
        store.begin(previous_response_id=first)
    assert (store.archive_state, store.num_lost) == ("off", 0)


def test_the_revived_waits_for_whoever_wanted_it(tmp_path: Path, clock: Clock) -> None:
    store = archived_store(tmp_path, clock, max_conversations=0)
    first = say(store, "one")
    store.sweep()
    store.revive(first)
    store.sweep()
    second = say(store, "two", previous_response_id=first)
    clock.advance(60)
    store.sweep()
    assert store.num_conversations == 0
    assert heard(store, second) == ["one", "ONE", "two", "TWO"]


# Bounds


def test_the_least_recently_used_leave_first(tmp_path: Path, clock: Clock) -> None:
    store = archived_store(tmp_path, clock, max_conversations=2)
    ids = [say(store, str(number)) for number in range(3)]
    store.retrieve(ids[0])
    assert store.is_over
    store.sweep()
    assert not store.is_over
    assert [path.name[-42:-5] for path in tmp_path.iterdir()] == [ids[1]]


def test_memory_is_counted_generously(store: Store) -> None:
    tracemalloc.start()
    try:
        for text in ("x", "ö" * 300, "x" * 9000):
            last = None
            for _ in range(100):
                last = say(store, text, previous_response_id=last)
                say(store, text, source="Tester/1.0")
            say(store, text, conversation_id=store.create_conversation({"a": "b"})["id"])
        num_bytes, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert num_bytes <= store.num_bytes <= 3 * num_bytes


def test_much_traffic_stays_within_bounds(clock: Clock) -> None:
    store = Store(clock=clock, max_bytes=1 << 20, max_conversations=1000)
    last: str | None = None
    fullest = 0
    for number in range(NUM_TURNS):
        with store.begin(previous_response_id=last) as draft:
            asked = {"id": draft.id, "type": "message", "role": "user", "content": "hi"}
            draft.remember(
                response(draft.id, [{"id": f"msg_{number}", "type": "message"}]), [asked]
            )
        last = None if number % 7 == 6 else draft.id
        if store.is_over:
            store.sweep()
        assert store.num_bytes <= store.max_bytes
        fullest = max(fullest, store.num_bytes)
        clock.advance(0.1)
    assert fullest > 0.9 * store.max_bytes
    clock.advance(store.ttl)
    store.sweep()
    assert (store.num_conversations, store.num_bytes) == (0, 0)


# Threads


class Interrupted(Archive):
    """An archive in the middle of whose writing something else happens, once."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.meanwhile: list[Callable[[], object]] = []

    def save(self, tree: Tree) -> None:
        if self.meanwhile:
            self.meanwhile.pop()()
        super().save(tree)


@pytest.mark.parametrize("use", ["look", "begin", "say", "say when room is short"])
def test_what_is_used_while_it_is_archived_stays_whole(
    tmp_path: Path, clock: Clock, use: str
) -> None:
    archive = Interrupted(tmp_path)
    store = Store(archive, clock=clock, max_conversations=0 if "short" in use else 10)
    first = say(store, "one")
    drafts: list[Draft] = []
    said: list[str] = []
    archive.meanwhile = {
        "look": [lambda: store.retrieve(first)],
        "begin": [lambda: drafts.append(store.begin(previous_response_id=first))],
    }.get(use, [lambda: said.append(say(store, "two", previous_response_id=first))])
    clock.advance(store.ttl)
    store.sweep()
    assert not archive.meanwhile
    assert store.num_conversations == (0 if "short" in use else 1)
    for draft in drafts:
        draft.remember(response(draft.id, answer("TWO")), [question("two")])
        said.append(draft.id)
    expire(store, clock)
    for id in said:
        assert heard(store, id) == ["one", "ONE", "two", "TWO"]
    assert heard(store, first) == ["one", "ONE"]


def test_what_is_deleted_waits_for_the_archive(tmp_path: Path, clock: Clock) -> None:
    archive = Interrupted(tmp_path)
    store = Store(archive, clock=clock)
    secret = say(store, "secret")
    deleting = threading.Thread(target=store.delete, args=(secret,))
    archive.meanwhile = [deleting.start]
    store.flush()
    deleting.join()
    assert not list(tmp_path.iterdir())
    with pytest.raises(NotFound):
        heard(store, secret)


def test_expiry_against_continuation_is_refusal_or_success(tmp_path: Path, clock: Clock) -> None:
    store = archived_store(tmp_path, clock, ttl=0)
    is_done = threading.Event()

    def sweep_on() -> None:
        while not is_done.is_set():
            store.sweep()
            store.listing()

    sweeper = threading.Thread(target=sweep_on)
    sweeper.start()
    try:
        last = say(store, "0")
        for number in range(1, 200):
            clock.advance(60)
            last = revived(store, last, partial(say, store, str(number), previous_response_id=last))
    finally:
        is_done.set()
        sweeper.join()
    assert heard(store, last)[::2] == [str(number) for number in range(200)]
    assert store.num_lost == 0


def test_what_was_deleted_is_gone_while_a_response_to_it_is_still_written(store: Store) -> None:
    id = say(store, "hello")
    draft = store.begin(previous_response_id=id)
    tree_id = store.tree_id(id)
    assert tree_id is not None and store.look(tree_id) is not None
    store.delete_tree(tree_id)
    assert store.look(tree_id) is None
    draft.abandon()
    assert store.look(tree_id) is None
