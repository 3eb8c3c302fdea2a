"""Events written the fast way are the same bytes as those written the plain way."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from parts import Finish, Part, Reasoning, Text, TokenLogprob, ToolArguments, ToolCall, Usage
from protocol.chat import Completion
from protocol.output_items import OpenMessage, OpenReasoning
from protocol.sse import NamedEvents, data_event, json_bytes, named_event, text_bytes

TEXTS = st.text(st.characters(exclude_categories=["Cs"]))
LOGPROBS = st.sampled_from([(), (TokenLogprob("a", b"a", -1.0),)])
PARTS = st.one_of(
    st.builds(Text, TEXTS, LOGPROBS),
    st.builds(Reasoning, TEXTS),
    st.builds(ToolCall, TEXTS, TEXTS),
    st.builds(ToolArguments, TEXTS),
)


@settings(deadline=None)
@given(TEXTS)
def test_a_text_is_written_as_json(text: str) -> None:
    assert text_bytes(text) == json_bytes(text)


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 1), PARTS)), st.booleans(), TEXTS)
def test_chunks_are_written_alike(
    said: list[tuple[int, Part]], include_usage: bool, model: str
) -> None:
    completion = Completion(
        model=model, fingerprint="fp", num_choices=2, include_usage=include_usage
    )
    chunks = list(completion.opening())
    for index, part in [*said, (0, Finish("stop", Usage())), (1, Finish("length", Usage()))]:
        chunks += completion.feed(index, [part])
    chunks += completion.closing()
    assert [completion.event(chunk) for chunk in chunks] == [data_event(c) for c in chunks]


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2), TEXTS, LOGPROBS)))
def test_response_events_are_written_alike(said: list[tuple[int, str, Any]]) -> None:
    items = [OpenMessage(gives_logprobs=True), OpenReasoning(), OpenMessage()]
    events = [
        {"type": event["type"], "sequence_number": number, **event, "output_index": index}
        for number, (index, text, logprobs) in enumerate(said)
        for event in _added(items[index], text, logprobs)
    ]
    written = NamedEvents()
    assert [written.write(event) for event in events] == [named_event(e) for e in events]


def _added(item: Any, text: str, logprobs: Any) -> list[dict[str, Any]]:
    if isinstance(item, OpenReasoning):
        return list(item.add(text))
    return list(item.add(text, logprobs))
