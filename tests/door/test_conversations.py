"""Conversation objects on the wire: themselves, their items, and responses that continue them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from openai.types.conversations import Conversation, ConversationDeletedResource, ConversationItem
from pydantic import TypeAdapter

from door.settings import Settings
from parts import Message, Text
from protocol.archive import Archive
from protocol.conversations import Store
from server import create_app
from tests.door.asking import Json, create, get, post, refusal, stream
from tests.oracle import validated
from tests.protocol.turns import Clock
from tests.scripted import ScriptedEngine, says
from tests.serving import serving

ITEM: TypeAdapter[Any] = TypeAdapter(ConversationItem)
NOBODY = f"conv_{'0' * 32}"


@pytest.fixture
def api(scripted_url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=f"{scripted_url}/v1", timeout=20) as client:
        yield client


def made(api: httpx.Client, **body: Any) -> str:
    """The id of a new conversation."""
    conversation = validated(Conversation, api.post("/conversations", json=body).json())
    return conversation.id


def user(text: str) -> Json:
    return {"type": "message", "role": "user", "content": text}


def items(api: httpx.Client, id: str, **params: Any) -> Json:
    page: Json = api.get(f"/conversations/{id}/items", params=params).json()
    for item in page["data"]:
        ITEM.validate_python(item)
    return page


def texts(page: Json) -> list[str]:
    return [item["content"][0]["text"] for item in page["data"]]


# The object


def test_a_conversation_is_made_read_changed_and_deleted(api: httpx.Client) -> None:
    conversation = api.post("/conversations", json={"metadata": {"k": "v"}}).json()
    id = conversation["id"]
    assert conversation == {
        "id": id,
        "object": "conversation",
        "created_at": conversation["created_at"],
        "metadata": {"k": "v"},
    }
    assert len(id) == len("conv_") + 32
    assert api.get(f"/conversations/{id}").json() == conversation
    changed = api.post(f"/conversations/{id}", json={"metadata": {"k": "w"}}).json()
    assert (
        changed == conversation | {"metadata": {"k": "w"}} == api.get(f"/conversations/{id}").json()
    )
    deleted = api.delete(f"/conversations/{id}").json()
    validated(ConversationDeletedResource, deleted)
    assert deleted == {"id": id, "object": "conversation.deleted", "deleted": True}
    assert refusal(api.get(f"/conversations/{id}"))[:2] == (404, "not_found")
    assert refusal(api.delete(f"/conversations/{id}"))[:2] == (404, "not_found")


@pytest.mark.parametrize("empty", [None, {}, []])
def test_what_is_empty_is_the_default(api: httpx.Client, empty: Any) -> None:
    conversation = api.post("/conversations", json={"metadata": empty, "items": empty}).json()
    assert conversation["metadata"] == {}
    id = conversation["id"]
    api.post(f"/conversations/{id}", json={"metadata": {"k": "v"}})
    assert api.post(f"/conversations/{id}", json={"metadata": empty}).json()["metadata"] == {}


def test_a_conversation_may_be_made_without_a_body(api: httpx.Client) -> None:
    assert api.post("/conversations").status_code == 200


def test_an_update_says_what_it_changes(api: httpx.Client) -> None:
    id = made(api)
    answer = api.post(f"/conversations/{id}", json={})
    assert refusal(answer) == (422, "missing_required_parameter", "metadata")


# Its items


def test_items_are_added_listed_read_and_deleted(api: httpx.Client) -> None:
    id = made(api, items=[user("a"), user("b")])
    more = [user("c"), {"role": "user", "content": "d"}]
    added = api.post(f"/conversations/{id}/items", json={"items": more})
    assert texts(added.json()) == ["c", "d"]
    page = items(api, id)
    assert texts(page) == ["d", "c", "b", "a"]
    assert page["has_more"] is False
    first = items(api, id, order="asc", limit=3)
    assert (texts(first), first["has_more"]) == (["a", "b", "c"], True)
    assert texts(items(api, id, order="asc", after=first["last_id"])) == ["d"]
    item = first["data"][1]
    assert api.get(f"/conversations/{id}/items/{item['id']}").json() == item
    assert (
        validated(Conversation, api.delete(f"/conversations/{id}/items/{item['id']}").json()).id
        == id
    )
    assert texts(items(api, id, order="asc")) == ["a", "c", "d"]
    for method in ("GET", "DELETE"):
        assert refusal(api.request(method, f"/conversations/{id}/items/{item['id']}"))[0] == 404


def test_a_conversation_without_items_has_an_empty_page(api: httpx.Client) -> None:
    page = items(api, made(api))
    assert page == {
        "object": "list",
        "data": [],
        "first_id": None,
        "last_id": None,
        "has_more": False,
    }


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({}, (422, "missing_required_parameter", "items")),
        ({"items": []}, (422, "invalid_value", "items")),
        ({"items": [5]}, (400, "invalid_type", "items[0]")),
        (
            {"items": [{"role": "user", "content": [{"type": "input_image"}]}]},
            (400, "unsupported_content", "items[0].content[0]"),
        ),
    ],
)
def test_items_that_cannot_be_added_are_refused_by_name(
    api: httpx.Client, body: Json, said: Any
) -> None:
    assert refusal(api.post(f"/conversations/{made(api)}/items", json=body)) == said


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "", None),
        ("POST", "", {"metadata": {}}),
        ("DELETE", "", None),
        ("GET", "/items", None),
        ("POST", "/items", {"items": [user("a")]}),
        ("GET", "/items/msg_1", None),
        ("DELETE", "/items/msg_1", None),
    ],
)
def test_what_is_not_there_is_a_404(
    api: httpx.Client, method: str, path: str, body: Json | None
) -> None:
    answer = api.request(method, f"/conversations/{NOBODY}{path}", json=body)
    assert refusal(answer)[:2] == (404, "not_found")


# Responses in it


def test_responses_read_a_conversation_and_add_to_it(
    scripted_url: str, engine: ScriptedEngine, api: httpx.Client
) -> None:
    id = made(api, items=[user("a")])
    first = create(scripted_url, "b", conversation=id)
    assert first["conversation"] == {"id": id}
    second = create(scripted_url, "c", conversation={"id": id})
    assert second["conversation"] == {"id": id}
    hello = Message("assistant", "Hello")
    assert engine.prompts[-1].messages == (
        *(Message("user", "a"), Message("user", "b"), hello, Message("user", "c")),
    )
    page = items(api, id, order="asc")
    assert texts(page) == ["a", "b", "Hello", "c", "Hello"]
    assert page["data"][-1] == second["output"][-1]
    answer = post(scripted_url, input="d", conversation=NOBODY)
    assert refusal(answer) == (404, "not_found", "conversation")


def test_two_answers_are_not_written_into_one_conversation_at_once(
    scripted_url: str, engine: ScriptedEngine, api: httpx.Client
) -> None:
    never = asyncio.Event()
    engine.script = says(Text("a"), never)
    id = made(api)
    response = create(scripted_url, "b", conversation=id, background=True)
    answer = post(scripted_url, input="c", conversation=id)
    assert refusal(answer) == (409, "conversation_locked", "conversation")
    post(scripted_url, f"/{response['id']}/cancel")
    engine.script = says(Text("Hello"))
    assert create(scripted_url, "c", conversation=id)["status"] == "completed"


def test_what_is_not_stored_is_not_added(scripted_url: str, api: httpx.Client) -> None:
    id = made(api, items=[user("a")])
    create(scripted_url, "b", conversation=id, store=False)
    assert texts(items(api, id)) == ["a"]


def test_deleting_a_conversation_deletes_its_responses(
    scripted_url: str, api: httpx.Client
) -> None:
    id = made(api)
    response = create(scripted_url, "a", conversation=id)["id"]
    api.delete(f"/conversations/{id}")
    assert refusal(get(scripted_url, response))[0] == 404
    assert refusal(get(scripted_url, response, stream="true"))[0] == 404
    answer = post(scripted_url, input="b", previous_response_id=response)
    assert refusal(answer)[:2] == (400, "previous_response_not_found")


def test_a_deleted_item_is_not_told_again(scripted_url: str, api: httpx.Client) -> None:
    id = made(api)
    response = stream(scripted_url, "a", conversation=id)[-1]["response"]
    api.delete(f"/conversations/{id}/items/{response['output'][0]['id']}")
    assert get(scripted_url, response["id"]).json()["output"] == []
    answer = get(scripted_url, response["id"], stream="true")
    assert refusal(answer)[:2] == (400, "stream_not_kept")


def test_an_archived_conversation_is_there_again_when_it_is_asked_for(
    engine: ScriptedEngine, tmp_path: Path
) -> None:
    clock = Clock()
    store = Store(Archive(tmp_path), clock=clock)

    def expire() -> None:
        clock.advance(3611)
        store.sweep()
        assert store.num_conversations == 0

    with (
        serving(create_app(Settings(), engine, store)) as url,
        httpx.Client(base_url=f"{url}/v1", timeout=20) as api,
    ):
        id = made(api, items=[user("a")], metadata={"k": "v"})
        expire()
        assert api.get(f"/conversations/{id}").json()["metadata"] == {"k": "v"}
        expire()
        assert texts(items(api, id)) == ["a"]
        expire()
        create(url, "b", conversation=id)
        expire()
        (first, *_) = items(api, id, order="asc")["data"]
        assert api.delete(f"/conversations/{id}/items/{first['id']}").status_code == 200
        expire()
        assert api.delete(f"/conversations/{id}").json()["deleted"] is True
        assert api.get(f"/conversations/{id}").status_code == 404
    assert list(tmp_path.iterdir()) == []
