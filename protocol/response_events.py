"""A response's events: the parts of an answer, told in exactly OpenAI's order and shape.

    response.created · response.queued? · response.in_progress
        for each item: output_item.added · what is written · output_item.done
    response.completed | response.incomplete | error · response.failed

The stream is the product; the whole response is what the last event says.
(https://platform.openai.com/docs/api-reference/responses-streaming)
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, assert_never

from parts import (
    Finish,
    Part,
    Progress,
    Reasoning,
    ServerError,
    Text,
    ToolArguments,
    ToolCall,
    Usage,
    joined,
)
from protocol.errors import body_of
from protocol.items import new_id
from protocol.output_items import (
    ItemStatus,
    OpenCustomCall,
    OpenFunctionCall,
    OpenItem,
    OpenMessage,
    OpenReasoning,
)
from protocol.response_object import Outcome, ResponseObject
from protocol.responses import ResponseRequest
from protocol.thinking import ReasoningFormat, Thinking

Event = dict[str, Any]
TERMINAL = frozenset({"completed", "incomplete", "failed", "cancelled"})


class ResponseStream:
    """One response on its way. Every event has the next `sequence_number`, from 0."""

    def __init__(
        self,
        request: ResponseRequest,
        *,
        id: str | None = None,
        created_at: float | None = None,
        reasoning_format: ReasoningFormat = "separate",
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.id = id or new_id("resp")
        self._request = request
        self._clock = clock
        began = clock() if created_at is None else created_at
        self._object = ResponseObject(self.id, int(began), request.settings)
        self._thinking = Thinking(reasoning_format)
        self._outcome: Outcome | None = None
        self._output: list[Event] = []
        self._open: OpenItem | None = None
        self._num_events = 0

    @property
    def response(self) -> Event:
        """The response object as it stands; the final one once `is_over`."""
        output = [*self._output, *([self._open.item("in_progress")] if self._open else ())]
        return self._object.at(self._outcome or Outcome("in_progress"), output)

    @property
    def is_over(self) -> bool:
        """Whether the last event has been given."""
        return self._outcome is not None and self._outcome.status in TERMINAL

    def queued(self) -> list[Event]:
        """The first events of a response that has to wait; `opening` follows when it need not."""
        self._outcome = Outcome("queued")
        return [self._lifecycle("created"), self._lifecycle("queued")]

    def opening(self) -> list[Event]:
        """The events before anything is written. Given only once, and by `feed` when not before."""
        if self._outcome is not None and self._outcome.status != "queued":
            return []
        is_new, self._outcome = self._outcome is None, Outcome("in_progress")
        created = [self._lifecycle("created")] if is_new else []
        return [*created, self._lifecycle("in_progress")]

    def progress(self, progress: Progress) -> list[Event]:
        """The event for a client who asked to hear how far its prompt is. Not one of OpenAI's."""
        event = {
            "type": "response.progress",
            "stage": progress.stage,
            "num_ahead": progress.num_ahead,
            "processed": progress.num_computed,
            "total": progress.num_prompt,
            "cached": progress.num_cached,
        }
        return [] if self.is_over else [self._stamped(event)]

    def feed(self, parts: Iterable[Part]) -> list[Event]:
        """The events for more of the answer; `Finish` gives the last ones, and nothing follows."""
        if self.is_over:
            return []
        events = self.opening()
        shown = (shown for part in parts for shown in self._thinking.show(part))
        for part in joined(shown):
            events += self._take(part)
        return events

    def fail(self, error: ServerError) -> list[Event]:
        """The last events of an answer that cannot be finished. What was written is kept."""
        if self.is_over:
            return []
        events = [*self.opening(), *self._close("incomplete")]
        said = body_of(error)["error"]
        flat = {key: said[key] for key in ("code", "message", "param")}
        events.append(self._stamped({"type": "error", **flat, "error": said}))
        return [*events, self._end("failed", Outcome("failed", error=error))]

    def warmed(self, usage: Usage) -> list[Event]:
        """The events of a response that was only to be prepared: it has no output."""
        prepared = Usage(usage.prompt_tokens, usage.cached_tokens)
        done = Outcome("completed", prepared, completed_at=int(self._clock()))
        return [*self.opening(), self._end("completed", done)]

    def cancel(self) -> list[Event]:
        """The last events of an answer that was given up. What was written is kept."""
        if self.is_over:
            return []
        events = [*self.opening(), *self._close("incomplete")]
        return [*events, self._end("incomplete", Outcome("cancelled"))]

    # Parts

    def _take(self, part: Part) -> Iterator[Event]:
        match part:
            case Reasoning(text):
                yield from self._think(text)
            case Text():
                yield from self._say(part)
            case ToolCall():
                yield from self._call(part)
            case ToolArguments(text):
                assert isinstance(self._open, OpenFunctionCall | OpenCustomCall)
                yield from self._placed(self._open.add(text))
            case Finish():
                yield from self._finish(part)
            case _:
                assert_never(part)

    def _think(self, text: str) -> Iterator[Event]:
        item = self._open
        if not isinstance(item, OpenReasoning):
            item = OpenReasoning(is_sealed=self._request.seals_reasoning)
            yield from self._begin(item)
        yield from self._placed(item.add(text))

    def _say(self, part: Text) -> Iterator[Event]:
        item = self._open
        if not isinstance(item, OpenMessage):
            item = OpenMessage(gives_logprobs=self._request.gives_logprobs)
            yield from self._begin(item)
        yield from self._placed(item.add(part.text, part.logprobs))

    def _call(self, part: ToolCall) -> Iterator[Event]:
        origin = self._request.toolbox.origin(part.name)
        kind = OpenCustomCall if origin.is_custom else OpenFunctionCall
        item = kind(part.id, origin)
        yield from self._begin(item)
        yield from self._placed(item.add(part.arguments))

    def _finish(self, part: Finish) -> Iterator[Event]:
        is_cut = part.reason == "length"
        is_empty = self._open is None and not self._output
        if is_empty or not (is_cut or self._has_answered):
            # Clients look for the answer in the last message, even when it is empty.
            yield from self._say(Text(""))
        yield from self._close("incomplete" if is_cut else "completed")
        if is_cut:
            yield self._end("incomplete", Outcome("incomplete", part.usage))
        else:
            done = Outcome("completed", part.usage, completed_at=int(self._clock()))
            yield self._end("completed", done)

    @property
    def _has_answered(self) -> bool:
        is_answering = self._open is not None and not isinstance(self._open, OpenReasoning)
        return is_answering or any(item["type"] != "reasoning" for item in self._output)

    # Items

    def _begin(self, item: OpenItem) -> Iterator[Event]:
        yield from self._close("completed")
        self._open = item
        yield from self._placed(item.open())

    def _close(self, status: ItemStatus) -> Iterator[Event]:
        if self._open is None:
            return
        for event in self._placed(self._open.close(status)):
            yield event
        self._output.append(event["item"])
        self._open = None

    # Events

    def _placed(self, events: Iterable[Event]) -> Iterator[Event]:
        """Say where in the output the events of the open item belong."""
        for event in events:
            yield self._stamped(event | {"output_index": len(self._output)})

    def _stamped(self, event: Event) -> Event:
        number, self._num_events = self._num_events, self._num_events + 1
        return {"type": event["type"], "sequence_number": number, **event}

    def _lifecycle(self, name: str) -> Event:
        return self._stamped({"type": f"response.{name}", "response": self.response})

    def _end(self, name: str, outcome: Outcome) -> Event:
        self._outcome = outcome
        return self._lifecycle(name)
