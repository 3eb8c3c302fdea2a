"""A grammar says which tokens may come next: JSON after a schema, an expression, a tool call.

llguidance computes the masks, on the CPU while the device computes the logits; they are applied
with plain MLX operations, which work on every device.
(https://github.com/guidance-ai/llguidance, docs/syntax.md)
"""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import random
import re
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from llguidance import LLMatcher, LLParserLimits, LLTokenizer
from llguidance.gbnf_to_lark import any_to_lark
from llguidance.numpy import fill_next_token_bitmask

from inference.argument import Inexpressible
from inference.call_format import CallRules, Marks, call_format, takes_object
from inference.detokenizer import token_bytes
from inference.guide import Compiled, Guide, reason_of
from inference.parser import Marker, Markers, ToolParser
from inference.schema import (
    ANY_OBJECT,
    MAX_DEPTH,
    MAX_TEXT,
    adapted,
    compile_s,
    depth,
    embedded,
    slashes_escaped,
    why_not,
)
from parts import Constraint, InvalidRequest, Prompt, Tool

log = logging.getLogger(__name__)

MAX_GRAMMAR = 256 * 1024
"""Characters of all schemas, expressions and grammars of a request."""
NUM_TRIED = 8
"""Tokens that are tried of every grammar before it is let in."""
NUM_TRIED_OF_TEXTS = (32, 32, 32, 32)
"""The same for one with expressions, in several tries."""
SHARE = 0.75
"""Of the time that a request has: whoever compiles gives up before those who wait for it do."""
NUM_CACHED = 64
"""Compiled grammars that are kept for the next request."""
LAYOUT = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
"""JSON is written on one line: a model that may add white space may never stop.

The spaces are those of Python's `json`, which most models have read the most of.
"""
LIMITS = LLParserLimits(
    max_grammar_size=200_000,
    initial_lexer_fuel=500_000,
    step_lexer_fuel=100_000,
    step_max_items=20_000,
    max_lexer_states=50_000,
    verbose_errors=False,
)
"""What cannot be compiled ends in a second, and so does a step that goes wrong."""
LETTER = r'[^"\\\x00-\x1F\x7F]'
SLICES = [
    r"[\x20\x0A\x0D\x09]+",
    *(LETTER + f"{{1,{most}}}" for most in (1, 2, 3, 4, 5, 6, 8, 10, 30)),
    LETTER + "+",
]
"""Kinds of tokens that are let in together, without a look at each, where a grammar lets in all of
a kind: llguidance's own, and shorter ones, for the ends of strings that may not be long."""
TOO_LONG = "it takes too long to compile, or to follow"
ANYTHING = r"/(.|\n)*/"
Grammar = Mapping[str, Any]
"""As llguidance reads it: a `json_schema` or a `lark_grammar`."""


