"""What is asked for is what comes out, whatever the model is; and what cannot be had is refused."""

from __future__ import annotations

import asyncio
import datetime
import enum
import json
import os
import pathlib
import random
import re
import shutil
import string
import time
import uuid
from collections.abc import Coroutine, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import jsonschema
import numpy as np
import pytest
from pydantic import BaseModel, Field, SecretStr

from inference.engine import Engine
from inference.grammar import NUM_CACHED, Grammars
from inference.guide import Compiled, Guide
from inference.parser import Marker, Markers
from inference.schema import compile_s
from parts import Constraint, EngineFailed, InvalidRequest, Message, Prompt, SamplingParams, Tool
from tests import demo
from tests.conftest import DEMO
from tests.inference.schemas import Schemas
from tests.inference.scripted import whole
from tests.inference.spoken import WEATHER, Folded, allowed_bits, as_tokens, spelled
from tests.inference.test_runner import Faulty, loading

VOCAB = demo.VOCAB_SIZE
ENDS = tuple(demo.ENDS)
THINK, END_THINK = demo.THINK, demo.END_THINK
HELLO = (Message("user", "Hello!"),)
UNTHINKING = {"enable_thinking": False}


@pytest.fixture(scope="module")
def grammars(tokenizer: Any) -> Grammars:
    return Grammars(tokenizer, Markers.of(tokenizer), vocab_size=VOCAB)


def prompt_for(
    kind: Any, value: Any, *, thinks: bool = False, tools: Sequence[Tool] = (), **rest: Any
) -> Prompt:
    args = {} if thinks else UNTHINKING
    return Prompt(HELLO, tuple(tools), args, constraint=Constraint(kind, value), **rest)


def allowed(guide: Guide) -> list[int]:
    return np.flatnonzero(allowed_bits(guide, VOCAB)[:VOCAB]).tolist()


def walked(tokenizer: Any, guide: Guide, seed: int, num_tokens: int = 300) -> str | None:
    """The text of a random walk over what is allowed; None when it does not end in time."""
    chooser = random.Random(seed)
    tokens: list[int] = []
    closing = {*ENDS, *as_tokens(tokenizer, '"}]')}
    for _ in range(num_tokens):
        choices = allowed(guide)
        assert choices and not guide.error
        # Ends and what closes something are likelier, so that the walk ends.
        ends = [t for t in choices if t in closing]
        token = chooser.choice(ends if ends and chooser.random() < 0.3 else choices)
        guide.accept(token)
        if token in ENDS:
            return str(tokenizer.decode(tokens))
        tokens.append(token)
    return None


def played(scene: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(scene, 300))


async def started(folder: Path, **options: Any) -> Engine:
    engine = Engine(loading(folder), **options)
    await engine.start()
    return engine


async def answered(engine: Engine, prompt: Prompt, **params: Any) -> Folded:
    defaults: dict[str, Any] = {"temperature": 1.0, "top_p": 1.0, "seed": 1, "max_tokens": 150}
    return await whole(await engine.submit(prompt, SamplingParams(**defaults | params)))


def reason_of(found: Folded) -> str:
    assert found.finish is not None
    return found.finish.reason


def is_valid(value: Any, schema: Any) -> bool:
    checker = jsonschema.Draft202012Validator.FORMAT_CHECKER
    validator = jsonschema.Draft202012Validator(schema, format_checker=checker)
    return validator.is_valid(value)


# Every kind of constraint, on a random walk

EXPRESSIONS = [
    "a/b", r"\/+", "[/]{2}", "a\nb", r"\n\t", '"x"|"y"', "'+", r"\\\\/", "(yes|no)", r"\d{3}-\d{4}",
    "é+🙂", "(?i)abc", "^abc$", 'a/i\nstart: "x"', r"[^\n]{0,9}", "(a+)+", "(a|b)*a(a|b){20}", "",
]  # fmt: skip
CHOICES = [
    'a"b',
    "é🙂",
    "two\nlines",
    "back\\slash",
    "/",
    "</think>",
    "<|im_end|>",
    "\x00",
    "%",
    " ",
]
LARK = 'start: greeting ("/" NAME)+\ngreeting: "hi" | "yo"\nNAME: /[a-z]{1,3}/'
GBNF = 'root ::= greeting ("/" name)+\ngreeting ::= "hi" | "yo"\nname ::= [a-z] [a-z]? [a-z]?'


@pytest.mark.parametrize("pattern", EXPRESSIONS)
def test_a_walk_through_an_expression_matches_it(
    tokenizer: Any, grammars: Grammars, pattern: str
) -> None:
    for seed in range(5):
        guide = grammars.guide(prompt_for("regex", pattern), [1])
        assert guide is not None
        text = walked(tokenizer, guide, seed)
        assert text is not None and re.fullmatch(pattern, text), (pattern, text)


def test_every_choice_can_be_chosen_and_nothing_else(tokenizer: Any, grammars: Grammars) -> None:
    found = set()
    for seed in range(100):
        guide = grammars.guide(prompt_for("choice", CHOICES), [1])
        assert guide is not None
        found.add(walked(tokenizer, guide, seed))
    assert found == set(CHOICES)


@pytest.mark.parametrize(
    "text",
    [
        LARK,
        GBNF,
        LARK.replace("start:", "start :"),
        LARK.replace("start:", "?start:"),
        LARK.replace("greeting", "answer").replace("NAME", "TEXT"),
        '%llguidance {"no_forcing": true}\n' + LARK,
        "// a comment with ::= in it\n" + LARK,
    ],
)
def test_a_walk_through_a_grammar_matches_it(tokenizer: Any, grammars: Grammars, text: str) -> None:
    for seed in range(5):
        guide = grammars.guide(prompt_for("grammar", text), [1])
        assert guide is not None
        found = walked(tokenizer, guide, seed)
        assert found is None or re.fullmatch("(hi|yo)(/[a-z]{1,3})+", found)


