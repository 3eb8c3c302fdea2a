"""Responses of the demo model, through the OpenAI Node SDK: one script, and what it has in hand."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.protocol.openai_types import check_event, check_item, check_response
from tests.serving import Running, run

SCRIPT = Path(__file__).resolve().parent.parent / "node" / "responses.mjs"
ADDED_BY_THE_SDK = {"output_text", "output_parsed", "_request_id"}


@pytest.fixture(scope="module")
def seen(demo_server: Running, node_folder: Path) -> dict[str, Any]:
    """What the script prints."""
    script = shutil.copy(SCRIPT, node_folder)
    found: dict[str, Any] = json.loads(
        run(["node", str(script), f"{demo_server.base_url}/v1"], node_folder)
    )
    return found


def plain(response: dict[str, Any]) -> dict[str, Any]:
    """A response without what the SDK adds to it."""
    return {key: value for key, value in response.items() if key not in ADDED_BY_THE_SDK}


def test_a_response_is_continued(seen: dict[str, Any]) -> None:
    for name in ("first", "second"):
        check_response(plain(seen[name]))
    assert seen["second"]["previous_response_id"] == seen["first"]["id"]
    assert "Zorblat" in seen["second"]["output_text"]


def test_a_stream_ends_with_the_whole_answer(seen: dict[str, Any]) -> None:
    events = seen["events"]
    for event in events:
        check_event(event)
    assert events[0]["type"] == "response.created"
    assert events[-1]["type"] == "response.completed"
    deltas = [e["delta"] for e in events if e["type"] == "response.output_text.delta"]
    (message,) = (i for i in events[-1]["response"]["output"] if i["type"] == "message")
    assert "".join(deltas) == message["content"][0]["text"] == seen["held"]["output_text"]


def test_it_is_read_again_and_its_input_is_listed(seen: dict[str, Any]) -> None:
    assert plain(seen["retrieved"]) == plain(seen["first"])
    for item in seen["items"]:
        check_item(item)
    assert [item["content"][0]["text"] for item in seen["items"]] == ["My name is Zorblat."]
    assert seen["counted"]["object"] == "response.input_tokens"
    assert seen["counted"]["input_tokens"] > 0


def test_a_conversation_holds_a_response(seen: dict[str, Any]) -> None:
    assert seen["conversation"]["metadata"] == {"k": "v"}
    assert seen["inside"]["conversation"] == {"id": seen["conversation"]["id"]}


def test_refusals_are_errors_with_a_code(seen: dict[str, Any]) -> None:
    assert seen["refusals"] == [
        {"status": 404, "code": "not_found", "param": "response_id"},
        {
            "status": 400,
            "code": "previous_response_not_found",
            "param": "previous_response_id",
        },
        {"status": 422, "code": "invalid_value", "param": "temperature"},
    ]


def test_a_response_in_the_background_is_polled_cancelled_and_resumed(seen: dict[str, Any]) -> None:
    assert seen["polled"]["status"] == "completed"
    assert seen["cancelled"]["status"] == "cancelled"
    numbers = [event["sequence_number"] for event in (*seen["watched"], *seen["resumed"])]
    assert numbers == list(range(len(numbers)))
    assert seen["resumed"][-1]["type"] == "response.completed"


def test_an_answer_is_parsed_and_items_are_compacted(seen: dict[str, Any]) -> None:
    assert json.loads(seen["parsed"]["output_text"])["colour"] in ("red", "blue")
    assert seen["compacted"]["object"] == "response.compaction"
    assert seen["compacted"]["output"][-1]["type"] == "compaction"


def test_turns_go_on_over_a_socket(demo_server: Running, node_folder: Path) -> None:
    script = shutil.copy(SCRIPT.with_name("socket.mjs"), node_folder)
    done = json.loads(run(["node", str(script), f"{demo_server.base_url}/v1"], node_folder))
    for response in done:
        check_response(plain(response))
    assert done[1]["previous_response_id"] == done[0]["id"]
    assert "Zorblat" in json.dumps(done[1]["output"])
