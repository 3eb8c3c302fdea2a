"""A chat template turns messages into prompt tokens, in the form that the model was trained on.

Templates differ in what they accept: some drop a second system message without a word, some raise
an error at it, many do not know the developer role. What this one does is found out once, by
rendering probes, so that nothing a client says is lost on its way to the model.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import logging
import re
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import jinja2
import jinja2.meta
import jinja2.nodes

from inference.encoding import PieceEncoder, encoder_of
from parts import InvalidRequest, Message, Prompt, Tool, ToolCall

log = logging.getLogger(__name__)

SEAM = "\ufdd0"
"""Marks where a text is cut before it is encoded. A Unicode noncharacter: never part of a text."""

RENDER_S = 5.0
"""Seconds that a template may take."""

ALWAYS_ALLOWED_ARGS = frozenset({"enable_thinking", "reasoning_effort"})
SWITCHES = ("enable_thinking", "thinking")
"""What templates call the argument that turns thinking on and off."""
EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh")
"""How much a request may ask a model to think, in OpenAI's words."""
USUAL_EFFORTS = frozenset({"low", "medium", "high"})
"""What a template knows of them that does not say."""
RESERVED_ARGS = frozenset(
    "messages tools documents add_generation_prompt continue_final_message tokenize return_dict "
    "return_tensors chat_template padding truncation max_length bos_token eos_token pad_token "
    "unk_token raise_exception strftime_now namespace range dict lipsum cycler joiner".split()
)
FALLBACK_TOOLS = """\
You may call these functions, each given as JSON:
{}

To call one, write this and nothing after it:
<tool_call>
{{"name": "its name", "arguments": {{its arguments as JSON}}}}
</tool_call>
The result comes in the next message, between <tool_response> and </tool_response>."""
"""What a model is told of tools when its own template has no words for them."""
FALLBACK_TEMPLATE = (
    "{% for m in messages %}{{ m.role | capitalize }}: {{ m.content }}\n\n{% endfor %}"
    "{% if add_generation_prompt %}Assistant:{% endif %}"
)
"""For a base model, which has learned no template."""


