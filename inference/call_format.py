"""A call format is how a model writes its tool calls, as a grammar that can be enforced.

There is one for each of mlx-lm's tool parsers: what the grammar lets a model write is what that
parser reads back. What cannot be said in a format is `Inexpressible` in it.

    format             a call, without the model's own markers
    json_tools         {"name": "f", "arguments": {…}}
    kimi_k2            functions.f:0 … {…}
    mistral            f[ARGS]{…}, or a list of what json_tools has
    kimi_k3, glm47, longcat, qwen3_coder, minimax_m2, minicpm5, muse_spark
                       an element for each argument, its text without quotes
    pythonic           [f(a=1, b="…")]
    function_gemma     call:f{a:1,b:<escape>…<escape>}
    gemma4             the same with `<|"|>`, and objects and lists inside
"""

from __future__ import annotations

import json
import keyword
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from inference.argument import (
    ANNOTATIONS,
    ANY_TEXT,
    Alternatives,
    Inexpressible,
    Schema,
    alternatives,
    literal,
    written,
)
from inference.tool_call import HERMES, KIMI_K2, MISTRAL, Shape
from parts import Tool

Say = Callable[[str], str]
"""Text in Lark's notation: its control tokens as tokens, and the rest in quotes."""
OF_OBJECTS = frozenset({"type", "properties", "required", "additionalProperties"}) | ANNOTATIONS
ANY_VALUE: Schema = {"type": ["object", "array", "number", "boolean", "null", "string"]}
_STRUCTURE_FIRST = r"[^\[\{](.|\n)*|"
_NO_SPACE_AROUND = r"(\S((.|\n)*\S)?)?"


class CallRules:
    """The rules of some tools' calls, as they are put together."""

    def __init__(self, say: Say) -> None:
        self.say = say
        self.lark: list[str] = []
        self.schemas: dict[str, Schema] = {}
        self.optional: dict[str, Schema] = {}
        """What to demand of those that may be anything if they cannot be enforced."""

    def rule(self, expression: str) -> str:
        """Name an expression."""
        name = f"call_{len(self.lark)}"
        self.lark.append(f"{name}: {expression}")
        return name

    def terminal(self, expression: str) -> str:
        """Name an expression that is one regular language."""
        name = f"CALL_{len(self.lark)}"
        self.lark.append(f"{name}: {expression}")
        return name

    def json(self, schema: Schema, tool: Tool, otherwise: Schema) -> str:
        """What a schema demands, as JSON; `otherwise` if it cannot be had and is not strict."""
        name = f"call_json_{len(self.schemas)}"
        self.schemas[name] = schema
        if not tool.strict:
            self.optional[name] = otherwise
        return f"@{name}"


class CallFormat:
    """The calls of one model, one after another, each between the model's markers."""

    is_typed = False
    """Whether it writes the type of an argument beside it, or quotes around a string."""
    shape: Shape | None = None
    """How a call begins and ends that can be given while it is written."""
    has_bare_text = False
    """Whether arguments are texts whose types only the schema tells."""
    name_pattern = r"[\w.:/-]+"

    def calls(self, rules: CallRules, tools: Sequence[Tool], marks: Marks, *, is_one: bool) -> str:
        """An expression for calls of these tools, or `is_one` for a single call.

        Raises:
            Inexpressible: a tool's name, or what its schema demands, has no words in this format.
        """
        for tool in tools:
            if not re.fullmatch(self.name_pattern, tool.name):
                raise Inexpressible(f"the name {tool.name[:64]!r}")
        any_call = rules.rule(" | ".join(rules.rule(self.call(rules, tool)) for tool in tools))
        return self.section(rules, any_call, marks, is_one=is_one)

    def section(self, rules: CallRules, call: str, marks: Marks, *, is_one: bool) -> str:
        """Calls between their markers."""
        one = rules.rule(f"{marks.start} {call} {marks.end}")
        return one if is_one else f"{one} ({marks.between} {one})*"

    def call(self, rules: CallRules, tool: Tool) -> str:
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class Marks:
    """The words that open and close calls, in Lark's notation."""

    start: str
    end: str = ""
    between: str = '"\\n"'


