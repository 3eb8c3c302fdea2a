"""The archive: what its files say, who may read them, and what no crash and no full disk can do."""

from __future__ import annotations

import errno
import json
import logging
import os
import secrets
import signal
import stat
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parts import NotFound, Unavailable
from protocol import archive, browser, record
from protocol.archive import Archive, file_name
from protocol.conversations import Store
from protocol.items import new_id
from protocol.record import Malformed
from protocol.tree import Timings, Tree, pack, turn_of_items, turn_of_response
from tests.protocol.turns import (
    Clock,
    answer,
    faulty_disk,
    heard,
    no_space,
    question,
    response,
    say,
    sudden_death,
)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "logs" / "conversations"


def store_in(folder: Path, clock: Clock | None = None, **options: Any) -> Store:
    clock = clock or Clock()
    store = Store(Archive(folder, clock=clock, now=Clock(1_795_357_805)), clock=clock, **options)
    store.open()
    return store


def archived(folder: Path, *texts: str) -> str:
    """A conversation on disk; the id of its last response."""
    store = store_in(folder)
    last = None
    for text in texts:
        last = say(store, text, previous_response_id=last)
    assert store.flush() == 0
    assert last is not None
    return last


def only_file(folder: Path) -> Path:
    (path,) = folder.iterdir()
    return path


# What a file says


def test_a_file_can_be_read_by_people(folder: Path) -> None:
    store = store_in(folder)
    first = say(store, "Wie geht's? 🙂", source="Tester/1.0")
    second = say(store, "two", previous_response_id=first)
    store.flush()
    text = only_file(folder).read_text("utf-8")
    told = json.loads(text)
    assert "Wie geht's? 🙂" in text
    assert [turn["turn"] for turn in told["turns"]] == [1, 2]
    assert told["turns"][1]["follows"] == 1
    assert told["turns"][0]["source"] == "Tester/1.0"
    assert told["turns"][1]["response"] == store.retrieve(second)
    assert "thinking of" in text
    assert max(map(len, text.splitlines())) < 200


def test_names_sort_by_time_and_hold_nothing_of_the_clients(folder: Path) -> None:
    wall = Clock(1_795_357_805.9)
    store = Store(Archive(folder), now=wall)
    ids = []
    for _ in range(3):
        ids.append(say(store, "../../../etc/passwd", source="../evil"))
        wall.advance(86_400 * 40)
    store.flush()
    assert sorted(path.name for path in folder.iterdir()) == [
        f"2026-11-22T14-30-05Z_{ids[0]}.json",
        f"2027-01-01T14-30-05Z_{ids[1]}.json",
        f"2027-02-10T14-30-05Z_{ids[2]}.json",
    ]


def test_only_the_owner_may_read(folder: Path) -> None:
    folder.mkdir(parents=True, mode=0o755)
    folder.chmod(0o755)
    archived(folder, "one")
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE(only_file(folder).stat().st_mode) == 0o600


def test_a_new_folder_is_closed_to_others(folder: Path) -> None:
    archived(folder, "one")
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


text = st.text(st.characters(codec="utf-8") | st.just("\ud800"), max_size=8)
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=6,
)
extras = st.dictionaries(text, values, max_size=3)


@settings(deadline=None)
@given(
    extras=extras,
    metadata=st.none() | st.dictionaries(text, text, max_size=2),
    at=st.floats(0, 4e9),
)
def test_a_tree_comes_back_as_it_was(
    extras: dict[str, Any], metadata: dict[str, str] | None, at: float
) -> None:
    at = round(at, 6)
    tree = Tree(new_id("conv"), at, "key", None if metadata is None else pack(metadata))
    for parent in (None, 0, 1, 1):
        item = {**extras, **question("?")}
        id = new_id("resp")
        made = {**extras, **response(id, [{**extras, **each} for each in answer("!")])}
        timings = None if parent is None else Timings(at, None if parent else 0.5, 40)
        turn = turn_of_response(made, [item], created_at=at, source="Tester", timings=timings)
        turn.parent = None if parent is None else tree.turns[parent]
        tree.turns.append(turn)
    if metadata is not None:
        tree.turns.append(turn_of_items([{**extras, **question("by hand")}], at))
    tree.turns[1].bury()
    back, archived_at = record.parse(record.render(tree, at))
    assert archived_at == at
    assert shape(back) == shape(tree)


