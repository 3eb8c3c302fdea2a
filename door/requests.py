"""Request models: what a body must look like before anyone looks at what it means.

So permissive that no real client meets a 422: unknown fields are ignored, and an explicit null or
empty object means the default.
"""

from __future__ import annotations

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

MAX_MESSAGES = 10_000
MAX_TOOLS = 1_000


class Permissive(BaseModel):
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

    def given(self) -> dict[str, Any]:
        """The fields that the client set, as plain JSON."""
        return self.model_dump(exclude_none=True, exclude_unset=True)


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _not_negative(value: int) -> int:
    return max(value, 0)


def _id_of(value: Any) -> Any:
    return value["id"] if isinstance(value, dict) and "id" in value else value


Stop = Annotated[str, Field(max_length=1000)]
Count = Annotated[int, Field(ge=1, le=10**9)]
Penalty = Annotated[float, Field(ge=-2, le=2)]
Bias = Annotated[dict[str, Annotated[float, Field(ge=-100, le=100)]], Field(max_length=1024)]
Tools = Annotated[list[dict[str, Any]], Field(max_length=MAX_TOOLS)]


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
    logit_bias: Bias | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    seed: int | None = None
    stop: Annotated[list[Stop], Field(max_length=16), BeforeValidator(_listed)] | None = None
    tools: Tools | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    structured_outputs: dict[str, Any] | None = None
    enable_thinking: bool | None = None
    keep_alive: Annotated[float, BeforeValidator(seconds)] | None = None
    max_reasoning_tokens: Annotated[int, Field(ge=0, le=10**9)] | None = None
    chat_template_kwargs: dict[str, str | int | float | bool] | None = None


# Chat completions


class ContentPart(BaseModel):
    """A part of a message; the kinds that are not text are refused by name later.

    What a part holds that has no type says what it is, so nothing of it is left out here.
    """

    model_config = ConfigDict(extra="allow")
    type: str = "text"
    text: str | None = None
    refusal: str | None = None


class ChatMessage(Permissive):
    """One message of a chat."""

    role: str
    content: str | list[ContentPart] | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[dict[str, Any]] | None = None
    function_call: dict[str, Any] | None = None
    tool_call_id: str | None = None
    name: str | None = None


def _calls_answered(messages: list[ChatMessage]) -> list[ChatMessage]:
    """See that every call of a tool has one result before the user speaks again.

    A result without an id answers the oldest open call, as older clients mean it, and the results
    of a `function_call`, which has no id, are not looked at.
    """
    waiting: list[tuple[str, int]] = []  # ids of the calls without a result, and their messages
    answered: set[str] = set()
    for index, message in enumerate(messages):
        if message.role == "tool":
            answered.add(_answered_call(message, index, waiting, answered))
        elif message.role == "assistant":
            called = [str(call.get("id") or "") for call in message.tool_calls or ()]
            waiting += [(id, index) for id in called]
            answered -= set(called)  # some models count from the start in every turn
        elif message.role == "user":
            _refuse_waiting(waiting)
    _refuse_waiting(waiting)
    return messages


def _answered_call(
    message: ChatMessage, index: int, waiting: list[tuple[str, int]], answered: set[str]
) -> str:
    """Take the call that a result answers out of those that wait. Raises `ValidationError`."""
    id = message.tool_call_id
    for place, (called, _) in enumerate(waiting):
        if id is None or id == called:
            del waiting[place]
            return called
    if id is None:
        raise _problem("there is no call that waits for this result", index, "tool_call_id")
    said = "has a result already" if id in answered else "is not among the calls before it"
    raise _problem(f"the call {id[:64]!r} {said}", index, "tool_call_id")


def _refuse_waiting(waiting: list[tuple[str, int]]) -> None:
    if waiting:
        id, index = waiting[0]
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


class ChatRequest(Sampling):
    """`POST /v1/chat/completions`."""

    messages: Annotated[
        list[ChatMessage],
        Field(min_length=1, max_length=MAX_MESSAGES),
        AfterValidator(_calls_answered),
    ]
    stream_options: StreamOptions = StreamOptions()
    return_progress: bool = False
    n: Annotated[int, Field(ge=1, le=16)] = 1
    max_tokens: Count | None = None
    max_completion_tokens: Count | None = None
    logprobs: bool | None = None
    functions: Tools | None = None
    function_call: str | dict[str, Any] | None = None
    response_format: dict[str, Any] | None = None
    reasoning_effort: str | None = None
    modalities: list[str] | None = None
    audio: dict[str, Any] | None = None


# Responses


class ReasoningOptions(Permissive):
    """How much to think, and what of it to tell."""

    effort: str | None = None
    summary: str | None = None
    generate_summary: str | None = None


class TextOptions(Permissive):
    """The form of the answer's text."""

    format: dict[str, Any] | None = None


Items = Annotated[list[Any], Field(max_length=MAX_MESSAGES)]
Metadata = Annotated[dict[str, str], Field(max_length=16)]


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
    include: list[str] | None = None
    metadata: Metadata | None = None
    prompt: dict[str, Any] | None = None
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