# Formats whose arguments are one JSON object


class JsonTools(CallFormat):
    """Hermes, Qwen."""

    shape = HERMES
    name_pattern = r"(.|\n)+"

    def call(self, rules: CallRules, tool: Tool) -> str:
        head = json.dumps(f'\n{{"name": {json.dumps(tool.name)}, "arguments": ')
        return f'{head} {_arguments(rules, tool)} "}}\\n"'


class KimiK2(CallFormat):
    shape = KIMI_K2

    def section(self, rules: CallRules, call: str, marks: Marks, *, is_one: bool) -> str:
        begin, end = rules.say("<|tool_call_begin|>"), rules.say("<|tool_call_end|>")
        one = rules.rule(f"{begin} {call} {end}")
        return f"{marks.start} {one}{'' if is_one else '+'} {marks.end}"

    def call(self, rules: CallRules, tool: Tool) -> str:
        head = rules.say(f"functions.{tool.name}:")
        begin = rules.say("<|tool_call_argument_begin|>")
        return f"{head} /[0-9]{{1,2}}/ {begin} {_arguments(rules, tool)}"


class Mistral(CallFormat):
    """With `[ARGS]` where the vocabulary has it, else as a list of JSON objects."""

    shape = MISTRAL
    name_pattern = r"[\w-]+"

    def section(self, rules: CallRules, call: str, marks: Marks, *, is_one: bool) -> str:
        if _has_token(rules, "[ARGS]"):
            one = rules.rule(f"{marks.start} {call}")
            return one if is_one else f"{one}+"
        more = "" if is_one else f' (", " {call})*'
        return f'{marks.start} " "? "[" {call}{more} "]"'

    def call(self, rules: CallRules, tool: Tool) -> str:
        arguments = _arguments(rules, tool)
        if _has_token(rules, "[ARGS]"):
            return f"{rules.say(f'{tool.name}[ARGS]')} {arguments}"
        head = json.dumps(f'{{"name": {json.dumps(tool.name)}, "arguments": ')
        return f'{head} {arguments} "}}"'


def _has_token(rules: CallRules, text: str) -> bool:
    return rules.say(text).startswith("<[")


def _arguments(rules: CallRules, tool: Tool) -> str:
    return rules.json({**tool.parameters, "type": "object"}, tool, {"type": "object"})


def takes_object(tool: Tool) -> bool:
    """Whether a tool's parameters allow an object, which the arguments of a call are."""
    try:
        found = alternatives(tool.parameters, tool.parameters, is_bare=False)
    except Inexpressible:
        return True
    return "object" in found.types


# Formats with an element for each argument


