"""A sequence ends where it must, counts what it is made of, and says every part once."""

from __future__ import annotations

from collections.abc import Sequence as Tokens
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from inference.detokenizer import Detokenizer, token_bytes
from inference.parser import Markers, Parser
from inference.sequence import Sequence
from parts import Finish, Part, SamplingParams, TokenLogprob, Usage
from tests.demo import END
from tests.inference.spoken import WEATHER, Folded, as_prose, as_tokens, folded, spelled

THINK, END_THINK, CALL, END_CALL = "<think>", "</think>", "<tool_call>", "</tool_call>"
PARIS = '{"name": "weather", "arguments": {"city": "Paris"}}'


def make_sequence(
    tokenizer: Any,
    *,
    max_tokens: int = 1000,
    stop: tuple[str, ...] = (),
    has_tools: bool = False,
    max_tool_calls: int | None = None,
    tool_parser: Any = None,
) -> Sequence:
    parser = Parser(
        Detokenizer(tokenizer),
        Markers.of(tokenizer),
        tools=[WEATHER] if has_tools else [],
        tool_parser=tool_parser or tokenizer.tool_parser,
    )
    params = SamplingParams(max_tokens=max_tokens, stop=stop)
    return Sequence(
        [1, 2, 3], params, parser, stop_tokens=frozenset({END}), max_tool_calls=max_tool_calls
    )


def test_a_long_prompt_is_not_copied_whenever_it_is_looked_at(tokenizer: Any) -> None:
    sequence = make_sequence(tokenizer)
    assert sequence.tokens is sequence.prompt
    sequence.append(4)
    assert (sequence.tokens, sequence.prompt) == ([1, 2, 3, 4], [1, 2, 3])


def logprob_of(tokenizer: Any, token: int) -> TokenLogprob:
    return TokenLogprob("", token_bytes(tokenizer, token), -1.0)


def spoken(tokenizer: Any, sequence: Sequence, tokens: Tokens[int]) -> Folded:
    """Feed tokens until the sequence has ended; give its parts as a whole."""
    parts: list[Part] = []
    for token in tokens:
        parts += sequence.append(token, logprob_of(tokenizer, token))
        if sequence.is_finished:
            break
    assert sequence.is_finished == (bool(parts) and isinstance(parts[-1], Finish))
    return folded(parts)


def finish_of(whole: Folded) -> Finish:
    assert whole.finish is not None
    return whole.finish


# How it ends


def test_a_stop_token_ends_it_and_is_not_said(tokenizer: Any) -> None:
    tokens = [*as_tokens(tokenizer, ["Hello!"]), END]
    whole = spoken(tokenizer, make_sequence(tokenizer), tokens)
    assert whole.text == "Hello!"
    assert whole.finish == Finish("stop", Usage(3, 0, len(tokens), 0))


def test_max_tokens_end_it(tokenizer: Any) -> None:
    tokens = as_prose(tokenizer, "abcdef")
    whole = spoken(tokenizer, make_sequence(tokenizer, max_tokens=4), tokens)
    assert (whole.text, finish_of(whole).reason) == ("abcd", "length")
    assert finish_of(whole).usage.completion_tokens == 4


def test_a_stop_token_wins_over_max_tokens(tokenizer: Any) -> None:
    tokens = [*as_prose(tokenizer, "abc"), END]
    whole = spoken(tokenizer, make_sequence(tokenizer, max_tokens=4), tokens)
    assert (whole.text, finish_of(whole).reason) == ("abc", "stop")


def test_a_stop_string_wins_over_max_tokens(tokenizer: Any) -> None:
    tokens = as_prose(tokenizer, "ab##")
    whole = spoken(tokenizer, make_sequence(tokenizer, max_tokens=4, stop=("##",)), tokens)
    assert (whole.text, finish_of(whole).reason) == ("ab", "stop")


def test_a_stop_string_in_what_was_held_back_wins_over_max_tokens(tokenizer: Any) -> None:
    tokens = as_tokens(tokenizer, ["ab", "🙂"])
    sequence = make_sequence(tokenizer, max_tokens=len(tokens), stop=("🙂",))
    whole = spoken(tokenizer, sequence, tokens)
    assert (whole.text, finish_of(whole).reason) == ("ab", "stop")


def test_ends_with_next_is_said_one_token_before_the_end(tokenizer: Any) -> None:
    sequence = make_sequence(tokenizer, max_tokens=2)
    assert not sequence.ends_with_next
    sequence.append(as_prose(tokenizer, "a")[0])
    assert sequence.ends_with_next


def test_a_character_cut_by_max_tokens_becomes_a_replacement_character(tokenizer: Any) -> None:
    tokens = as_tokens(tokenizer, ["a", "日"])
    assert len(tokens) > 2
    whole = spoken(tokenizer, make_sequence(tokenizer, max_tokens=2), tokens)
    assert whole.text.rstrip("\ufffd") == "a"
    assert whole.text != "a"