class ChatTemplate:
    """The model's own template, and what it was found to accept.

    `tokenizer` is mlx-lm's `TokenizerWrapper`. `default_args` are passed to the template whenever
    a prompt does not say otherwise.
    """

    def __init__(self, tokenizer: Any, default_args: Mapping[str, Any] | None = None) -> None:
        self.tokenizer = tokenizer
        self.default_args = dict(default_args or {})
        self._source = _source(tokenizer)
        self._control_tokens = _control_token_pattern(tokenizer)
        self._encoder = PieceEncoder(encoder_of(tokenizer), self._control_tokens)

    # Rendering

    def render(self, prompt: Prompt) -> list[int]:
        """Give the prompt's tokens, up to and including the opening of the assistant's turn.

        Control tokens that stand in a client's text are encoded as ordinary text, so that nobody
        can forge a turn.

        Raises:
            InvalidRequest: the template does not accept these messages or arguments.
        """
        args = self._arguments(prompt.template_args)
        messages = self._accepted(self._told_of_tools(prompt))
        tools: list[dict[str, Any]] | None = None
        if prompt.tools and self.can_call_tools:
            tools = [_tool_entry(self._disarmed_tool(tool)) for tool in prompt.tools]
        for attempt in _attempts(messages):
            try:
                return self._encode(self._text(attempt, tools, args))
            except _Endless:
                raise _refusal("it does not come to an end") from None
            except Exception:  # a template may fail in any way
                continue
        in_words = _alternating([_as_plain_text(message) for message in messages])
        tokens = self._encode(self._text_or_refusal(in_words, tools, args))
        log.warning("the chat template fails on these messages; it is told of calls in words")
        return tokens

    def _told_of_tools(self, prompt: Prompt) -> Sequence[Message]:
        """The messages, with the tools in words where the template has none for them."""
        if not prompt.tools or self.can_call_tools:
            return prompt.messages
        definitions = (
            json.dumps(_tool_entry(tool)["function"], ensure_ascii=False) for tool in prompt.tools
        )
        words = FALLBACK_TOOLS.format("\n".join(definitions))
        first, *rest = (_as_plain_text(message) for message in prompt.messages)
        if first.role in ("system", "developer"):
            return (replace(first, content=_joined([first.content, words])), *rest)
        return (Message("system", words), first, *rest)

    def _text(self, messages: Iterable[Message], tools: Any, args: Mapping[str, Any]) -> str:
        entries = [_message_entry(self._disarmed(message)) for message in messages]
        override = {} if self._source else {"chat_template": FALLBACK_TEMPLATE}
        with _Patience(RENDER_S):
            text = self.tokenizer.apply_chat_template(
                entries, tools=tools, tokenize=False, add_generation_prompt=True, **override, **args
            )
        assert isinstance(text, str)
        return text

    def _text_or_refusal(
        self, messages: Iterable[Message], tools: Any, args: Mapping[str, Any]
    ) -> str:
        try:
            return self._text(messages, tools, args)
        except Exception as error:
            said = str(error) if type(error) is jinja2.TemplateError else "it failed on them"
            raise _refusal(said) from error

    def _encode(self, text: str) -> list[int]:
        ids: list[int] = []
        for piece in text.split(SEAM):
            ids += self._encoder.encode(piece)
        return ids

    @cached_property
    def num_opening(self) -> int:
        """How many tokens open the assistant's turn at the end of every prompt."""
        messages = [_message_entry(Message("user", "a"))]
        try:
            open_, closed = (
                self.tokenizer.apply_chat_template(
                    messages, tokenize=False, add_generation_prompt=opens, **self.default_args
                )
                for opens in (True, False)
            )
        except Exception:  # a template may raise whatever it likes
            return 0
        is_beginning = open_.startswith(closed)
        return len(self._encode(open_[len(closed) :])) if is_beginning else 0

    # Arguments

    def _arguments(self, given: Mapping[str, Any]) -> dict[str, Any]:
        for name in given:
            if name in ALWAYS_ALLOWED_ARGS:
                continue
            if name in RESERVED_ARGS or name not in self._declared_args:
                raise InvalidRequest(
                    f"Unknown template argument {name[:100]!r}. This model's chat template takes: "
                    + ", ".join(sorted(self._settable_args)),
                    param="chat_template_kwargs",
                )
        said = {k: self._disarm(v) if isinstance(v, str) else v for k, v in given.items()}
        return self._in_its_words({**self.default_args, **said}, said)

    def _in_its_words(self, args: dict[str, Any], said: Mapping[str, Any]) -> dict[str, Any]:
        """Say how much to think in the ways that this template understands.

        What the request said goes before what the server was told, whichever argument said it.
        """
        effort = args.get("reasoning_effort")
        if "reasoning_effort" in said and effort not in self._efforts.union(EFFORTS):
            raise InvalidRequest(
                f"Unknown effort {str(effort)[:100]!r}. It may be "
                + ", ".join([*EFFORTS, *sorted(self._efforts.difference(EFFORTS))]),
                param="reasoning_effort",
            )
        if effort is not None and ("reasoning_effort" in said or "enable_thinking" not in args):
            if "enable_thinking" not in said:
                args["enable_thinking"] = effort != "none"
        elif args.get("enable_thinking") is False and "reasoning_effort" in self._declared_args:
            effort = "none"
        if effort is not None:
            args["reasoning_effort"] = self._nearest_effort(effort)
        if "thinking" in self._declared_args - said.keys() and "enable_thinking" in args:
            args["thinking"] = args["enable_thinking"]
        return args

    def _nearest_effort(self, effort: Any) -> Any:
        """The word of this template for an effort."""
        has_switch = bool(self._declared_args.intersection(SWITCHES))
        if effort in self._efforts or effort not in EFFORTS or (effort == "none" and has_switch):
            return effort
        words = self._efforts.intersection(EFFORTS)
        words = (words if len(words) > 1 else USUAL_EFFORTS) - {"none"}
        place = EFFORTS.index(effort)
        return min(sorted(words), key=lambda word: abs(EFFORTS.index(word) - place))

    @cached_property
    def _settable_args(self) -> frozenset[str]:
        return (self._declared_args - RESERVED_ARGS) | ALWAYS_ALLOWED_ARGS

    @cached_property
    def _declared_args(self) -> frozenset[str]:
        """What the template reads, and does not merely set itself."""
        tree = self._tree
        own = {n.name for n in tree.find_all(jinja2.nodes.Name) if n.ctx != "load"}
        # What is set where it is not defined is what a client may set.
        asked = {
            test.node.name
            for test in tree.find_all(jinja2.nodes.Test)
            if test.name in ("defined", "undefined") and isinstance(test.node, jinja2.nodes.Name)
        }
        return frozenset(jinja2.meta.find_undeclared_variables(tree)) - (own - asked)

    @cached_property
    def _efforts(self) -> frozenset[str]:
        """The words for an effort that the template has in its expressions."""
        nodes = jinja2.nodes
        compared = (
            node
            for node in self._tree.find_all(nodes.Compare)
            if any(name.name == "reasoning_effort" for name in node.find_all(nodes.Name))
        )
        own = frozenset(text for node in compared for text in _texts(node))
        return own | _texts(self._tree).intersection(EFFORTS)

    @cached_property
    def _tree(self) -> jinja2.nodes.Template:
        environment = jinja2.Environment(extensions=["jinja2.ext.loopcontrols"])
        try:
            return environment.parse(re.sub(r"{%-?\s*(end)?generation\s*-?%}", "", self._source))
        except jinja2.TemplateSyntaxError:
            return environment.parse("")

    # What the template accepts

    @cached_property
    def can_think(self) -> bool:
        """Whether the model has words for where its thinking begins and ends."""
        return bool(self.tokenizer.has_thinking)

    @cached_property
    def can_call_tools(self) -> bool:
        """Whether definitions of tools reach the model, and its calls can be recognised."""
        tools = [_tool_entry(Tool("probe_tool"))]
        return bool(self.tokenizer.has_tool_calling) and "probe_tool" in self._probe(
            [Message("user", "a")], tools
        )

    @cached_property
    def _takes_system(self) -> bool:
        return self._keeps(Message("system", "probe"), Message("user", "a"))

    @cached_property
    def _takes_late_system(self) -> bool:
        first, last = Message("system", "first probe"), Message("system", "last probe")
        return self._keeps(first, Message("user", "a"), Message("assistant", "a"), last) and (
            self._keeps(first, last, Message("user", "a"))
        )

    @cached_property
    def _takes_developer(self) -> bool:
        """Whether the template means something by the role, and does not merely print its name."""
        return "developer" in self._source and self._keeps(
            Message("developer", "probe"), Message("user", "a")
        )

    @cached_property
    def _takes_calls(self) -> bool:
        """Whether calls of tools and their results are both shown."""
        call = ToolCall("a00000000", "probe_name", '{"probe_key": "probe_value"}')
        messages = [
            Message("user", "a"),
            Message("assistant", tool_calls=(call,)),
            Message("tool", "probe_result", tool_call_id=call.id, name=call.name),
        ]
        text = self._probe(messages)
        return all(f"probe_{word}" in text for word in ("name", "key", "value", "result"))

    def _keeps(self, *messages: Message) -> bool:
        text = self._probe(messages)
        return all(message.content in text for message in messages)

    def _probe(self, messages: Iterable[Message], tools: Any = None) -> str:
        try:
            return self._text(messages, tools, self.default_args)
        except Exception:  # a template may fail in any way: then it does not accept this
            return ""

    def _accepted(self, messages: Sequence[Message]) -> list[Message]:
        """Rewrite messages into the roles and order that this template keeps whole."""
        accepted = list(messages)
        instructions = [m for m in accepted if m.role in ("system", "developer")]
        # Templates that know the developer know one, at the start.
        is_lone_developer = len(instructions) == 1 and accepted[0].role == "developer"
        if not (is_lone_developer and self._takes_developer):
            accepted = [replace(m, role="system") if m.role == "developer" else m for m in accepted]
        num_system = sum(m.role == "system" for m in accepted)
        is_late = num_system > 1 or (num_system == 1 and accepted[0].role != "system")
        if is_late and not self._takes_late_system:
            accepted = _system_merged(accepted)
        if num_system and not self._takes_system:
            accepted = _system_in_first_user(accepted)
        if any(m.role == "tool" or m.tool_calls for m in accepted) and not self._takes_calls:
            accepted = [_as_plain_text(m) for m in accepted]
        return [self._reasoning_split(m) for m in accepted]

    def _reasoning_split(self, message: Message) -> Message:
        """Take the thinking out of an answer that a client sends back with its think tags."""
        start, end = self.tokenizer.think_start, self.tokenizer.think_end
        content = message.content
        if message.role != "assistant" or not start or message.reasoning:
            return message
        if not content.lstrip().startswith(start) or end not in content:
            return message
        reasoning, _, rest = content.lstrip()[len(start) :].partition(end)
        return replace(message, reasoning=reasoning.strip("\n"), content=rest.lstrip("\n"))

    # Control tokens in a client's text

    def _disarm(self, text: str) -> str:
        """Put a seam into every control token, so that it is encoded as the text that it is."""
        text = text.replace(SEAM, "\ufffd")
        if not self._control_tokens:
            return text
        return self._control_tokens.sub(lambda m: m[0][0] + SEAM + m[0][1:], text)

    def _disarm_json(self, value: Any) -> Any:
        match value:
            case str():
                return self._disarm(value)
            case dict():
                return {self._disarm(str(k)): self._disarm_json(v) for k, v in value.items()}
            case list() | tuple():
                return [self._disarm_json(item) for item in value]
            case _:
                return value

    def _disarmed(self, message: Message) -> Message:
        return replace(
            message,
            content=self._disarm(message.content),
            reasoning=self._disarm(message.reasoning),
            tool_calls=tuple(
                ToolCall(self._disarm(c.id), self._disarm(c.name), self._disarm(c.arguments))
                for c in message.tool_calls
            ),
            tool_call_id=self._disarm(message.tool_call_id) if message.tool_call_id else None,
            name=self._disarm(message.name) if message.name else message.name,
        )

    def _disarmed_tool(self, tool: Tool) -> Tool:
        return replace(
            tool,
            name=self._disarm(tool.name),
            description=self._disarm(tool.description),
            parameters=self._disarm_json(dict(tool.parameters)),
        )


