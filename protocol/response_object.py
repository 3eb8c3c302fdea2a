"""A response object is what a client knows of its response at one moment; it has every key always.

(https://platform.openai.com/docs/api-reference/responses/object)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from parts import InvalidRequest, QueueFull, ServerError, Usage

Json = dict[str, Any]
Status = Literal["queued", "in_progress", "completed", "incomplete", "failed", "cancelled"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """How far a response has come."""

    status: Status
    usage: Usage | None = None
    error: ServerError | None = None
    completed_at: int | None = None


@dataclass(frozen=True, slots=True)
class ResponseObject:
    """What stays the same about a response from its first event to its last."""

    id: str
    created_at: int
    settings: Mapping[str, Any] = field(repr=False)
    """What the request decided, under the keys of the response object."""

    def at(self, outcome: Outcome, output: Sequence[Json] = ()) -> Json:
        """The whole object, at one moment."""
        return {
            "id": self.id,
            "object": "response",
            "created_at": self.created_at,
            "completed_at": outcome.completed_at,
            "status": outcome.status,
            "error": outcome.error and error_json(outcome.error),
            "incomplete_details": _incomplete_details(outcome),
            "output": list(output),
            "usage": outcome.usage and usage_json(outcome.usage),
            **self.settings,
        }


def _incomplete_details(outcome: Outcome) -> Json | None:
    return {"reason": "max_output_tokens"} if outcome.status == "incomplete" else None


def error_json(error: ServerError) -> Json:
    """A response's error; its `code` is one of OpenAI's short list."""
    match error:
        case QueueFull():
            code = "rate_limit_exceeded"
        case InvalidRequest():
            code = "invalid_prompt"
        case _:
            code = "server_error"
    return {"code": code, "message": error.message}


def usage_json(usage: Usage) -> Json:
    """Usage as the Responses API writes it. Nothing is charged for writing to our cache."""
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {"cached_tokens": usage.cached_tokens, "cache_write_tokens": 0},
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    }