# Stop strings


@settings(deadline=None)
@given(
    st.text("ab#", max_size=12),
    st.lists(st.text("ab#", min_size=1, max_size=3), min_size=1, max_size=3),
    st.integers(0, 12),
)
def test_text_up_to_the_stop_string_and_not_a_character_more(
    tokenizer: Any, text: str, stop: list[str], cut: int
) -> None:
    def answer(tokens: list[int]) -> Folded:
        return spoken(tokenizer, make_sequence(tokenizer, stop=tuple(stop)), [*tokens, END])

    by_letter = answer(as_prose(tokenizer, text))
    in_two = answer(as_tokens(tokenizer, [text[:cut], text[cut:]]))
    assert by_letter.text == in_two.text
    assert text.startswith(by_letter.text)
    assert not any(s in by_letter.text for s in stop)
    is_stopped = any(s in text for s in stop)
    assert is_stopped or by_letter.text == text
    rest = text[len(by_letter.text) :]
    assert not is_stopped or any(rest.startswith(s) for s in stop)


def test_stop_strings_are_not_looked_for_in_thinking(tokenizer: Any) -> None:
    tokens = as_tokens(tokenizer, [THINK, "a#b", END_THINK, "c#d"])
    whole = spoken(tokenizer, make_sequence(tokenizer, stop=("#",)), tokens)
    assert (whole.reasoning, whole.text) == ("a#b", "c")


def test_stop_strings_are_not_looked_for_in_the_arguments_of_a_call(tokenizer: Any) -> None:
    tokens = [*as_tokens(tokenizer, ["ok", CALL, PARIS, END_CALL]), END]
    whole = spoken(tokenizer, make_sequence(tokenizer, stop=("Paris",), has_tools=True), tokens)
    assert (whole.text, whole.calls) == ("ok", [("weather", '{"city": "Paris"}')])


def test_a_stop_string_does_not_reach_over_a_call(tokenizer: Any) -> None:
    tokens = [*as_tokens(tokenizer, ["a", CALL, PARIS, END_CALL, "b"]), END]
    whole = spoken(tokenizer, make_sequence(tokenizer, stop=("ab",), has_tools=True), tokens)
    assert whole.text == "ab"


# Tool calls


def test_an_answer_with_a_call_ends_with_tool_calls(tokenizer: Any) -> None:
    tokens = [*as_tokens(tokenizer, [CALL, PARIS, END_CALL]), END]
    whole = spoken(tokenizer, make_sequence(tokenizer, has_tools=True), tokens)
    assert finish_of(whole).reason == "tool_calls"


@pytest.mark.parametrize("num_missing", [1, 2, 5])
def test_a_call_cut_by_max_tokens_keeps_what_was_given_and_the_reason_is_length(
    tokenizer: Any, num_missing: int
) -> None:
    tokens = as_tokens(tokenizer, [CALL, PARIS, END_CALL])
    sequence = make_sequence(tokenizer, has_tools=True, max_tokens=len(tokens) - num_missing)
    whole = spoken(tokenizer, sequence, tokens)
    ((name, arguments),) = whole.calls
    assert (whole.text, name) == ("", "weather")
    assert '{"city": "Paris"}'.startswith(arguments) and arguments
    assert finish_of(whole).reason == "length"


def test_a_call_of_another_format_cut_by_max_tokens_is_text(tokenizer: Any) -> None:
    from mlx_lm.tool_parsers.pythonic import parse_tool_call

    tokens = as_tokens(tokenizer, [CALL, "[a(x=1)]"])
    sequence = make_sequence(
        tokenizer, has_tools=True, max_tokens=len(tokens), tool_parser=parse_tool_call
    )
    whole = spoken(tokenizer, sequence, tokens)
    assert (whole.text, whole.calls) == (CALL + "[a(x=1)]", [])
    assert finish_of(whole).reason == "length"


def test_the_last_allowed_call_is_finished_before_the_answer_ends(tokenizer: Any) -> None:
    tokens = as_tokens(tokenizer, [CALL, PARIS, END_CALL])
    sequence = make_sequence(tokenizer, has_tools=True, max_tool_calls=1)
    for token in tokens[:-1]:
        sequence.append(token)
        assert not sequence.is_finished
    sequence.append(tokens[-1])
    assert sequence.is_finished


