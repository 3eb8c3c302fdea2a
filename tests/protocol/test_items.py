"""Items come in many shapes and leave in one; messages are made of that one."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parts import InvalidRequest, Message, ToolCall
from protocol import chat
from protocol.items import MEDIA_PARTS, STATUSES, normalised
from protocol.sealed import seal, unseal
from protocol.transcript import messages
from tests.protocol import captures
from tests.protocol.openai_types import check_item

CALL = {"type": "function_call", "call_id": "call_1", "name": "f", "arguments": '{"a": 1}'}
RESULT = {"type": "function_call_output", "call_id": "call_1", "output": "sunny"}
USER = {"role": "user", "content": "hi"}
THOUGHT = {
    "type": "reasoning",
    "summary": [],
    "content": [{"type": "reasoning_text", "text": "hm"}],
}
ANSWER = {"role": "assistant", "content": "hello"}


def read(*given: Any) -> tuple[Message, ...]:
    return messages(normalised(list(given)))


# One shape


@pytest.mark.parametrize(
    "item",
    [
        {"role": "user", "content": "hi"},
        {"type": "message", "role": "user", "content": "hi"},
        {"type": None, "role": "user", "content": [{"type": "input_text", "text": "hi"}]},
        {"role": "user", "content": [{"type": "text", "text": "hi"}]},
        {"role": "user", "content": [{"type": "output_text", "text": "hi"}]},
        {"role": "user", "content": ["hi"]},
        {"role": "narrator", "content": "hi"},
        "hi",
    ],
)
def test_a_message_has_one_shape(item: Any) -> None:
    [message] = normalised([item])
    assert message.pop("id").startswith("msg_")
    assert message == {
        "type": "message",
        "status": "completed",
        "role": "user",
        "content": [{"type": "input_text", "text": "hi"}],
    }


def test_text_is_a_message_and_so_is_no_text() -> None:
    assert messages(normalised("hi")) == (Message("user", "hi"),)
    assert messages(normalised("")) == (Message("user", ""),)
    assert normalised(None) == normalised([]) == []


@pytest.mark.parametrize("role", ["user", "assistant", "system", "developer"])
def test_every_role_is_kept(role: Any) -> None:
    assert read({"role": role, "content": "a"}) == (Message(role, "a"),)


def test_an_assistants_text_is_output_text_and_keeps_its_phase() -> None:
    [item] = normalised([{"role": "assistant", "content": "a", "phase": "commentary"}])
    assert item["content"][0] == {
        "type": "output_text",
        "text": "a",
        "annotations": [],
        "logprobs": [],
    }
    assert item["phase"] == "commentary"


def test_a_refusal_is_text_that_the_model_said() -> None:
    refusal = {"type": "refusal", "refusal": "no"}
    assert read({"role": "assistant", "content": [refusal]}) == (Message("assistant", "no"),)
    assert read({"role": "user", "content": [refusal]}) == (Message("user", "no"),)


def test_ids_and_status_of_the_client_are_kept() -> None:
    [item] = normalised([{**ANSWER, "id": "msg_own", "status": "incomplete"}])
    assert (item["id"], item["status"]) == ("msg_own", "incomplete")


def test_a_call_without_id_gets_one() -> None:
    [item] = normalised([CALL])
    assert item["id"].startswith("fc_")
    assert item["arguments"] == '{"a": 1}'


def test_arguments_and_output_may_be_json_instead_of_text() -> None:
    items = normalised([{**CALL, "arguments": {"a": 1}}, {**RESULT, "output": {"t": [5]}}])
    assert items[0]["arguments"] == '{"a": 1}'
    assert items[1]["output"] == '{"t": [5]}'


def test_an_output_list_that_is_no_list_of_parts_is_kept_as_json() -> None:
    [item] = normalised([{**RESULT, "output": [{"temperature": 5}]}])
    assert item["output"] == '[{"temperature": 5}]'


def test_an_item_without_type_is_known_by_its_fields() -> None:
    untyped = [{k: v for k, v in item.items() if k != "type"} for item in (CALL, RESULT, THOUGHT)]
    kinds = [item["type"] for item in normalised(untyped)]
    assert kinds == ["function_call", "function_call_output", "reasoning"]


@pytest.mark.parametrize(
    ("kind", "field"), [("input_image", "content"), ("input_file", "output"), ("audio", "content")]
)
def test_media_is_refused_by_its_place(kind: str, field: str) -> None:
    part = {"type": kind}
    media = {**RESULT, "output": [part]} if field == "output" else {**USER, "content": ["a", part]}
    with pytest.raises(InvalidRequest) as refusal:
        normalised([USER, media])
    assert refusal.value.code == "unsupported_content"
    assert refusal.value.param == f"input[1].{field}[{1 if field == 'content' else 0}]"


@pytest.mark.parametrize("kind", sorted(MEDIA_PARTS))
def test_media_is_refused_whatever_it_is_called_and_wherever_it_stands(kind: str) -> None:
    for part in ({"type": kind}, {kind: {"url": "data:"}}):
        for item, place in ((part, "input[0]"), ({**USER, "content": [part]}, ".content[0]")):
            with pytest.raises(InvalidRequest, match="reads text only.*" + kind) as refusal:
                normalised([item])
            assert str(refusal.value.param).endswith(place)
        with pytest.raises(InvalidRequest, match="reads text only.*" + kind) as refusal:
            chat.read_prompt({"messages": [{"role": "user", "content": [part]}]})
        assert refusal.value.param == "messages[0].content[0]"


@pytest.mark.parametrize(
    ("item", "param"),
    [
        (5, "input[0]"),
        ({"role": "user", "content": 5}, "input[0].content"),
        ({**CALL, "name": ""}, "input[0].name"),
        ({"type": "item_reference", "id": "msg_1"}, "input[0].id"),
        ({"type": "compaction", "encrypted_content": "gAAAA"}, "input[0].encrypted_content"),
    ],
)
def test_broken_items_are_refused_by_name(item: Any, param: str) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        normalised([item])
    assert refusal.value.param == param


def test_unknown_kinds_are_skipped_and_only_their_number_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    kind = "s3cret"
    with caplog.at_level(logging.INFO):
        items = normalised(
            [
                {"type": kind, "secret": "s3cret"},
                {**USER, "content": [{"type": "odd", "x": "s3cret"}]},
            ]
        )
    assert [item["content"] for item in items] == [[]]
    assert "s3cret" not in caplog.text
    assert "skipped 1 items" in caplog.text


def test_a_reference_becomes_the_item_that_it_names() -> None:
    [stored] = normalised([ANSWER])
    items = {stored["id"]: stored}
    for reference in ({"type": "item_reference", "id": stored["id"]}, {"id": stored["id"]}):
        assert normalised([reference], items.get) == [stored]


def test_a_reference_to_a_reference_is_refused() -> None:
    with pytest.raises(InvalidRequest):
        normalised([{"id": "a"}], {"a": {"id": "b"}, "b": {"id": "a"}}.get)


# Thoughts


def test_empty_reasoning_is_skipped() -> None:
    assert normalised([{"type": "reasoning", "id": "rs_1", "summary": []}]) == []


@pytest.mark.parametrize(
    "reasoning",
    [
        {"content": [{"type": "reasoning_text", "text": "hm"}], "summary": []},
        {"summary": [{"type": "summary_text", "text": "hm"}]},
        {"summary": [], "encrypted_content": seal("reasoning", "hm")},
        {
            "summary": [{"type": "summary_text", "text": "short"}],
            "encrypted_content": seal("reasoning", "hm"),
        },
    ],
)
def test_a_thought_is_read_from_wherever_it_is(reasoning: Any) -> None:
    assert read({"type": "reasoning", **reasoning}, ANSWER) == (
        Message("assistant", "hello", reasoning="hm"),
    )


def test_a_foreign_sealed_thought_is_kept_but_says_nothing() -> None:
    foreign = {"type": "reasoning", "summary": [], "encrypted_content": "gAAAAABoforeign"}
    assert normalised([foreign])[0]["encrypted_content"] == "gAAAAABoforeign"
    assert read(foreign, ANSWER) == (Message("assistant", "hello"),)


@given(st.text())
def test_unsealing_a_foreign_text_gives_nothing(text: str) -> None:
    assert unseal("reasoning", text) is None
    assert unseal("reasoning", "v1." + text) is None


@given(st.text(), st.integers(0, 200), st.integers(0, 255))
def test_a_seal_gives_back_its_value_or_nothing(value: str, at: int, byte: int) -> None:
    sealed = seal("reasoning", value)
    assert unseal("reasoning", sealed) == value
    assert unseal("compaction", sealed) is None
    at %= len(sealed)
    damaged = sealed[:at] + chr(byte) + sealed[at + 1 :]
    assert unseal("reasoning", damaged) in (None, value)


@pytest.mark.parametrize("value", ["", "x" * 1_000_000, ["ab"] * 300_000])
def test_what_repeats_itself_is_sealed_so_that_it_unfolds_again(value: Any) -> None:
    sealed = seal("compaction", value)
    assert unseal("compaction", sealed) == value
    assert len(json.dumps(value)) <= max(8 * len(sealed), 65536)


def test_a_turn_of_many_thoughts_and_calls_is_one_message() -> None:
    thoughts = [{"type": "reasoning", "content": [{"type": "reasoning_text", "text": "hm"}]}]
    call = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}
    (turn,) = read(*thoughts * 3, call, call, {**ANSWER, "content": "so"}, ANSWER)
    assert turn.reasoning == "hm\n\nhm\n\nhm"
    assert (turn.content, len(turn.tool_calls)) == ("so\n\nhello", 2)


# Messages


def test_one_turn_of_the_assistant_is_one_message() -> None:
    second = {**CALL, "call_id": "call_2", "name": "g", "arguments": "{}"}
    result = {**RESULT, "call_id": "call_2", "output": [{"type": "input_text", "text": "rain"}]}
    assert read(USER, THOUGHT, ANSWER, CALL, second, RESULT, result, ANSWER) == (
        Message("user", "hi"),
        Message(
            "assistant",
            "hello",
            "hm",
            (ToolCall("call_1", "f", '{"a": 1}'), ToolCall("call_2", "g", "{}")),
        ),
        Message("tool", "sunny", tool_call_id="call_1", name="f"),
        Message("tool", "rain", tool_call_id="call_2", name="g"),
        Message("assistant", "hello"),
    )


def test_words_after_words_are_another_message() -> None:
    assert read(ANSWER, THOUGHT, ANSWER) == (
        Message("assistant", "hello"),
        Message("assistant", "hello", reasoning="hm"),
    )


def test_words_between_calls_and_results_belong_to_the_calls() -> None:
    [turn, result] = read(CALL, THOUGHT, ANSWER, RESULT)
    assert turn == Message("assistant", "hello", "hm", (ToolCall("call_1", "f", '{"a": 1}'),))
    assert result.role == "tool"


def test_a_custom_call_is_a_function_with_one_string() -> None:
    [turn, result] = read(
        {"type": "custom_tool_call", "call_id": "c", "name": "sh", "input": 'say "ä"'},
        {"type": "custom_tool_call_output", "call_id": "c", "output": "ok"},
    )
    assert json.loads(turn.tool_calls[0].arguments) == {"input": 'say "ä"'}
    assert result == Message("tool", "ok", tool_call_id="c", name="sh")


def test_a_call_in_a_namespace_has_the_name_that_the_model_knows() -> None:
    [turn] = read({**CALL, "namespace": "agents"})
    assert turn.tool_calls[0].name == "agents__f"


def test_orphans_are_kept() -> None:
    assert read(RESULT) == (Message("tool", "sunny", tool_call_id="call_1"),)
    assert len(read(CALL, USER)) == 2
    assert read(THOUGHT, USER)[0] == Message("assistant", reasoning="hm")


# Any input

text_parts = st.builds(
    lambda kind, text: {"type": kind, "text": text},
    st.sampled_from(["input_text", "output_text", "text", "odd"]),
    st.text(max_size=5),
)
refusals = st.builds(lambda text: {"type": "refusal", "refusal": text}, st.text(max_size=5))
contents = st.none() | st.text(max_size=5) | st.lists(text_parts | refusals, max_size=3)
heads = st.fixed_dictionaries(
    {}, optional={"id": st.text(max_size=5), "status": st.sampled_from(["completed", "odd", None])}
)
kinds = st.one_of(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["user", "assistant", "system", "developer", "odd"])},
        optional={"type": st.just("message"), "content": contents, "phase": st.text(max_size=3)},
    ),
    st.fixed_dictionaries(
        {
            "type": st.sampled_from(["function_call", "custom_tool_call"]),
            "name": st.text(min_size=1, max_size=5),
        },
        optional={
            "call_id": st.text(max_size=2),
            "arguments": st.text(max_size=5) | st.just({"a": 1}),
            "input": st.text(max_size=5),
            "namespace": st.text(max_size=5),
        },
    ),
    st.fixed_dictionaries(
        {"type": st.sampled_from(["function_call_output", "custom_tool_call_output"])},
        optional={"call_id": st.text(max_size=2), "output": contents | st.integers()},
    ),
    st.fixed_dictionaries(
        {"type": st.just("reasoning")},
        optional={"summary": contents, "content": contents, "encrypted_content": st.text()},
    ),
    st.fixed_dictionaries({"type": st.text(min_size=20, max_size=30)}),
)
items = st.builds(lambda head, kind: head | kind, heads, kinds)
inputs = st.text(max_size=5) | st.lists(items | st.text(max_size=5), max_size=6)


@given(inputs)
def test_normalising_twice_changes_nothing(given: Any) -> None:
    once = normalised(given)
    assert normalised(once) == once
    assert messages(normalised(once)) == messages(once)


@given(inputs)
def test_normalised_items_are_openais(given: Any) -> None:
    for item in normalised(given):
        check_item(item)
        assert item["id"] and item["status"] in STATUSES


@given(inputs)
def test_every_result_has_a_message_and_every_call_is_in_one(given: Any) -> None:
    found = normalised(given)
    read = messages(found)
    num_results = sum(item["type"].endswith("_output") for item in found)
    num_calls = sum(item["type"].endswith("_call") for item in found)
    assert sum(m.role == "tool" for m in read) == num_results
    assert sum(len(m.tool_calls) for m in read) == num_calls


@pytest.mark.parametrize("path", captures.PATHS, ids=captures.name_of)
def test_items_of_real_clients_are_openais_once_normalised(path: Any) -> None:
    given = captures.body_of(path).get("input")
    if isinstance(given, int) or "input_image" in json.dumps(given):
        pytest.skip("wrong on purpose, or an image")
    found = normalised(given)
    assert len(found) == (1 if isinstance(given, str) else len(given or []))
    for item in found:
        check_item(item)