def _refusal(said: str) -> InvalidRequest:
    return InvalidRequest(
        f"The model's chat template does not accept these messages: {said[:200]}",
        param="messages",
        code="chat_template_error",
    )


class _Endless(Exception):
    """Raised in the middle of a template that takes too long."""


class _Patience:
    """A block of Python that is ended by `_Endless` when it takes too long.

    Nothing else stops a template that loops, and one thread renders for everybody.
    """

    def __init__(self, seconds: float) -> None:
        self._thread = threading.get_ident()
        self._is_over = False
        self._lock = threading.Lock()
        self._timer = threading.Timer(seconds, self._interrupt)
        self._timer.daemon = True

    def __enter__(self) -> None:
        self._timer.start()

    def __exit__(self, *_: object) -> None:
        with self._lock:  # an interruption that has begun strikes before this is over
            self._is_over = True
        self._timer.cancel()

    def _interrupt(self) -> None:
        with self._lock:
            if not self._is_over:
                ctypes.pythonapi.PyThreadState_SetAsyncExc(
                    ctypes.c_ulong(self._thread), ctypes.py_object(_Endless)
                )


def _source(tokenizer: Any) -> str:
    template = getattr(tokenizer, "chat_template", None)
    if isinstance(template, dict):
        return "\n".join(template.values())
    return template or ("\n" if tokenizer.has_chat_template else "")