def shape(tree: Tree) -> Any:
    """Everything that a tree holds, to compare it."""
    ordinals = {turn: number for number, turn in enumerate(tree.turns)}
    turns = [
        (
            turn.created_at,
            turn.items(),
            turn.response_id and turn.whole_response(),
            (turn.input_ids, turn.output_ids, turn.source, turn.in_conversation, turn.timings),
            turn.parent and ordinals[turn.parent],
        )
        for turn in tree.turns
    ]
    return tree.id, tree.created_at, tree.owner, tree.metadata, turns


# What is not believed


def damaged(told: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Every way to replace one field of a record by something else."""
    for path in list(paths(told)):
        for wrong in (None, True, -1, 10**400, "x" * 600, ["?"], {"?": {}}):
            copy = json.loads(json.dumps(told))
            target = copy
            for step in path[:-1]:
                target = target[step]
            if target[path[-1]] != wrong:
                target[path[-1]] = wrong
                yield f"{path} is {str(wrong)[:9]}", copy


def paths(told: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    steps = told if isinstance(told, dict) else range(len(told) if isinstance(told, list) else 0)
    for step in steps:
        yield (*path, step)
        yield from paths(told[step], (*path, step))


def test_every_field_is_looked_at(folder: Path) -> None:
    archived(folder, "one", "two")
    told = json.loads(only_file(folder).read_bytes())
    num_refused = 0
    for what, wrong in damaged(told):
        try:
            back, _ = record.parse(json.dumps(wrong).encode())
        except Malformed:
            num_refused += 1
            continue
        # What is let through must be whole: it can be written and read once more.
        assert record.parse(record.render(back, 0.0)), what
    assert num_refused > 100


def test_a_file_of_before_there_were_timings_is_read(folder: Path) -> None:
    last = archived(folder, "one", "two")
    told = json.loads(only_file(folder).read_bytes())
    for turn in told["turns"]:
        assert turn.pop("timings") == {
            "first_token_s": 0.25,
            "thinking_s": 1.5,
            "tokens_per_s": 40.0,
        }
    only_file(folder).write_bytes(json.dumps(told).encode())
    store = store_in(folder)
    assert heard(store, last) == ["one", "ONE", "two", "TWO"]
    assert [turn.timings for turn in browser.find(store, last).turns] == [None, None]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x00\xff\xfe",
        b"[]",
        b"{}",
        b'{"format": "conversation, version 1"}',
        b"[" * 100_000,
        b'{"format": NaN}',
        b"1" * 100_000,
    ],
)
def test_what_is_not_ours_is_left_alone(folder: Path, content: bytes) -> None:
    known = archived(folder, "one")
    names = [f"2026-11-22T14-30-05Z_{new_id('resp')}.json", "notes.txt", "conversation.json"]
    for name in names:
        (folder / name).write_bytes(content)
    store = store_in(folder)
    assert heard(store, known) == ["one", "ONE"]
    assert len(store.listing().entries) == 1
    assert all((folder / name).read_bytes() == content for name in names)
    assert store.archive_state == "ok"


def test_a_torn_file_is_not_read(folder: Path) -> None:
    last = archived(folder, "one", "two")
    path = only_file(folder)
    whole = path.read_bytes()
    for length in range(0, len(whole) - 2, 97):
        path.write_bytes(whole[:length])
        store = store_in(folder)
        store.revive(last)
        assert store.num_conversations == 0
    path.write_bytes(whole)
    assert heard(store_in(folder), last) == ["one", "ONE", "two", "TWO"]


def test_a_file_under_anothers_name_is_not_read(folder: Path) -> None:
    last = archived(folder, "one")
    path = only_file(folder)
    path.rename(path.with_name(f"2026-11-22T14-30-05Z_{new_id('resp')}.json"))
    with pytest.raises(NotFound):
        heard(store_in(folder), last)


def test_links_pipes_and_folders_are_not_read(folder: Path, tmp_path: Path) -> None:
    known = archived(folder, "known")
    elsewhere = tmp_path / "elsewhere"
    linked = archived(elsewhere, "linked")
    path = only_file(elsewhere)
    (folder / path.name).symlink_to(path)
    os.mkfifo(folder / f"2026-11-22T14-30-05Z_{new_id('resp')}.json")
    (folder / f"2026-11-22T14-30-06Z_{new_id('conv')}.json").mkdir()
    store = store_in(folder)
    with pytest.raises(NotFound):
        heard(store, linked)
    assert heard(store, known) == ["known", "KNOWN"]


def test_a_link_is_replaced_and_not_written_through(folder: Path, tmp_path: Path) -> None:
    store = store_in(folder)
    say(store, "one")
    store.flush()
    path, victim = only_file(folder), tmp_path / "victim"
    victim.write_text("precious")
    path.unlink()
    path.symlink_to(victim)
    say(store, "two", previous_response_id=path.name[-42:-5])
    store.flush()
    assert victim.read_text() == "precious"
    assert path.is_file()
    assert not path.is_symlink()


def test_a_link_in_the_temporarys_place_is_not_written_through(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive, victim = Archive(folder), tmp_path / "victim"
    store = Store(archive, now=Clock(1_795_357_805))
    store.open()
    first = say(store, "one")
    victim.write_text("precious")
    link = folder / f".2026-11-22T14-30-05Z_{first}.json.{'0' * 16}.tmp"
    link.symlink_to(victim)
    monkeypatch.setattr(secrets, "token_hex", lambda _: "0" * 16)
    assert store.flush() == 1
    assert archive.state == "failing: File exists"
    assert victim.read_text() == "precious"
    assert store.flush() == 0


def test_a_huge_file_is_not_read(folder: Path) -> None:
    last = archived(folder, "x" * 5000)
    archive = Archive(folder, max_file_bytes=4000)
    assert archive.find(last) is None
    assert only_file(folder).stat().st_size > 4000


def test_what_a_crash_left_half_written_is_swept(folder: Path) -> None:
    last = archived(folder, "one")
    path = only_file(folder)
    stray = folder / f".{path.name}.{'0' * 16}.tmp"
    foreign = folder / ".somebody.json.tmp"
    stray.write_text("{")
    foreign.write_text("{")
    store = store_in(folder)
    assert not stray.exists()
    assert foreign.exists()
    assert heard(store, last) == ["one", "ONE"]


# The index


def test_what_another_server_is_writing_is_not_swept(folder: Path) -> None:
    folder.mkdir(parents=True)
    name = f".2026-01-02T03-04-05Z_resp_{'0' * 32}.json.{'0' * 16}.tmp"
    fd = os.open(folder, os.O_RDONLY)
    try:
        with archive._new_file(fd, name):
            Archive(folder).open()
            assert (folder / name).exists()
        Archive(folder).open()
        assert not (folder / name).exists()
    finally:
        os.close(fd)


def test_a_lookup_before_the_index_is_complete_is_right(folder: Path) -> None:
    ids = [archived(folder, str(number)) for number in range(30)]
    archive = Archive(folder)
    archive.open()
    assert archive.filed(ids[0]) is None
    for id in ids:
        assert archive.find(id) is not None
    assert Archive(folder).find(new_id("resp")) is None


def test_the_index_is_built_step_by_step(folder: Path) -> None:
    for number in range(5):
        archived(folder, str(number))
    archive = Archive(folder)
    steps = 1
    while not archive.index_some(2):
        steps += 1
    assert steps == 3
    assert len(archive.all_filed()) == 5


# A disk that fails


def file_in_place(folder: Path) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.write_text("I am a file")


def test_a_file_in_place_of_the_folder_delays_archiving(folder: Path, clock: Clock) -> None:
    file_in_place(folder)
    store = store_in(folder, clock)
    assert store.archive_state == "failing: Not a directory"
    last = say(store, "one")
    for _ in range(10):
        clock.advance(store.ttl)
        store.sweep()
    assert heard(store, last) == ["one", "ONE"]
    assert store.flush() == 1
    folder.unlink()
    clock.advance(store.ttl)
    store.sweep()
    assert (store.archive_state, store.num_conversations) == ("ok", 0)
    assert heard(store, last) == ["one", "ONE"]


def test_a_failing_disk_is_said_once_a_minute(
    folder: Path, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    file_in_place(folder)
    store = store_in(folder, clock, ttl=0)
    say(store, "one")
    for _ in range(180):
        store.sweep()
        clock.advance(1)
    warnings = [each for each in caplog.records if each.levelno >= logging.WARNING]
    assert len(warnings) == 3


def test_when_memory_is_full_too_the_oldest_goes(
    folder: Path, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    file_in_place(folder)
    store = store_in(folder, clock, max_conversations=2)
    ids = [say(store, str(number)) for number in range(4)]
    store.sweep()
    assert (store.num_conversations, store.num_lost) == (2, 2)
    assert heard(store, ids[3]) == ["3", "3"]
    with pytest.raises(NotFound):
        heard(store, ids[0])
    assert "dropped" in caplog.text


def test_a_folder_that_was_removed_is_made_again(folder: Path, clock: Clock) -> None:
    store = store_in(folder, clock)
    gone = say(store, "gone")
    clock.advance(store.ttl)
    store.sweep()
    only_file(folder).unlink()
    folder.rmdir()
    kept = say(store, "kept")
    with pytest.raises(NotFound):
        heard(store, gone)
    assert store.flush() == 0
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert heard(store_in(folder), kept) == ["kept", "KEPT"]


def test_a_disk_that_fails_at_any_call_loses_nothing(tmp_path: Path) -> None:
    num_failures = 0
    for at in count(1):
        folder = tmp_path / str(at)
        old, clock = archived(folder, "old"), Clock()
        store = store_in(folder, clock)
        store.revive(old)
        with faulty_disk(no_space, at) as disk:
            new = say(store, "new", previous_response_id=old)
            other = say(store, "other")
            clock.advance(store.ttl)
            store.sweep()
            state = store.archive_state
        if disk.num_calls < at:
            break
        num_failures += 1
        assert state in ("failing: No space left on device", "ok")
        assert heard(store_in(folder), old) == ["old", "OLD"]
        for id, told in ((new, ["old", "OLD", "new", "NEW"]), (other, ["other", "OTHER"])):
            assert heard(store, id) == told
        assert store.flush() == 0
        assert store.archive_state == "ok"
        again = store_in(folder)
        assert heard(again, new) == ["old", "OLD", "new", "NEW"]
        assert not list(folder.glob(".*"))
    assert num_failures >= 16


def test_deleting_fails_whole_or_succeeds_whole(tmp_path: Path) -> None:
    num_failures = 0
    for at in count(1):
        folder = tmp_path / str(at)
        store = store_in(folder)
        first = say(store, "secret")
        second = say(store, "two", previous_response_id=first)
        third = say(store, "three", previous_response_id=first)
        store.flush()
        is_refused = False
        with faulty_disk(no_space, at) as disk:
            try:
                store.delete(third)
            except Unavailable:
                num_failures += 1
                is_refused = True
        for each in (store, store_in(folder)):
            if is_refused:
                assert heard(each, third) == ["secret", "SECRET", "three", "THREE"]
            else:
                with pytest.raises(NotFound):
                    heard(each, third)
            assert heard(each, second) == ["secret", "SECRET", "two", "TWO"]
        if disk.num_calls < at:
            break
    assert num_failures >= 6
    assert "THREE" not in only_file(folder).read_text()


# Deleting on disk


@pytest.mark.parametrize("is_live", [True, False])
def test_the_deleted_is_gone_from_disk(folder: Path, is_live: bool) -> None:
    store = store_in(folder)
    first = say(store, "first secret")
    second = say(store, "second secret", previous_response_id=first)
    third = say(store, "third", previous_response_id=first)
    store.flush()
    store = store if is_live else store_in(folder)
    store.delete(second)
    assert "second secret" not in only_file(folder).read_text()
    store.delete(first)
    assert heard(store_in(folder), third) == ["first secret", "FIRST SECRET", "third", "THIRD"]
    for each in (store, store_in(folder)):
        for id in (first, second):
            with pytest.raises(NotFound, match=r"not found\.$"):
                heard(each, id)
    store.delete(third)
    assert not list(folder.iterdir())


def test_the_deleted_does_not_come_back_through_a_response_in_progress(folder: Path) -> None:
    store = store_in(folder)
    first = say(store, "secret")
    store.flush()
    with store.begin(previous_response_id=first):
        store.delete(first)
        store.flush()
        assert not list(folder.iterdir())
    store.flush()
    assert not list(folder.iterdir())


def test_a_deleted_conversation_is_gone_from_disk(folder: Path) -> None:
    store = store_in(folder)
    id = store.create_conversation(items=[question("secret")])["id"]
    said = say(store, "more", conversation_id=id)
    store.flush()
    store = store_in(folder)
    store.delete_conversation(id)
    assert not list(folder.iterdir())
    with pytest.raises(NotFound):
        heard(store, said)


# Crashes


def in_a_child(work: Callable[[], None]) -> int:
    """Do something in another process; how that ended."""
    child = os.fork()
    if child == 0:
        try:
            work()
            os._exit(0)
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_no_kill_while_archiving_loses_or_tears_anything(tmp_path: Path) -> None:
    num_kills = 0
    for at in count(1):
        folder = tmp_path / str(at)
        old = archived(folder, "old")
        doomed = archived(folder, "doomed", "also")

        def work(folder: Path = folder, old: str = old, doomed: str = doomed, at: int = at) -> None:
            store = store_in(folder)
            store.revive(old)
            say(store, "new", previous_response_id=old)
            say(store, "other")
            with faulty_disk(sudden_death, at):
                store.flush()
                store.delete(doomed)

        ended = in_a_child(work)
        store = store_in(folder)
        assert not list(folder.glob(".*"))
        check_all_whole(folder, store)
        assert heard(store, old) == ["old", "OLD"]
        if ended == 0:
            break
        assert ended == -signal.SIGKILL
        num_kills += 1
    assert num_kills >= 20
    assert len(list(folder.iterdir())) == 3
    with pytest.raises(NotFound):
        heard(store, doomed)


def check_all_whole(folder: Path, store: Store) -> None:
    listed = store.listing().entries
    assert sorted(each.file or "" for each in listed) == sorted(os.listdir(folder))
    for each in listed:
        tree, _ = record.parse((folder / (each.file or "")).read_bytes())
        assert file_name(tree) == each.file
        assert [turn.input_ids for turn in tree.turns if turn.input_ids]


def test_no_error_of_the_disk_is_mistaken(folder: Path) -> None:
    """Reading that fails says nothing about the archive's writing, and hides only that file."""
    last = archived(folder, "one")

    def broken(name: str, args: tuple[Any, ...]) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    store = store_in(folder)
    store.index_some()
    with faulty_disk(broken, 2):
        store.revive(last)
    assert store.num_conversations == 0
    assert heard(store, last) == ["one", "ONE"]