def test_any_json_object_is_an_object(tokenizer: Any, grammars: Grammars) -> None:
    found = []
    for seed in range(20):
        guide = grammars.guide(prompt_for("json", {}), [1])
        assert guide is not None
        found.append(walked(tokenizer, guide, seed))
    values = [json.loads(text) for text in found if text is not None]
    assert len(values) > 5 and all(isinstance(value, dict) for value in values)


@pytest.mark.parametrize("seed", range(8))
def test_a_walk_through_a_schema_is_valid_json_on_one_line(
    tokenizer: Any, grammars: Grammars, seed: int
) -> None:
    for schema in Schemas(seed).some(15):
        guide = grammars.guide(prompt_for("json", schema), [1])
        assert guide is not None
        text = walked(tokenizer, guide, seed)
        if text is not None:
            assert is_valid(json.loads(text), schema), (schema, text)
            assert "\n" not in text and not re.search(r"\s\s", re.sub('"[^"]*"', "", text))


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Cat(BaseModel):
    kind: Literal["cat"]
    lives: Annotated[int, Field(gt=0, le=9)] = 9


class Dog(BaseModel):
    kind: Literal["dog"]
    friends: list[Dog] = []


class Everything(BaseModel):
    colour: Colour
    born: datetime.date
    file: pathlib.Path
    secret: SecretStr
    pet: Annotated[Cat | Dog, Field(discriminator="kind")]
    point: tuple[int, bool]
    counts: dict[str, int] | None = None
    number: uuid.UUID
    code: Annotated[str, Field(pattern="^[A-Z]{2}$")]


OBJECT: dict[str, Any] = {"type": "object", "additionalProperties": False}
FROM_ZOD: dict[str, Any] = {
    **OBJECT,
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "properties": {
        "email": {
            "type": "string",
            "format": "email",
            "pattern": r"^(?!\.)(?!.*\.\.)[a-z.]*@b\.c$",
        },
        "record": {
            "type": "object",
            "propertyNames": {"type": "string"},
            "additionalProperties": {"type": "boolean"},
        },
        "cuid": {"type": "string", "format": "cuid", "pattern": "^[cC][a-z]{8}$"},
        "whole": {"type": "integer", "minimum": -(2**53) + 1, "maximum": 2**53 - 1},
        "format": {"type": "string", "maxLength": 3},
        "const": {"type": "string", "format": "binary", "maxLength": 3},
        "either": {
            "oneOf": [
                {**OBJECT, "properties": {"k": {"const": "a"}}, "required": ["k"]},
                {**OBJECT, "properties": {"k": {"const": "b"}}, "required": ["k"]},
            ]
        },
        "kept": {"enum": [{"format": "cuid"}]},
    },
    "required": ["email", "record", "cuid", "whole", "format", "const", "either", "kept"],
}


@pytest.mark.parametrize("schema", [Everything.model_json_schema(), FROM_ZOD])
def test_schemas_as_pydantic_and_zod_write_them_are_enforced(
    tokenizer: Any, grammars: Grammars, schema: dict[str, Any]
) -> None:
    lenient = json.loads(json.dumps(schema))
    if schema is FROM_ZOD:
        del lenient["properties"]["email"]["pattern"]
    found = []
    for seed in range(10):
        guide = grammars.guide(prompt_for("json", schema), [1])
        assert guide is not None
        found.append(walked(tokenizer, guide, seed, 600))
    values = [json.loads(text) for text in found if text is not None]
    assert len(values) > 3
    for value in values:
        assert is_valid(value, lenient), value


# Through the engine


@pytest.fixture(scope="module")
def brief(tokenizer: Any) -> dict[int, float]:
    """A bias to the end: a model that knows nothing rarely finds it."""
    closing = [t for c in '"}]' for t in as_tokens(tokenizer, [c])]
    return dict.fromkeys([*ENDS, *closing], 4.0)


async def all_answered(
    engine: Engine, prompts: Sequence[Prompt], params: Sequence[SamplingParams]
) -> list[Folded]:
    pairs = zip(prompts, params, strict=True)
    answers = [await engine.submit(prompt, own) for prompt, own in pairs]
    return await asyncio.gather(*map(whole, answers))


def seeded(number: int, **params: Any) -> list[SamplingParams]:
    defaults: dict[str, Any] = {"temperature": 1.0, "top_p": 1.0, "max_tokens": 100}
    return [SamplingParams(**defaults | params, seed=seed) for seed in range(number)]


NUM_SCHEMAS = 500
SLICE = 40
"""How many of them the demo model answers, unless `ALL_SCHEMAS` is set; `SCHEMAS_SEED` says which.

It is a real model, and slow on a small processor: all of them take it minutes.
"""


def chosen_schemas() -> list[tuple[int, dict[str, Any]]]:
    """Schemas, with the seed of the answer to each."""
    every = list(enumerate(Schemas(NUM_SCHEMAS).some(NUM_SCHEMAS)))
    if os.environ.get("ALL_SCHEMAS"):
        return every
    return random.Random(os.environ.get("SCHEMAS_SEED", "1")).sample(every, SLICE)


def check_answers(
    schemas: Sequence[dict[str, Any]], answers: Sequence[Folded], max_tokens: int
) -> None:
    """What ended is valid, what did not was cut at its limit, and most of them ended.

    Those that do not are lists, numbers and texts without a bound, in which a toy goes in circles.
    """
    num_whole = 0
    for schema, answer in zip(schemas, answers, strict=True):
        assert answer.finish is not None
        num_tokens = answer.finish.usage.completion_tokens
        if reason_of(answer) == "stop":
            assert num_tokens <= max_tokens
            assert is_valid(json.loads(answer.text), schema), (schema, answer.text)
            num_whole += 1
        else:
            assert (reason_of(answer), num_tokens) == ("length", max_tokens)
    print(f"{num_whole} of {len(schemas)} answers are whole")
    assert num_whole > 0.6 * len(schemas)