@dataclass(frozen=True, slots=True)
class Rules:
    """What an answer is made of, before it is compiled."""

    lark: str
    """With `start` as the answer, and `@name` for each of the others."""
    others: Mapping[str, Grammar]
    optional: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Schemas of what to demand of some of them instead, if they cannot be enforced."""


class Grammars:
    """Compiles what prompts ask for, and remembers what it compiled."""

    def __init__(
        self,
        tokenizer: Any,
        markers: Markers,
        *,
        vocab_size: int,
        tool_parser: ToolParser | None = None,
        clock: Callable[[], float] = time.thread_time,
    ) -> None:
        """`tokenizer` is mlx-lm's `TokenizerWrapper`; `tool_parser` its own unless given.

        `clock` gives the seconds that the calling thread has worked.
        """
        self._tokenizer = tokenizer
        self._markers = markers
        self._vocab_size = vocab_size
        self._clock = clock
        self._deadline = 0.0
        self._compiled: OrderedDict[str, Compiled] = OrderedDict()
        self._ll: LLTokenizer | None = None
        self._blank: frozenset[int] | None = None
        self._format = call_format(tool_parser or tokenizer.tool_parser)

    def warm_up(self) -> None:
        """Read the vocabulary, which holds everybody up while it lasts."""
        with contextlib.suppress(InvalidRequest):
            self._tokens  # noqa: B018
        if self._markers.think_end is not None:
            self._blank_tokens  # noqa: B018

    def guide(
        self, prompt: Prompt, tokens: Sequence[int], *, max_reasoning_tokens: int | None = None
    ) -> Guide | None:
        """A guide for the answer to a prompt, or None when it is free.

        `tokens` are the prompt's. May take a second: call it from a thread, one at a time.

        Raises:
            InvalidRequest: what is asked for cannot be enforced, and why.
        """
        self._deadline = self._clock() + SHARE * compile_s(len(prompt.tools))
        rules = self._rules(prompt, tokens)
        budget = max_reasoning_tokens if self._markers.think_end is not None else None
        if rules is None and budget is None:
            return None
        return Guide(
            None if rules is None else self._grammar(rules, _param(prompt)),
            self._markers,
            is_thinking=self._markers.opens_thinking(tokens, self._tokenizer),
            max_reasoning_tokens=budget,
            blank_tokens=self._blank_tokens if budget is not None else frozenset(),
        )

    # From what is asked for to rules in Lark's notation

    def _rules(self, prompt: Prompt, tokens: Sequence[int]) -> Rules | None:
        """The rules of the whole answer; None when it is free."""
        body = self._body(prompt)
        if body is None:
            return None
        return Rules(self._thinking_first(body.lark, prompt, tokens), body.others, body.optional)

    def _body(self, prompt: Prompt) -> Rules | None:
        """The rules of the answer proper, with `body` as their start; None when it is free."""
        if prompt.forced_tools:
            forced = [tool for tool in prompt.tools if tool.name in prompt.forced_tools]
            return self._calls("calls", forced, prompt)
        if prompt.constraint is not None:
            answer = {"answer": _answer(prompt.constraint)}
            if not (prompt.tools and self._format):
                return Rules("body: @answer", answer)
            calls = self._calls("@answer | calls", prompt.tools, prompt)
            return Rules(calls.lark, {**answer, **calls.others}, calls.optional)
        if any(tool.strict for tool in prompt.tools):
            return self._calls_in_text(prompt)
        return None

    def _calls_in_text(self, prompt: Prompt) -> Rules:
        """Text as the model likes, and calls after their schemas when it chooses to call."""
        start, end = self._markers.tool_start, self._markers.tool_end
        rest = " TEXT?" if end else ""  # without an end, all that follows is part of the call
        if start is None or self._written_marker(start).startswith("<["):
            body = f"TEXT? (calls{rest})?"
            return self._calls(body, prompt.tools, prompt, f"TEXT: {ANYTHING}")
        # A text goes on until it is none any more: where it ends is part of it.
        before = rf"{ANYTHING} & ~/(.|\n)*{_escaped(start.text)}(.|\n)*/"
        terminals = f"TEXT: {before}\nLEAD: ({before}) {self._written_marker(start)}"
        body = f"TEXT? | calls{rest}"
        return self._calls(body, prompt.tools, prompt, terminals, opening="LEAD")

    def _thinking_first(self, body: str, prompt: Prompt, tokens: Sequence[int]) -> str:
        """Let the model think before its answer, unless it was told not to."""
        start, end = self._markers.think_start, self._markers.think_end
        is_open = self._markers.opens_thinking(tokens, self._tokenizer)
        before, *behind = [f"({self._say(m.text)})?" for m in self._markers.layout] or [""]
        answer = " ".join([before, "body", *behind])
        if start is None or end is None or (_says_not_to_think(prompt) and not is_open):
            return f"start: {answer}\n{body}"
        if (ending := self._written_marker(end)).startswith("<["):
            rest = f"rest: {ANYTHING} {ending}"
        else:
            rest = rf"rest[lazy]: /(.|\n)*{_escaped(end.text)}/"
        opening = "rest" if is_open else f"({self._written_marker(start)} rest"
        closing = "" if is_open else ")?"
        return rf"start: {opening} /\n{{0,2}}/{closing} {answer}" + f"\n{rest}\n{body}"

    def _calls(
        self,
        body: str,
        tools: Sequence[Tool],
        prompt: Prompt,
        terminals: str = "",
        *,
        opening: str | None = None,
    ) -> Rules:
        """The rules of `body`, in which `calls` are calls of these tools."""
        start, end = self._markers.tool_start, self._markers.tool_end
        if self._format is None or start is None:
            raise _cannot_call("This model has no form for tool calls that can be enforced.")
        closing = self._written_marker(end) if end else ""
        # An opening that holds the text before it holds the line between two calls too.
        marks = (
            Marks(opening, closing, "") if opening else Marks(self._written_marker(start), closing)
        )
        rules = CallRules(self._say)
        for tool in tools:
            if not takes_object(tool):
                raise InvalidRequest(
                    f"The arguments of a call are an object, and the parameters of the tool "
                    f"{tool.name[:64]!r} allow none.",
                    param="tools",
                    code="invalid_schema",
                )
        try:
            calls = self._format.calls(rules, tools, marks, is_one=prompt.max_tool_calls == 1)
        except Inexpressible as error:
            raise _cannot_call(
                f"The form of this model's tool calls has no words for {error}."
            ) from error
        return Rules(
            "\n".join(filter(None, [f"body: {body}", f"calls: {calls}", *rules.lark, terminals])),
            {name: _schema(schema) for name, schema in rules.schemas.items()},
            rules.optional,
        )

    def _written_marker(self, marker: Marker) -> str:
        """A marker in Lark's notation: a token, a text, or a text with tokens in it."""
        if marker.token is not None:
            return f"<[{marker.token}]>"
        if marker.text in self._control_tokens:
            return json.dumps(marker.text)
        return self._say(marker.text)

    def _say(self, text: str) -> str:
        """A text in Lark's notation, in which control tokens are tokens."""
        if not self._control_tokens:
            return json.dumps(text)
        names = sorted(self._control_tokens, key=len, reverse=True)
        pieces = re.split(f"({'|'.join(map(re.escape, names))})", text)
        said = (
            f"<[{self._control_tokens[piece]}]>"
            if piece in self._control_tokens
            else json.dumps(piece)
            for piece in pieces
            if piece
        )
        return " ".join(said)

    @cached_property
    def _control_tokens(self) -> dict[str, int]:
        added = getattr(self._tokenizer, "added_tokens_decoder", {})
        return {t.content: id for id, t in added.items() if t.special or t.content[:1] in "<["}

    # Compiling

    def _grammar(self, rules: Rules, param: str) -> Compiled:
        """The rules compiled, by now or by then. Raises `InvalidRequest`."""
        key = self._written(rules, param)
        if key in self._compiled:
            self._compiled.move_to_end(key)
            return self._compiled[key]
        others = {name: _adapted(grammar) for name, grammar in rules.others.items()}
        for name, grammar in others.items():
            if reason := self._why_not(name, grammar):
                if name not in rules.optional:
                    raise _refused(reason, param)
                others[name] = _schema(rules.optional[name])
        if self._is_late:
            raise _refused(TOO_LONG, param)
        whole = {"": {"lark_grammar": rules.lark}, **others}
        compiled = Compiled(functools.partial(self._compile, whole))
        if compiled.error:
            raise _refused(compiled.error, param)
        self._compiled[key] = compiled
        if len(self._compiled) > NUM_CACHED:
            self._compiled.popitem(last=False)
        return compiled

    def _written(self, rules: Rules, param: str) -> str:
        """The rules as text, if they can be written at all. Raises `InvalidRequest`."""
        if any(depth(grammar) > MAX_DEPTH for grammar in rules.others.values()):
            raise _refused(f"it is nested deeper than {MAX_DEPTH} levels", param)
        try:
            text = json.dumps([rules.lark, rules.others], ensure_ascii=False, allow_nan=False)
            text.encode()
        except UnicodeEncodeError:
            raise _refused("it contains half of a surrogate pair", param) from None
        except ValueError:
            raise _refused("it contains a number that JSON has no way to write", param) from None
        if len(text) > MAX_GRAMMAR:
            raise _refused(f"it has more than {MAX_GRAMMAR} characters", param)
        return text + json.dumps(sorted(rules.optional))

    def _why_not(self, name: str, grammar: Grammar) -> str | None:
        """Say why a grammar cannot be enforced, if it cannot."""
        for schema in (grammar.get("json_schema", {}), *embedded(grammar.get("lark_grammar", ""))):
            if reason := why_not(schema):
                return reason
        if self._is_late:
            return TOO_LONG
        compiled = self._compile({name: grammar})
        # Some that can be compiled fail at a step; with an expression, at which one is hard to say.
        numbers = NUM_TRIED_OF_TEXTS if _has_expression(grammar) else (NUM_TRIED,)
        for seed, number in enumerate(numbers):
            matcher = compiled.deep_copy()
            self._try(matcher, number, random.Random(seed))
            if matcher.is_error():
                return reason_of(matcher.get_error())
        return TOO_LONG if self._is_late else None

    @property
    def _is_late(self) -> bool:
        """Whether the request has had its time: what has begun cannot be stopped, but all else."""
        return self._clock() > self._deadline

    def _try(self, matcher: LLMatcher, number: int, chooser: random.Random) -> None:
        """Follow a grammar for some tokens, whichever."""
        mask = np.zeros((1, (self._vocab_size + 31) // 32), np.int32)
        ends = [token for token in self._tokenizer.eos_token_ids if token < self._vocab_size]
        for _ in range(number):
            if matcher.is_error() or matcher.is_stopped() or self._is_late:
                return
            fill_next_token_bitmask(matcher, mask)
            token = _some_token(mask[0], ends, chooser)
            if token is None or not matcher.consume_token(token):
                return

    def _compile(self, grammars: Mapping[str, Grammar]) -> LLMatcher:
        named = [{"name": name, **grammar} for name, grammar in grammars.items()]
        text = json.dumps({"grammars": named})
        return LLMatcher(self._tokens, text, log_level=0, limits=LIMITS)

    @property
    def _tokens(self) -> LLTokenizer:
        """The vocabulary as llguidance needs it. Takes seconds for a large one, once.

        Raises:
            InvalidRequest: it cannot be read.
        """
        if self._ll is None:
            try:
                self._ll = self._read_tokens()
            except Exception as error:  # whatever a tokenizer's files can make a library do
                log.warning("the tokenizer cannot be read for grammars: %s", error)
                raise InvalidRequest(
                    "Nothing can be enforced with this model: its tokenizer is of a kind that "
                    "grammars cannot be matched against.",
                    code="unsupported_parameter",
                ) from error
        return self._ll

    def _read_tokens(self) -> LLTokenizer:
        vocabulary = json.loads(self._tokenizer.backend_tokenizer.to_str())
        # Only a special token is told apart from the text that it is spelled with.
        for token in vocabulary["added_tokens"]:
            token["special"] = token["special"] or token["content"][:1] in "<["
        return LLTokenizer(
            json.dumps(vocabulary),
            n_vocab=self._vocab_size,
            eos_token=sorted(self._tokenizer.eos_token_ids),
            slices=SLICES,
        )

    @property
    def _blank_tokens(self) -> frozenset[int]:
        if self._blank is None:
            tokens = range(self._vocab_size)
            self._blank = frozenset(
                t for t in tokens if not token_bytes(self._tokenizer, t).strip()
            )
        return self._blank


def _some_token(mask: np.ndarray, ends: Sequence[int], chooser: random.Random) -> int | None:
    """One of those that a row of a mask allows, but for `ends`; None when there is no other."""
    words = mask.view(np.uint32)
    for end in ends:
        words[end // 32] &= ~np.uint32(1 << (end % 32))
    # By words, not tokens: of these there are a hundred thousand, and a hundred tries of a schema.
    going_on = np.flatnonzero(words)
    if not len(going_on):
        return None
    place = int(chooser.choice(going_on))
    bits = np.flatnonzero(np.unpackbits(words[place : place + 1].view(np.uint8), bitorder="little"))
    return 32 * place + int(chooser.choice(bits))


def _cannot_call(message: str) -> InvalidRequest:
    return InvalidRequest(message, param="tools", code="unsupported_parameter")


def _says_not_to_think(prompt: Prompt) -> bool:
    args = prompt.template_args
    if "enable_thinking" in args:
        return args["enable_thinking"] is False
    return args.get("thinking") is False or args.get("reasoning_effort") == "none"


def _param(prompt: Prompt) -> str:
    if prompt.constraint is None or prompt.forced_tools:
        return "tools"
    return prompt.constraint.param


def _answer(constraint: Constraint) -> Grammar:
    match constraint.kind, constraint.value:
        case "json", value:
            return _schema(value)
        case "regex" | "grammar", str(text) if len(text) > MAX_TEXT:
            raise _refused(f"it has more than {MAX_TEXT} characters", constraint.param)
        case "regex", str(pattern):
            return {"lark_grammar": f"start: /{slashes_escaped(pattern)}/"}
        case "choice", choices:
            if any(len(choice) > MAX_TEXT for choice in choices):
                raise _refused(f"a choice has more than {MAX_TEXT} characters", constraint.param)
            return {"lark_grammar": "start: " + " | ".join(map(_quoted, choices))}
        case "grammar", str(text):
            return {"lark_grammar": _as_lark(text, constraint.param)}
    raise InvalidRequest("This constraint is not known.", param=constraint.param)


def _as_lark(text: str, param: str) -> str:
    """A client's grammar, which may be written in GBNF."""
    if "::=" not in text:
        return text
    try:
        return any_to_lark(text)
    except Exception as error:  # its parser raises whatever it stumbles over
        raise _refused(reason_of(str(error)), param) from None


def _schema(schema: Mapping[str, Any]) -> Grammar:
    return {"json_schema": {**(schema or ANY_OBJECT), "x-guidance": LAYOUT}}


def _has_expression(grammar: Grammar) -> bool:
    """Whether there is anything in it but what this server made."""
    schema = grammar.get("json_schema")
    return schema is None or '"pattern' in json.dumps(schema)


def _adapted(grammar: Grammar) -> Grammar:
    if "json_schema" not in grammar:
        return grammar
    return {"json_schema": adapted(grammar["json_schema"])}


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _escaped(text: str) -> str:
    return slashes_escaped(re.escape(text))


def _refused(reason: str, param: str) -> InvalidRequest:
    return InvalidRequest(
        f"This cannot be enforced: {reason.rstrip('.')}.", param=param, code="invalid_schema"
    )