def _control_token_pattern(tokenizer: Any) -> re.Pattern[str] | None:
    """Match what the tokenizer would take for a control token: `<|im_end|>`, `</think>`, `[INST]`.

    Added tokens that are ordinary text (runs of spaces, in some vocabularies) are left alone.
    """
    added = getattr(tokenizer, "added_tokens_decoder", {}).values()
    control = {
        token.content
        for token in added
        if len(token.content) > 1 and (token.special or token.content[0] in "<[")
    }
    if not control:
        return None
    return re.compile("|".join(re.escape(c) for c in sorted(control, key=len, reverse=True)))


def _message_entry(message: Message) -> dict[str, Any]:
    """The dictionary that chat templates read a message from."""
    entry: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.reasoning:
        entry["reasoning_content"] = entry["reasoning"] = message.reasoning
    if message.tool_calls:
        entry["tool_calls"] = [_call_entry(call) for call in message.tool_calls]
    if message.tool_call_id is not None:
        entry["tool_call_id"] = message.tool_call_id
    if message.name:
        entry["name"] = message.name
    return entry


def _call_entry(call: ToolCall) -> dict[str, Any]:
    try:
        arguments = json.loads(call.arguments or "{}")
    except (ValueError, RecursionError):
        arguments = None
    # What is not an object is passed as the text that the model once wrote.
    function = {
        "name": call.name,
        "arguments": arguments if isinstance(arguments, dict) else call.arguments,
    }
    return {"type": "function", "id": call.id, "function": function}