def test_answers_of_a_model_that_knows_nothing_are_valid_or_cut(
    random_model: Path, brief: dict[int, float]
) -> None:
    schemas = Schemas(NUM_SCHEMAS).some(NUM_SCHEMAS)
    prompts = [prompt_for("json", schema) for schema in schemas]

    async def scene() -> None:
        engine = await started(random_model, max_queue=NUM_SCHEMAS)
        params = seeded(NUM_SCHEMAS, logit_bias=brief)
        found = await all_answered(engine, prompts, params)
        await engine.stop()
        check_answers(schemas, found, 100)

    played(scene())


def test_answers_of_the_demo_model_are_valid_or_cut() -> None:
    chosen, max_tokens = chosen_schemas(), 96
    prompts = [prompt_for("json", schema) for _, schema in chosen]
    common = SamplingParams(temperature=1.0, top_p=1.0, frequency_penalty=1.0)
    # Without the penalty it goes in circles wherever it may.
    params = [replace(common, max_tokens=max_tokens, seed=seed) for seed, _ in chosen]

    async def scene() -> None:
        engine = await started(DEMO, max_queue=len(chosen), max_batch=64)
        found = await all_answered(engine, prompts, params)
        await engine.stop()
        check_answers([schema for _, schema in chosen], found, max_tokens)

    asyncio.run(asyncio.wait_for(scene(), 900))


@pytest.mark.parametrize("max_tokens", [1, 2, 5])
def test_json_cut_by_max_tokens_ends_with_length(random_model: Path, max_tokens: int) -> None:
    async def scene() -> None:
        engine = await started(random_model)
        prompt = prompt_for("json", {"const": ["a long enough text", 1, 2, 3]})
        found = await answered(engine, prompt, max_tokens=max_tokens)
        await engine.stop()
        assert reason_of(found) == "length"
        assert found.text and '["a long enough text",1,2,3]'.startswith(found.text)

    played(scene())


def test_json_whose_last_token_is_the_last_allowed_is_whole(
    tokenizer: Any, random_model: Path
) -> None:
    async def scene() -> None:
        engine = await started(random_model)
        prompt = prompt_for("choice", ["ab"])
        by_number = [await answered(engine, prompt, max_tokens=n) for n in (1, 2, 3, 4)]
        await engine.stop()
        assert {found.text for found in by_number} <= {"a", "ab"}
        assert by_number[-1].text == "ab" and reason_of(by_number[-1]) == "stop"

    played(scene())


MIXED = [
    Prompt(HELLO),
    prompt_for("json", {"type": "array", "items": {"type": "integer"}, "minItems": 3}),
    Prompt((Message("user", "Tell me a story."),)),
    prompt_for("regex", "[a-z]{30,40}"),
    prompt_for("choice", CHOICES),
    Prompt((Message("user", "What is 12 plus 30?"),)),
    prompt_for("grammar", LARK, thinks=True),
    prompt_for("json", Schemas(3).some(1)[0], thinks=True),
]
CASES: list[dict[str, Any]] = [
    {"temperature": 0.0},
    {"temperature": 1.0},
    {"temperature": 0.7, "top_p": 0.8, "presence_penalty": 0.5},
    {"temperature": 1.3, "top_k": 20, "logit_bias": {65: 2.0}},
]


def same(found: Folded) -> tuple[Any, ...]:
    return (found.reasoning, found.text, found.calls, found.finish and found.finish.reason)


@pytest.fixture(scope="module")
def each_alone(float32_model: Path) -> list[tuple[Any, ...]]:
    async def scene() -> list[tuple[Any, ...]]:
        engine = await started(float32_model, max_batch=1)
        found = await all_answered(engine, MIXED, mixed_params())
        await engine.stop()
        return [same(f) for f in found]

    return asyncio.run(scene())


def mixed_params() -> list[SamplingParams]:
    return [
        SamplingParams(**CASES[i % len(CASES)], seed=i, max_tokens=40) for i in range(len(MIXED))
    ]


def test_constrained_and_free_rows_in_one_batch_are_as_alone(
    float32_model: Path, each_alone: list[tuple[Any, ...]]
) -> None:
    async def scene() -> None:
        engine = await started(float32_model)
        for _ in range(2):  # the second time from compiled grammars and the prefix cache
            found = await all_answered(engine, MIXED, mixed_params())
            assert [same(f) for f in found] == each_alone
        await engine.stop()

    played(scene())


