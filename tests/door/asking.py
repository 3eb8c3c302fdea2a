"""Requests for responses as tests send them; whatever comes back is looked at by OpenAI's types."""

from __future__ import annotations

from typing import Any

import httpx

from tests.oracle import assert_envelope, events
from tests.protocol.openai_types import check_event, check_response

Json = dict[str, Any]
WEATHER = {
    "type": "function",
    "name": "get_weather",
    "description": "Get the weather in a city",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string"}},
        "required": ["city"],
    },
}


def post(url: str, path: str = "", **body: Any) -> httpx.Response:
    return httpx.post(f"{url}/v1/responses{path}", json=body, timeout=20)


def get(url: str, path: str, **params: Any) -> httpx.Response:
    return httpx.get(f"{url}/v1/responses/{path}", params=params, timeout=20)


def create(url: str, input: Any = "hi", **body: Any) -> Json:
    """A response object that is answered at once."""
    return response_of(post(url, input=input, **body))


def response_of(answer: httpx.Response) -> Json:
    """The response object in an answer."""
    assert answer.status_code == 200, answer.text
    response: Json = answer.json()
    check_response(response)
    return response


def stream(url: str, input: Any = "hi", **body: Any) -> list[Json]:
    """The events of a streamed response."""
    return told(post(url, input=input, stream=True, **body).text)


def told(body: str) -> list[Json]:
    """The events of a stream that ended well, with numbers that follow each other."""
    *found, done = events(body)
    assert done == "[DONE]"
    for event in found:
        check_event(event)
    first = found[0]["sequence_number"]
    numbers = [event["sequence_number"] for event in found]
    assert numbers == list(range(first, first + len(found)))
    return found


def refusal(answer: httpx.Response) -> tuple[int, str | None, str | None]:
    """The status, the code and the parameter of an error."""
    error = assert_envelope(answer.json())
    return answer.status_code, error["code"], error["param"]


def text_of(response: Json) -> str:
    """What a response says."""
    messages = [item for item in response["output"] if item["type"] == "message"]
    return "".join(part["text"] for message in messages for part in message["content"])


def kinds(events: list[Json]) -> list[str]:
    """The types of events, without the word that all begin with."""
    return [event["type"].removeprefix("response.") for event in events]
