"""Output items as they grow: each opens, takes what the model writes, and closes for good.

Each step gives the events that tell of it, without their place in the output and the stream. An
item keeps its id from its first event to the final response.
(https://platform.openai.com/docs/api-reference/responses-streaming)
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any, Literal, Protocol

from parts import TokenLogprob
from protocol.items import new_id, output_text, reasoning_text, summary_text
from protocol.sealed import seal
from protocol.tools import Origin, custom_input

Json = dict[str, Any]
ItemStatus = Literal["in_progress", "completed", "incomplete"]

LEAST_LOGPROB = -9999.0
"""Stands for minus infinity, which JSON cannot say."""


class OpenItem(Protocol):
    """An item that the model is writing."""

    def open(self) -> Iterator[Json]:
        """Say that it has begun."""

    def close(self, status: ItemStatus) -> Iterator[Json]:
        """Say what it has become; `incomplete` when it was cut."""

    def item(self, status: ItemStatus) -> Json:
        """The item with all that was written so far."""


class OpenMessage:
    """The text of the answer."""

    def __init__(self, *, gives_logprobs: bool = False) -> None:
        self.id = new_id("msg")
        self._gives_logprobs = gives_logprobs
        self._text: list[str] = []
        self._logprobs: list[Json] = []

    def open(self) -> Iterator[Json]:
        yield _added(self._with_content("in_progress", []))
        yield self._event("content_part.added", part=output_text(""))

    def add(self, text: str, logprobs: Sequence[TokenLogprob] = ()) -> Iterator[Json]:
        """Take more text."""
        shown = [logprob_json(entry) for entry in logprobs] if self._gives_logprobs else []
        if text or shown:
            self._text.append(text)
            self._logprobs += shown
            yield self._event("output_text.delta", delta=text, logprobs=shown)

    def close(self, status: ItemStatus) -> Iterator[Json]:
        part = self._part()
        yield self._event("output_text.done", text=part["text"], logprobs=part["logprobs"])
        yield self._event("content_part.done", part=part)
        yield _done(self.item(status))

    def item(self, status: ItemStatus) -> Json:
        return self._with_content(status, [self._part()])

    def _part(self) -> Json:
        return output_text("".join(self._text), self._logprobs)

    def _with_content(self, status: ItemStatus, content: list[Json]) -> Json:
        return {
            "id": self.id,
            "type": "message",
            "status": status,
            "role": "assistant",
            "content": content,
        }

    def _event(self, name: str, /, **fields: Any) -> Json:
        return {"type": f"response.{name}", "item_id": self.id, "content_index": 0, **fields}


class OpenReasoning:
    """A thought. It streams as its own summary, because that is what clients show."""

    def __init__(self, *, is_sealed: bool = False) -> None:
        self.id = new_id("rs")
        self._is_sealed = is_sealed
        self._text: list[str] = []

    def open(self) -> Iterator[Json]:
        yield _added(self._with_text("in_progress", []))
        yield self._event("part.added", part=summary_text(""))

    def add(self, text: str) -> Iterator[Json]:
        """Take more of the thought."""
        if text:
            self._text.append(text)
            yield self._event("text.delta", delta=text)

    def close(self, status: ItemStatus) -> Iterator[Json]:
        text = "".join(self._text)
        yield self._event("text.done", text=text)
        yield self._event("part.done", part=summary_text(text))
        yield _done(self.item(status))

    def item(self, status: ItemStatus) -> Json:
        return self._with_text(status, ["".join(self._text)])

    def _with_text(self, status: ItemStatus, texts: list[str]) -> Json:
        is_sealed = self._is_sealed and status != "in_progress"
        return {
            "id": self.id,
            "type": "reasoning",
            "status": status,
            "summary": [summary_text(text) for text in texts],
            "content": [reasoning_text(text) for text in texts],
            "encrypted_content": seal("reasoning", "".join(texts)) if is_sealed else None,
        }

    def _event(self, name: str, /, **fields: Any) -> Json:
        kind = f"response.reasoning_summary_{name}"
        return {"type": kind, "item_id": self.id, "summary_index": 0, **fields}


class OpenFunctionCall:
    """A call of a function, and its arguments as the model writes them."""

    def __init__(self, call_id: str, origin: Origin) -> None:
        self.id = new_id("fc")
        self._call_id = call_id
        self._origin = origin
        self._arguments: list[str] = []

    def open(self) -> Iterator[Json]:
        yield _added(self.item("in_progress"))

    def add(self, text: str) -> Iterator[Json]:
        """Take more of the arguments."""
        if text:
            self._arguments.append(text)
            yield self._event("delta", delta=text)

    def close(self, status: ItemStatus) -> Iterator[Json]:
        if not self._arguments and status == "completed":
            yield from self.add("{}")
        arguments = "".join(self._arguments)
        yield self._event("done", arguments=arguments, name=self._origin.name)
        yield _done(self.item(_status_of(arguments, status)))

    def item(self, status: ItemStatus) -> Json:
        content = {"arguments": "".join(self._arguments)}
        return _call_item(self.id, "function_call", self._call_id, self._origin, content, status)

    def _event(self, name: str, /, **fields: Any) -> Json:
        kind = f"response.function_call_arguments.{name}"
        return {"type": kind, "item_id": self.id, **fields}


class OpenCustomCall:
    """A call of a custom tool. Its text is known only when the JSON around it is complete."""

    def __init__(self, call_id: str, origin: Origin) -> None:
        self.id = new_id("ctc")
        self._call_id = call_id
        self._origin = origin
        self._arguments: list[str] = []

    def open(self) -> Iterator[Json]:
        yield _added(self._with_input("in_progress", ""))

    def add(self, text: str) -> Iterator[Json]:
        """Take more of the JSON."""
        self._arguments.append(text)
        yield from ()

    def close(self, status: ItemStatus) -> Iterator[Json]:
        text = custom_input("".join(self._arguments))
        if text:
            yield self._event("delta", delta=text)
        yield self._event("done", input=text)
        yield _done(self.item(_status_of("".join(self._arguments), status)))

    def item(self, status: ItemStatus) -> Json:
        return self._with_input(status, custom_input("".join(self._arguments)))

    def _with_input(self, status: ItemStatus, text: str) -> Json:
        content = {"input": text}
        return _call_item(self.id, "custom_tool_call", self._call_id, self._origin, content, status)

    def _event(self, name: str, /, **fields: Any) -> Json:
        kind = f"response.custom_tool_call_input.{name}"
        return {"type": kind, "item_id": self.id, **fields}


def _call_item(
    id: str, kind: str, call_id: str, origin: Origin, content: Json, status: ItemStatus
) -> Json:
    item = {
        "id": id,
        "type": kind,
        "status": status,
        "call_id": call_id,
        "name": origin.name,
        **content,
    }
    return item | ({"namespace": origin.namespace} if origin.namespace else {})


def _status_of(arguments: str, status: ItemStatus) -> ItemStatus:
    """An answer that is cut right behind a call has not cut the call."""
    try:
        json.loads(arguments)
    except (ValueError, RecursionError):
        return status
    return "completed"


def _added(item: Json) -> Json:
    return {"type": "response.output_item.added", "item": item}


def _done(item: Json) -> Json:
    return {"type": "response.output_item.done", "item": item}


def logprob_json(entry: TokenLogprob) -> Json:
    """A token's log-probability, with those of the tokens that might have stood in its place."""
    return {**_alternative(entry), "top_logprobs": [_alternative(other) for other in entry.top]}


def _alternative(entry: TokenLogprob) -> Json:
    return {
        "token": entry.token,
        "bytes": list(entry.raw),
        "logprob": max(entry.logprob, LEAST_LOGPROB),
    }
