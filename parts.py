"""The vocabulary of the house: the pure values that cross from one room to another.

Nothing here knows HTTP, JSON or MLX, and nothing of ours is imported.

    what goes in           what comes out, in order         what goes wrong
    Prompt                 Reasoning                        ServerError
    ├── Message            Text                             ├── Refused
    │   └── ToolCall       ToolCall, then ToolArguments     │   ├── InvalidRequest
    ├── Tool               Finish                           │   │   ├── ContextLengthExceeded
    └── Constraint         └── Usage                        │   │   └── Unmatched
    SamplingParams                                          │   ├── NotFound
                                                            │   ├── NotReady
                                                            │   ├── QueueFull
                                                            │   └── Unavailable
                                                            ├── TimedOut
                                                            └── EngineFailed
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

FinishReason = Literal["stop", "length", "tool_calls"]
Phase = Literal["loading", "ready", "sleeping", "draining", "failed"]
Stage = Literal["waking", "waiting", "reading"]
Role = Literal["system", "developer", "user", "assistant", "tool"]


# What goes in


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call of a tool: a part that opens it in a stream, and whole in a message of the history."""

    id: str
    name: str
    arguments: str = ""
    """JSON text, as the model wrote it. Empty in a stream, where `ToolArguments` follow."""


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation, as text."""

    role: Role
    content: str = ""
    reasoning: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None
    name: str | None = None


@dataclass(frozen=True, slots=True)
class Tool:
    """A function that the model may call."""

    name: str
    description: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    """A JSON schema."""
    strict: bool = False


@dataclass(frozen=True, slots=True)
class Constraint:
    """What the answer's text must look like, enforced token by token."""

    kind: Literal["json", "regex", "choice", "grammar"]
    value: Any
    """A JSON schema; a regular expression; a list of texts; a grammar in Lark or GBNF."""
    param: str = "response_format"
    """The field of the request that asks for it."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """What the model is to answer, before its chat template has made tokens of it."""

    messages: tuple[Message, ...]
    tools: tuple[Tool, ...] = ()
    template_args: Mapping[str, str | int | float | bool] = field(default_factory=dict)
    """Arguments for the chat template, such as `enable_thinking`."""
    max_tool_calls: int | None = None
    """The most calls that the answer may hold; the answer ends with the last of them."""
    forced_tools: tuple[str, ...] = ()
    """When there are any, the answer is calls of these and nothing else."""
    constraint: Constraint | None = None


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How the next token is chosen, and when the answer ends."""

    temperature: float = 0.7
    """0 takes the likeliest token."""
    top_p: float = 0.95
    top_k: int | None = None
    """0 considers every token; None is left to the model, as `min_p` is."""
    min_p: float | None = None
    repetition_penalty: float = 1.0
    """Divides the logits of every token in the prompt or the answer (Keskar et al. 2019)."""
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    """Both count the tokens of the answer only, as OpenAI defines them."""
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    seed: int | None = None
    max_tokens: int = 4096
    max_reasoning_tokens: int | None = None
    """Thinking is closed after so many tokens, and the answer follows."""
    stop: tuple[str, ...] = ()
    top_logprobs: int | None = None
    """None: no log-probabilities. k ≥ 0: the chosen token's, and those of the k likeliest."""


# What comes out


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """A token of the answer with its natural log-probability before temperature and filters."""

    token: str
    raw: bytes
    logprob: float
    top: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, slots=True)
class Reasoning:
    """More of what the model thinks."""

    text: str


@dataclass(frozen=True, slots=True)
class Text:
    """More of the answer."""

    text: str
    logprobs: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, slots=True)
class ToolArguments:
    """More of the arguments of the last `ToolCall`."""

    text: str


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens counted where they are made: nothing is ever encoded again to count it."""

    prompt_tokens: int = 0
    cached_tokens: int = 0
    """The part of `prompt_tokens` that was not computed anew."""
    completion_tokens: int = 0
    reasoning_tokens: int = 0
    """The part of `completion_tokens` that was thinking."""

    def __add__(self, other: Usage) -> Usage:
        """Add another answer to the same prompt: the prompt counts once.

        Of its tokens, those were computed anew that any of the answers computed anew.
        """
        if not self.prompt_tokens:
            return other
        return Usage(
            max(self.prompt_tokens, other.prompt_tokens),
            min(self.cached_tokens, other.cached_tokens),
            self.completion_tokens + other.completion_tokens,
            self.reasoning_tokens + other.reasoning_tokens,
        )


@dataclass(frozen=True, slots=True)
class Finish:
    """The end of an answer; always its last part."""

    reason: FinishReason
    usage: Usage


Part = Reasoning | Text | ToolCall | ToolArguments | Finish


def joined(parts: Iterable[Part]) -> Iterator[Part]:
    """Join neighbouring pieces of one text, so that a reader who fell behind gets one chunk."""
    last: Part | None = None
    for part in parts:
        match last, part:
            case Text(a, x), Text(b, y):
                last = Text(a + b, x + y)
            case Reasoning(a), Reasoning(b):
                last = Reasoning(a + b)
            case ToolArguments(a), ToolArguments(b):
                last = ToolArguments(a + b)
            case _:
                if last is not None:
                    yield last
                last = part
    if last is not None:
        yield last


# The engine, as the door sees it


@dataclass(frozen=True, slots=True)
class ModelCard:
    """What a client may know of the loaded model."""

    name: str
    context_window: int
    """Tokens, prompt and answer together."""
    thinking: bool = False
    tools: bool = False
    fingerprint: str = "fp_0"
    """Changes whenever the same request with the same seed might be answered differently."""
    num_bytes: int = 0
    """Memory of the weights."""
    sampling_defaults: Mapping[str, float] = field(default_factory=dict)
    """The model's own `top_k` and `min_p`, for requests that name none."""