@pytest.mark.parametrize("number", [1, 2])
def test_calls_are_given_up_to_the_allowed_number_in_any_tokens(
    tokenizer: Any, number: int
) -> None:
    def answer(tokens: Tokens[int]) -> Folded:
        parser = Parser(
            Detokenizer(tokenizer),
            spelled(Markers.of(tokenizer)),
            tools=[WEATHER],
            tool_parser=tokenizer.tool_parser,
        )
        sequence = Sequence([1], SamplingParams(), parser, max_tool_calls=number)
        return spoken(tokenizer, sequence, tokens)

    text = f"{CALL}{PARIS}{END_CALL}" * 3 + " bye"
    for tokens in (as_prose(tokenizer, text), [t for c in text for t in as_prose(tokenizer, c)]):
        whole = answer(tokens)
        assert whole.calls == [("weather", '{"city": "Paris"}')] * number
        assert (whole.text, finish_of(whole).reason) == ("", "tool_calls")


def test_the_answer_ends_with_the_last_call_that_is_allowed(tokenizer: Any) -> None:
    tokens = as_tokens(tokenizer, [CALL, PARIS, END_CALL, "\n", CALL, PARIS, END_CALL])
    sequence = make_sequence(tokenizer, has_tools=True, max_tool_calls=1)
    whole = spoken(tokenizer, sequence, tokens)
    assert len(whole.calls) == 1
    assert finish_of(whole).reason == "tool_calls"
    assert len(sequence.generated) == len(as_tokens(tokenizer, [CALL, PARIS, END_CALL]))


@pytest.mark.parametrize("ending", [[END_CALL], [END]])
def test_of_several_calls_written_at_once_only_the_allowed_are_given(
    tokenizer: Any, ending: list[Any]
) -> None:
    from mlx_lm.tool_parsers.pythonic import parse_tool_call

    sequence = make_sequence(
        tokenizer, has_tools=True, max_tool_calls=2, tool_parser=parse_tool_call
    )
    tokens = as_tokens(tokenizer, [CALL, "[a(), b(x=1), c()]"])
    last = [END] if ending == [END] else as_tokens(tokenizer, ending)
    whole = spoken(tokenizer, sequence, [*tokens, *last])
    assert whole.calls == [("a", "{}"), ("b", '{"x": 1}')]
    assert finish_of(whole).reason == "tool_calls"


# What is counted


def test_thinking_is_counted_with_its_tags(tokenizer: Any) -> None:
    thinking = as_tokens(tokenizer, [THINK, "hm, so", END_THINK])
    answer = as_tokens(tokenizer, ["Hello!"])
    whole = spoken(tokenizer, make_sequence(tokenizer), [*thinking, *answer, END])
    num_tokens = len(thinking) + len(answer) + 1
    assert finish_of(whole).usage == Usage(3, 0, num_tokens, len(thinking))


def test_logprobs_are_those_of_the_answers_tokens(tokenizer: Any) -> None:
    pieces = [THINK, "hm", END_THINK, "Good 🙂 day!", CALL, PARIS, END_CALL, "Bye"]
    sequence = make_sequence(tokenizer, has_tools=True)
    whole = spoken(tokenizer, sequence, [*as_tokens(tokenizer, pieces), END])
    assert b"".join(entry.raw for entry in whole.logprobs) == b"Good \xf0\x9f\x99\x82 day!Bye"


@settings(deadline=None)
@given(st.lists(st.integers(0, 1268), max_size=16))
def test_every_token_of_a_plain_answer_has_its_logprob(tokenizer: Any, tokens: list[int]) -> None:
    whole = spoken(tokenizer, make_sequence(tokenizer), [*tokens, END])
    assert [entry.raw for entry in whole.logprobs] == [token_bytes(tokenizer, t) for t in tokens]
    assert whole.text == tokenizer.decode(tokens, skip_special_tokens=False)


@settings(deadline=None)
@given(
    st.lists(st.sampled_from(["ab", "b", "a", "bca", "é", "🙂", " ", "c", "abc"]), min_size=1),
    st.sampled_from([("bc",), ("abca", "c"), ("é",), ("🙂 ", "aa"), ("zz",)]),
)
@example(["🙂", " ", "é"], ("é",))
def test_what_a_stop_string_cuts_off_has_no_logprobs(
    tokenizer: Any, pieces: list[str], stop: tuple[str, ...]
) -> None:
    sequence = make_sequence(tokenizer, stop=stop)
    whole = spoken(tokenizer, sequence, [*as_tokens(tokenizer, pieces), END])
    *before, last = [b"", *(entry.raw for entry in whole.logprobs)]
    given = whole.text.encode()
    # The token in whose middle the text ends is part of it.
    assert b"".join(before) + last == given or len(b"".join(before)) < len(given)
    assert (b"".join(before) + last).startswith(given)


def test_seeds_are_64_bits_and_random_when_none_is_given(tokenizer: Any) -> None:
    def seed(value: int | None) -> int:
        parser = Parser(Detokenizer(tokenizer), Markers())
        return Sequence([1], SamplingParams(seed=value), parser).seed

    assert seed(7) == 7
    assert seed(-1) == 2**64 - 1
    assert seed(2**64 + 5) == 5
    assert seed(None) != seed(None)
