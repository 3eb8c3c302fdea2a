"""A grammar says which tokens may come next: JSON after a schema, an expression, a tool call.

llguidance computes the masks, on the CPU while the device computes the logits; they are applied
with plain MLX operations, which work on every device.
(https://github.com/guidance-ai/llguidance, docs/syntax.md)
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from llguidance import LLMatcher, LLParserLimits, LLTokenizer
from llguidance.gbnf_to_lark import any_to_lark
from llguidance.numpy import fill_next_token_bitmask

from inference.parser import Marker, Markers
from parts import Constraint, InvalidRequest, Prompt, Tool

MAX_GRAMMAR = 256 * 1024
"""Characters of a schema, an expression or a grammar."""
NUM_CACHED = 64
"""Compiled grammars that are kept for the next request."""
LAYOUT = {"whitespace_flexible": False}
"""JSON is written on one line: a model that may add white space may never stop."""
LIMITS = LLParserLimits(max_grammar_size=200_000, initial_lexer_fuel=500_000)
ANYTHING = r"/(.|\n)*/"


class Guide:
    """Where one sequence stands in its grammar. Belongs to the GPU thread."""

    def __init__(
        self,
        matcher: LLMatcher | None,
        markers: Markers,
        *,
        is_thinking: bool = False,
        max_reasoning_tokens: int | None = None,
    ) -> None:
        """`is_thinking` when the prompt ends in an opened think block."""
        self._matcher = matcher
        self._markers = markers
        self._opens_thinking = is_thinking
        self._budget = max_reasoning_tokens
        self.error: str | None = None
        """Why the sequence cannot go on, once it cannot."""
        self._rewind()

    def _rewind(self) -> None:
        self._num_accepted = 0
        self._num_thought = 0
        self._is_thinking = self._opens_thinking
        if self._matcher is not None:
            self._matcher.reset()

    def catch_up(self, generated: Sequence[int]) -> None:
        """Stand behind these tokens, whatever happened to the step they came from."""
        if self._num_accepted != len(generated):
            self._rewind()
            for token in generated:
                self.accept(token)

    def accept(self, token: int) -> None:
        """Go on behind a token that was sampled."""
        self._num_accepted += 1
        self._note_thinking(token)
        matcher = self._matcher
        if matcher is None or self.error or matcher.is_stopped():
            return
        if not matcher.consume_token(token):
            self.error = matcher.get_error()

    def fill(self, mask: np.ndarray, row: int) -> None:
        """Write what may come next into a row of `mask` ([B, ⌈vocabulary / 32⌉] int32, all set)."""
        end = self._markers.think_end
        if self._must_close and end is not None and end.token is not None:
            mask[row] = 0
            bits = np.uint32(1 << (end.token % 32))
            mask[row, end.token // 32] = bits.view(np.int32)
        elif self._matcher is not None and not self.error:
            fill_next_token_bitmask(self._matcher, mask, row)
            if self._matcher.is_error():
                self.error = self._matcher.get_error()
                mask[row] = -1

    @property
    def _must_close(self) -> bool:
        return self._is_thinking and self._budget is not None and self._num_thought >= self._budget

    def _note_thinking(self, token: int) -> None:
        start, end = self._markers.think_start, self._markers.think_end
        if self._is_thinking:
            self._num_thought += 1
            self._is_thinking = end is None or token != end.token
        elif self._num_accepted == 1 and start is not None:
            self._is_thinking = token == start.token


class Grammars:
    """Compiles what prompts ask for, and remembers what it compiled."""

    def __init__(self, tokenizer: Any, markers: Markers, *, vocab_size: int) -> None:
        """`tokenizer` is mlx-lm's `TokenizerWrapper`."""
        self._tokenizer = tokenizer
        self._markers = markers
        self._vocab_size = vocab_size
        self._compiled: OrderedDict[str, LLMatcher] = OrderedDict()
        self._ll: LLTokenizer | None = None
        parser = getattr(tokenizer.tool_parser, "__module__", "")
        self.can_force_tools = parser.endswith(".json_tools")
        """Whether we can write the calls that this model's parser reads."""

    def guide(
        self, prompt: Prompt, tokens: Sequence[int], *, max_reasoning_tokens: int | None = None
    ) -> Guide | None:
        """A guide for the answer to a prompt, or None when it is free.

        `tokens` are the prompt's. May take a second: call it from a thread.

        Raises:
            InvalidRequest: what is asked for cannot be enforced, and why.
        """
        body = self._body(prompt)
        if body is None and max_reasoning_tokens is None:
            return None
        matcher = None
        if body is not None:
            matcher = self._matcher(self._thinking_first(body, prompt, tokens), _param(prompt))
        return Guide(
            matcher,
            self._markers,
            is_thinking=self._markers.opens_thinking(tokens, self._tokenizer),
            max_reasoning_tokens=max_reasoning_tokens,
        )

    # From what is asked for to a grammar in Lark's notation

    def _body(self, prompt: Prompt) -> str | None:
        """The rules of the answer proper, with `body` as their start; None when it is free."""
        if prompt.forced_tools:
            forced = [tool for tool in prompt.tools if tool.name in prompt.forced_tools]
            return self._calls(forced, prompt) + "\nbody: calls"
        strict = [tool for tool in prompt.tools if tool.strict] if self.can_force_tools else []
        if prompt.constraint is not None:
            answer = _answer(prompt.constraint)
            if not (prompt.tools and self.can_force_tools):
                return answer + "\nbody: answer"
            return answer + "\n" + self._calls(prompt.tools, prompt) + "\nbody: answer | calls"
        if strict:
            calls = self._calls(prompt.tools, prompt)
            return f"{calls}\nbody: text? (calls text?)?\ntext: {ANYTHING}"
        return None

    def _thinking_first(self, body: str, prompt: Prompt, tokens: Sequence[int]) -> str:
        """Let the model think before its answer, unless it was told not to."""
        start, end = self._markers.think_start, self._markers.think_end
        rest = "" if end is None else rf"{ANYTHING} {_terminal(end)} /\n{{0,2}}/"
        if self._markers.opens_thinking(tokens, self._tokenizer):
            return f"start: thought body\nthought: {rest}\n{body}"
        if start is None or _says_not_to_think(prompt):
            return f"start: body\n{body}"
        return f"start: thought? body\nthought: {_terminal(start)} {rest}\n{body}"

    def _calls(self, tools: Sequence[Tool], prompt: Prompt) -> str:
        start, end = self._markers.tool_start, self._markers.tool_end
        if not self.can_force_tools or start is None or end is None:
            raise InvalidRequest(
                "This model writes its tool calls in a form that cannot be enforced here; "
                "use tool_choice 'auto'.",
                param="tool_choice",
                code="unsupported_parameter",
            )
        num_more = "" if prompt.max_tool_calls == 1 else r' ("\n" call)*'
        rules = [f"calls: call{num_more}", f"call: {' | '.join(_names(tools))}"]
        for name, tool in zip(_names(tools), tools, strict=True):
            head = json.dumps(f'\n{{"name": {json.dumps(tool.name)}, "arguments": ')
            rules.append(
                f"{name}: {_terminal(start)} {head} {name}_arguments {json.dumps('}' + chr(10))} "
                f"{_terminal(end)}"
            )
            rules.append(f"{name}_arguments: %json {_schema(tool.parameters)}")
        return "\n".join(rules)

    # Compiling

    def _matcher(self, grammar: str, param: str) -> LLMatcher:
        """A matcher of the caller's own. Raises `InvalidRequest`."""
        if grammar in self._compiled:
            self._compiled.move_to_end(grammar)
            return self._compiled[grammar].deep_copy()
        if len(grammar) > MAX_GRAMMAR:
            raise _refused("it is too large", param)
        matcher = LLMatcher(self._tokens, grammar, log_level=0, limits=LIMITS)
        if matcher.is_error():
            raise _refused(_reason(matcher.get_error()), param)
        self._compiled[grammar] = matcher
        if len(self._compiled) > NUM_CACHED:
            self._compiled.popitem(last=False)
        return matcher.deep_copy()

    @property
    def _tokens(self) -> LLTokenizer:
        """The vocabulary as llguidance needs it. Takes seconds for a large one, once."""
        if self._ll is None:
            vocabulary = json.loads(self._tokenizer.backend_tokenizer.to_str())
            # Only a special token is told apart from the text that it is spelled with.
            for token in vocabulary["added_tokens"]:
                token["special"] = token["special"] or token["content"][:1] in "<["
            self._ll = LLTokenizer(
                json.dumps(vocabulary),
                n_vocab=self._vocab_size,
                eos_token=sorted(self._tokenizer.eos_token_ids),
            )
        return self._ll