class Elements(CallFormat):
    """Arguments in any order that the schema has, each between tags, its text without quotes."""

    has_bare_text = True
    closing = ""
    """The tag behind an argument, which cannot be part of it."""
    margin = ""
    """What stands around an argument and is not part of it."""
    gap = ""
    """What stands between elements, in Lark's notation."""
    is_stripped = True
    """Whether white space around an argument is lost when it is read."""
    forbidden: tuple[str, ...] = ()
    """What else cannot be part of an argument."""

    def opening(self, key: str) -> str:
        raise NotImplementedError

    def call(self, rules: CallRules, tool: Tool) -> str:
        arguments = []
        for key, schema, is_required in properties(tool):
            if not re.fullmatch(r"[^\s<>\"'&=|]+", key):
                if is_required or tool.strict:
                    raise Inexpressible(f"an argument named {key[:64]!r}")
                continue
            element = f"{self.element(rules, tool, key, schema)} {self.gap}"
            arguments.append(element if is_required else f"({element})?")
        return self.around(rules, tool, " ".join(arguments))

    def around(self, rules: CallRules, tool: Tool, arguments: str) -> str:
        raise NotImplementedError

    def element(self, rules: CallRules, tool: Tool, key: str, schema: Any) -> str:
        opening = rules.say(self.opening(key) + self.margin)
        return f"{opening} {self.value(rules, tool, schema)}"

    def value(self, rules: CallRules, tool: Tool, schema: Any) -> str:
        """An argument and the tag behind it."""
        closing = rules.say(self.margin + self.closing)
        found = _found(schema, tool, self)
        choices = []
        if found is None:
            found = Alternatives([ANY_TEXT])
        if found.texts or any(isinstance(v, str) for v in found.literals):
            choices.append(self.text(rules, found, closing))
            json_part = _any_of(found.structured, tool)
        else:
            json_part = _as_given(schema, tool)
        if json_part is not None:
            choices.append(f"{rules.json(json_part, tool, ANY_VALUE)} {closing}")
        return f"({' | '.join(choices)})"

    def text(self, rules: CallRules, found: Alternatives, closing: str) -> str:
        shapes = [f"/{text}/" for text in found.texts]
        shapes += [f"/{literal(written(v))}/" for v in found.literals if self.can_hold(written(v))]
        if not shapes:
            raise Inexpressible("any of the values of an enum")
        bans = [self.closing, *self.forbidden]
        parts = [f"({' | '.join(shapes)})"]
        parts += [f"~/{ANY_TEXT}{literal(ban)}{ANY_TEXT}/" for ban in bans]
        parts += ["~/[nN][uU][lL][lL]/"] if "null" not in found.types else []
        parts += [rf"/{_NO_SPACE_AROUND}/"] if self.is_stripped else []
        parts += [r"/([^\[\{](.|\n)*)?/"] if found.structured else []
        expression = " & ".join(parts)
        if closing.startswith("<["):  # a token, which ends a text by itself
            return f"{rules.terminal(expression)} {closing}"
        return rules.terminal(f"({expression}) {closing}")

    def can_hold(self, text: str) -> bool:
        """Whether a text is read back as it stands."""
        is_free = not any(ban in text for ban in (self.closing, *self.forbidden))
        return is_free and not (self.is_stripped and text != text.strip())


class Qwen3Coder(Elements):
    closing = "</parameter>"
    margin = "\n"
    is_stripped = False
    gap = '"\\n"'

    def opening(self, key: str) -> str:
        return f"<parameter={key}>"

    def around(self, rules: CallRules, tool: Tool, arguments: str) -> str:
        head, tail = rules.say(f"\n<function={tool.name}>\n"), rules.say("</function>\n")
        return f"{head} {arguments} {tail}"


class Glm47(Elements):
    """GLM, Laguna. Some of them write lines, some do not."""

    closing = "</arg_value>"
    gap = '"\\n"?'
    tag = "arg"

    def opening(self, key: str) -> str:
        return f"<{self.tag}_key>{key}</{self.tag}_key>"

    def element(self, rules: CallRules, tool: Tool, key: str, schema: Any) -> str:
        opening, value = rules.say(self.opening(key)), rules.say(f"<{self.tag}_value>")
        return f'{opening} "\\n"? {value} {self.value(rules, tool, schema)}'

    def around(self, rules: CallRules, tool: Tool, arguments: str) -> str:
        return f"{rules.say(tool.name)} {self.gap} {arguments}"


class LongCat(Glm47):
    closing = "</longcat_arg_value>"
    tag = "longcat_arg"

    def around(self, rules: CallRules, tool: Tool, arguments: str) -> str:
        # Without an argument, its parser finds no name but in JSON.
        named = super().around(rules, tool, arguments)
        if any(is_required for _, _, is_required in properties(tool)):
            return named
        empty = json.dumps({"name": tool.name, "arguments": {}})
        return json.dumps(empty)


