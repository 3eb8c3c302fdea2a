"""Responses after they were made: read, followed, continued, cancelled, deleted; or never kept."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import httpx
import pytest

from door.settings import Settings
from parts import EngineFailed, Message, Reasoning, Text
from protocol.archive import Archive
from protocol.conversations import Store
from server import create_app
from tests.door.asking import (
    Json,
    create,
    get,
    kinds,
    post,
    refusal,
    response_of,
    stream,
    text_of,
    told,
)
from tests.protocol.openai_types import check_item
from tests.protocol.turns import Clock
from tests.scripted import ScriptedEngine, says
from tests.serving import serving, wait_until

GONE = (404, "not_found", "response_id")


@pytest.fixture
def gate(engine: ScriptedEngine) -> asyncio.Event:
    """What an answer waits for between its first word and its last."""
    gate = asyncio.Event()
    engine.script = says(Text("a"), gate, Text("b"))
    return gate


def begun(url: str, engine: ScriptedEngine, **body: Any) -> Json:
    """A background response that has said its first word."""
    response = create(url, background=True, **body)
    return wait_until(lambda: spoken(url, response["id"]), "the first word")


def spoken(url: str, id: str) -> Json | None:
    response = response_of(get(url, id))
    return response if response["output"] else None


def delete(url: str, id: str) -> httpx.Response:
    return httpx.delete(f"{url}/v1/responses/{id}", timeout=20)


# Reading


def test_a_response_is_read_while_it_is_made(
    scripted_url: str, engine: ScriptedEngine, gate: asyncio.Event
) -> None:
    response = begun(scripted_url, engine)
    assert (response["status"], text_of(response)) == ("in_progress", "a")
    assert response["usage"] is None
    items = get(scripted_url, f"{response['id']}/input_items").json()
    assert [item["content"][0]["text"] for item in items["data"]] == ["hi"]


def test_a_stream_is_resumed_where_it_broke_off_and_followed_to_its_end(
    scripted_url: str, engine: ScriptedEngine, gate: asyncio.Event
) -> None:
    id = begun(scripted_url, engine)["id"]
    bodies: list[str] = []

    def read() -> None:
        bodies.append(get(scripted_url, id, stream="true", starting_after=3).text)

    reader = threading.Thread(target=read)
    reader.start()
    engine.go_on(gate)
    reader.join()
    resumed = told(bodies[0])
    whole = told(get(scripted_url, id, stream="true").text)
    assert [event["sequence_number"] for event in whole] == list(range(len(whole)))
    assert resumed == whole[4:]
    assert resumed[-1]["response"] == get(scripted_url, id).json()


@pytest.mark.parametrize(("after", "num_events"), [(-5, 9), (-1, 9), (0, 8), (7, 1)])
def test_a_replay_starts_after_the_event_that_was_seen(
    scripted_url: str, after: int, num_events: int
) -> None:
    id = create(scripted_url)["id"]
    assert len(told(get(scripted_url, id, stream="true", starting_after=after).text)) == num_events


@pytest.mark.parametrize("after", [8, 99])
def test_a_replay_after_the_last_event_is_only_done(scripted_url: str, after: int) -> None:
    id = create(scripted_url)["id"]
    assert get(scripted_url, id, stream="true", starting_after=after).text == "data: [DONE]\n\n"


def test_input_items_are_whole_and_come_in_pages(scripted_url: str) -> None:
    items = [{"role": "user", "content": word} for word in "abc"]
    id = create(scripted_url, items)["id"]
    page = get(scripted_url, f"{id}/input_items", include="message.output_text.logprobs").json()
    for item in page["data"]:
        check_item(item)
    assert [item["content"][0]["text"] for item in page["data"]] == ["c", "b", "a"]
    ids = [item["id"] for item in page["data"]]
    assert page["object"] == "list"
    assert (page["first_id"], page["last_id"], page["has_more"]) == (ids[0], ids[-1], False)
    first = get(scripted_url, f"{id}/input_items", order="asc", limit=2).json()
    assert [item["id"] for item in first["data"]] == [ids[2], ids[1]]
    assert first["has_more"]
    rest = get(scripted_url, f"{id}/input_items", order="asc", after=first["last_id"]).json()
    assert [item["id"] for item in rest["data"]] == [ids[0]]


@pytest.mark.parametrize(
    ("params", "said"),
    [
        ({"limit": 0}, (400, "invalid_value", "limit")),
        ({"limit": 101}, (400, "invalid_value", "limit")),
        ({"limit": "few"}, (422, "invalid_type", "limit")),
        ({"order": "sideways"}, (422, "invalid_value", "order")),
        ({"after": "msg_0"}, (400, "invalid_value", "after")),
    ],
)
def test_a_page_that_cannot_be_cut_is_refused_by_name(
    scripted_url: str, params: dict[str, Any], said: Any
) -> None:
    id = create(scripted_url)["id"]
    assert refusal(get(scripted_url, f"{id}/input_items", **params)) == said


@pytest.mark.parametrize("path", ["", "?stream=true", "/input_items", "/cancel"])
def test_what_is_not_there_is_a_404(scripted_url: str, path: str) -> None:
    method = "POST" if path == "/cancel" else "GET"
    url = f"{scripted_url}/v1/responses/resp_{'0' * 32}{path}"
    assert refusal(httpx.request(method, url)) == GONE
    assert refusal(delete(scripted_url, "resp_1")) == GONE


# Cancelling


def test_a_cancelled_response_keeps_what_it_said(
    scripted_url: str, engine: ScriptedEngine, gate: asyncio.Event
) -> None:
    id = begun(scripted_url, engine)["id"]
    cancelled = response_of(post(scripted_url, f"/{id}/cancel"))
    assert (cancelled["status"], text_of(cancelled)) == ("cancelled", "a")
    assert engine.answers[0].is_cancelled
    assert response_of(get(scripted_url, id)) == cancelled
    assert response_of(post(scripted_url, f"/{id}/cancel")) == cancelled
    events = told(get(scripted_url, id, stream="true").text)
    assert events[-1]["response"] == cancelled


def test_cancelling_what_is_over_changes_nothing(scripted_url: str) -> None:
    response = create(scripted_url)
    assert response_of(post(scripted_url, f"/{response['id']}/cancel")) == response


# Deleting


def test_a_deleted_response_is_gone_for_good(scripted_url: str) -> None:
    id = create(scripted_url)["id"]
    assert delete(scripted_url, id).json() == {"id": id, "object": "response", "deleted": True}
    assert refusal(delete(scripted_url, id)) == GONE
    assert refusal(get(scripted_url, id)) == GONE
    assert refusal(get(scripted_url, id, stream="true")) == GONE
    assert refusal(post(scripted_url, f"/{id}/cancel")) == GONE


def test_deleting_a_response_that_is_being_made_ends_it(
    scripted_url: str, engine: ScriptedEngine, gate: asyncio.Event
) -> None:
    id = begun(scripted_url, engine)["id"]
    assert delete(scripted_url, id).json()["deleted"] is True
    assert engine.answers[0].is_cancelled
    assert refusal(get(scripted_url, id)) == GONE
    assert refusal(delete(scripted_url, id)) == GONE


def test_what_was_built_on_a_deleted_response_keeps_its_past(
    scripted_url: str, engine: ScriptedEngine
) -> None:
    first = create(scripted_url, "one")["id"]
    second = create(scripted_url, "two", previous_response_id=first)["id"]
    delete(scripted_url, first)
    create(scripted_url, "three", previous_response_id=second)
    said = [message.content for message in engine.prompts[-1].messages]
    assert said == ["one", "Hello", "two", "Hello", "three"]


# Continuing


def test_a_response_continues_what_was_said_but_not_its_instructions(
    scripted_url: str, engine: ScriptedEngine
) -> None:
    engine.script = says(Reasoning("hm"), Text("Hello"))
    first = create(scripted_url, "one", instructions="shout")
    second = create(scripted_url, "two", previous_response_id=first["id"], instructions="hush")
    third = create(scripted_url, "three", previous_response_id=second["id"])
    create(scripted_url, "other", previous_response_id=first["id"])
    assert third["previous_response_id"] == second["id"]
    assert third["instructions"] is None
    said = Message("assistant", "Hello", "hm")
    turns = (Message("user", "one"), said, Message("user", "two"), said, Message("user", "three"))
    assert engine.prompts[1].messages == (Message("system", "hush"), *turns[:3])
    assert engine.prompts[2].messages == turns
    assert engine.prompts[3].messages == (*turns[:2], Message("user", "other"))
    asked = get(scripted_url, f"{third['id']}/input_items").json()["data"]
    assert [item["content"][0]["text"] for item in asked] == ["three"]


def test_an_item_of_an_answer_is_continued_by_its_id(
    scripted_url: str, engine: ScriptedEngine
) -> None:
    item = create(scripted_url)["output"][0]
    create(scripted_url, [{"type": "item_reference", "id": item["id"]}, "so?"])
    assert engine.prompts[-1].messages == (Message("assistant", "Hello"), Message("user", "so?"))


def test_what_cannot_be_continued_is_refused_alike(scripted_url: str) -> None:
    deleted = create(scripted_url)["id"]
    delete(scripted_url, deleted)
    unkept = create(scripted_url, store=False)["id"]
    conversation = httpx.post(f"{scripted_url}/v1/conversations", json={}).json()["id"]
    foreign = [f"resp_{'0' * 32}", "", "resp_68ab\u2028", "../../etc/passwd", conversation]
    said = set()
    for id in (deleted, unkept, *foreign):
        answer = post(scripted_url, input="hi", previous_response_id=id)
        assert refusal(answer) == (400, "previous_response_not_found", "previous_response_id")
        said.add(answer.json()["error"]["message"].replace(f"'{id}'", "<id>"))
    assert len(said) == 1


def test_what_is_not_finished_cannot_be_continued(
    scripted_url: str, engine: ScriptedEngine, gate: asyncio.Event
) -> None:
    ids = [begun(scripted_url, engine)["id"]]
    cancelled = begun(scripted_url, engine)["id"]
    post(scripted_url, f"/{cancelled}/cancel")
    engine.script = lambda prompt, params: [EngineFailed("It broke.")]
    failed = stream(scripted_url)[-1]["response"]["id"]
    for id in (*ids, cancelled, failed):
        answer = post(scripted_url, input="hi", previous_response_id=id)
        assert refusal(answer) == (409, "response_not_ready", "previous_response_id")


def test_whoever_hears_of_the_end_can_continue_at_once(scripted_url: str) -> None:
    last = stream(scripted_url)[-1]["response"]
    for _ in range(20):
        last = stream(scripted_url, previous_response_id=last["id"])[-1]["response"]
    assert last["status"] == "completed"


def test_a_conversation_and_a_previous_response_are_not_continued_together(
    scripted_url: str,
) -> None:
    id = create(scripted_url)["id"]
    answer = post(scripted_url, input="hi", previous_response_id=id, conversation="conv_1")
    assert refusal(answer)[::2] == (400, "previous_response_id")


# Not kept


def test_what_is_not_stored_is_nowhere(
    engine: ScriptedEngine, gate: asyncio.Event, tmp_path: Path
) -> None:
    settings = Settings(conversation_logs=str(tmp_path))
    with serving(create_app(settings, engine)) as url:
        heard: list[Json] = []
        talk = threading.Thread(target=lambda: heard.extend(stream(url, "secret", store=False)))
        talk.start()
        wait_until(lambda: engine.answers, "the answer has begun")
        engine.go_on(gate)
        talk.join()
        response = heard[-1]["response"]
        assert (response["store"], text_of(response)) == (False, "ab")
        for answer in (
            get(url, response["id"]),
            get(url, response["id"], stream="true"),
            get(url, f"{response['id']}/input_items"),
            post(url, f"/{response['id']}/cancel"),
            delete(url, response["id"]),
        ):
            assert refusal(answer) == GONE
        reference = [{"type": "item_reference", "id": response["output"][0]["id"]}]
        assert refusal(post(url, input=reference))[:2] == (400, "item_not_found")
        create(url, "kept")
    texts = [path.read_text() for path in tmp_path.iterdir()]
    assert len(texts) == 1
    assert "kept" in texts[0]
    assert "secret" not in texts[0]


def test_what_is_not_stored_is_not_readable_while_it_is_made(
    scripted_url: str, engine: ScriptedEngine, gate: asyncio.Event
) -> None:
    body = {"input": "hi", "stream": True, "store": False}
    with httpx.stream("POST", f"{scripted_url}/v1/responses", json=body) as answer:
        lines = answer.iter_lines()
        id = next(line for line in lines if '"id":"resp_' in line).split('"id":"')[1][:37]
        assert refusal(get(scripted_url, id)) == GONE
        assert refusal(get(scripted_url, id, stream="true")) == GONE
        assert refusal(post(scripted_url, f"/{id}/cancel")) == GONE
        engine.go_on(gate)
        assert list(lines)[-2] == "data: [DONE]"


def test_what_has_expired_says_when_and_where_it_lies(
    engine: ScriptedEngine, tmp_path: Path
) -> None:
    clock = Clock()
    store = Store(Archive(tmp_path), can_revive=False, clock=clock)
    with serving(create_app(Settings(), engine, store)) as url:
        id = create(url)["id"]
        clock.advance(3601)
        store.sweep()
        (file,) = tmp_path.iterdir()
        answer = post(url, input="hi", previous_response_id=id)
        assert refusal(answer) == (400, "previous_response_not_found", "previous_response_id")
        message = answer.json()["error"]["message"]
        assert "expired at" in message
        assert file.name in message
        assert refusal(get(url, id)) == GONE


def test_the_events_of_one_that_was_archived_are_still_told(
    engine: ScriptedEngine, tmp_path: Path
) -> None:
    clock = Clock()
    store = Store(Archive(tmp_path), clock=clock)
    with serving(create_app(Settings(), engine, store)) as url:
        response = create(url)
        clock.advance(3601)
        store.sweep()
        assert store.num_conversations == 0
        assert kinds(told(get(url, response["id"], stream="true").text))[-1] == "completed"
    with serving(create_app(Settings(), ScriptedEngine(), Store(Archive(tmp_path)))) as url:
        assert get(url, response["id"]).json() == response
        answer = get(url, response["id"], stream="true")
        assert refusal(answer) == (400, "stream_not_kept", "stream")


def test_responses_being_made_when_the_server_stops_are_archived(
    engine: ScriptedEngine, gate: asyncio.Event, tmp_path: Path
) -> None:
    settings = Settings(conversation_logs=str(tmp_path))
    with serving(create_app(settings, engine)) as url:
        id = begun(url, engine)["id"]
    (file,) = tmp_path.iterdir()
    assert id in file.name
    assert '"status": "failed"' in file.read_text()