def _says_not_to_think(prompt: Prompt) -> bool:
    args = prompt.template_args
    return args.get("enable_thinking") is False or args.get("reasoning_effort") == "none"


def _param(prompt: Prompt) -> str:
    return prompt.constraint.param if prompt.constraint is not None else "tools"


def _answer(constraint: Constraint) -> str:
    """The rule named `answer`."""
    match constraint.kind, constraint.value:
        case "json", value:
            return f"answer: %json {_schema(value)}"
        case "regex", str(pattern):
            # A slash ends an expression in Lark.
            return f"answer: /{pattern.replace('/', chr(92) + '/')}/"
        case "choice", choices:
            return "answer: " + " | ".join(json.dumps(choice) for choice in choices)
        case "grammar", str(text):
            return _renamed(text)
    raise InvalidRequest("This constraint is not known.", param=constraint.param)


def _renamed(text: str) -> str:
    """A client's grammar (Lark or GBNF), with its start rule under our name."""
    return "answer: start_of_answer\n" + "\n".join(
        "start_of_answer:" + line.partition(":")[2] if line.startswith("start:") else line
        for line in any_to_lark(text).splitlines()
    )


def _schema(schema: Mapping[str, Any]) -> str:
    return json.dumps({**(schema or {"type": "object"}), "x-guidance": LAYOUT})


def _names(tools: Sequence[Tool]) -> list[str]:
    return [f"tool_{index}" for index in range(len(tools))]


def _terminal(marker: Marker) -> str:
    return f"<[{marker.token}]>" if marker.token is not None else json.dumps(marker.text)


def _reason(error: str) -> str:
    """The first line of llguidance's word on a grammar; nothing of ours is in it."""
    return error.strip().splitlines()[0][:200] if error.strip() else "it cannot be compiled"


def _refused(reason: str, param: str) -> InvalidRequest:
    return InvalidRequest(f"This cannot be enforced: {reason}.", param=param, code="invalid_schema")
