"""Chat completions: a request's JSON becomes a prompt, an answer's parts become chunks.

The stream is the product; a whole answer is the fold of its chunks.
(https://platform.openai.com/docs/api-reference/chat)
"""

from __future__ import annotations

import json
import logging
import secrets
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, assert_never

from parts import (
    Finish,
    InvalidRequest,
    Message,
    Part,
    Progress,
    Prompt,
    Reasoning,
    Role,
    SamplingParams,
    Text,
    TokenLogprob,
    Tool,
    ToolArguments,
    ToolCall,
    Usage,
    joined,
)
from protocol import constraints, sampling
from protocol.items import refuse_media
from protocol.sse import HOLE, around_holes, data_event, text_bytes
from protocol.thinking import ReasoningFormat, Thinking
from protocol.tools import CUSTOM_ARGUMENT, custom_input, custom_parameters, refuse_too_many

log = logging.getLogger(__name__)

Json = dict[str, Any]
ROLES: Mapping[str, Role] = {
    "system": "system",
    "developer": "developer",
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
    "function": "tool",
}
TEXTS = frozenset({("content",), ("reasoning", "reasoning_content")})
"""The fields of a delta that is text, the same in each."""


# Requests


def read_prompt(body: Mapping[str, Any]) -> Prompt:
    """Make a prompt of a request whose fields have the right types.

    Raises:
        InvalidRequest: it asks for something that this server does not do.
    """
    _refuse_what_is_not_honoured(body)
    tools = _tools(body)
    constraint = constraints.of_request(body, body.get("response_format"), "response_format")
    template_args = dict(body.get("chat_template_kwargs") or {})
    for name in ("enable_thinking", "reasoning_effort"):
        if body.get(name) is not None:
            template_args[name] = body[name]
    messages = tuple(_message(m, i) for i, m in enumerate(body["messages"]))
    return Prompt(
        messages=constraints.told(messages, constraint),
        tools=tools,
        template_args=template_args,
        max_tool_calls=1 if is_legacy(body) or body.get("parallel_tool_calls") is False else None,
        forced_tools=tuple(tool.name for tool in tools) if _demands_call(body) else (),
        constraint=constraint,
    )


def read_sampling(body: Mapping[str, Any], defaults: SamplingParams) -> SamplingParams:
    """Take from a request what it says about sampling, and the rest from `defaults`."""
    given = sampling.read(body)
    for name in ("max_tokens", "max_completion_tokens"):
        if body.get(name) is not None:
            given["max_tokens"] = body[name]
    top_logprobs = body.get("top_logprobs")
    if top_logprobs is not None and not body.get("logprobs"):
        raise InvalidRequest("top_logprobs needs logprobs to be true.", param="top_logprobs")
    return replace(
        defaults,
        **given,
        stop=sampling.stops(body.get("stop") or ()),
        top_logprobs=(top_logprobs or 0) if body.get("logprobs") else None,
    )


def choices_of(params: SamplingParams, n: int) -> list[SamplingParams]:
    """One set of parameters for each of `n` choices: with a seed, each gets its own."""
    if params.seed is None:
        return [params] * n
    return [replace(params, seed=params.seed + index) for index in range(n)]


def _refuse_what_is_not_honoured(body: Mapping[str, Any]) -> None:
    """Name what cannot be done, rather than drop it."""
    asked = "modalities" if "audio" in (body.get("modalities") or ()) else "audio"
    if asked == "modalities" or body.get("audio"):
        raise InvalidRequest(
            "This model writes text only.", param=asked, code="unsupported_parameter"
        )


# Tools


def _tools(body: Mapping[str, Any]) -> tuple[Tool, ...]:
    """The tools that the model may call, by whichever of OpenAI's ways they were given."""
    offered = body.get("tools") or [
        {"type": "function", "function": f} for f in body.get("functions") or ()
    ]
    read = (_tool(tool, index) for index, tool in enumerate(offered))
    tools = tuple(tool for tool in read if tool is not None)
    if len(tools) < len(offered):
        log.info("left out %d tools that this server cannot offer", len(offered) - len(tools))
    choice = _choice(body)
    if choice == "none":
        return ()
    names = _chosen(choice)
    chosen = tools if names is None else tuple(t for t in tools if t.name in names)
    if not chosen and (names or _demands_call(body)):
        raise InvalidRequest("It demands a tool that is not among the tools.", param="tool_choice")
    return chosen