class MiniMaxM2(Elements):
    closing = "</parameter>"
    forbidden: tuple[str, ...] = ("</invoke>",)
    gap = '"\\n"'

    def opening(self, key: str) -> str:
        return f'<parameter name="{key}">'

    def section(self, rules: CallRules, call: str, marks: Marks, *, is_one: bool) -> str:
        return f'{marks.start} "\\n" {call}{"" if is_one else "+"} {marks.end}'

    def around(self, rules: CallRules, tool: Tool, arguments: str) -> str:
        head, tail = rules.say(f'<invoke name="{tool.name}">\n'), rules.say("</invoke>\n")
        return f"{head} {arguments} {tail}"


class MuseSpark(MiniMaxM2):
    closing = "</atem:parameter>"
    forbidden = ("</atem:invoke>", "<atem:parameter")

    def opening(self, key: str) -> str:
        return f'<atem:parameter name="{key}">'

    def around(self, rules: CallRules, tool: Tool, arguments: str) -> str:
        head = rules.say(f'<atem:invoke name="{tool.name}">\n')
        return f"{head} {arguments} {rules.say('</atem:invoke>' + chr(10))}"


class MiniCpm5(Elements):
    closing = "</param>"
    forbidden = ("</function>", "<![CDATA[")

    def opening(self, key: str) -> str:
        return f'<param name="{key}">'

    def around(self, rules: CallRules, tool: Tool, arguments: str) -> str:
        head = rules.say(f'"{tool.name}">')
        return f"{head} {arguments}"


class KimiK3(Elements):
    has_bare_text = False
    is_typed = True
    closing = "<|close|>argument<|sep|>"
    forbidden = ("<|close|>", "<|open|>", "<|sep|>")
    is_stripped = False

    def section(self, rules: CallRules, call: str, marks: Marks, *, is_one: bool) -> str:
        return f"{marks.start} {call}{'' if is_one else '+'} {marks.end}"

    def around(self, rules: CallRules, tool: Tool, arguments: str) -> str:
        head = rules.say(f'<|open|>call tool="{tool.name}" index=')
        number, tail = r'/"[0-9]{1,2}"/', rules.say("<|close|>call<|sep|>")
        return f"{head} {number} {rules.say('<|sep|>')} {arguments} {tail}"

    def element(self, rules: CallRules, tool: Tool, key: str, schema: Any) -> str:
        return self.value(rules, tool, schema, rules.say(f'<|open|>argument key="{key}" type='))

    def value(self, rules: CallRules, tool: Tool, schema: Any, opening: str = "") -> str:
        found = _found(schema, tool, self) or Alternatives([ANY_TEXT], types={"string"})
        kinds = sorted(found.types)
        texts = Alternatives(found.texts, found.literals, types=found.types)
        closing = rules.say(self.closing)
        choices = []
        if "string" in kinds:
            sep = rules.say('"string"<|sep|>')
            choices.append(f"{opening} {sep} {self.text(rules, texts, closing)}")
        if kinds != ["string"]:
            names = " | ".join(json.dumps(json.dumps(kind)) for kind in kinds if kind != "string")
            part = _without_strings(schema, found, tool)
            value = rules.json(part, tool, ANY_VALUE)
            choices.append(f"{opening} ({names}) {rules.say('<|sep|>')} {value} {closing}")
        return f"({' | '.join(choices)})"


def _without_strings(schema: Any, found: Alternatives, tool: Tool) -> Schema:
    if "string" not in found.types:
        return _as_given(schema, tool)
    constants = [{"const": v} for v in found.literals if not isinstance(v, str)]
    return _any_of([*constants, *found.structured], tool) or ANY_VALUE


def properties(tool: Tool) -> Iterator[tuple[str, Any, bool]]:
    """Each argument of a tool with its schema, and whether it must be there.

    Raises:
        Inexpressible: a strict tool's schema says more than that.
    """
    given = tool.parameters
    more = given.keys() - OF_OBJECTS
    if tool.strict and more:
        raise Inexpressible(f"{' and '.join(sorted(more))} of all arguments together")
    known = given.get("properties")
    known = known if isinstance(known, Mapping) else {}
    required = given.get("required")
    names = [n for n in required if isinstance(n, str)] if isinstance(required, list) else []
    for name in [*known, *(n for n in dict.fromkeys(names) if n not in known)]:
        yield name, known.get(name, True), name in names


