"""Where thinking ends and a tool call begins; and nothing that the model said is dropped."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from inference.detokenizer import Detokenizer
from inference.parser import Markers, Parser, ToolParser
from parts import Part, Reasoning, Text, Tool, ToolArguments, ToolCall
from tests.inference.spoken import (
    WEATHER,
    Folded,
    as_prose,
    as_tokens,
    folded,
    spelled,
    without_space,
)

THINK, END_THINK, CALL, END_CALL = "<think>", "</think>", "<tool_call>", "</tool_call>"
PARIS = '{"name": "weather", "arguments": {"city": "Paris"}}'


def make_parser(
    tokenizer: Any,
    *,
    is_thinking: bool = False,
    tools: Sequence[Tool] = (),
    is_spelled: bool = False,
    tool_parser: ToolParser | None = None,
) -> Parser:
    markers = Markers.of(tokenizer)
    return Parser(
        Detokenizer(tokenizer),
        spelled(markers) if is_spelled else markers,
        is_thinking=is_thinking,
        tools=tools,
        tool_parser=tool_parser or tokenizer.tool_parser,
    )


def parsed(parser: Parser, tokens: Sequence[int]) -> Folded:
    parts: list[Part] = [part for token in tokens for part in parser.add(token)]
    return folded([*parts, *parser.flush()])


# Thinking


@pytest.mark.parametrize("is_spelled", [False, True])
def test_a_think_block_at_the_start_is_reasoning(tokenizer: Any, is_spelled: bool) -> None:
    tokens = as_tokens(tokenizer, [THINK, "\nHmm, well.\n", END_THINK, "\n\nHello!"])
    found = parsed(make_parser(tokenizer, is_spelled=is_spelled), tokens)
    assert (found.reasoning, found.text) == ("Hmm, well.", "Hello!")


@pytest.mark.parametrize("is_spelled", [False, True])
def test_a_think_block_opened_by_the_prompt_is_reasoning(tokenizer: Any, is_spelled: bool) -> None:
    tokens = as_tokens(tokenizer, ["\nHmm.\n", END_THINK, "\n\nHello!"])
    found = parsed(make_parser(tokenizer, is_thinking=True, is_spelled=is_spelled), tokens)
    assert (found.reasoning, found.text) == ("Hmm.", "Hello!")


def test_an_empty_think_block_leaves_no_reasoning(tokenizer: Any) -> None:
    tokens = as_tokens(tokenizer, [THINK, "\n\n", END_THINK, "\n\nHello!"])
    found = parsed(make_parser(tokenizer), tokens)
    assert (found.reasoning, found.text) == ("", "Hello!")


@pytest.mark.parametrize("is_spelled", [False, True])
def test_a_closing_think_tag_that_nothing_opened_is_text(tokenizer: Any, is_spelled: bool) -> None:
    tokens = as_tokens(tokenizer, ["a ", END_THINK, " b"])
    assert parsed(make_parser(tokenizer, is_spelled=is_spelled), tokens).text == "a </think> b"


@pytest.mark.parametrize("is_spelled", [False, True])
def test_thinking_opens_only_at_the_start(tokenizer: Any, is_spelled: bool) -> None:
    tokens = as_tokens(tokenizer, ["Hi ", THINK, "b", END_THINK])
    found = parsed(make_parser(tokenizer, is_spelled=is_spelled), tokens)
    assert (found.reasoning, found.text) == ("", "Hi <think>b</think>")


def test_an_emoji_held_back_is_said_before_the_tag_after_it(tokenizer: Any) -> None:
    tokens = as_tokens(tokenizer, ["🙂", THINK, "b"])
    found = parsed(make_parser(tokenizer), tokens)
    assert (found.reasoning, found.text) == ("", "🙂<think>b")


def test_a_tag_spelled_out_in_letters_is_text_where_the_tag_is_a_token(tokenizer: Any) -> None:
    tokens = as_prose(tokenizer, "<think>a</think>")
    assert parsed(make_parser(tokenizer), tokens).text == "<think>a</think>"


def test_a_think_block_that_never_ends_is_reasoning(tokenizer: Any) -> None:
    found = parsed(make_parser(tokenizer), as_tokens(tokenizer, [THINK, "so, ", "a and b"]))
    assert (found.reasoning, found.text) == ("so, a and b", "")


def test_a_tool_call_inside_thinking_is_thinking(tokenizer: Any) -> None:
    tokens = as_tokens(tokenizer, [THINK, "a ", CALL, PARIS, END_CALL, END_THINK, "b"])
    found = parsed(make_parser(tokenizer, tools=[WEATHER]), tokens)
    assert (found.reasoning, found.text) == (f"a {CALL}{PARIS}{END_CALL}", "b")
    assert not found.calls


def test_a_model_that_does_not_think_speaks_from_its_first_token(tokenizer: Any) -> None:
    parser = make_parser(tokenizer)
    tokens = as_tokens(tokenizer, ["Hello"])
    assert parser.add(tokens[0]) == [Text(tokenizer.decode(tokens[:1]))]


def test_thinking_is_given_while_it_goes_on(tokenizer: Any) -> None:
    parser = make_parser(tokenizer)
    tokens = as_tokens(tokenizer, [THINK, "so"])
    assert [parser.add(token) for token in tokens[:2]][1:] == [
        [Reasoning(tokenizer.decode(tokens[1:2]))]
    ]


def test_text_before_a_letter_by_letter_marker_is_not_lost(tokenizer: Any) -> None:
    tokens = as_prose(tokenizer, "<think>a <</think>b")
    found = parsed(make_parser(tokenizer, is_spelled=True), tokens)
    assert (without_space(found.reasoning), found.text) == ("a<", "b")


# Whether the prompt has opened a think block


@pytest.mark.parametrize(
    ("prompt", "is_open"),
    [
        (["hi", THINK, "\n"], True),
        (["hi", THINK, "\n\n", END_THINK, "\n\n"], False),
        (["hi"], False),
        ([THINK, "a", END_THINK, "hi", THINK], True),
    ],
)
def test_a_prompt_opens_thinking_by_its_last_tag(
    tokenizer: Any, prompt: list[str], is_open: bool
) -> None:
    tokens = as_tokens(tokenizer, prompt)
    assert Markers.of(tokenizer).opens_thinking(tokens, tokenizer) is is_open


# Tool calls


@pytest.mark.parametrize("is_spelled", [False, True])
def test_a_call_is_given_with_its_arguments_as_json(tokenizer: Any, is_spelled: bool) -> None:
    tokens = as_tokens(tokenizer, ["Let me see.\n", CALL, f"\n{PARIS}\n", END_CALL])
    found = parsed(make_parser(tokenizer, tools=[WEATHER], is_spelled=is_spelled), tokens)
    assert found.text == "Let me see."
    assert found.calls == [("weather", '{"city": "Paris"}')]


@pytest.mark.parametrize("is_spelled", [False, True])
def test_several_calls_and_text_between_them(tokenizer: Any, is_spelled: bool) -> None:
    pieces = [CALL, PARIS, END_CALL, "\n", CALL, PARIS.replace("Paris", "Rome"), END_CALL, "\nOk."]
    parser = make_parser(tokenizer, tools=[WEATHER], is_spelled=is_spelled)
    found = parsed(parser, as_tokens(tokenizer, pieces))
    assert [json.loads(arguments)["city"] for _, arguments in found.calls] == ["Paris", "Rome"]
    assert found.text == "Ok."


def test_every_call_has_an_id_of_its_own(tokenizer: Any) -> None:
    parser = make_parser(tokenizer, tools=[WEATHER])
    tokens = as_tokens(tokenizer, [CALL, PARIS, END_CALL] * 3)
    parts = [part for token in tokens for part in parser.add(token)]
    assert len({part.id for part in parts if isinstance(part, ToolCall)}) == 3


def test_an_id_that_the_model_gives_is_kept_once(tokenizer: Any) -> None:
    from mlx_lm.tool_parsers.kimi_k2 import parse_tool_call

    parser = make_parser(tokenizer, tools=[WEATHER], tool_parser=parse_tool_call)
    ids = ("functions.weather:0", "functions.weather:1", "functions.weather:0")
    pieces = [p for id in ids for p in (CALL, f"{id}<|tool_call_argument_begin|>{{}}", END_CALL)]
    parts = [p for token in as_tokens(tokenizer, pieces) for p in parser.add(token)]
    found = [part.id for part in parts if isinstance(part, ToolCall)]
    assert found[:2] == list(ids[:2]) and found[2].startswith("call_")


def test_an_id_that_is_none_is_replaced(tokenizer: Any) -> None:
    for id in ("", "a b", "x" * 65, "é", 5, None):
        parser = make_parser(
            tokenizer,
            tools=[WEATHER],
            tool_parser=lambda text, tools, id=id: {"name": "weather", "id": id},
        )
        tokens = as_tokens(tokenizer, [CALL, "x", END_CALL])
        parts = [part for token in tokens for part in parser.add(token)]
        assert [p.id[:5] for p in parts if isinstance(p, ToolCall)] == ["call_"]


def test_a_call_whose_end_is_missing_is_still_a_call_if_it_is_whole(tokenizer: Any) -> None:
    found = parsed(make_parser(tokenizer, tools=[WEATHER]), as_tokens(tokenizer, [CALL, PARIS]))
    assert found.calls == [("weather", '{"city": "Paris"}')]


def test_a_call_that_is_cut_short_is_text_even_if_it_could_be_read(tokenizer: Any) -> None:
    from mlx_lm.tool_parsers.glm47 import parse_tool_call

    parser = make_parser(tokenizer, tools=[WEATHER], tool_parser=parse_tool_call)
    written = "weather<arg_key>city</arg_key><arg_value>Par"
    parts = [p for t in as_tokens(tokenizer, [CALL, written]) for p in parser.add(t)]
    found = folded([*parts, *parser.flush(is_cut=True)])
    assert (found.text, found.calls) == (CALL + written, [])


def test_without_tools_the_markers_are_text(tokenizer: Any) -> None:
    found = parsed(make_parser(tokenizer), as_tokens(tokenizer, [CALL, PARIS, END_CALL]))
    assert (found.text, found.calls) == (CALL + PARIS + END_CALL, [])


@pytest.mark.parametrize(
    "payload",
    [
        "",
        "[]",
        "[1, 2]",
        "5",
        "null",
        '"weather"',
        "{}",
        '{"arguments": {}}',
        '{"name": "", "arguments": {}}',
        '{"name": 5, "arguments": {}}',
        '{"name": "weather", "arguments": [1]}',
        '{"name": "weather", "arguments": "Paris"}',
        '{"name": "weather", "arguments": "[1]"}',
        '{"name": "weather", "arguments": "{\\"city\\": NaN}"}',
        '{"name": "weather", "arguments": "{\\"city\\": \\"\\\\ud83d\\"}"}',
        '{"name": "\\ud83d", "arguments": {}}',
        '{"name": "\\d", "arguments": {}}',
        '{"name": "weather", "arguments"',
        '{"name": "weather", "arguments": ',
        '{"name": "' + "f" * 600 + '", "arguments": {"city": "Par',
        "[" * 9000,
    ],
)
def test_what_is_no_call_is_text(tokenizer: Any, payload: str) -> None:
    tokens = as_tokens(tokenizer, [CALL, payload, END_CALL])
    found = parsed(make_parser(tokenizer, tools=[WEATHER]), tokens)
    assert (found.text, found.calls) == (CALL + payload + END_CALL, [])


def test_a_call_that_cannot_be_read_leaves_a_line_in_the_log_without_its_words(
    tokenizer: Any, caplog: pytest.LogCaptureFixture
) -> None:
    for written, said in (
        ("secret", "the model wrote a tool call that cannot be parsed; it is given as text"),
        (
            '{"name": "weather", "arguments": {"secret": oops}}',
            "the model wrote a tool call whose arguments are not JSON",
        ),
    ):
        caplog.clear()
        parsed(
            make_parser(tokenizer, tools=[WEATHER]), as_tokens(tokenizer, [CALL, PARIS, END_CALL])
        )
        assert not caplog.records
        tokens = as_tokens(tokenizer, [CALL, written, END_CALL])
        parsed(make_parser(tokenizer, tools=[WEATHER]), tokens)
        assert [(r.levelname, r.getMessage()) for r in caplog.records] == [("WARNING", said)]


def test_arguments_written_as_a_string_of_json_are_the_object_they_hold(tokenizer: Any) -> None:
    payload = '{"name": "weather", "arguments": "{\\"city\\": \\"Paris\\"}"}'
    tokens = as_tokens(tokenizer, [CALL, payload, END_CALL])
    found = parsed(make_parser(tokenizer, tools=[WEATHER]), tokens)
    assert found.calls == [("weather", '{"city": "Paris"}')]


def test_a_call_without_arguments_has_none(tokenizer: Any) -> None:
    tokens = as_tokens(tokenizer, [CALL, '{"name": "now"}', END_CALL])
    assert parsed(make_parser(tokenizer, tools=[WEATHER]), tokens).calls == [("now", "{}")]


def test_a_parser_that_answers_with_a_set_leaves_text(tokenizer: Any) -> None:
    parser = make_parser(
        tokenizer,
        tools=[WEATHER],
        tool_parser=lambda text, tools: {"name": "f", "arguments": {"a": {1}}},
    )
    found = parsed(parser, as_tokens(tokenizer, [CALL, "f(a={1})", END_CALL]))
    assert (found.text, found.calls) == (CALL + "f(a={1})" + END_CALL, [])


# Calls in JSON, while they are written

OPEN = '{"name": "weather", "arguments": '


def parts_of(parser: Parser, tokens: Sequence[int], *, is_cut: bool = False) -> list[Part]:
    return [*(p for t in tokens for p in parser.add(t)), *parser.flush(is_cut=is_cut)]


@pytest.mark.parametrize("is_spelled", [False, True])
def test_arguments_are_given_as_they_are_written(tokenizer: Any, is_spelled: bool) -> None:
    parser = make_parser(tokenizer, tools=[WEATHER], is_spelled=is_spelled)
    before = [p for t in as_tokens(tokenizer, [CALL, OPEN]) for p in parser.add(t)]
    assert before == []
    given = []
    for letter in '{"a": "b"}':
        (token,) = as_tokens(tokenizer, [letter])
        given.append([p.text for p in parser.add(token) if isinstance(p, ToolArguments)])
    assert given == [[letter] for letter in '{"a": "b"}']


@pytest.mark.parametrize(
    "written",
    ["{}", '{ "a" :1,\n  "b": [ {} ] }', '{"a": "}{\\"]\\\\"}', '{"é": "\\u00e9🙂"}', '{"a": 1.0}'],
)
def test_the_arguments_are_the_models_own_text(tokenizer: Any, written: str) -> None:
    tokens = as_tokens(tokenizer, [CALL, f"\n{OPEN}{written} }}\n", END_CALL])
    found = parsed(make_parser(tokenizer, tools=[WEATHER]), tokens)
    assert (found.text, found.calls) == ("", [("weather", written)])


@pytest.mark.parametrize(
    ("payload", "arguments", "text"),
    [
        (PARIS[:-1], '{"city": "Paris"}', ""),
        (PARIS[:-2], '{"city": "Paris"', ""),
        (OPEN + '{"path": "C:\\dir"}}', '{"path": "C:\\dir"}', ""),
        (OPEN + '{"city": NaN}}', '{"city": NaN}', ""),
        (OPEN + '{"city": "\\ud83d"}}', '{"city": "\\ud83d"}', ""),
        (OPEN + '{"city": "Par', '{"city": "Par', ""),
        (OPEN + "{1, }}", "{1, }", ""),
        (OPEN + '{}, "id": 7}', "{}", ""),
        (OPEN + "{}} and more", "{}", "} and more"),
    ],
)
@pytest.mark.parametrize("is_spelled", [False, True])
def test_a_call_that_was_given_keeps_what_the_model_wrote(
    tokenizer: Any, payload: str, arguments: str, text: str, is_spelled: bool
) -> None:
    for end in ([END_CALL], []):
        parser = make_parser(tokenizer, tools=[WEATHER], is_spelled=is_spelled)
        found = parsed(parser, as_tokens(tokenizer, [CALL, payload, *end]))
        assert (found.text, found.calls) == (text, [("weather", arguments)])
        assert parser.num_calls == 1


@pytest.mark.parametrize("is_spelled", [False, True])
def test_a_call_that_is_cut_short_keeps_what_was_given(tokenizer: Any, is_spelled: bool) -> None:
    parser = make_parser(tokenizer, tools=[WEATHER], is_spelled=is_spelled)
    tokens = as_tokens(tokenizer, [CALL, OPEN, '{"city": "Par</tool'])
    found = folded(parts_of(parser, tokens, is_cut=True))
    assert (found.text, found.calls) == ("", [("weather", '{"city": "Par</tool')])
    assert parser.num_calls == 0


def test_a_call_that_is_cut_before_its_name_is_certain_is_text(tokenizer: Any) -> None:
    parser = make_parser(tokenizer, tools=[WEATHER])
    found = folded(parts_of(parser, as_tokens(tokenizer, [CALL, OPEN]), is_cut=True))
    assert (found.text, found.calls) == (CALL + OPEN, [])


JSON_PIECES = st.lists(
    st.sampled_from([CALL, END_CALL, OPEN, PARIS, *'{}[]":,\\a 1', "</to", "🙂", "\n", "null"]),
    max_size=10,
)


@settings(deadline=None, max_examples=300)
@given(JSON_PIECES, st.lists(st.integers(0, 120), max_size=4), st.booleans())
@example([CALL, OPEN, "{", END_CALL, "a"], [30], False)
@example([CALL, PARIS, END_CALL, CALL, PARIS], [70], True)
def test_a_call_is_the_same_in_any_tokens(
    tokenizer: Any, pieces: list[str], cuts: list[int], is_cut: bool
) -> None:
    text = CALL + OPEN + "".join(pieces)

    def answer(tokens: Sequence[int]) -> Folded:
        parser = make_parser(tokenizer, tools=[WEATHER], is_spelled=True)
        return folded(parts_of(parser, tokens, is_cut=is_cut))

    ends = sorted({0, len(text), *(c for c in cuts if c < len(text))})
    split = [text[a:b] for a, b in itertools.pairwise(ends)]
    by_letter = answer(as_prose(tokenizer, "".join(text)))
    assert answer([t for letter in text for t in as_tokens(tokenizer, [letter])]) == by_letter
    assert answer(as_tokens(tokenizer, split)) == by_letter
    said = without_space(by_letter.text + "".join(a for _, a in by_letter.calls))
    assert len(by_letter.calls) or said == without_space(text)


@settings(deadline=None, max_examples=100)
@given(st.dictionaries(st.text(max_size=4), st.text(max_size=8) | st.integers(), max_size=3))
def test_any_arguments_come_through_as_they_were(tokenizer: Any, value: dict[str, Any]) -> None:
    try:
        written = json.dumps(value, ensure_ascii=False)
        written.encode()
    except UnicodeEncodeError:
        written = json.dumps(value)
    tokens = as_tokens(tokenizer, [CALL, OPEN + written + "}", END_CALL])
    found = parsed(make_parser(tokenizer, tools=[WEATHER]), tokens)
    assert found.calls == [("weather", written)]


# Any answer, in any tokens

PIECES = [THINK, END_THINK, CALL, END_CALL, PARIS[:9], *"ab <>/", "\n", "<th", "ink>", "é", "🙂"]
ANSWERS = st.lists(st.sampled_from(PIECES), max_size=12)


def thinking_and_rest(text: str, is_thinking: bool) -> tuple[str, str]:
    """The plain rule: a think block counts if it is the first thing that is said."""
    start = text.lstrip()
    if not is_thinking and not start.startswith(THINK):
        return "", text
    reasoning, _, rest = start.removeprefix("" if is_thinking else THINK).partition(END_THINK)
    return reasoning, rest


@settings(deadline=None, max_examples=300)
@given(ANSWERS, st.booleans(), st.booleans())
@example(["a", THINK, "b"], False, False)
@example([THINK, "a", "<", END_THINK, "b"], False, False)
@example(["<", THINK, "b"], False, False)
@example(["a", "<", CALL, "b"], False, True)
def test_nothing_is_dropped_but_white_space_and_the_tokens_do_not_matter(
    tokenizer: Any, pieces: list[str], is_thinking: bool, has_tools: bool
) -> None:
    tools = [WEATHER] if has_tools else []
    text = "".join(pieces)

    def answer(tokens: Sequence[int]) -> Folded:
        parser = make_parser(tokenizer, is_thinking=is_thinking, tools=tools, is_spelled=True)
        return parsed(parser, tokens)

    by_pieces = answer(as_tokens(tokenizer, pieces))
    reasoning, rest = thinking_and_rest(text, is_thinking)
    assert without_space(by_pieces.reasoning) == without_space(reasoning)
    assert without_space(by_pieces.text) == without_space(rest)
    assert answer(as_prose(tokenizer, text)) == by_pieces
    assert answer(as_tokens(tokenizer, [text])) == by_pieces


@settings(deadline=None, max_examples=200)
@given(ANSWERS, st.booleans(), st.booleans())
def test_nothing_is_dropped_where_markers_are_tokens(
    tokenizer: Any, pieces: list[str], is_thinking: bool, has_tools: bool
) -> None:
    parser = make_parser(tokenizer, is_thinking=is_thinking, tools=[WEATHER] if has_tools else [])
    found = parsed(parser, as_tokens(tokenizer, pieces))
    said = without_space(found.reasoning + found.text)
    # A marker that opened or closed thinking is the only thing that may be missing.
    crossed = [m for m in (THINK, END_THINK) if said.count(m) < "".join(pieces).count(m)]
    rest = without_space("".join(pieces))
    for marker in crossed:
        rest = rest.replace(marker, "", 1)
    assert said == rest


@settings(deadline=None)
@given(st.lists(st.sampled_from([*"ab \n", "<", "é", "👨‍👩‍👧"]), max_size=12))
def test_an_answer_without_markers_is_the_decoded_whole(tokenizer: Any, pieces: list[str]) -> None:
    text = "".join(pieces)
    assert parsed(make_parser(tokenizer), as_prose(tokenizer, text)) == Folded(text=text)