def custom_names(body: Mapping[str, Any]) -> frozenset[str]:
    """The names of the custom tools, whose calls hold a text and not JSON."""
    tools = body.get("tools") or ()
    return frozenset(str(_name(tool)) for tool in tools if tool.get("type") == "custom")


def is_legacy(body: Mapping[str, Any]) -> bool:
    """Whether a client gave `functions`, and so looks for a `function_call`."""
    return bool(body.get("functions")) and not body.get("tools")


def _choice(body: Mapping[str, Any]) -> Any:
    return body.get("tool_choice") or body.get("function_call") or "auto"


def _chosen(choice: Any) -> set[Any] | None:
    """The names of the tools that a choice leaves; None when it leaves all of them."""
    match choice:
        case "auto" | "required":
            return None
        case {"type": "allowed_tools", "allowed_tools": {"tools": list(allowed)}}:
            refuse_too_many(len(allowed), "tool_choice")
            return {name for tool in allowed if isinstance(name := _name(tool), str)}
        case (
            {"type": "function", "function": {"name": str(name)}}
            | {"type": "custom", "custom": {"name": str(name)}}
            | {"name": str(name)}
        ):
            return {name}
    raise InvalidRequest(
        "It is none of none, auto, required, a function and allowed_tools.", param="tool_choice"
    )


def _demands_call(body: Mapping[str, Any]) -> bool:
    match _choice(body):
        case "auto" | "none":
            return False
        case {"allowed_tools": {"mode": mode}}:
            return bool(mode == "required")
        case {"type": "allowed_tools"}:
            return False
    return True


def _name(tool: Any) -> Any:
    return _inner(tool).get("name") if isinstance(tool, dict) else None


