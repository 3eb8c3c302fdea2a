"""The log: a banner when the server is ready, then one line that tells each request's story.

What people write to the model, and what it answers, is never in it.
"""

from __future__ import annotations

import logging
import sys
import time
import traceback
from dataclasses import dataclass, field

from parts import ModelCard, Usage

log = logging.getLogger("mlx_server")


@dataclass(slots=True)
class Story:
    """What one request came to. Times are on the performance counter, in seconds."""

    began: float = field(default_factory=time.perf_counter)
    first_part: float | None = None
    usage: Usage | None = None
    finish: str = ""
    id: str = ""

    def heard(self) -> None:
        """Note that the model has begun to answer."""
        if self.first_part is None:
            self.first_part = time.perf_counter()

    def line(self, status: int, method: str, path: str) -> str:
        """The story, on one line."""
        total = time.perf_counter() - self.began
        words = [f"{status} {method} {path}"]
        if self.usage is not None:
            words += self._tokens(self.usage, total)
        words.append(f"total {total:.2f} s")
        words += [word for word in (self.finish, self.id) if word]
        return "  ".join(words)

    def _tokens(self, usage: Usage, total: float) -> list[str]:
        computed = usage.prompt_tokens - usage.cached_tokens
        words = [
            f"prompt {usage.prompt_tokens} ({usage.cached_tokens} cached + {computed} computed)",
            f"output {usage.completion_tokens} ({usage.reasoning_tokens} thinking)",
        ]
        if self.first_part is not None:
            first = self.first_part - self.began
            words.append(f"first {first:.2f} s")
            if usage.completion_tokens > 1 and total > first:
                words.append(f"{(usage.completion_tokens - 1) / (total - first):.1f} tok/s")
        return words


def set_up(level: str) -> None:
    """Send the log to stderr. A closed stderr must not hurt a request."""
    logging.raiseExceptions = False
    logging.basicConfig(
        stream=sys.stderr,
        level=level.upper(),
        format="%(asctime)s %(levelname).1s %(message)s",
        datefmt="%H:%M:%S",
    )
    for name in ("uvicorn", "uvicorn.error", "httpx", "huggingface_hub", "transformers"):
        logging.getLogger(name).setLevel("DEBUG" if level == "debug" else "WARNING")


def escaped(text: str) -> str:
    """Make a client's words safe for a terminal and for one line."""
    return text[:200].encode("unicode_escape").decode("ascii")


def told(error: BaseException) -> str:
    """Where and how something failed, without its message: that may quote what a client said."""
    frames = traceback.format_tb(error.__traceback__)
    log.debug("the message of what failed: %s", error)
    return "".join([type(error).__name__, "\n", *frames]).rstrip()


def banner(card: ModelCard, url: str, *, is_demo: bool, has_key: bool, origins: str) -> str:
    """What a person wants to know when the server is ready."""
    skills = ", ".join(w for w, can in (("thinking", card.thinking), ("tools", card.tools)) if can)
    lines = [
        "",
        f"  {card.name}" + (f"  ({skills})" if skills else ""),
        f"  context {card.context_window:,} tokens, weights {card.num_bytes / 2**20:,.0f} MiB",
    ]
    if is_demo:
        lines.append("  a toy to try the server with; a real one: make serve MODEL=<repository>")
    lines += [
        "",
        f"  chat         {url}/v1/chat/completions",
        f"  responses    {url}/v1/responses",
        f"  health       {url}/health",
        f"  web pages    {origins}",
        "",
        f"  export OPENAI_BASE_URL={url}/v1",
        f"  export OPENAI_API_KEY={'<the key you set>' if has_key else 'none-needed'}",
        "",
    ]
    return "\n".join(lines)