def _tool_entry(tool: Tool) -> dict[str, Any]:
    function = {
        "name": tool.name,
        "description": tool.description,
        "parameters": dict(tool.parameters) or {"type": "object", "properties": {}},
    }
    return {"type": "function", "function": function}


def _texts(node: jinja2.nodes.Node) -> frozenset[str]:
    """Every text that stands in an expression, lists of them included."""
    values = (constant.value for constant in node.find_all(jinja2.nodes.Const))
    lists = (v if isinstance(v, list | tuple) else [v] for v in values)
    return frozenset(text for texts in lists for text in texts if isinstance(text, str) and text)


def _joined(texts: Iterable[str]) -> str:
    return "\n\n".join(text for text in texts if text)


def _system_merged(messages: Sequence[Message]) -> list[Message]:
    system = _joined(m.content for m in messages if m.role == "system")
    return [Message("system", system), *(m for m in messages if m.role != "system")]


def _system_in_first_user(messages: Sequence[Message]) -> list[Message]:
    system = _joined(m.content for m in messages if m.role == "system")
    rest = [m for m in messages if m.role != "system"]
    for index, message in enumerate(rest):
        if message.role == "user":
            rest[index] = replace(message, content=_joined([system, message.content]))
            return rest
    return [Message("user", system), *rest]


def _attempts(messages: Sequence[Message]) -> Iterator[Sequence[Message]]:
    """The messages as they are, and what else a template may accept of them.

    Mistral's demands ids of nine letters and digits.
    """
    for attempt in (messages, _alternating(messages)):
        yield attempt
        if any(m.tool_calls or m.tool_call_id for m in attempt):
            yield [_with_short_ids(message) for message in attempt]


def _with_short_ids(message: Message) -> Message:
    return replace(
        message,
        tool_calls=tuple(replace(c, id=_short_id(c.id)) for c in message.tool_calls),
        tool_call_id=message.tool_call_id and _short_id(message.tool_call_id),
    )


def _short_id(id: str) -> str:
    """Nine letters and digits, always the same for an id."""
    if re.fullmatch("[a-zA-Z0-9]{9}", id):
        return id
    return hashlib.sha256(id.encode("utf-8", "replace")).hexdigest()[:9]


def _as_plain_text(message: Message) -> Message:
    """Say a tool's part in words, for a template that knows no tools."""
    if message.role == "tool":
        return Message("user", f"<tool_response>\n{message.content}\n</tool_response>")
    calls = (
        f'<tool_call>\n{{"name": {json.dumps(c.name, ensure_ascii=False)}, '
        f'"arguments": {c.arguments or "{}"}}}\n</tool_call>'
        for c in message.tool_calls
    )
    return replace(message, content=_joined([message.content, *calls]), tool_calls=())


def _alternating(messages: Sequence[Message]) -> list[Message]:
    """Join neighbours of one role, for a template that insists on turns."""
    merged: list[Message] = []
    for message in messages:
        last = merged[-1] if merged else None
        is_plain = not message.tool_calls and message.role in ("user", "assistant", "system")
        if last and last.role == message.role and is_plain and not last.tool_calls:
            merged[-1] = replace(last, content=_joined([last.content, message.content]))
        else:
            merged.append(message)
    return merged