def _inner(tool: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a tool or a call says, beside or inside of its `function`."""
    inner = tool.get("function") or tool.get("custom") or tool
    return inner if isinstance(inner, dict) else {}


def _tool(tool: Mapping[str, Any], index: int) -> Tool | None:
    kind = tool.get("type", "function")
    if kind not in ("function", "custom"):
        log.debug("left out a tool of type %r", str(kind)[:64])
        return None
    function = tool.get(kind) or tool
    name = function.get("name") if isinstance(function, dict) else None
    if not isinstance(name, str) or not name:
        raise InvalidRequest("A tool needs a name.", param=f"tools[{index}].{kind}.name")
    parameters = function.get("parameters")
    parameters = parameters if isinstance(parameters, dict) else {}
    if kind == "custom":
        parameters = custom_parameters(function.get("format"))
    return Tool(
        name=name,
        description=str(function.get("description") or ""),
        parameters=constraints.checked(parameters, f"tools[{index}].function.parameters"),
        strict=bool(function.get("strict")),
    )


# Messages


def _message(message: Mapping[str, Any], index: int) -> Message:
    return Message(
        role=ROLES.get(message["role"], "user"),
        content=_content(message.get("content"), index),
        reasoning=message.get("reasoning_content") or message.get("reasoning") or "",
        tool_calls=tuple(_call(call) for call in _calls(message)),
        tool_call_id=message.get("tool_call_id"),
        name=message.get("name"),
    )


def _content(content: str | Sequence[Mapping[str, Any]] | None, index: int) -> str:
    """Join the text of a message. A refusal is text that the model said."""
    if content is None or isinstance(content, str):
        return content or ""
    texts = []
    for number, part in enumerate(content):
        refuse_media(part, f"messages[{index}].content[{number}]")
        text = part.get("text") or part.get("refusal")
        texts.append(text if isinstance(text, str) else "")
    return "".join(texts)


def _calls(message: Mapping[str, Any]) -> list[Json]:
    if message.get("tool_calls"):
        return list(message["tool_calls"])
    legacy = message.get("function_call")
    return [{"id": "", "function": legacy}] if legacy else []


def _call(call: Mapping[str, Any]) -> ToolCall:
    function = _inner(call)
    arguments = function.get("arguments")
    if "input" in function and arguments is None:
        arguments = json.dumps({CUSTOM_ARGUMENT: function["input"]}, ensure_ascii=False)
    return ToolCall(
        id=str(call.get("id") or ""),
        name=str(function.get("name") or ""),
        arguments=arguments if isinstance(arguments, str) else "",
    )


# Answers


class _Choice:
    """Where one choice of a completion has got to."""

    def __init__(
        self, reasoning_format: ReasoningFormat, is_legacy: bool, custom_names: frozenset[str]
    ) -> None:
        self.thinking = Thinking(reasoning_format)
        self.finish_reason: str | None = None
        self._is_legacy = is_legacy
        self._custom_names = custom_names
        self._custom: str | None = None
        """The arguments so far of a custom call, whose input is known when they are whole."""
        self._num_calls = 0

    def call_deltas(self, part: ToolCall | ToolArguments) -> Iterator[Json]:
        """A call opens with its id and name; what follows has its index only."""
        match part:
            case ToolCall(id, name, arguments) if name in self._custom_names:
                self._num_calls += 1
                self._custom = arguments
                yield self._call({"id": id, "type": "custom"}, custom={"name": name, "input": ""})
            case ToolCall(id, name, arguments):
                self._num_calls += 1
                function = {"name": name, "arguments": arguments}
                yield self._call({"id": id, "type": "function"}, function=function)
            case ToolArguments(text) if self._custom is not None:
                self._custom += text
            case ToolArguments(text):
                yield self._call({}, function={"arguments": text})

    def closing_deltas(self) -> Iterator[Json]:
        """The input of a custom call, once no more of it comes."""
        arguments, self._custom = self._custom, None
        if arguments is not None:
            yield self._call({}, custom={"input": custom_input(arguments)})

    def _call(self, head: Json, **what: Json) -> Json:
        if self._is_legacy:
            return {"function_call": what["function"]}
        return {"tool_calls": [{"index": self._num_calls - 1, **head, **what}]}

    def end(self, reason: str) -> str:
        """Why the choice ended, in the client's words."""
        is_call = self._is_legacy and reason == "tool_calls"
        self.finish_reason = "function_call" if is_call else reason
        return self.finish_reason


class Completion:
    """One answer to a chat request, as the chunks of its stream."""

    def __init__(
        self,
        *,
        model: str,
        fingerprint: str,
        num_choices: int = 1,
        include_usage: bool = False,
        is_legacy: bool = False,
        custom_names: frozenset[str] = frozenset(),
        reasoning_format: ReasoningFormat = "separate",
    ) -> None:
        self.id = f"chatcmpl-{secrets.token_hex(16)}"
        self.usage = Usage()
        self._constant: Json = {
            "id": self.id,
            "object": "chat.completion.chunk",
            "created": int(time.time()),
            "model": model,
            "system_fingerprint": fingerprint,
        }
        self._choices = [
            _Choice(reasoning_format, is_legacy, custom_names) for _ in range(num_choices)
        ]
        self._include_usage = include_usage
        self._around_text: dict[tuple[int, tuple[str, ...]], list[bytes]] = {}
        """For each choice and kind of text, what its chunks have in common."""

    @property
    def finish_reason(self) -> str | None:
        """The first choice's, once it has ended."""
        return self._choices[0].finish_reason

    def opening(self) -> Iterator[Json]:
        """The chunks that say who speaks."""
        for index in range(len(self._choices)):
            yield self._chunk(index, {"role": "assistant", "content": ""})

    def progress(self, progress: Progress, seconds: float) -> Iterator[Json]:
        """The chunk for a client who asked to hear how far its prompt is, as llama.cpp has it.

        (https://github.com/ggml-org/llama.cpp/blob/master/tools/server/README.md)
        """
        told = {
            "total": progress.num_prompt,
            "cache": progress.num_cached,
            "processed": progress.num_computed,
            "time_ms": round(seconds * 1000),
            "stage": progress.stage,
            "num_ahead": progress.num_ahead,
        }
        yield {**self._chunk(0, {}), "prompt_progress": told}

    def feed(self, index: int, parts: Iterable[Part]) -> Iterator[Json]:
        """The chunks for more parts of one choice."""
        choice = self._choices[index]
        shown = (shown for part in parts for shown in choice.thinking.show(part))
        for part in joined(shown):
            if not isinstance(part, ToolArguments):
                for delta in choice.closing_deltas():
                    yield self._chunk(index, delta)
            match part:
                case Reasoning(text):
                    # Clients read one name or the other, and none reads both.
                    yield self._chunk(index, {"reasoning": text, "reasoning_content": text})
                case Text(text, logprobs):
                    yield self._chunk(index, {"content": text}, logprobs=logprobs)
                case ToolCall() | ToolArguments():
                    for delta in choice.call_deltas(part):
                        yield self._chunk(index, delta)
                case Finish(reason, usage):
                    self.usage = self.usage + usage
                    yield self._chunk(index, {}, finish_reason=choice.end(reason))
                case _:
                    assert_never(part)

    def closing(self) -> Iterator[Json]:
        """The chunk with the usage, when the client asked for it."""
        if self._include_usage:
            yield {**self._constant, "choices": [], "usage": usage_json(self.usage)}

    def event(self, chunk: Json) -> bytes:
        """A chunk as an event, the same bytes as `data_event`; most only bring more text."""
        choice = chunk["choices"][0] if chunk["choices"] else None
        if choice is None or choice["logprobs"] or (fields := tuple(choice["delta"])) not in TEXTS:
            return data_event(chunk)
        index, text = choice["index"], choice["delta"][fields[0]]
        pieces = self._around_text.get((index, fields))
        if pieces is None:
            holed = self._chunk(index, dict.fromkeys(fields, HOLE))
            pieces = self._around_text[index, fields] = around_holes(data_event(holed))
        return text_bytes(text).join(pieces)

    def whole(self, chunks: Iterable[Json]) -> Json:
        """Fold the chunks of the stream into the answer to a request that did not ask for one."""
        choices = [
            {
                "index": index,
                "message": {"role": "assistant", "content": None, "refusal": None},
                "logprobs": None,
                "finish_reason": None,
            }
            for index in range(len(self._choices))
        ]
        for chunk in chunks:
            for piece in chunk["choices"]:
                _fold(choices[piece["index"]], piece)
        for choice in choices:
            message = choice["message"]
            assert isinstance(message, dict)
            if not message["content"] and message.keys() & {"tool_calls", "function_call"}:
                message["content"] = None
        return {
            **self._constant,
            "object": "chat.completion",
            "choices": choices,
            "usage": usage_json(self.usage),
        }

    def _chunk(
        self,
        index: int,
        delta: Json,
        *,
        logprobs: Sequence[TokenLogprob] = (),
        finish_reason: str | None = None,
    ) -> Json:
        choice = {
            "index": index,
            "delta": delta,
            "logprobs": logprobs_json(logprobs) if logprobs else None,
            "finish_reason": finish_reason,
        }
        chunk = {**self._constant, "choices": [choice]}
        if self._include_usage:
            chunk["usage"] = None
        return chunk


def usage_json(usage: Usage) -> Json:
    """Usage as chat completions write it."""
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
    }


