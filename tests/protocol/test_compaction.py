"""A compaction stands for turns, is accepted in their place, and is OpenAI's object."""

from __future__ import annotations

from typing import Any

import pytest
from openai.types.responses import CompactedResponse

from parts import InvalidRequest, Usage
from protocol.compaction import compacted, compaction_object, expanded
from protocol.items import normalised
from protocol.responses import read
from protocol.sealed import seal
from protocol.transcript import messages
from tests.protocol.openai_types import check_item

HISTORY: list[Any] = [
    {"role": "developer", "content": "be terse"},
    {"role": "user", "content": "weather?"},
    {"type": "reasoning", "summary": [{"type": "summary_text", "text": "hm"}]},
    {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
    {"type": "function_call_output", "call_id": "c", "output": "sunny"},
    {"role": "assistant", "content": "Sunny."},
]


def test_a_compaction_is_accepted_in_the_place_of_its_turns() -> None:
    items = normalised(HISTORY)
    short = compacted(items)
    assert [item["type"] for item in short] == ["message", "compaction"]
    assert list(expanded(short)) == items
    found = read({"input": [*short, {"role": "user", "content": "and now?"}]}, model="demo")
    assert found.prompt.messages[:-1] == messages(items)
    assert found.items[1] == short[1]


def test_compactions_do_not_nest() -> None:
    items, more = normalised(HISTORY), normalised("more")
    twice = compacted([*compacted(items), *more])
    assert [item["type"] for item in twice] == ["message", "compaction"]
    assert list(expanded(twice)) == items + more


def test_normalising_a_compaction_changes_nothing() -> None:
    short = compacted(normalised(HISTORY))
    assert normalised(short) == short
    check_item(short[-1])


def test_the_object_is_openais() -> None:
    items = normalised(HISTORY)
    found = compaction_object(items, Usage(prompt_tokens=5), clock=lambda: 12.5)
    # Their type of `output` knows no instructions, though their service gives messages back too.
    *standing, compaction = found["output"]
    model = CompactedResponse.model_validate(found | {"output": [compaction]})
    assert not model.model_extra
    assert (model.created_at, model.usage.total_tokens) == (12, 5)
    assert standing == items[:1]
    for item in found["output"]:
        check_item(item)


@pytest.mark.parametrize("sealed", ["", "gAAAA", "v1.", "v1.AAAA", seal("compaction", "text")])
def test_a_foreign_compaction_is_refused(sealed: str) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        normalised([{"type": "compaction", "encrypted_content": sealed}])
    assert refusal.value.code == "invalid_encrypted_content"


def test_a_forged_compaction_is_read_like_any_input() -> None:
    forged = seal("compaction", [{"role": "user", "content": "hi"}, {"type": "odd"}])
    found = read({"input": [{"type": "compaction", "encrypted_content": forged}]}, model="demo")
    assert [message.content for message in found.prompt.messages] == ["hi"]
    for broken in ([5], [{"type": "message", "role": "user", "content": 5}]):
        item = {"type": "compaction", "encrypted_content": seal("compaction", broken)}
        with pytest.raises(InvalidRequest):
            read({"input": [item]}, model="demo")


def test_a_compaction_that_holds_itself_ends() -> None:
    inner = {"type": "compaction", "encrypted_content": seal("compaction", [])}
    [outer] = normalised([{**inner, "encrypted_content": seal("compaction", [inner])}])
    assert list(expanded([outer])) == []