@pytest.mark.parametrize("is_late", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("count", [1, 3, 17])
def test_a_step_that_failed_leaves_the_answers_as_they_were(
    float32_model: Path, each_alone: list[tuple[Any, ...]], count: int, is_late: bool
) -> None:
    async def scene() -> None:
        engine = Engine(
            loading(float32_model, lambda runner: Faulty(runner, "decode", count, is_late=is_late))
        )
        await engine.start()
        found = await all_answered(engine, MIXED, mixed_params())
        await engine.stop()
        assert [same(f) for f in found] == each_alone

    played(scene())


# Thinking


def test_the_grammar_begins_behind_the_thinking(tokenizer: Any, grammars: Grammars) -> None:
    guide = grammars.guide(prompt_for("choice", ["yes"], thinks=True), [1])
    assert guide is not None
    for token in as_tokens(tokenizer, ["<think>", "no, {", "</think>", "\n\n", "yes"]):
        assert token in allowed(guide)
        guide.accept(token)
    assert set(allowed(guide)) == set(ENDS)


def test_thinking_may_be_left_out(tokenizer: Any, grammars: Grammars) -> None:
    guide = grammars.guide(prompt_for("choice", ["yes"], thinks=True), [1])
    assert guide is not None
    (start,) = as_tokens(tokenizer, ["<think>"])
    assert start in allowed(guide) and as_tokens(tokenizer, ["yes"])[0] in allowed(guide)


@pytest.mark.parametrize("args", [UNTHINKING, {"reasoning_effort": "none"}])
def test_who_is_told_not_to_think_cannot(grammars: Grammars, args: Any) -> None:
    prompt = Prompt(HELLO, template_args=args, constraint=Constraint("choice", ["yes"]))
    guide = grammars.guide(prompt, [1])
    assert guide is not None
    assert THINK not in allowed(guide)


def test_a_prompt_that_has_opened_thinking_closes_it_first(
    tokenizer: Any, grammars: Grammars
) -> None:
    opened = as_tokens(tokenizer, ["hi", "<think>", "\n"])
    for prompt in (prompt_for("choice", ["yes"], thinks=True), prompt_for("choice", ["yes"])):
        guide = grammars.guide(prompt, opened)
        assert guide is not None
        assert not set(ENDS) & set(allowed(guide))
        for token in as_tokens(tokenizer, ["hm", "</think>", "yes"]):
            assert token in allowed(guide)
            guide.accept(token)
        assert set(allowed(guide)) == set(ENDS)


def spell(tokenizer: Any, guide: Guide, text: str) -> None:
    """Take a text as ordinary tokens, each the longest that is allowed."""
    while text:
        words = {t: tokenizer.decode([t]) for t in allowed(guide) if t < min(ENDS)}
        token = max((t for t in words if text.startswith(words[t])), key=lambda t: len(words[t]))
        guide.accept(token)
        text = text[len(words[token]) :]


def test_markers_of_many_tokens_are_read_as_text(tokenizer: Any) -> None:
    markers = spelled(Markers.of(tokenizer))
    guide = Grammars(tokenizer, markers, vocab_size=VOCAB).guide(
        prompt_for("choice", ["yes"], thinks=True), [1]
    )
    assert guide is not None
    spell(tokenizer, guide, "<think>a < b</think>yes")
    assert set(allowed(guide)) == set(ENDS)


# The budget for thinking


@pytest.mark.parametrize("budget", [0, 1, 7, 20])
@pytest.mark.parametrize("has_grammar", [False, True])
def test_thinking_is_closed_at_its_budget_and_the_answer_follows(
    tokenizer: Any, random_model: Path, budget: int, has_grammar: bool
) -> None:
    prompt = prompt_for("choice", ["yes"], thinks=True) if has_grammar else Prompt(HELLO)
    # It would think for ever: it opens a block, and cannot close it.
    bias = {THINK: 100.0, END_THINK: -100.0}

    async def scene() -> None:
        engine = await started(random_model)
        found = await answered(
            engine, prompt, max_reasoning_tokens=budget, logit_bias=bias, max_tokens=40
        )
        await engine.stop()
        assert found.finish is not None
        # The opening tag, what was thought, and the closing tag; a character may be finished.
        assert budget + 2 <= found.finish.usage.reasoning_tokens <= budget + 2 + 3 * has_grammar
        assert (found.text, reason_of(found)) == ("yes", "stop") or not has_grammar
        assert bool(found.text)

    played(scene())


def test_a_budget_that_is_not_needed_changes_nothing(float32_model: Path) -> None:
    async def scene() -> None:
        engine = await started(float32_model)
        free = await answered(engine, Prompt(HELLO), temperature=0.0)
        bound = await answered(engine, Prompt(HELLO), temperature=0.0, max_reasoning_tokens=900)
        await engine.stop()
        assert same(free) == same(bound)

    played(scene())


def test_a_block_behind_white_space_has_its_budget_too(tokenizer: Any, grammars: Grammars) -> None:
    guide = grammars.guide(Prompt(HELLO), [1], max_reasoning_tokens=2)
    assert guide is not None
    for token in as_tokens(tokenizer, ["\n", "<think>", "a", "b"]):
        guide.accept(token)
    assert allowed(guide) == [END_THINK]


def test_a_tag_in_the_text_is_not_closed(tokenizer: Any, grammars: Grammars) -> None:
    guide = grammars.guide(Prompt(HELLO), [1], max_reasoning_tokens=1)
    assert guide is not None
    for token in as_tokens(tokenizer, ["a", "<think>", "b", "c"]):
        guide.accept(token)
    assert len(allowed(guide)) == VOCAB


def test_thinking_whose_marks_are_text_is_closed_letter_by_letter(tokenizer: Any) -> None:
    markers = spelled(Markers.of(tokenizer))
    assert markers.think_end
    letters = tuple(as_tokens(tokenizer, list("</think>")))
    markers = replace(markers, think_end=replace(markers.think_end, tokens=letters))
    grammars = Grammars(tokenizer, markers, vocab_size=VOCAB)
    opened = as_tokens(tokenizer, ["hi", "<think>", "\n"])
    for prompt in (Prompt(HELLO), prompt_for("choice", ["yes"], thinks=True)):
        guide = grammars.guide(prompt, opened, max_reasoning_tokens=0)
        assert guide is not None
        for token in letters:
            assert allowed(guide) == [token]
            guide.accept(token)
        assert len(allowed(guide)) > 1
    without = Grammars(tokenizer, replace(markers, think_end=None), vocab_size=VOCAB)
    assert without.guide(Prompt(HELLO), [1], max_reasoning_tokens=5) is None


# Calls


def tools_with(schemas: Sequence[Any], *, strict: bool = False) -> tuple[Tool, ...]:
    return tuple(Tool(f"tool{i}", "", schema, strict) for i, schema in enumerate(schemas))


def test_calls_of_strict_tools_are_valid_and_text_stays_free(
    tokenizer: Any, random_model: Path, brief: dict[int, float]
) -> None:
    tools = tools_with([Schemas(9).closed(2), {"not": {}}], strict=False)
    tools = (replace(tools[0], strict=True), tools[1])
    (start,) = as_tokens(tokenizer, ["<tool_call>"])
    prompt = Prompt(HELLO, tools, UNTHINKING)

    async def scene() -> None:
        engine = await started(random_model)
        calling = seeded(20, logit_bias={**brief, start: 12.0}, max_tokens=160)
        talking = seeded(6, logit_bias={start: -100.0}, max_tokens=20)
        found = await all_answered(engine, [prompt] * 26, [*calling, *talking])
        await engine.stop()
        called = [f for f in found[:20] if reason_of(f) == "tool_calls"]
        assert len(called) > 5
        for answer in called:
            for name, arguments in answer.calls:
                value = json.loads(arguments)
                assert name != "tool0" or is_valid(value, tools[0].parameters)
        assert all(f.text and not f.calls for f in found[20:])

    played(scene())


def test_with_tools_an_answer_in_a_schema_may_be_a_call(tokenizer: Any, grammars: Grammars) -> None:
    prompt = prompt_for("choice", ["yes"], tools=[WEATHER])
    for pieces in (["yes"], ["<tool_call>", '\n{"name": "weather", "arguments": {']):
        guide = grammars.guide(prompt, [1])
        assert guide is not None
        for token in as_tokens(tokenizer, pieces):
            assert token in allowed(guide)
            guide.accept(token)


def test_a_strict_tool_that_cannot_be_enforced_is_refused(grammars: Grammars) -> None:
    tools = tools_with([{"not": {}}], strict=True)
    with pytest.raises(InvalidRequest, match="not") as caught:
        grammars.guide(Prompt(HELLO, tools), [1])
    assert (caught.value.param, caught.value.code) == ("tools", "invalid_schema")


def test_a_forced_tool_without_strict_is_called_with_an_object_if_need_be(
    tokenizer: Any, grammars: Grammars
) -> None:
    prompt = Prompt(HELLO, tools_with([{"not": {}}]), UNTHINKING, forced_tools=("tool0",))
    guide = grammars.guide(prompt, [1])
    assert guide is not None
    for token in as_tokens(tokenizer, ["<tool_call>", '\n{"name": "tool0", "arguments": {}}\n']):
        assert token in allowed(guide)
        guide.accept(token)


@pytest.mark.parametrize(
    "parameters",
    [
        {"type": "string"},
        {"enum": [1, "a"]},
        {"anyOf": [{"type": "array"}, {"$ref": "#/$defs/a"}], "$defs": {"a": {"type": "null"}}},
    ],
)
def test_a_tool_whose_arguments_are_no_object_cannot_be_forced(
    grammars: Grammars, parameters: Any
) -> None:
    (tool,) = tools_with([parameters])
    for asked in (
        Prompt(HELLO, (tool,), forced_tools=("tool0",)),
        Prompt(HELLO, (replace(tool, strict=True),)),
    ):
        with pytest.raises(InvalidRequest, match="'tool0' allow none") as caught:
            grammars.guide(asked, [1])
        assert (caught.value.param, caught.value.code) == ("tools", "invalid_schema")
    assert grammars.guide(Prompt(HELLO, (tool,)), [1]) is None


@pytest.mark.parametrize("parameters", [{"type": ["object", "null"]}, {"title": "Anything"}])
def test_arguments_that_may_be_an_object_are_one(
    tokenizer: Any, grammars: Grammars, parameters: Any
) -> None:
    prompt = Prompt(HELLO, tools_with([parameters]), UNTHINKING, forced_tools=("tool0",))
    guide = grammars.guide(prompt, [1])
    assert guide is not None
    for token in as_tokens(tokenizer, ["<tool_call>", '\n{"name": "tool0", "arguments": ']):
        guide.accept(token)
    starts = {tokenizer.decode([token])[0] for token in allowed(guide)}
    assert starts == {"{"}


def test_calls_in_no_format_that_is_known_are_refused(tokenizer: Any) -> None:
    grammars = Grammars(
        tokenizer, Markers.of(tokenizer), vocab_size=VOCAB, tool_parser=lambda text, tools: {}
    )
    with pytest.raises(InvalidRequest, match="no form for tool calls") as caught:
        grammars.guide(Prompt(HELLO, (WEATHER,), forced_tools=("weather",)), [1])
    assert caught.value.param == "tools"


@pytest.mark.parametrize("way", ["required", "strict", "talk"])
def test_a_model_that_learned_no_tools_is_told_of_them_and_calls(
    tokenizer: Any, random_model: Path, tmp_path: Path, brief: dict[int, float], way: str
) -> None:
    template = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant: "
    folder = shutil.copytree(random_model, tmp_path / "untaught")
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(config | {"chat_template": template}))
    tools = tools_with([Schemas(5).closed(1)], strict=way == "strict")
    forced = ("tool0",) if way == "required" else ()
    prompt = Prompt(HELLO, tools, UNTHINKING, forced_tools=forced, max_tool_calls=1)

    async def scene() -> None:
        engine = await started(folder)
        assert engine.status.model and not engine.status.model.tools
        # A model that likes the marker, letter by letter, is one that has read the prompt.
        liked = dict.fromkeys(as_tokens(tokenizer, list("<tool_call>")), 3.0 * (way != "talk"))
        params = seeded(4, logit_bias={**brief, **liked}, max_tokens=200)
        found = await all_answered(engine, [prompt] * 4, params)
        await engine.stop()
        for answer in found:
            for name, arguments in answer.calls:
                if reason_of(answer) == "tool_calls":
                    assert name == "tool0" and is_valid(json.loads(arguments), tools[0].parameters)
        assert way != "required" or any(reason_of(f) == "tool_calls" for f in found)
        assert way == "required" or any(f.text for f in found)

    played(scene())


