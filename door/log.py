"""The log: a banner when the server is ready, then one line that tells each request's story.

What people write to the model, and what it answers, is never in it.
"""

from __future__ import annotations

import logging
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from parts import ModelCard, Progress, Usage

log = logging.getLogger("mlx_server")


@dataclass(slots=True)
class Story:
    """What one request came to. Times are on the performance counter, in seconds."""

    method: str = ""
    path: str = ""
    source: str = ""
    """The client's name for itself."""
    request_id: str = ""
    at: float = field(default_factory=time.time)
    """When it came, in seconds since 1970."""
    began: float = field(default_factory=time.perf_counter)
    first_part: float | None = None
    ended: float | None = None
    status: int = 0
    endpoint: str = ""
    """The route, without what stands for its variables."""
    model: str = ""
    """As the client calls it."""
    usage: Usage | None = None
    finish: str = ""
    id: str = ""
    """Of what the model makes; empty where it is asked for nothing."""
    is_quiet: bool = False
    """Too common to be told, as pages are and looks at the server's health."""

    def heard(self) -> None:
        """Note that the model has begun to answer."""
        if self.first_part is None:
            self.first_part = time.perf_counter()

    def finished(self, usage: Usage | None, reason: str) -> None:
        """Note that the answer is whole."""
        self.usage, self.finish, self.ended = usage, reason, time.perf_counter()

    def end(self) -> None:
        """Note that the request is over."""
        if self.ended is None:
            self.ended = time.perf_counter()
        if self.id and not self.finish:
            self.finish = "error" if self.status >= 500 else "client left"

    @property
    def total_s(self) -> float:
        return (self.ended or time.perf_counter()) - self.began

    @property
    def first_s(self) -> float | None:
        """Seconds to the first token."""
        return None if self.first_part is None else self.first_part - self.began

    @property
    def token_s(self) -> float | None:
        """Seconds between two tokens, on average."""
        if self.usage is None or self.first_s is None or self.usage.completion_tokens < 2:
            return None
        return max(self.total_s - self.first_s, 0.0) / (self.usage.completion_tokens - 1)

    @property
    def tokens_per_s(self) -> float | None:
        return 1 / self.token_s if self.token_s else None

    def line(self) -> str:
        """The story, on one line."""
        words = [f"{self.status} {self.method} {escaped(self.path)}"]
        if self.usage is not None:
            words += self._tokens(self.usage)
        words.append(f"total {self.total_s:.2f} s")
        words += [word for word in (self.finish, self.id or self.request_id) if word]
        return "  ".join(words)

    def _tokens(self, usage: Usage) -> list[str]:
        computed = usage.prompt_tokens - usage.cached_tokens
        words = [
            f"prompt {usage.prompt_tokens} ({usage.cached_tokens} cached + {computed} computed)",
            f"output {usage.completion_tokens} ({usage.reasoning_tokens} thinking)",
        ]
        if self.first_s is not None:
            words.append(f"first {self.first_s:.2f} s")
        if self.tokens_per_s is not None:
            words.append(f"{self.tokens_per_s:.1f} tok/s")
        return words

    def fields(self) -> dict[str, Any]:
        """The story as the fields of an object; what is not known is left out."""
        usage = self.usage
        told = {
            "request_id": self.request_id,
            "id": self.id,
            "method": self.method,
            "path": self.path[:200],
            "endpoint": self.endpoint,
            "status": self.status,
            "model": self.model,
            "source": self.source,
            "prompt_tokens": usage and usage.prompt_tokens,
            "cached_tokens": usage and usage.cached_tokens,
            "completion_tokens": usage and usage.completion_tokens,
            "reasoning_tokens": usage and usage.reasoning_tokens,
            "first_token_s": _rounded(self.first_s),
            "total_s": _rounded(self.total_s),
            "tokens_per_s": _rounded(self.tokens_per_s),
            "finish_reason": self.finish,
        }
        return {name: value for name, value in told.items() if value not in (None, "")}


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


class Stories:
    """Where stories go when they are over: into the log, and to whoever counts them."""

    def __init__(self, *readers: Callable[[Story], None]) -> None:
        self._readers = (_told, *readers)

    def end(self, story: Story) -> None:
        """Tell a story that is over. Never raises: no request is harmed by what is said of it."""
        story.end()
        for read in self._readers:
            try:
                read(story)
            except Exception:
                log.exception("a request's story could not be told")


def _told(story: Story) -> None:
    level = logging.DEBUG if story.is_quiet and story.status < 400 else logging.INFO
    if log.isEnabledFor(level):
        log.log(level, "%s", story.line(), extra={"told": {"message": "request"} | story.fields()})


def progress_line(progress: Progress) -> str:
    """How far an answer is that has not begun."""
    match progress.stage:
        case "waking":
            return "waking the model"
        case "waiting":
            return f"waiting behind {progress.num_ahead}" if progress.num_ahead else "waiting, next"
        case "reading":
            share = 100 * progress.num_computed // max(progress.num_prompt, 1)
            return f"reading {share} % of {progress.num_prompt:,} tokens"


def escaped(text: str) -> str:
    """Make a client's words safe for a terminal and for one line."""
    return text[:200].encode("unicode_escape").decode("ascii")


def told(error: BaseException) -> str:
    """Where and how something failed, without its message: that may quote what a client said."""
    frames = traceback.format_tb(error.__traceback__)
    log.debug("the message of what failed: %s", error)
    return "".join([type(error).__name__, "\n", *frames]).rstrip()


def banner(
    card: ModelCard, url: str, *, has_key: bool, origins: str, real_models: Sequence[str] = ()
) -> str:
    """What a person wants to know when the server is ready, the page to open first."""
    skills = ", ".join(w for w, can in (("thinking", card.thinking), ("tools", card.tools)) if can)
    lines = [
        "",
        f"  open  {url}",
        "",
        f"  {card.name}" + (f"  ({skills})" if skills else ""),
        f"  context {card.context_window:,} tokens, weights {card.num_bytes / 2**20:,.0f} MiB",
    ]
    if real_models:
        lines.append("  a toy to try the server with; real ones that fit this machine:")
        lines += [f"    make serve MODEL={model}" for model in real_models]
    lines += [
        "",
        f"  completions  {url}/v1/chat/completions",
        f"  responses    {url}/v1/responses",
        f"  health       {url}/health",
        f"  docs         {url}/docs",
        f"  dashboard    {url}/dashboard",
        f"  callable from pages: {origins}",
        "",
        f"  export OPENAI_BASE_URL={url}/v1",
        f"  export OPENAI_API_KEY={'<the key you set>' if has_key else 'none-needed'}",
        "",
    ]
    return "\n".join(lines)
