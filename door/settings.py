"""Settings: what the command line and the environment say, checked.

Imports nothing heavy, so that `--help` and a mistyped flag answer at once.
"""

from __future__ import annotations

import argparse
import json
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

VERSION = "0.1.0"
ROOT = Path(__file__).resolve().parent.parent
DEMO_MODEL = ROOT / "demo" / "model"


@dataclass(frozen=True, slots=True)
class Settings:
    """How one server runs."""

    model: str = str(DEMO_MODEL)
    host: str = "127.0.0.1"
    port: int = 8080
    max_tokens: int = 4096
    temp: float = 0.7
    top_p: float = 0.95
    max_batch: int = 32
    max_queue: int = 256
    ctx_size: int | None = None
    allowed_origins: tuple[str, ...] = ("*",)
    api_key: str | None = None
    chat_template_args: dict[str, Any] = field(default_factory=dict)
    reasoning_format: str = "separate"
    reasoning_budget: int | None = None
    adapter_path: str | None = None
    trust_remote_code: bool = False
    prompt_cache_bytes: int = 2 * 2**30
    prompt_cache_dir: str | None = None
    prompt_cache_disk_bytes: int = 10 * 2**30
    conversation_ttl: float = 3600.0
    conversation_logs: str | None = str(ROOT / "conversation_logs")
    no_conversation_logs: bool = False
    no_revive: bool = False
    drain: float = 5.0
    log_level: str = "info"
    log_format: str = "text"
    stall_timeout: float = 60.0

    @property
    def model_name(self) -> str:
        """What clients see as the model's id."""
        folder = Path(self.model).expanduser()
        if not folder.is_dir():
            return self.model
        return "demo" if folder.resolve() == DEMO_MODEL else folder.resolve().name


def parse(argv: Sequence[str] | None = None) -> Settings:
    """Read the command line, and the environment for what it does not say.

    Exits with a message when a value cannot be used.
    """
    parser = _parser()
    given = vars(parser.parse_args(argv))
    positional = given.pop("positional_model")
    if positional:
        given["model"] = positional
    return Settings(**given)


def environment_name(flag: str) -> str:
    """The variable that stands for a flag: `--max-tokens` is MLX_SERVER_MAX_TOKENS."""
    return "MLX_SERVER_" + flag.removeprefix("--").replace("-", "_").upper()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="server.py",
        description="Serve a language model on this machine to every client that speaks OpenAI.",
        epilog="Every flag can be given as a variable too: --max-tokens is MLX_SERVER_MAX_TOKENS.",
    )
    parser.add_argument("positional_model", nargs="?", metavar="MODEL", help="same as --model")
    add = _Flags(parser, Settings()).add
    add("--model", str, "Hugging Face repository or folder of the model", metavar="MODEL")
    add("--host", str, "address to listen on")
    add("--port", _within(int, 0, 65535), "port to listen on; 0 takes a free one")
    add("--max-tokens", _within(int, 1, 10**7), "tokens of an answer when a request names none")
    add("--temp", _within(float, 0, 2), "temperature when a request names none")
    add("--top-p", _within(float, 0, 1), "top_p when a request names none")
    add("--max-batch", _within(int, 1, 1024), "requests answered at the same time")
    add("--max-queue", _within(int, 0, 10**6), "requests that may wait; more are answered 429")
    add("--ctx-size", _within(int, 16, 10**8), "context window in tokens, instead of the model's")
    add("--allowed-origins", _origins, "web pages that may call, comma-separated; * is any")
    add("--api-key", str, "key that clients must send")
    add("--chat-template-args", _json_object, "JSON object of arguments for the chat template")
    add(
        "--reasoning-format",
        str,
        "thinking beside the answer, left out, or in it as the model wrote it",
        choices=("separate", "hidden", "raw"),
    )
    add("--reasoning-budget", _within(int, 0, 10**9), "tokens after which thinking is closed")
    add("--adapter-path", str, "folder of a LoRA adapter", metavar="FOLDER")
    add("--trust-remote-code", None, "run code that comes with the model")
    add("--prompt-cache-bytes", _num_bytes, "memory for prompts already computed, 0 is none")
    add("--prompt-cache-dir", str, "folder in which they outlive a restart", metavar="FOLDER")
    add("--prompt-cache-disk-bytes", _num_bytes, "disk space for them")
    add(
        "--conversation-ttl",
        _within(float, 0, 10**9),
        "seconds an unused conversation is kept",
    )
    add("--conversation-logs", str, "folder for conversations that are over", metavar="FOLDER")
    add("--no-conversation-logs", None, "write no conversation to the disk")
    add("--no-revive", None, "do not continue conversations from the folder")
    add("--drain", _within(float, 0, 3600), "seconds that running answers get at shutdown")
    add("--log-level", str, "how much to log", choices=("debug", "info", "warning", "error"))
    add("--log-format", str, "lines for people, or one JSON object each", choices=("text", "json"))
    add(
        "--stall-timeout",
        _within(float, 1, 86400),
        "seconds without a step, while work waits, after which /health is 503",
    )
    parser.add_argument("--version", action="version", version=f"mlx-server {VERSION}")
    return parser


class _Flags:
    """Adds flags whose defaults are the settings', or the environment's where it says something."""

    def __init__(self, parser: argparse.ArgumentParser, defaults: Settings) -> None:
        self._parser = parser
        self._defaults = defaults

    def add(
        self, flag: str, convert: Callable[[str], Any] | None, text: str, **options: Any
    ) -> None:
        default = getattr(self._defaults, flag.removeprefix("--").replace("-", "_"))
        given = os.environ.get(environment_name(flag))
        text = text + _shown(default)
        if convert is None:
            is_on = (given or "").lower() in ("1", "true", "yes", "on")
            self._parser.add_argument(flag, action="store_true", default=is_on, help=text)
            return
        if given is not None and options.get("choices") and given not in options["choices"]:
            self._parser.error(
                f"{environment_name(flag)} must be one of {', '.join(options['choices'])}"
            )
        # argparse converts a default that is a string.
        self._parser.add_argument(
            flag, type=convert, default=default if given is None else given, help=text, **options
        )


def _shown(default: Any) -> str:
    if default is None or default == {} or default is False:
        return ""
    if default == str(DEMO_MODEL):
        return " (the bundled demo model)"
    if isinstance(default, tuple):
        default = ",".join(default)
    if isinstance(default, int) and default >= 2**30:
        default = f"{default // 2**30}G"
    if isinstance(default, str) and default.startswith(str(ROOT)):
        default = default.removeprefix(str(ROOT) + "/")
    return f" ({default})"


def _within(kind: type[int] | type[float], low: float, high: float) -> Callable[[str], Any]:
    def convert(text: str) -> int | float:
        value = kind(text)
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"must be from {low} to {high}, not {text}")
        return value

    convert.__name__ = kind.__name__
    return convert


def _num_bytes(text: str) -> int:
    match = re.fullmatch(r"(\d{1,19}(?:\.\d+)?)([KMGT]?)(?:I?B)?", text.strip().upper())
    if match is None:
        raise argparse.ArgumentTypeError(f"must be a size such as 512M or 2G, not {text}")
    return int(float(match[1]) * 1024 ** (" KMGT".index(match[2]) if match[2] else 0))


def _origins(text: str) -> tuple[str, ...]:
    return tuple(origin.strip().rstrip("/") for origin in text.split(",") if origin.strip())


def _json_object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError(
            'must be a JSON object, such as {"enable_thinking": false}'
        )
    return value