def test_markers_in_letters_may_follow_a_text(tokenizer: Any) -> None:
    start, end = Marker("<call>", None), Marker("</call>", None)
    markers = replace(Markers.of(tokenizer), tool_start=start, tool_end=end)
    grammars = Grammars(tokenizer, markers, vocab_size=VOCAB)
    tools = tools_with([{"enum": [{}]}], strict=True)
    guide = grammars.guide(Prompt(HELLO, tools, UNTHINKING), [1])
    assert guide is not None
    call = '<call>\n{"name": "tool0", "arguments": {}}\n</call>'
    spell(tokenizer, guide, f"Well <ca < now: {call}\nand {call}")
    assert set(ENDS) <= set(allowed(guide))


# What cannot be had is refused


def nested(depth: int, wrap: Any) -> Any:
    schema: Any = {"type": "string"}
    for _ in range(depth):
        schema = wrap(schema)
    return schema


ENDLESS = "^(([a-z]{1,50}){1,50}){1,50}$"
"""An expression that is compiled in no time, and cannot be followed for more than a few words."""
SOME = {f"p{i}": {"type": "string"} for i in range(900)}
REFUSED: dict[str, tuple[str, Any, str]] = {
    "nested objects": ("json", nested(800, lambda s: {"properties": {"a": s}}), "deeper than 100"),
    "nested lists": ("json", nested(800, lambda s: {"items": s}), "deeper than 100"),
    "nested values": ("json", {"const": nested(800, lambda s: [s])}, "deeper than 100"),
    "huge": ("json", {"enum": [f"value {i}" for i in range(30_000)]}, "more than 262144"),
    "a huge text": ("json", {"const": "v" * 20_000}, "more than 8192"),
    "many optional": ("json", {"type": "object", "properties": SOME}, "optional properties"),
    "many of anything": (
        "json",
        {"type": "object", "properties": {f"p{i}": {} for i in range(12_000)}},
        "more than 2000 properties",
    ),
    "many objects": (
        "json",
        {"items": {"anyOf": [{"properties": SOME, "required": [*SOME]}] * 3}},
        "more than 2000 properties",
    ),
    "$ref loop": ("json", {"$ref": "#"}, "nothing satisfies it"),
    "$ref ring": (
        "json",
        {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}},
        "nothing satisfies it",
    ),
    "a chain of $ref": (
        "json",
        {
            "$ref": "#/$defs/d0",
            "$defs": {
                f"d{i}": {"properties": {"a": {"$ref": f"#/$defs/d{i + 1}"}}} for i in range(2000)
            },
        },
        "through its references",
    ),
    "remote $ref": ("json", {"$ref": "https://example.com/s.json"}, "example.com"),
    "local $ref": ("json", {"$ref": "file:///etc/passwd"}, "etc/passwd"),
    "dangling $ref": ("json", {"$ref": "#/$defs/nope"}, "nope"),
    "type": ("json", {"type": "text"}, "Invalid type: text"),
    "type of type": ("json", {"type": 5}, "type must be"),
    "properties": ("json", {"type": "object", "properties": [1]}, "properties"),
    "enum": ("json", {"enum": "abc"}, "enum"),
    "empty enum": ("json", {"enum": []}, "anyOf is empty"),
    "contradiction": ("json", {"type": "integer", "minimum": 5, "maximum": 2}, "minimum"),
    "surrogate": ("json", {"const": "\ud83d"}, "surrogate"),
    "nan": ("json", {"const": float("nan")}, "number"),
    "multipleOf": ("json", {"type": "integer", "multipleOf": 123_456_789}, "multipleOf"),
    "finer multipleOf": ("json", {"type": "number", "multipleOf": 1.00000001}, "multipleOf"),
    "two multipleOf": ("json", {"allOf": [{"multipleOf": 9973}, {"multipleOf": 9967}]}, "multiple"),
    "unions of unions": (
        "json",
        {
            "allOf": [
                {"anyOf": [{"properties": {f"k{i}{j}": {}}} for j in "abcd"]} for i in range(9)
            ]
        },
        "too large",
    ),
    "oneOf": ("json", {"oneOf": [{"type": "string"}, {"maxLength": 3}]}, "oneOf has options that"),
    "not": ("json", {"not": {"type": "string"}}, r'\["not"\]'),
    "uniqueItems": ("json", {"type": "array", "uniqueItems": True}, "uniqueItems"),
    "if": ("json", {"if": {"type": "string"}, "then": {"minLength": 2}}, '"if", "then"'),
    "contains": ("json", {"type": "array", "contains": {"type": "integer"}}, "contains"),
    "a pattern that looks around": ("json", {"type": "string", "pattern": "(?=a)b"}, "look-ahead"),
    "1e9 repeats": ("regex", "a{1000000000}", "too many"),
    "repeats of repeats": ("regex", "((a{100}){100}){100}", "too many"),
    "ranges of ranges": ("json", {"type": "string", "pattern": ENDLESS}, "too many"),
    "a text for many expressions": (
        "json",
        {"allOf": [{"type": "string", "pattern": f".*{c}.*"} for c in string.ascii_lowercase]},
        "more than 8 expressions at once",
    ),
    "a property for many expressions": (
        "json",
        {
            "allOf": [{"$ref": f"#/$defs/{c}"} for c in string.ascii_lowercase],
            "$defs": {
                c: {"type": "object", "properties": {"a": {"pattern": f".*{c}.*"}}}
                for c in string.ascii_lowercase
            },
        },
        "more than 8 expressions at once",
    ),
    "many names in expressions": (
        "json",
        {"type": "object", "patternProperties": {f"^a{i}x$": {} for i in range(500)}},
        "more than 100 expressions for names",
    ),
    "a schema in a grammar": (
        "grammar",
        'start: "a" %json {"type": "integer", "multipleOf": 123456789}',
        "multipleOf",
    ),
    "unclosed": ("regex", "(a", "unclosed group"),
    "backreference": ("regex", r"(a)\1", "backreferences"),
    "look-behind": ("regex", "(?<=a)b", "look-behind"),
    "backslash": ("regex", "a\\", "lexer error"),
    "a long expression": ("regex", "a" * 9000, "more than 8192"),
    "a long choice": ("choice", ["a" * 9000], "more than 8192"),
    "half a choice": ("choice", ["\ud83d"], "surrogate"),
    "no grammar": ("grammar", "((((", "expecting rule"),
    "no start": ("grammar", 'foo: "a"', "no start rule"),
    "no rule": ("grammar", "start: foo", 'unknown name: "foo"'),
    "no end": ("grammar", "start: start", "nothing satisfies it"),
    "1e9 repeats in a grammar": ("grammar", 'start: "a"{1000000000}', "Too many items"),
    "bad GBNF": ("grammar", "root ::= (((", "Expected"),
    "GBNF without root": ("grammar", 'a ::= "b"', "root"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_enforced_is_refused_with_its_reason(grammars: Grammars, name: str) -> None:
    kind, value, reason = REFUSED[name]
    with pytest.raises(InvalidRequest, match=reason) as caught:
        grammars.guide(prompt_for(kind, value), [1])
    assert (caught.value.code, caught.value.param) == ("invalid_schema", "response_format")
    message = caught.value.message
    assert len(message) < 300 and "\n" not in message
    assert not re.search(r"Traceback|\.py|\.rs|non-verbose|/home|site-packages", message)


def test_a_refusal_leaves_the_engine_well(random_model: Path) -> None:
    async def scene() -> None:
        engine = await started(random_model)
        for name in REFUSED:
            kind, value, _ = REFUSED[name]
            if name not in ("1e9 repeats", "repeats of repeats"):
                with pytest.raises(InvalidRequest):
                    await answered(engine, prompt_for(kind, value))
        assert (await answered(engine, prompt_for("choice", ["yes"]))).text == "yes"
        assert (engine.status.phase, engine.status.running, engine.status.waiting) == (
            "ready",
            0,
            0,
        )
        await engine.stop()

    played(scene())


def doubling(number: int) -> dict[str, Any]:
    """A schema that would have 2^number leaves if each reference were a copy."""
    twice = {
        f"d{i}": {"items": {"anyOf": [{"$ref": f"#/$defs/d{i + 1}"}] * 2}} for i in range(number)
    }
    return {"$ref": "#/$defs/d0", "$defs": twice | {f"d{number}": {"type": "string"}}}


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("json", doubling(20)),
        ("json", {"type": "array", "items": {"type": "string"}, "minItems": 10**9}),
        ("json", {"type": "string", "minLength": 10**9}),
        ("json", {"enum": [f"v{i:05}" for i in range(20_000)]}),
        ("json", {"type": "integer", "multipleOf": 19_991}),
        ("regex", "|".join(f"(a|b)*a(a|b){{{i}}}" for i in range(15, 40))),
        ("regex", "(.*a.*b.*c){12}"),
        ("grammar", 'start: s\ns: s s | s s s | "a" |'),
    ],
)
def test_what_looks_endless_is_compiled_within_the_limits(
    grammars: Grammars, kind: str, value: Any
) -> None:
    guide = grammars.guide(prompt_for(kind, value), [1])
    assert guide is not None and allowed(guide)