def _found(schema: Any, tool: Tool, form: CallFormat) -> Alternatives | None:
    """What an argument may be; None for anything, when that cannot be said and is not strict."""
    try:
        found = alternatives(schema, tool.parameters, is_bare=not form.is_typed)
    except Inexpressible:
        if tool.strict:
            raise
        return None
    return found if found.types else None


def _as_given(schema: Any, tool: Tool) -> Schema:
    """An argument's schema by itself, with the definitions that it refers to."""
    own = dict(schema) if isinstance(schema, Mapping) else dict(ANY_VALUE)
    shared = {k: tool.parameters[k] for k in ("$defs", "definitions") if k in tool.parameters}
    return {**shared, **own}


def _any_of(schemas: Iterable[Schema], tool: Tool) -> Schema | None:
    options = [dict(schema) for schema in schemas]
    if not options:
        return None
    return _as_given(options[0] if len(options) == 1 else {"anyOf": options}, tool)


# Formats that look like a programming language


class Listed(CallFormat):
    """Arguments with their names, and commas between them."""

    between = ","

    def call(self, rules: CallRules, tool: Tool) -> str:
        pairs = []
        for key, schema, is_required in properties(tool):
            if not self.can_name(key):
                if is_required or tool.strict:
                    raise Inexpressible(f"an argument named {key[:64]!r}")
                continue
            pairs.append((self.pair(rules, tool, key, schema), is_required))
        return self.around(rules, tool, _with_commas(rules, pairs, self.between))

    def can_name(self, key: str) -> bool:
        return re.fullmatch(r"\w+", key) is not None

    def pair(self, rules: CallRules, tool: Tool, key: str, schema: Any) -> str:
        raise NotImplementedError

    def around(self, rules: CallRules, tool: Tool, arguments: str) -> str:
        return f'{rules.say(f"call:{tool.name}{{")} {arguments} "}}"'


def _with_commas(rules: CallRules, pairs: Sequence[tuple[str, bool]], between: str) -> str:
    """Pairs in their order, of which some may be left out."""
    first, later = '""', '""'
    for pair, is_required in reversed(pairs):
        here = rules.rule(pair)
        following = f"{json.dumps(between)} {here} {later}"
        if is_required:
            first, later = f"{here} {later}", rules.rule(following)
        else:
            first = f"({here} {later} | {first})"
            later = rules.rule(f"{following} | {later}")
        first = rules.rule(first)
    return first


class Pythonic(Listed):
    """LFM2. What it writes of a value is JSON, which its parser reads inside Python."""

    name_pattern = r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*"
    between = ", "

    def can_name(self, key: str) -> bool:
        return key.isidentifier() and not keyword.iskeyword(key)

    def section(self, rules: CallRules, call: str, marks: Marks, *, is_one: bool) -> str:
        more = "" if is_one else f' (", " {call})*'
        return f'{marks.start} "[" {call}{more} "]" {marks.end}'

    def pair(self, rules: CallRules, tool: Tool, key: str, schema: Any) -> str:
        return f"{rules.say(f'{key}=')} {rules.json(_as_given(schema, tool), tool, ANY_VALUE)}"

    def around(self, rules: CallRules, tool: Tool, arguments: str) -> str:
        return f'{rules.say(f"{tool.name}(")} {arguments} ")"'


