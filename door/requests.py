"""Request models: what a body must look like before anyone looks at what it means.

So permissive that no real client meets a 422: unknown fields are ignored, and an explicit null or
empty object means the default.
"""

from __future__ import annotations

from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)
from pydantic_core import InitErrorDetails, PydanticCustomError

from door.durations import seconds
from protocol.tools import MAX_TOOLS

MAX_MESSAGES = 10_000
MAX_PARTS = 10_000
"""Of one message."""
MAX_PARTS_TOGETHER = 20_000
MAX_CALLS = 1_000
"""Of one message."""
MAX_ARGUMENTS = 64
"""For the chat template."""


MAX_MEMBERS = 10_000
"""Of an object whose members are a client's own."""


class Given(BaseModel):
    """A JSON object, which can be had back as it was given."""

    def given(self) -> dict[str, Any]:
        """The fields that the client set, as plain JSON."""
        # One by one: Pydantic would do it all in one go, while everybody waits.
        values = ((name, getattr(self, name)) for name in self.model_fields_set)
        return {name: _plain(value) for name, value in values if value is not None}


def _plain(value: Any) -> Any:
    """A field as plain JSON, which it is unless it is a model, or its members are."""
    if isinstance(value, Given):
        return value.given()
    if isinstance(value, list) and value and isinstance(value[0], Given):
        return [each.given() for each in value]
    return value


class Permissive(Given):
    """A JSON object of which only the named fields are looked at."""

    model_config = ConfigDict(extra="ignore", allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _empty_is_default(cls, value: Any) -> Any:
        if isinstance(value, dict):
            return {k: v for k, v in value.items() if not cls._is_default(k, v)}
        return value

    @classmethod
    def _is_default(cls, name: str, value: Any) -> bool:
        """Whether a value stands for none; some languages write an empty object as a list."""
        field = cls.model_fields.get(name)
        is_required = field is not None and field.is_required()
        return value is None or value == {} or (value == [] and not is_required)


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _not_negative(value: int) -> int:
    return max(value, 0)


def _few(most: int) -> Callable[[Any], Any]:
    """See that an object is small before its members are looked at, each of which may be wrong."""

    def looked_at(value: Any) -> Any:
        if isinstance(value, dict) and len(value) > most:
            raise PydanticCustomError(
                "too_long", "must have at most {most} members", {"most": most}
            )
        return value

    return looked_at


def _id_of(value: Any) -> Any:
    return value["id"] if isinstance(value, dict) and "id" in value else value


Object = Annotated[dict[str, Any], BeforeValidator(_few(MAX_MEMBERS))]
Stop = Annotated[str, Field(max_length=1000)]
Count = Annotated[int, Field(ge=1, le=10**9)]
Penalty = Annotated[float, Field(ge=-2, le=2)]
Bias = Annotated[float, Field(ge=-100, le=100)]
Biases = Annotated[dict[str, Bias], BeforeValidator(_few(1024))]
Tools = Annotated[list[Object], Field(max_length=MAX_TOOLS, fail_fast=True)]
Names = Annotated[list[str], Field(max_length=MAX_TOOLS, fail_fast=True)]
TemplateArgs = Annotated[dict[str, str | int | float | bool], BeforeValidator(_few(MAX_ARGUMENTS))]


class Sampling(Permissive):
    """What every request for an answer may say about how its tokens are chosen."""

    model: str | None = None
    stream: bool = False
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1), AfterValidator(_not_negative)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    repetition_penalty: Annotated[float, Field(gt=0, le=10)] | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    logit_bias: Biases | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    seed: int | None = None
    stop: (
        Annotated[list[Stop], Field(max_length=16, fail_fast=True), BeforeValidator(_listed)] | None
    ) = None
    tools: Tools | None = None
    tool_choice: str | Object | None = None
    parallel_tool_calls: bool | None = None
    structured_outputs: Object | None = None
    enable_thinking: bool | None = None
    keep_alive: Annotated[float, BeforeValidator(seconds)] | None = None
    max_reasoning_tokens: Annotated[int, Field(ge=0, le=10**9)] | None = None
    chat_template_kwargs: TemplateArgs | None = None


# Chat completions


class ContentPart(Given):
    """A part of a message; the kinds that are not text are refused by name later.

    What a part holds that has no type says what it is, so nothing of it is left out here.
    """

    model_config = ConfigDict(extra="allow")
    type: str = "text"
    text: str | None = None
    refusal: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _has_few_members(cls, value: Any) -> Any:
        return _few(MAX_MEMBERS)(value)


Parts = Annotated[list[ContentPart], Field(max_length=MAX_PARTS, fail_fast=True)]
Calls = Annotated[list[Object], Field(max_length=MAX_CALLS, fail_fast=True)]


class ChatMessage(Permissive):
    """One message of a chat."""

    role: str
    content: str | Parts | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None
    tool_calls: Calls | None = None
    function_call: Object | None = None
    tool_call_id: str | None = None
    name: str | None = None


class _Open:
    """The calls without a result, the oldest first, found by their ids without a search."""

    def __init__(self) -> None:
        self._calls: OrderedDict[int, tuple[str, int]] = OrderedDict()
        self._numbers: defaultdict[str, deque[int]] = defaultdict(deque)
        self._num_added = 0

    def add(self, id: str, index: int) -> None:
        """Keep a call, with the index of its message."""
        self._calls[self._num_added] = (id, index)
        self._numbers[id].append(self._num_added)
        self._num_added += 1

    def oldest(self) -> tuple[str, int] | None:
        """The id of the oldest, and the index of its message."""
        return next(iter(self._calls.values()), None)

    def take(self, id: str) -> bool:
        """Let the oldest call of an id go, if there is one."""
        if not self._numbers.get(id):
            return False
        del self._calls[self._numbers[id].popleft()]
        return True