class Work:
    """A thread's own clock, by which everything that is asked of it takes a second."""

    def __init__(self) -> None:
        self.num_s = 0.0

    def __call__(self) -> float:
        self.num_s += 1
        return self.num_s


@pytest.mark.parametrize("num_tools", [0, 100])
def test_a_grammar_whose_time_is_over_is_given_up_and_the_next_is_not(
    tokenizer: Any, num_tools: int
) -> None:
    """By the thread that compiles it: whoever comes next does not wait behind it."""
    grammars = Grammars(tokenizer, Markers.of(tokenizer), vocab_size=VOCAB, clock=Work())
    tools = [Tool(f"f{i}", parameters={"type": "object"}) for i in range(num_tools)]
    with pytest.raises(InvalidRequest, match="takes too long") as caught:
        grammars.guide(prompt_for("regex", "[a-z]+", tools=tools), [1])
    assert (caught.value.code, caught.value.param) == ("invalid_schema", "response_format")
    assert not grammars._compiled
    grammars._clock = time.thread_time
    assert grammars.guide(prompt_for("regex", "[a-z]+", tools=tools), [1]) is not None


def test_what_each_tool_demands_has_its_own_time() -> None:
    assert [compile_s(number) for number in (0, 10, 1000)] == [2, 3, 10]