class Gemma4(Listed):
    is_typed = True
    name_pattern = r"[\w-]+"
    quote = '<|"|>'
    forbidden: tuple[str, ...] = ()
    is_nested = True

    def pair(self, rules: CallRules, tool: Tool, key: str, schema: Any) -> str:
        return f"{rules.say(f'{key}:')} {self.value(rules, tool, schema)}"

    def value(self, rules: CallRules, tool: Tool, schema: Any, depth: int = 0) -> str:
        found = _found(schema, tool, self) or Alternatives([ANY_TEXT])
        if depth > 8:
            raise Inexpressible("a schema that is nested without end")
        quote = rules.say(self.quote)
        words = [v for v in found.literals if isinstance(v, str)]
        choices = [f"{quote} {self.text(rules, [literal(v) for v in words])} {quote}"] * bool(words)
        if found.texts:
            choices.append(f"{quote} {self.text(rules, found.texts)} {quote}")
        rest = [{"const": v} for v in found.literals if v is None or isinstance(v, int | float)]
        scalars = [s for s in found.structured if s.get("type") not in ("object", "array")]
        if part := _any_of([*rest, *scalars], tool):
            choices.append(rules.json(part, tool, {"type": "number"}))
        for one in found.structured:
            if one.get("type") in ("object", "array"):
                choices.append(self.structure(rules, tool, one, depth))
        if not choices:
            raise Inexpressible("such a value")
        return rules.rule(" | ".join(choices))

    def text(self, rules: CallRules, shapes: Sequence[str]) -> str:
        bans = [f"~/{ANY_TEXT}{literal(ban)}{ANY_TEXT}/" for ban in (self.quote, *self.forbidden)]
        return rules.terminal(" & ".join([f"({' | '.join(f'/{s}/' for s in shapes)})", *bans]))

    def structure(self, rules: CallRules, tool: Tool, schema: Schema, depth: int) -> str:
        if not self.is_nested:
            raise Inexpressible("a list or an object as an argument")
        if schema["type"] == "array":
            return self.array(rules, tool, schema, depth)
        inner = Tool(tool.name, "", {**_as_given(schema, tool)}, tool.strict)
        pairs = []
        for key, child, is_required in properties(inner):
            if not self.can_name(key):
                raise Inexpressible(f"an argument named {key[:64]!r}")
            value = self.value(rules, tool, child, depth + 1)
            pairs.append((f"{rules.say(f'{key}:')} {value}", is_required))
        return f'"{{" {_with_commas(rules, pairs, self.between)} "}}"'

    def array(self, rules: CallRules, tool: Tool, schema: Schema, depth: int) -> str:
        more = schema.keys() - ANNOTATIONS - {"type", "items", "minItems", "maxItems"}
        if more and tool.strict:
            raise Inexpressible(f"a list with {' and '.join(sorted(more))}")
        item = self.value(rules, tool, schema.get("items", {"type": "string"}), depth + 1)
        low, high = int(schema.get("minItems", 0)), schema.get("maxItems")
        if high == 0:
            return '"[]"'
        most = "" if high is None else int(high) - 1
        items = f'{item} ("," {item}){{{max(low - 1, 0)},{most}}}'
        return f'"[" ({items}){"" if low else "?"} "]"'


class FunctionGemma(Gemma4):
    """Its parser ends a call at the first brace, and a value that is no string at a comma."""

    name_pattern = r"\w+"
    quote = "<escape>"
    forbidden = ("}",)
    is_nested = False


FORMATS: Mapping[str, type[CallFormat]] = {
    "json_tools": JsonTools,
    "kimi_k2": KimiK2,
    "kimi_k3": KimiK3,
    "mistral": Mistral,
    "qwen3_coder": Qwen3Coder,
    "glm47": Glm47,
    "longcat": LongCat,
    "minimax_m2": MiniMaxM2,
    "minicpm5": MiniCpm5,
    "muse_spark": MuseSpark,
    "pythonic": Pythonic,
    "function_gemma": FunctionGemma,
    "gemma4": Gemma4,
}
"""By the module of mlx-lm whose parser reads it."""


def call_format(tool_parser: object) -> CallFormat | None:
    """The format that a parser reads; None when it is not one of mlx-lm's."""
    module = getattr(tool_parser, "__module__", "").rpartition(".")[2]
    kind = FORMATS.get(module)
    return kind() if kind else None