@dataclass(frozen=True, slots=True)
class EngineStatus:
    """The truth about the engine at one moment."""

    phase: Phase
    reason: str = ""
    running: int = 0
    waiting: int = 0
    model: ModelCard | None = None
    stalled_s: float = 0.0
    """Seconds without a step while work waits; 0 when there is nothing to do."""
    memory: Memory = field(default_factory=lambda: Memory())
    counts: Counts = field(default_factory=lambda: Counts())


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes, at one moment."""

    limit: int = 0
    """What the engine allows itself; 0 where nothing is known."""
    active: int = 0
    """What MLX holds in arrays: the weights, every cache, and what a step needs."""
    kv_caches: int = 0
    """What the running sequences' KV caches take of it."""
    prefix_cache: int = 0
    """What the prompts kept for later take of it."""


@dataclass(frozen=True, slots=True)
class Counts:
    """What the engine has done since it started."""

    steps: int = 0
    failed_steps: int = 0
    preemptions: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    """The part of `prompt_tokens` that was not computed anew."""
    completion_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Progress:
    """How far an answer is that has not begun."""

    num_ahead: int = 0
    """Requests before it in the queue; 0 for the next one."""
    num_computed: int = 0
    """How many of the prompt's tokens have been computed, or were found in the prefix cache."""
    num_prompt: int = 0
    num_cached: int = 0
    """How many of the computed were found in the prefix cache."""
    stage: Stage = "reading"
    """The model is loaded for it; it waits in the queue; its prompt is computed."""


class Answer(Protocol):
    """One sequence on its way: iterate it for its parts, as many at a time as there are by then.

    Iterating raises `EngineFailed` or `Unavailable` when the answer cannot be finished.
    """

    def __aiter__(self) -> AsyncIterator[Sequence[Part]]: ...

    @property
    def progress(self) -> Progress:
        """How far it is, for a client who waits for the first part."""

    def cancel(self) -> None:
        """Give up the answer; its place is free within one step. Harmless when it has ended."""


class Engine(Protocol):
    """Tokens are its own affair: prompts go in, answers come out."""

    @property
    def status(self) -> EngineStatus: ...

    async def start(self) -> None:
        """Load the model; return when it can serve. Raises `Unavailable` when it cannot."""

    async def submit(
        self, prompt: Prompt, params: SamplingParams, *, keep_alive: float | None = None
    ) -> Answer:
        """Queue a prompt. Raises `Refused` before any work is done on it.

        A model that sleeps is loaded first. It stays `keep_alive` seconds after the last answer,
        until somebody asks who does not say so.
        """

    async def submit_choices(
        self,
        prompt: Prompt,
        choices: Sequence[SamplingParams],
        *,
        keep_alive: float | None = None,
    ) -> Sequence[Answer]:
        """Queue a prompt that is to be answered once by each of `choices`, all or none."""

    async def count(self, prompt: Prompt) -> int:
        """The number of a prompt's tokens. Raises `Refused`."""

    async def failed(self) -> str:
        """Return when nothing will ever be answered any more, and say why."""

    async def stop(self, drain: float = 0.0) -> None:
        """Take no more prompts, let the running ones finish for `drain` seconds, end the rest."""


# What goes wrong


class ServerError(Exception):
    """A failure that a client is told about: a sentence, the parameter at fault, a code."""

    code: str | None = None

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.code = code or type(self).code


class Refused(ServerError):
    """Turned away before any work was done on it."""


class InvalidRequest(Refused):
    """Can never be served as it stands."""

    code = "invalid_value"


class ContextLengthExceeded(InvalidRequest):
    """The prompt has more tokens than the model can read."""

    code = "context_length_exceeded"


class Unmatched(InvalidRequest):
    """Holds a tool's result that answers no call, or a call that has none."""


class NotFound(Refused):
    """Names something that is not here."""

    code = "not_found"


class NotReady(Refused):
    """Is there, but cannot be used for this: it is still being written, or it failed."""

    code = "response_not_ready"


class QueueFull(Refused):
    """Too many are waiting."""

    code = "queue_full"


class Unavailable(Refused):
    """Not now: the model is loading, the server is going down, or the engine has failed."""

    code = "server_error"


class TimedOut(ServerError):
    """Took longer than the server allows; what was made of it is lost."""

    code = "timeout"


class EngineFailed(ServerError):
    """Our fault."""

    code = "server_error"