def _calls_answered(messages: list[ChatMessage]) -> list[ChatMessage]:
    """See that every call of a tool has one result before the user speaks again.

    A result without an id answers the oldest open call, as older clients mean it, and the results
    of a `function_call`, which has no id, are not looked at.
    """
    waiting = _Open()
    answered: set[str] = set()
    for index, message in enumerate(messages):
        if message.role == "tool":
            answered.add(_answered_call(message, index, waiting, answered))
        elif message.role == "assistant":
            called = [str(call.get("id") or "") for call in message.tool_calls or ()]
            for id in called:
                waiting.add(id, index)
            answered -= set(called)  # some models count from the start in every turn
        elif message.role == "user":
            _refuse_waiting(waiting)
    _refuse_waiting(waiting)
    return messages


def _answered_call(message: ChatMessage, index: int, waiting: _Open, answered: set[str]) -> str:
    """Take the call that a result answers out of those that wait. Raises `ValidationError`."""
    id = message.tool_call_id
    if id is None:
        oldest = waiting.oldest()
        if oldest is None:
            raise _problem("there is no call that waits for this result", index, "tool_call_id")
        id = oldest[0]
    if waiting.take(id):
        return id
    said = "has a result already" if id in answered else "is not among the calls before it"
    raise _problem(f"the call {id[:64]!r} {said}", index, "tool_call_id")


def _refuse_waiting(waiting: _Open) -> None:
    if (oldest := waiting.oldest()) is not None:
        id, index = oldest
        raise _problem(f"the call {id[:64]!r} has no result", index, "tool_calls")


def _problem(message: str, index: int, field: str) -> ValidationError:
    """A problem of one message, seen by who looks at all of them."""
    kind = PydanticCustomError("tool_results", "{told}", {"told": message})
    return ValidationError.from_exception_data(
        "messages", [InitErrorDetails(type=kind, loc=(index, field), input=None)]
    )


class StreamOptions(Permissive):
    """What a stream holds beside the answer."""

    include_usage: bool = False


def _few_parts(messages: Any) -> Any:
    """See that messages have not too many parts together, before a model is made of each."""
    if isinstance(messages, list):
        contents = (message.get("content") for message in messages if isinstance(message, dict))
        # One that has too many alone is told of by itself.
        numbers = (len(c) for c in contents if isinstance(c, list) and len(c) <= MAX_PARTS)
        if sum(numbers) > MAX_PARTS_TOGETHER:
            most = {"most": MAX_PARTS_TOGETHER}
            raise PydanticCustomError("too_long", "must have at most {most} parts together", most)
    return messages


class ChatRequest(Sampling):
    """`POST /v1/chat/completions`."""

    messages: Annotated[
        list[ChatMessage],
        Field(min_length=1, max_length=MAX_MESSAGES, fail_fast=True),
        BeforeValidator(_few_parts),
        AfterValidator(_calls_answered),
    ]
    stream_options: StreamOptions = StreamOptions()
    return_progress: bool = False
    n: Annotated[int, Field(ge=1, le=16)] = 1
    max_tokens: Count | None = None
    max_completion_tokens: Count | None = None
    logprobs: bool | None = None
    functions: Tools | None = None
    function_call: str | Object | None = None
    response_format: Object | None = None
    reasoning_effort: str | None = None
    modalities: Names | None = None
    audio: Object | None = None


# Responses


class ReasoningOptions(Permissive):
    """How much to think, and what of it to tell."""

    effort: str | None = None
    summary: str | None = None
    generate_summary: str | None = None


class TextOptions(Permissive):
    """The form of the answer's text."""

    format: Object | None = None


Items = Annotated[list[Any], Field(max_length=MAX_MESSAGES)]
Metadata = Annotated[dict[str, str], BeforeValidator(_few(16))]


class InputRequest(Sampling):
    """What a response is made of: enough to count its tokens."""

    input: str | Items | None = None
    instructions: str | None = None
    previous_response_id: str | None = None
    conversation: Annotated[str, BeforeValidator(_id_of)] | None = None
    reasoning: ReasoningOptions | None = None
    text: TextOptions | None = None
    truncation: Literal["auto", "disabled"] | None = None


class ResponseRequest(InputRequest):
    """`POST /v1/responses`."""

    max_output_tokens: Count | None = None
    max_tool_calls: Annotated[int, Field(ge=0)] | None = None
    store: bool | None = None
    background: bool | None = None
    return_progress: bool = False
    include: Names | None = None
    metadata: Metadata | None = None
    prompt: Object | None = None
    user: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None


class CompactRequest(InputRequest):
    """`POST /v1/responses/compact`."""

    model: str


class ConversationRequest(Permissive):
    """`POST /v1/conversations`."""

    items: Items | None = None
    metadata: Metadata | None = None


class MetadataRequest(BaseModel):
    """`POST /v1/conversations/{id}`."""

    metadata: Annotated[Metadata, BeforeValidator(lambda value: value or {})]


class ItemsRequest(BaseModel):
    """`POST /v1/conversations/{id}/items`."""

    items: Annotated[list[Any], Field(min_length=1, max_length=MAX_MESSAGES)]
