"""Thinking between markers of many tokens, as Gemma 4 and Kimi K3 write them, beside grammars."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from inference.detokenizer import Detokenizer
from inference.grammar import Grammars
from inference.guide import Guide
from inference.parser import Markers, Parser
from parts import Constraint, Message, Prompt, SamplingParams
from tests.demo import ENDS, VOCAB_SIZE
from tests.inference.scripted import whole
from tests.inference.spoken import WEATHER, as_tokens, folded
from tests.inference.test_grammar import allowed, started

HELLO = (Message("user", "Hello!"),)


@dataclass(frozen=True)
class Family:
    """How a family of models marks its thinking and its calls."""

    parser: str
    controls: dict[str, str]
    """Its control tokens, each in the place of one of the demo model's."""
    think: tuple[str, str]
    call: str
    """How a call begins."""


GEMMA = Family(
    "gemma4",
    {
        "<think>": "<|channel>",
        "</think>": "<channel|>",
        "<tool_call>": "<|tool_call>",
        "</tool_call>": "<tool_call|>",
        "<tools>": '<|"|>',
    },
    ("<|channel>thought", "<channel|>"),
    "<|tool_call>call:weather{",
)
KIMI = Family(
    "kimi_k3",
    {
        "<think>": "<|open|>",
        "</think>": "<|close|>",
        "<tool_response>": "<|sep|>",
        "</tool_response>": "<|end_of_msg|>",
    },
    ("<|open|>think<|sep|>", "<|close|>think<|sep|>"),
    '<|open|>tools<|sep|><|open|>call tool="weather" index="1"<|sep|>',
)


@dataclass(frozen=True)
class Thinker:
    """A model of such a family."""

    family: Family
    folder: Path
    tokenizer: Any
    grammars: Grammars

    def tokens(self, *pieces: str) -> list[int]:
        return as_tokens(self.tokenizer, pieces)

    def guide(self, prompt: Prompt, before: str = "a", budget: int | None = None) -> Guide:
        found = self.grammars.guide(prompt, self.tokens(before), max_reasoning_tokens=budget)
        assert found is not None
        return found


@pytest.fixture(scope="module", params=[GEMMA, KIMI], ids=["gemma", "kimi"])
def thinker(
    request: pytest.FixtureRequest,
    random_model: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Thinker:
    """Random weights and the demo model's tokenizer, under another family's control tokens."""
    from mlx_lm.tokenizer_utils import load

    family: Family = request.param
    folder = tmp_path_factory.mktemp(family.parser)
    for path in random_model.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    tokens = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    for token in tokens["added_tokens"]:
        token["content"] = family.controls.get(token["content"], token["content"])
    (folder / "tokenizer.json").write_text(json.dumps(tokens), encoding="utf-8")
    config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    config["tool_parser_type"] = family.parser
    # Its prompts open the thinking.
    opened = "{{ messages[-1].content }}" + family.think[0] + "\n"
    config["chat_template"] = "{% for tool in tools or [] %}{{ tool }}{% endfor %}" + opened
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    tokenizer = load(folder, eos_token_ids=tuple(ENDS))
    grammars = Grammars(tokenizer, Markers.of(tokenizer), vocab_size=VOCAB_SIZE)
    return Thinker(family, folder, tokenizer, grammars)


YES = Prompt(HELLO, constraint=Constraint("choice", ["yes"]))


def follow(guide: Guide, tokens: Sequence[int]) -> None:
    for token in tokens:
        assert token in allowed(guide)
        guide.accept(token)


@pytest.mark.parametrize("is_open", [False, True])
def test_an_answer_in_a_schema_may_be_thought_about(thinker: Thinker, is_open: bool) -> None:
    start, end = thinker.family.think
    guide = thinker.guide(YES, f"a{start}\n" if is_open else "a")
    follow(guide, thinker.tokens(*([] if is_open else [start]), "no, {", end, "\n", "yes"))
    layout = {thinker.tokens(marker.text)[0] for marker in Markers.of(thinker.tokenizer).layout[1:]}
    assert set(allowed(guide)) == {*ENDS, *layout}


@pytest.mark.parametrize("is_open", [False, True])
def test_a_call_that_must_come_may_be_thought_about(thinker: Thinker, is_open: bool) -> None:
    start, end = thinker.family.think
    prompt = Prompt(HELLO, (WEATHER,), forced_tools=("weather",))
    guide = thinker.guide(prompt, f"a{start}\n" if is_open else "a")
    thought = thinker.tokens(*([] if is_open else [start]), "hm", end)
    follow(guide, [*thought, *thinker.tokens(thinker.family.call)])
    assert not guide.error


def test_what_stands_around_an_answer_is_not_part_of_it(thinker: Thinker) -> None:
    if not (layout := Markers.of(thinker.tokenizer).layout):
        assert thinker.family is not KIMI
        return
    (start, end), (before, *behind) = thinker.family.think, [marker.text for marker in layout]
    tokens = thinker.tokens(start, "hm", end, before, "yes", *behind)
    follow(thinker.guide(YES), tokens)
    parser = Parser(Detokenizer(thinker.tokenizer), Markers.of(thinker.tokenizer))
    found = folded([*(part for token in tokens for part in parser.add(token)), *parser.flush()])
    assert (found.reasoning, found.text) == ("hm", "yes")


@pytest.mark.parametrize("prompt", [Prompt(HELLO), YES], ids=["free", "bound"])
@pytest.mark.parametrize("is_open", [False, True])
def test_thinking_is_closed_token_by_token(thinker: Thinker, prompt: Prompt, is_open: bool) -> None:
    start, end = thinker.family.think
    guide = thinker.guide(prompt, f"a{start}\n" if is_open else "a", budget=2)
    follow(guide, thinker.tokens(*([] if is_open else [start]), "a", "b"))
    for token in thinker.tokens(end):
        assert allowed(guide) == [token]
        guide.accept(token)
    assert thinker.tokens("yes")[0] in allowed(guide)
    assert len(allowed(guide)) > 1


def test_an_end_that_the_model_has_begun_is_not_begun_again(thinker: Thinker) -> None:
    start, end = thinker.family.think
    guide = thinker.guide(Prompt(HELLO), f"a{start}\n", budget=2)
    first, *rest = thinker.tokens(end)
    follow(guide, [*thinker.tokens("a"), first])
    for token in rest:
        assert allowed(guide) == [token]
        guide.accept(token)
    assert len(allowed(guide)) == VOCAB_SIZE


def test_what_only_begins_like_a_marker_is_none(thinker: Thinker) -> None:
    first = thinker.tokens(thinker.family.think[0])[0]
    guide = thinker.guide(Prompt(HELLO), budget=1)
    for token in [first, *thinker.tokens("x", "y", "z")]:
        guide.accept(token)
    assert len(allowed(guide)) == VOCAB_SIZE


def test_a_chat_is_answered_under_a_budget_for_all(thinker: Thinker) -> None:
    last = thinker.tokens(thinker.family.think[1])
    # It would think for ever.
    params = SamplingParams(
        seed=1, max_tokens=20, max_reasoning_tokens=4, logit_bias={last[0]: -100.0}
    )

    async def scene() -> None:
        engine = await started(thinker.folder)
        found = await whole(await engine.submit(Prompt(HELLO), params))
        await engine.stop()
        assert found.finish is not None
        assert found.finish.usage.reasoning_tokens == 4 + len(last)
        assert found.text

    asyncio.run(scene())