def logprobs_json(logprobs: Sequence[TokenLogprob]) -> Json:
    """Log-probabilities as chat completions write them."""
    return {"content": [_logprob(entry) for entry in logprobs], "refusal": None}


def _logprob(entry: TokenLogprob) -> Json:
    def one(e: TokenLogprob) -> Json:
        return {"token": e.token, "logprob": e.logprob, "bytes": list(e.raw)}

    return {**one(entry), "top_logprobs": [one(top) for top in entry.top]}


def _fold(choice: Json, piece: Json) -> None:
    """Add one piece of the stream to a choice of the whole answer."""
    message = choice["message"]
    for key, value in piece["delta"].items():
        match key:
            case "role":
                message["role"] = value
            case "tool_calls":
                for call in value:
                    _fold_call(message.setdefault("tool_calls", []), call)
            case "function_call":
                call = message.setdefault("function_call", {"arguments": ""})
                message["function_call"] = {**call, **value}
                message["function_call"]["arguments"] = call["arguments"] + value["arguments"]
            case _:
                message[key] = (message.get(key) or "") + value
    if piece["logprobs"]:
        if choice["logprobs"] is None:
            choice["logprobs"] = {"content": [], "refusal": None}
        choice["logprobs"]["content"] += piece["logprobs"]["content"]
    choice["finish_reason"] = piece["finish_reason"] or choice["finish_reason"]


def _fold_call(calls: list[Json], call: Json) -> None:
    kind = "custom" if "custom" in call else "function"
    if call["index"] < len(calls):
        for key, more in call[kind].items():
            calls[call["index"]][kind][key] += more
        return
    calls.append({"id": call["id"], "type": call["type"], kind: dict(call[kind])})