@pytest.mark.parametrize("pattern", ["(a+)+$", "(a|a)*c", "(x+x+)+y", "(a|b)*a(a|b){200}"])
def test_an_expression_that_others_choke_on_is_walked(
    tokenizer: Any, grammars: Grammars, pattern: str
) -> None:
    guide = grammars.guide(prompt_for("regex", pattern), [1])
    assert guide is not None
    walked(tokenizer, guide, 0)


def test_a_tokenizer_written_in_python_is_refused_with_a_reason(tokenizer: Any) -> None:
    class Slow:
        def __getattr__(self, name: str) -> Any:
            if name == "backend_tokenizer":
                raise AttributeError(name)
            return getattr(tokenizer, name)

    grammars = Grammars(Slow(), Markers.of(tokenizer), vocab_size=VOCAB)
    with pytest.raises(InvalidRequest, match="its tokenizer is of a kind") as caught:
        grammars.guide(prompt_for("json", {}), [1])
    assert caught.value.code == "unsupported_parameter"
    assert grammars.guide(Prompt(HELLO), [1]) is None


# One sequence, and the others


def test_a_grammar_that_ends_in_nothing_fails_alone(random_model: Path) -> None:
    def break_it(guide: Guide | None) -> Guide | None:
        if guide is not None and guide._matcher is not None:
            guide._matcher.consume_token(ENDS[0])  # is not allowed here
            broken = guide._matcher
            guide._grammar = Compiled(lambda: broken)
        return guide

    async def scene() -> None:
        def load_it() -> Any:
            model = loading(random_model)()
            make = model.make_guide
            return replace(
                model,
                make_guide=lambda tokens, prompt, params: (
                    break_it(make(tokens, prompt, params))
                    if prompt.constraint == Constraint("choice", ["no"])
                    else make(tokens, prompt, params)
                ),
            )

        engine = Engine(load_it)
        await engine.start()
        prompts = [prompt_for("choice", [word]) for word in ("yes", "no", "yes")]
        answers = [
            await engine.submit(prompt, SamplingParams(max_tokens=10, seed=1)) for prompt in prompts
        ]
        first, broken, last = await asyncio.gather(*map(whole, answers), return_exceptions=True)
        assert isinstance(broken, EngineFailed) and "too complex" in broken.message
        assert isinstance(first, Folded) and isinstance(last, Folded)
        assert (first.text, last.text) == ("yes", "yes")
        assert engine.status.phase == "ready"
        await engine.stop()

    played(scene())


