"""What a grammar lets a model write as a call, mlx-lm's parser of that format reads back."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from inference.call_format import FORMATS
from inference.detokenizer import Detokenizer
from inference.grammar import Grammars
from inference.guide import Guide
from inference.parser import Markers, Parser
from parts import InvalidRequest, Message, Part, Prompt, Tool, ToolArguments, ToolCall
from tests.conftest import DEMO
from tests.demo import ENDS
from tests.inference.spoken import Folded, allowed_bits, folded
from tests.inference.test_grammar import is_valid

CONTROL: dict[str, list[str]] = {
    "json_tools": [],
    "qwen3_coder": [],
    "kimi_k2": [
        f"<|tool_{word}|>"
        for word in (
            "calls_section_begin calls_section_end call_begin call_end call_argument_begin".split()
        )
    ],
    "kimi_k3": ["<|open|>", "<|close|>", "<|sep|>"],
    "mistral": ["[TOOL_CALLS]", "[ARGS]"],
    "glm47": ["<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>"],
    "laguna": [],
    "longcat": ["<longcat_tool_call>", "</longcat_tool_call>"],
    "minimax_m2": ["<minimax:tool_call>", "</minimax:tool_call>"],
    "minicpm5": [],
    "muse_spark": [],
    "pythonic": ["<|tool_call_start|>", "<|tool_call_end|>"],
    "function_gemma": ["<start_function_call>", "<end_function_call>", "<escape>"],
    "gemma4": ["<|tool_call>", "<tool_call|>", '<|"|>'],
}
"""The tokens of its own that a model of each format has, as far as calls have to do with them."""
CLOSING = ("<", '"', "}", "]", "\n")
"""How words begin that may close something, which a walk likes."""


@dataclass(frozen=True)
class Spoken:
    """A tokenizer of one format, and what is expensive to find out about it."""

    tokenizer: Any
    grammars: Grammars
    words: list[str]
    """The text of every token."""

    @classmethod
    def made(cls, folder: Path, name: str, control: Sequence[str]) -> Spoken:
        """The demo model's tokenizer with another family's control tokens and tool parser."""
        from mlx_lm.tokenizer_utils import load

        tokens = json.loads((DEMO / "tokenizer.json").read_text(encoding="utf-8"))
        known = {token["content"] for token in tokens["added_tokens"]}
        new = [text for text in control if text not in known]
        last = tokens["added_tokens"][-1]
        for number, text in enumerate(new, last["id"] + 1):
            added = last | {"id": number, "content": text, "special": False}
            tokens["added_tokens"].append(added)
        config = json.loads((DEMO / "tokenizer_config.json").read_text(encoding="utf-8"))
        config |= {"tool_parser_type": name}
        (folder / "tokenizer.json").write_text(json.dumps(tokens), encoding="utf-8")
        (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
        tokenizer = load(folder, eos_token_ids=tuple(ENDS))
        size = last["id"] + 1 + len(new)
        grammars = Grammars(tokenizer, Markers.of(tokenizer), vocab_size=size)
        return cls(tokenizer, grammars, [tokenizer.decode([token]) for token in range(size)])

    def guide(self, tools: Sequence[Tool], **rest: Any) -> Guide:
        prompt = Prompt((Message("user", "a"),), tuple(tools), {"enable_thinking": False}, **rest)
        guide = self.grammars.guide(prompt, [1])
        assert guide is not None
        return guide

    def encode(self, text: str) -> list[int]:
        tokens: list[int] = self.tokenizer.encode(text, add_special_tokens=False)
        return tokens

    def walk(self, guide: Guide, seed: int, num_tokens: int = 300) -> list[int] | None:
        """The tokens of a random walk over what is allowed; None when it does not end in time."""
        chooser = random.Random(seed)
        tokens: list[int] = []
        for _ in range(num_tokens):
            bits = allowed_bits(guide, len(self.words))
            choices = np.flatnonzero(bits[: len(self.words)]).tolist()
            assert choices and not guide.error, guide.error
            closing = [t for t in choices if t in ENDS or self.words[t].startswith(CLOSING)]
            token = chooser.choice(closing if closing and chooser.random() < 0.5 else choices)
            guide.accept(token)
            if token in ENDS:
                return tokens
            tokens.append(token)
        return None

    def read(self, tokens: Sequence[int], tools: Sequence[Tool]) -> Folded:
        """What our parser makes of it, with mlx-lm's inside."""
        parser = Parser(
            Detokenizer(self.tokenizer),
            Markers.of(self.tokenizer),
            tools=tools,
            tool_parser=self.tokenizer.tool_parser,
        )
        return folded([*(part for t in tokens for part in parser.add(t)), *parser.flush()])


