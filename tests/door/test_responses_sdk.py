"""Responses of the demo model, through the OpenAI SDK, as a user has them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Literal

import httpx
import openai
import pytest
from openai.types.conversations import Conversation
from openai.types.responses import Response, ResponseInputItem
from pydantic import BaseModel
from websockets.sync.client import connect

from tests.door.asking import WEATHER
from tests.protocol.openai_types import check_event, check_item, check_response
from tests.serving import Running, wait_until

STORY = "Tell me a story about a fox."


@pytest.fixture
def client(demo_server: Running) -> Iterator[openai.OpenAI]:
    url = f"{demo_server.base_url}/v1"
    with openai.OpenAI(base_url=url, api_key="none", max_retries=0) as client:
        yield client


def ask(client: openai.OpenAI, input: Any, **options: Any) -> Response:
    response = client.responses.create(
        model="demo", input=input, **{"temperature": 0, "max_output_tokens": 400, **options}
    )
    assert isinstance(response, Response)
    check_response(response.to_dict(mode="json"))
    return response


def streamed(client: openai.OpenAI, input: Any, **options: Any) -> list[Any]:
    """The events of a stream, each looked at."""
    events = list(
        client.responses.create(
            model="demo", input=input, stream=True, **{"temperature": 0, **options}
        )
    )
    for event in events:
        check_event(event.to_dict(mode="json"))
    return events


# Making


def test_it_answers(client: openai.OpenAI) -> None:
    response = ask(client, "What is the capital of France?")
    assert "Paris" in response.output_text
    assert response.status == "completed"
    assert response.usage
    assert response.usage.total_tokens == response.usage.input_tokens + response.usage.output_tokens


def test_a_stream_a_plain_answer_and_what_is_kept_are_the_same(client: openai.OpenAI) -> None:
    plain = ask(client, STORY, max_output_tokens=60)
    events = streamed(client, STORY, max_output_tokens=60)
    said = "".join(e.delta for e in events if e.type == "response.output_text.delta")
    thought = "".join(e.delta for e in events if e.type == "response.reasoning_summary_text.delta")
    last = events[-1]
    assert last.type == "response.incomplete"
    assert last.response == client.responses.retrieve(last.response.id)
    assert said == plain.output_text == last.response.output_text
    assert plain.incomplete_details
    assert plain.incomplete_details.reason == "max_output_tokens"
    assert plain.usage
    assert plain.usage.output_tokens == 60
    (reasoning,) = (item for item in plain.output if item.type == "reasoning")
    assert thought == reasoning.summary[0].text


def test_the_stream_helper_holds_the_answer(client: openai.OpenAI) -> None:
    with client.responses.stream(model="demo", input="Hello!", temperature=0) as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_response()
    assert kinds[0] == "response.created"
    assert kinds[-1] == "response.completed"
    assert final.output_text == ask(client, "Hello!").output_text


def test_the_model_calls_a_tool_and_reads_its_result(client: openai.OpenAI) -> None:
    first = ask(client, "What is the weather in Kelmora?", tools=[WEATHER])
    (call,) = (item for item in first.output if item.type == "function_call")
    assert (call.name, json.loads(call.arguments)) == ("get_weather", {"city": "Kelmora"})
    result = {"type": "function_call_output", "call_id": call.call_id, "output": "sunny, 21 °C"}
    second = ask(client, [result], previous_response_id=first.id, tools=[WEATHER])
    assert "sunny" in second.output_text


class Person(BaseModel):
    name: str
    mood: Literal["glad", "sad"]


def test_an_answer_is_parsed_into_a_model_of_the_clients(client: openai.OpenAI) -> None:
    parsed = client.responses.parse(
        model="demo",
        input="Zorblat is glad.",
        text_format=Person,
        temperature=0,
        max_output_tokens=400,
        reasoning={"effort": "none"},
    ).output_parsed
    assert isinstance(parsed, Person)


# Reading


def test_a_response_is_retrieved_listed_and_deleted(client: openai.OpenAI) -> None:
    response = ask(client, [{"role": "user", "content": x} for x in ("Hello!", "Who are you?")])
    assert client.responses.retrieve(response.id) == response
    listed = list(client.responses.input_items.list(response.id, order="asc", limit=1))
    for item in listed:
        check_item(item.to_dict(mode="json"))
    assert [item.content[0].text for item in listed] == ["Hello!", "Who are you?"]  # type: ignore[union-attr]
    client.responses.delete(response.id)
    for call in (client.responses.retrieve, client.responses.delete, client.responses.cancel):
        with pytest.raises(openai.NotFoundError):
            call(response.id)


def test_input_tokens_are_those_that_are_used(client: openai.OpenAI) -> None:
    first = ask(client, "Hello!")
    asked: dict[str, Any] = {"input": "Who are you?", "previous_response_id": first.id}
    counted = client.responses.input_tokens.count(model="demo", **asked)
    usage = ask(client, **asked).usage
    assert usage
    assert counted.input_tokens == usage.input_tokens


def test_a_response_in_the_background_is_polled(client: openai.OpenAI) -> None:
    response = ask(client, "Count from 1 to 20.", background=True)
    assert response.status in ("queued", "in_progress")

    def finished() -> Response | None:
        found = client.responses.retrieve(response.id)
        return found if found.status not in ("queued", "in_progress") else None

    done = wait_until(finished, "the response is made")
    assert done.status == "completed"
    assert done.output_text == ask(client, "Count from 1 to 20.").output_text


def test_a_response_in_the_background_is_cancelled(client: openai.OpenAI) -> None:
    response = ask(client, STORY, background=True, max_output_tokens=4000, temperature=2)
    cancelled = client.responses.cancel(response.id)
    assert cancelled.status in ("cancelled", "completed")
    assert client.responses.retrieve(response.id) == cancelled


def test_a_stream_that_broke_off_is_resumed(client: openai.OpenAI) -> None:
    stream = client.responses.create(
        model="demo", input="Count from 1 to 20.", temperature=0, stream=True, background=True
    )
    read = [next(stream) for _ in range(5)]
    stream.close()
    id = read[0].response.id  # type: ignore[union-attr]
    after = read[-1].sequence_number
    read += client.responses.retrieve(id, stream=True, starting_after=after)
    assert [event.sequence_number for event in read] == list(range(len(read)))
    assert read[-1].type == "response.completed"
    assert read[-1].response == client.responses.retrieve(id)


def test_a_compaction_is_accepted_back(client: openai.OpenAI) -> None:
    first = ask(client, "My name is Zorblat.")
    compacted = client.responses.compact(model="demo", previous_response_id=first.id)
    items: list[Any] = [item.to_dict() for item in compacted.output]
    assert [item["type"] for item in items] == ["compaction"]
    again = ask(client, [*items, {"role": "user", "content": "What is my name?"}])
    assert "Zorblat" in again.output_text


# Conversations


def test_a_conversation_is_kept_through_the_sdk(client: openai.OpenAI) -> None:
    items: list[ResponseInputItem] = [{"role": "user", "content": "Hello!"}]  # type: ignore[list-item]
    conversation = client.conversations.create(items=items, metadata={"k": "v"})
    assert isinstance(conversation, Conversation)
    response = ask(client, "My name is Zorblat.", conversation=conversation.id)
    assert response.conversation
    assert response.conversation.id == conversation.id
    assert "Zorblat" in ask(client, "What is my name?", conversation=conversation.id).output_text
    listed = list(client.conversations.items.list(conversation.id, order="asc", limit=2))
    said = [item for item in listed if item.type == "message"]
    assert [item.role for item in said] == ["user", "user", "assistant", "user", "assistant"]
    item = client.conversations.items.retrieve(said[0].id, conversation_id=conversation.id)
    assert item == said[0]
    (added,) = client.conversations.items.create(conversation.id, items=items).data
    client.conversations.items.delete(added.id, conversation_id=conversation.id)
    changed = client.conversations.update(conversation.id, metadata={"k": "w"})
    assert client.conversations.retrieve(conversation.id) == changed
    assert client.conversations.delete(conversation.id).deleted
    with pytest.raises(openai.NotFoundError):
        client.conversations.retrieve(conversation.id)


# The WebSocket


def test_turns_go_over_a_websocket(client: openai.OpenAI) -> None:
    with client.responses.connect() as connection:
        ids: list[str] = []
        for question in ("My name is Zorblat.", "What is my name?"):
            connection.response.create(
                model="demo",
                input=question,
                temperature=0,
                store=False,
                **({"previous_response_id": ids[-1]} if ids else {}),  # type: ignore[arg-type]
            )
            for event in connection:
                check_event(event.to_dict(mode="json"))
                if event.type == "response.completed":
                    break
            ids.append(event.response.id)  # type: ignore[union-attr]
    assert "Zorblat" in event.response.output_text  # type: ignore[union-attr]


def test_no_frame_is_compressed(demo_server: Running) -> None:
    address = demo_server.base_url.replace("http", "ws", 1) + "/v1/responses"
    with connect(address) as socket:
        assert socket.response
        assert "sec-websocket-extensions" not in socket.response.headers


# Refusals


def test_refusals_are_the_sdks_own_errors(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as unknown:
        ask(client, "hi", previous_response_id=f"resp_{'0' * 32}")
    assert unknown.value.code == "previous_response_not_found"
    with pytest.raises(openai.BadRequestError) as long:
        ask(client, "word " * 20_000)
    assert (long.value.code, long.value.param) == ("context_length_exceeded", "input")
    with pytest.raises(openai.UnprocessableEntityError) as hot:
        ask(client, "hi", temperature=9)
    assert hot.value.param == "temperature"


def test_nothing_of_a_response_is_in_the_log(client: openai.OpenAI, demo_server: Running) -> None:
    ask(client, "My name is Quibbleworth.", instructions="Be Wibblesome.")
    log = demo_server.log.read_text(encoding="utf-8")
    assert "Quibbleworth" not in log
    assert "Wibblesome" not in log
    assert "200 POST /v1/responses  prompt " in log


def test_a_client_in_a_page_may_ask(demo_server: Running) -> None:
    answer = httpx.post(
        f"{demo_server.base_url}/v1/responses",
        json={"input": "Hello!", "stream": True, "max_output_tokens": 3},
        headers={"origin": "http://page"},
        timeout=60,
    )
    assert answer.headers["access-control-allow-origin"] == "*"
