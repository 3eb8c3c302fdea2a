"""What is true of any stream of a response's events, whatever it says."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from tests.protocol.openai_types import check_event


def kinds(events: Iterable[Any]) -> list[str]:
    return [event["type"].removeprefix("response.") for event in events]


def check_stream(events: Sequence[Any]) -> None:
    """Ids, numbers and items agree from the first event to the last."""
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    for event in events:
        check_event(event)
    assert kinds(events[:1]) == ["created"]
    final = events[-1]["response"]
    assert {e["response"]["id"] for e in events if "response" in e} == {final["id"]}
    assert [e["item"] for e in events if e["type"] == "response.output_item.done"] == final[
        "output"
    ]
    for index, item in enumerate(final["output"]):
        check_story(item, [e for e in events if e.get("output_index") == index])


def check_story(item: Any, events: Sequence[Any]) -> None:
    """The events of an item tell of it from beginning to end, and their deltas add up to it."""
    first, last = events[0], events[-1]
    assert kinds([first, last]) == ["output_item.added", "output_item.done"]
    assert first["item"]["status"] == "in_progress"
    for key in ("id", "type", "call_id", "name", "namespace"):
        assert first["item"].get(key) == item.get(key)
    assert {event["item_id"] for event in events[1:-1]} <= {item["id"]}
    deltas = "".join(event["delta"] for event in events if "delta" in event)
    assert deltas == content_of(item)
    if item["type"] == "reasoning":
        assert item["content"][0]["text"] == deltas


def content_of(item: Any) -> str:
    match item["type"]:
        case "message":
            return str(item["content"][0]["text"])
        case "reasoning":
            return str(item["summary"][0]["text"])
        case "function_call":
            return str(item["arguments"])
        case _:
            return str(item["input"])