@pytest.fixture(scope="module", params=[*CONTROL, "mistral of old"])
def spoken(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Spoken:
    """A tokenizer of every format."""
    name, _, is_old = request.param.partition(" of ")
    control = ["[TOOL_CALLS]"] if is_old else CONTROL[name]
    return Spoken.made(tmp_path_factory.mktemp("format"), name, control)


@pytest.fixture(scope="module")
def coder(tmp_path_factory: pytest.TempPathFactory) -> Spoken:
    return Spoken.made(tmp_path_factory.mktemp("coder"), "qwen3_coder", [])


def tool(name: str, *, strict: bool = True, **properties: Any) -> Tool:
    optional = [key for key in properties if key.startswith("maybe")]
    schema = {
        "type": "object",
        "properties": properties,
        "required": [key for key in properties if key not in optional],
        "additionalProperties": False,
    }
    return Tool(name, "", schema, strict)


TEXT = {"type": "string", "maxLength": 12}
INTEGER = {"type": "integer", "minimum": -50, "maximum": 50}
SIMPLE = (
    tool("get_weather", city=TEXT, unit={"enum": ["celsius", "kelvin"]}),
    tool("f", count=INTEGER, is_on={"type": "boolean"}, share={"type": "number", "maximum": 9}),
    tool("optional", maybe_a=INTEGER, b={"const": "null and void"}, maybe_c=TEXT),
    tool("nothing"),
)
NESTED = (
    tool(
        "plan",
        tags={"type": "array", "items": TEXT, "minItems": 1, "maxItems": 2},
        place={
            "type": "object",
            "properties": {"x": INTEGER, "name": TEXT},
            "required": ["x"],
            "additionalProperties": False,
        },
    ),
)
CHOSEN = (
    tool(
        "note", maybe_text={"anyOf": [TEXT, {"type": "null"}]}, kind={"type": ["integer", "null"]}
    ),
    tool("code", code={"type": "string", "pattern": "^[A-Z]{2}-[0-9]{1,3}$"}),
    tool("ref", colour={"enum": ["red", None, 3]}, day={"type": "string", "format": "date"}),
)
SEVERAL = {"simple": SIMPLE, "nested": NESTED, "chosen": CHOSEN}


def forced(tools: Sequence[Tool]) -> dict[str, Any]:
    return {"forced_tools": tuple(tool.name for tool in tools)}


def check(found: Folded, tools: Sequence[Tool], told: str) -> None:
    schemas = {tool.name: tool.parameters for tool in tools}
    assert found.calls, told
    for name, arguments in found.calls:
        assert is_valid(json.loads(arguments), schemas[name]), (told, arguments)


@pytest.mark.parametrize("which", SEVERAL)
def test_what_may_be_written_is_read_back_as_a_valid_call(spoken: Spoken, which: str) -> None:
    tools = SEVERAL[which]
    is_flat = spoken.tokenizer.tool_call_start == "<start_function_call>"
    if is_flat and which == "nested":
        with pytest.raises(InvalidRequest, match="no words for a list or an object"):
            spoken.guide(tools, **forced(tools))
        return
    num_whole = 0
    for seed in range(4):
        one = tools if seed % 2 else [tools[seed // 2 % len(tools)]]
        tokens = spoken.walk(spoken.guide(one, **forced(one), max_tool_calls=1), seed)
        if tokens is None:
            continue
        found, told = spoken.read(tokens, one), spoken.tokenizer.decode(tokens)
        check(found, one, told)
        assert (len(found.calls), found.text.strip()) == (1, ""), told
        num_whole += 1
    assert num_whole > 0


def test_several_calls_are_read_back(spoken: Spoken) -> None:
    tools = [tool("a", n={"enum": [1, 2]}), tool("b", n={"enum": ["x", "y"]})]
    numbers = set()
    for seed in range(30):
        tokens = spoken.walk(spoken.guide(tools, **forced(tools)), seed)
        if tokens is not None:
            found = spoken.read(tokens, tools)
            check(found, tools, spoken.tokenizer.decode(tokens))
            numbers.add(len(found.calls))
        if max(numbers, default=0) > 1:
            return
    raise AssertionError(numbers)


def test_a_strict_tool_leaves_the_model_free_to_talk_and_then_to_call(spoken: Spoken) -> None:
    tools = [tool("a", n={"enum": [1, 2]})]
    markers = Markers.of(spoken.tokenizer)
    assert markers.tool_start
    guide = spoken.guide(tools)
    said = spoken.encode("Let me look. ")
    opened = spoken.encode(markers.tool_start.text)
    for token in [*said, *opened]:
        guide.accept(token)
        assert not guide.error
    rest = spoken.walk(guide, 1)
    assert rest is not None
    found = spoken.read([*said, *opened, *rest], tools)
    check(found, tools, spoken.tokenizer.decode(rest))
    assert found.text.startswith("Let me look.")


BEGIN, ARGUMENT, END = "<|tool_call_begin|>", "<|tool_call_argument_begin|>", "<|tool_call_end|>"
KIMI = "<|tool_calls_section_begin|>{}<|tool_calls_section_end|>".format
FIRST, SECOND = '{"n": "some words"}', '{"n": {"m": "more } words"}}'
IN_PIECES = {
    "kimi_k2": KIMI(
        f"{BEGIN}functions.a:0{ARGUMENT}{FIRST}{END}{BEGIN}functions.b:1{ARGUMENT}{SECOND}{END}"
    ),
    "mistral": f"[TOOL_CALLS]a[ARGS]{FIRST}[TOOL_CALLS]b[ARGS]{SECOND}",
}


def pieces(name: str, folder: Path, written: str, *, is_cut: bool = False) -> list[Part]:
    """What the parser gives of a text, token by token."""
    tokenizer = Spoken.made(folder, name, CONTROL[name]).tokenizer
    markers, tools = Markers.of(tokenizer), [Tool("a"), Tool("b")]
    parser = Parser(Detokenizer(tokenizer), markers, tools=tools, tool_parser=tokenizer.tool_parser)
    tokens = tokenizer.encode(written, add_special_tokens=False)
    return [*(part for t in tokens for part in parser.add(t)), *parser.flush(is_cut=is_cut)]


@pytest.mark.parametrize("name", IN_PIECES)
def test_arguments_that_are_one_object_are_given_while_they_are_written(
    tmp_path: Path, name: str
) -> None:
    parts = pieces(name, tmp_path, IN_PIECES[name])
    assert folded(parts).calls == [("a", FIRST), ("b", SECOND)]
    assert folded(parts).text == ""
    assert sum(isinstance(part, ToolArguments) for part in parts) > 8
    ids = [part.id for part in parts if isinstance(part, ToolCall)]
    assert name != "kimi_k2" or ids == ["functions.a:0", "functions.b:1"]


@pytest.mark.parametrize("name", IN_PIECES)
def test_a_second_call_that_is_cut_keeps_what_was_given(tmp_path: Path, name: str) -> None:
    written, _, _ = IN_PIECES[name].partition(" } words")
    found = folded(pieces(name, tmp_path, written, is_cut=True))
    assert found.calls == [("a", FIRST), ("b", '{"n": {"m": "more')]
    written, _, _ = IN_PIECES[name].partition(SECOND)
    found = folded(pieces(name, tmp_path, written, is_cut=True))
    assert found.calls == [("a", FIRST)] and found.text.endswith(("[ARGS]", ARGUMENT))


def test_arguments_in_python_are_read_at_their_end(tmp_path: Path) -> None:
    written = KIMI(f"{BEGIN}functions.a:0{ARGUMENT}{{'n': True}}{END}")
    assert folded(pieces("kimi_k2", tmp_path, written)).calls == [("a", '{"n": true}')]


def test_what_has_no_words_is_refused_or_left_free(coder: Spoken) -> None:
    hard = {"type": "string", "pattern": "^a$", "minLength": 1}
    strict = [tool("f", text=hard)]
    asked: dict[str, Any]
    for asked in ({}, forced(strict)):
        with pytest.raises(InvalidRequest, match="no words for a string with minLength and") as e:
            coder.guide(strict, **asked)
        assert (e.value.param, e.value.code) == ("tools", "unsupported_parameter")
    loose = [tool("f", strict=False, text=hard)]
    guide = coder.guide(loose, **forced(loose))
    text = "<function=f>\n<parameter=text>\nbbb\n</parameter>\n</function>"
    for token in coder.encode(f"<tool_call>\n{text}\n</tool_call>"):
        guide.accept(token)
    assert not guide.error


@pytest.mark.parametrize(
    ("written", "schema", "value"),
    [
        ("5", {"anyOf": [{"type": "integer"}, {"type": "null"}]}, 5),
        ("null", {"anyOf": [{"type": "integer"}, {"type": "null"}]}, None),
        ("null", {"anyOf": [{"type": "string"}, {"type": "null"}]}, None),
        ("5", {"anyOf": [{"type": "string"}, {"type": "null"}]}, "5"),
        ("5", {"type": "string"}, "5"),
        ("true", {"type": "string"}, "true"),
        ("True", {"type": "boolean"}, True),
        ("2.0", {"type": "integer"}, 2),
        ("[1, 2]", {"type": "array"}, [1, 2]),
        ("red", {"$ref": "#/$defs/Colour"}, "red"),
        ("hello", {"type": "integer"}, "hello"),
        ("5", True, 5),
    ],
)
def test_a_bare_text_gets_the_type_that_its_schema_says(
    coder: Spoken, written: str, schema: Any, value: Any
) -> None:
    defs = {"Colour": {"enum": ["red", "blue"]}}
    f = Tool("f", "", {"type": "object", "properties": {"a": schema}, "$defs": defs})
    text = f"<tool_call>\n<function=f>\n<parameter=a>\n{written}\n</parameter>\n</function>\n"
    found = coder.read(coder.encode(f"{text}</tool_call>"), [f])
    assert [json.loads(arguments) for _, arguments in found.calls] == [{"a": value}]


def test_every_parser_of_mlx_lm_has_its_format() -> None:
    import mlx_lm.tool_parsers

    [folder] = mlx_lm.tool_parsers.__path__
    modules = {path.stem for path in Path(folder).glob("*.py")} - {"__init__"}
    assert modules == CONTROL.keys() == FORMATS.keys() | {"laguna"}