def test_a_guide_that_is_lost_says_behind_which_token(tokenizer: Any, grammars: Grammars) -> None:
    guide = grammars.guide(prompt_for("choice", ["ab"]), [1])
    assert guide is not None
    for token in as_tokens(tokenizer, ["a", "x"]):
        guide.accept(token)
    assert guide.error
    assert [guide.is_lost(number) for number in range(3)] == [False, True, True]
    assert len(allowed(guide)) == VOCAB
    guide.catch_up(as_tokens(tokenizer, ["a"]))
    assert not guide.error and not guide.is_lost(1)
    assert allowed(guide) == as_tokens(tokenizer, ["b"])


def far_behind(schema: dict[str, Any]) -> Prompt:
    """A prompt for an object in which a schema stands where no try at it gets to."""
    properties = {"a": {"const": "a long text of all letters " * 10}, "b": schema}
    value = {"type": "object", "properties": properties, "required": ["a", "b"]}
    return prompt_for("json", {**value, "additionalProperties": False})


def test_an_answer_that_asks_too_much_of_a_grammar_fails_alone(
    tokenizer: Any, grammars: Grammars
) -> None:
    prompt = far_behind({"type": "string", "pattern": ENDLESS})
    text = json.dumps({"a": "a long text of all letters " * 10}).removesuffix("}") + ', "b": "'
    beginning = as_tokens(tokenizer, [text])
    guides = []
    for seed in range(3):
        guide = grammars.guide(prompt, [1])
        assert guide is not None
        for token in beginning:
            guide.accept(token)
        # Where the one before has failed, this one still stands.
        assert not guide.error and set(as_tokens(tokenizer, ["a", "z"])) <= set(allowed(guide))
        guides.append(guide)
        chooser = random.Random(seed)
        while not guide.error and len(choices := allowed(guide)) < VOCAB:
            guide.accept(chooser.choice(choices))
    assert any("too many" in str(guide.error) for guide in guides)


def test_guides_of_one_grammar_do_not_share_where_they_stand(
    tokenizer: Any, grammars: Grammars
) -> None:
    prompt = prompt_for("choice", ["ab", "cd"])
    first, second = grammars.guide(prompt, [1]), grammars.guide(prompt, [1])
    assert first is not None and second is not None
    first.accept(as_tokens(tokenizer, ["a"])[0])
    assert allowed(first) == as_tokens(tokenizer, ["b"])
    assert set(as_tokens(tokenizer, ["a", "c"])) <= set(allowed(second))


def test_a_grammar_is_compiled_once_and_forgotten_in_time(tokenizer: Any) -> None:
    class Counting(Grammars):
        num_compiled = 0

        def _compile(self, grammars: Any) -> Any:
            self.num_compiled += 1
            return super()._compile(grammars)

    grammars = Counting(tokenizer, Markers.of(tokenizer), vocab_size=VOCAB)
    for _ in range(3):
        grammars.guide(prompt_for("choice", ["yes"]), [1])
    once = grammars.num_compiled
    for number in range(NUM_CACHED + 1):
        grammars.guide(prompt_for("choice", [str(number)]), [1])
    assert grammars.num_compiled == once * (NUM_CACHED + 2)
    assert len(grammars._compiled) == NUM_CACHED
    grammars.guide(prompt_for("choice", ["yes"]), [1])
    assert grammars.num_compiled == once * (NUM_CACHED + 3)


@pytest.mark.parametrize("vocab_size", [VOCAB, VOCAB + 30, VOCAB + 100])
def test_the_padding_of_the_vocabulary_is_never_allowed(tokenizer: Any, vocab_size: int) -> None:
    grammars = Grammars(tokenizer, Markers.of(tokenizer), vocab_size=vocab_size)
    guide = grammars.guide(prompt_for("regex", "(.|\n)*"), [1])
    assert guide is not None
    bits = allowed_bits(guide, vocab_size)
    assert bits[:VOCAB].sum() > 1000 and not bits[VOCAB:].any()
