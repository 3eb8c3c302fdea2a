"""A request for a response, read: what the model is to do, and what the response says of itself.

(https://platform.openai.com/docs/api-reference/responses/create)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

from parts import InvalidRequest, Message, Prompt, SamplingParams, Tool, Unmatched
from protocol import constraints, sampling
from protocol.compaction import expanded
from protocol.items import Item, Resolve, normalised
from protocol.tools import Toolbox
from protocol.transcript import messages

Json = dict[str, Any]

DEFAULT_PARAMS = SamplingParams()
LOGPROBS = "message.output_text.logprobs"
SEALED_REASONING = "reasoning.encrypted_content"


@dataclass(frozen=True, slots=True)
class ResponseRequest:
    """A request that can be served."""

    items: tuple[Item, ...]
    """The input, normalised; without the history."""
    prompt: Prompt
    params: SamplingParams
    toolbox: Toolbox
    settings: Mapping[str, Any]
    """What the request decides about the response object, under its keys."""
    include: frozenset[str] = frozenset()

    def without_question(self) -> ResponseRequest:
        """What is needed of it to tell the answer."""
        return replace(self, items=(), prompt=Prompt(()))

    @property
    def can_truncate(self) -> bool:
        """Whether the oldest turns may be dropped to make the prompt fit."""
        return bool(self.settings["truncation"] == "auto")

    @property
    def gives_logprobs(self) -> bool:
        """Whether the client wants to see log-probabilities."""
        return LOGPROBS in self.include

    @property
    def seals_reasoning(self) -> bool:
        """Whether the client wants to carry the thoughts itself, as an opaque text."""
        return SEALED_REASONING in self.include


def read(
    body: Mapping[str, Any],
    *,
    model: str,
    history: Sequence[Item] = (),
    defaults: SamplingParams = DEFAULT_PARAMS,
    resolve: Resolve | None = None,
) -> ResponseRequest:
    """Read the body of `POST /v1/responses`, whose fields have the right types.

    An explicit null, `{}` or `[]` means the field's default. `history` are the normalised items of
    the conversation so far; `model` is the loaded one's name, for a body that names none.

    Raises:
        InvalidRequest: it asks for something that cannot be served; `param` names the field.
    """
    given = {key: value for key, value in body.items() if value not in (None, {}, [])}
    _refuse_contradictions(given)
    toolbox = Toolbox(given.get("tools", ()))
    offered = toolbox.offered(given.get("tool_choice", "auto"))
    constraint = constraints.of_request(given, _text_format(given), "text.format")
    items = tuple(normalised(body.get("input"), resolve))
    _refuse_unmatched(history, items)
    include = frozenset(map(str, given.get("include", ())))
    if given.get("top_logprobs"):
        include |= {LOGPROBS}
    max_tool_calls = _max_tool_calls(given)
    prompt = Prompt(
        messages=constraints.told(_instructed(given, (*history, *items)), constraint),
        tools=offered if max_tool_calls != 0 else (),
        template_args=_template_args(given),
        max_tool_calls=max_tool_calls or None,
        forced_tools=_forced(given, offered) if max_tool_calls != 0 else (),
        constraint=constraint,
    )
    params = _sampling(given, defaults, include)
    settings = _settings(given, model, params, toolbox)
    return ResponseRequest(items, prompt, params, toolbox, settings, include)


def _forced(given: Mapping[str, Any], offered: Iterable[Tool]) -> tuple[str, ...]:
    demands = Toolbox.demands_call(given.get("tool_choice", "auto"))
    return tuple(tool.name for tool in offered) if demands else ()


def _instructed(given: Mapping[str, Any], items: Iterable[Item]) -> tuple[Message, ...]:
    instructions = given.get("instructions")
    leading = (Message("system", instructions),) if instructions else ()
    found = (*leading, *messages(items))
    if not found:
        raise InvalidRequest(
            "There is nothing to answer: give an input.",
            param="input",
            code="missing_required_parameter",
        )
    return found


def _template_args(given: Mapping[str, Any]) -> dict[str, str | int | float | bool]:
    args = dict(given.get("chat_template_kwargs", {}))
    if "enable_thinking" in given:
        args["enable_thinking"] = given["enable_thinking"]
    if effort := given.get("reasoning", {}).get("effort"):
        args["reasoning_effort"] = effort
    return args


def _max_tool_calls(given: Mapping[str, Any]) -> int | None:
    limits = [given["max_tool_calls"]] if "max_tool_calls" in given else []
    if given.get("parallel_tool_calls") is False:
        limits.append(1)
    return min(limits, default=None)


def _sampling(
    given: Mapping[str, Any], defaults: SamplingParams, include: frozenset[str]
) -> SamplingParams:
    fields = sampling.read(given)
    if "max_output_tokens" in given:
        fields["max_tokens"] = given["max_output_tokens"]
    return replace(
        defaults,
        **fields,
        stop=sampling.stops(given.get("stop", defaults.stop)),
        top_logprobs=given.get("top_logprobs", 0) if LOGPROBS in include else None,
    )


# What cannot be served


def _refuse_contradictions(given: Mapping[str, Any]) -> None:
    if "prompt" in given:
        raise InvalidRequest(
            "Prompt templates are stored at OpenAI; send their text as input.",
            param="prompt",
            code="unsupported_parameter",
        )
    if "conversation" in given and "previous_response_id" in given:
        raise InvalidRequest(
            "A response continues either a conversation or a previous response, not both.",
            param="previous_response_id",
            code="mutually_exclusive_parameters",
        )
    if given.get("background") and given.get("store") is False:
        raise InvalidRequest(
            "A background response can only be fetched when it is stored.", param="background"
        )


def _refuse_unmatched(history: Iterable[Item], items: Iterable[Item]) -> None:
    """See that every new result of a tool answers a call, and is the only one that does."""
    waiting: set[str] = set()
    answered: set[str] = set()
    past = ((False, item) for item in expanded(history))
    for is_new, item in chain(past, ((True, item) for item in expanded(items))):
        match item:
            case {"type": "function_call" | "custom_tool_call", "call_id": id}:
                waiting.add(id)
            case {"type": "function_call_output" | "custom_tool_call_output", "call_id": id}:
                if is_new and id not in waiting:
                    raise _unmatched(id, id in answered)
                waiting.discard(id)
                answered.add(id)


def refuse_unanswered(history: Iterable[Item], items: Iterable[Item]) -> None:
    """See that every call has its result before the user speaks again, and before an answer.

    A call that was cut short cannot be answered.

    Raises:
        Unmatched: one has none.
    """
    waiting: dict[str, None] = {}
    past = ((False, item) for item in expanded(history))
    for is_new, item in chain(past, ((True, item) for item in expanded(items))):
        match item:
            case {"type": "function_call" | "custom_tool_call", "status": "completed"}:
                waiting[item["call_id"]] = None
            case {"type": "function_call_output" | "custom_tool_call_output"}:
                waiting.pop(item["call_id"], None)
            case {"type": "message", "role": "user"}:
                _refuse_waiting(waiting if is_new else ())
                waiting.clear()
    _refuse_waiting(waiting)


def _refuse_waiting(waiting: Iterable[str]) -> None:
    for id in waiting:
        raise Unmatched(f"No tool output found for function call {id[:64]}.", param="input")


def _unmatched(id: str, is_answered: bool) -> Unmatched:
    if is_answered:
        return Unmatched(f"The call {id[:64]!r} has a result already.", param="input")
    return Unmatched(
        f"No tool call found for function call output with call_id {id[:64]}.", param="input"
    )


# What the response says of itself


def _settings(
    given: Mapping[str, Any], model: str, params: SamplingParams, toolbox: Toolbox
) -> Json:
    """The request's part of the response object: what was asked for, or the default in use."""
    settings: Json = {
        "background": given.get("background", False),
        "conversation": _conversation(given.get("conversation")),
        "instructions": given.get("instructions"),
        "max_output_tokens": params.max_tokens,
        "max_tool_calls": given.get("max_tool_calls"),
        "metadata": given.get("metadata", {}),
        "model": given.get("model", model)[:256],
        "parallel_tool_calls": given.get("parallel_tool_calls", True),
        "previous_response_id": given.get("previous_response_id"),
        "prompt_cache_key": given.get("prompt_cache_key"),
        "reasoning": _reasoning(given.get("reasoning", {})),
        "safety_identifier": given.get("safety_identifier"),
        "service_tier": "default",
        "store": given.get("store", True),
        "temperature": params.temperature,
        "text": {"format": _text_format(given)},
        "tool_choice": given.get("tool_choice", "auto"),
        "tools": toolbox.definitions,
        "top_logprobs": given.get("top_logprobs", 0),
        "top_p": params.top_p,
        "truncation": given.get("truncation", "disabled"),
        "presence_penalty": params.presence_penalty,
        "frequency_penalty": params.frequency_penalty,
    }
    return settings | ({"user": given["user"]} if "user" in given else {})


def _conversation(given: Any) -> Json | None:
    match given:
        case str():
            return {"id": given}
        case {"id": id}:
            return {"id": id}
        case _:
            return None


def _reasoning(given: Mapping[str, Any]) -> Json:
    summary = given.get("summary") or given.get("generate_summary")
    return {"effort": given.get("effort"), "summary": summary}


def _text_format(given: Mapping[str, Any]) -> Json:
    return given.get("text", {}).get("format") or {"type": "text"}
