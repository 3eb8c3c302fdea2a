"""Settings: what the command line and the environment say, checked.

Imports nothing heavy, so that `--help` and a mistyped flag answer at once.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from door.durations import seconds
from door.flags import ARGUMENT, FlagParser, Reading, name_of

VERSION = "0.1.0"
ROOT = Path(__file__).resolve().parent.parent
DEMO_MODEL = ROOT / "demo" / "model"
ALIASES = {
    "--model": ("-m", "-hf", "--hf-repo"),
    "--served-model-name": ("-a", "--alias"),
    "--max-tokens": ("-n", "--predict", "--n-predict", "--default-max-tokens"),
    "--temp": ("--temperature", "--default-temperature"),
    "--top-p": ("--default-top-p",),
    "--max-batch": ("-np", "--parallel", "--max-num-seqs", "--decode-concurrency"),
    "--ctx-size": ("-c", "--max-model-len"),
    "--chat-template-args": ("--chat-template-kwargs", "--default-chat-template-kwargs"),
    "--adapter-path": ("--lora",),
    "--allowed-origins": ("--cors-origins",),
    "--log-level": ("--uvicorn-log-level",),
}
"""What mlx_lm.server, `vllm serve` and llama-server call the flags that they have too."""
IGNORED = {
    ("-ngl", "--gpu-layers", "--n-gpu-layers"): (1, "the whole model is on the device"),
    ("-t", "--threads"): (1, "MLX chooses its threads"),
    ("--jinja",): (0, "chat templates are always used"),
    ("--mlock", "--no-mmap"): (0, "weights are always in memory"),
}
"""Flags of llama-server that have nothing to set here: how many values they take, and why."""
COMMANDS = {
    "chat": "talk to the model in the terminal",
    "connect": "print or write the settings of a client for this server",
    "models": "list the models on this disk, and what fits this machine",
    "doctor": "see whether everything is there that serving needs",
    "bench": "measure how fast the server answers",
    "conversations": "list, show, export and delete archived conversations",
    "service": "start the server with this machine",
}
"""What `server.py` does besides serving, when its first word is one of these."""
EPILOG = """\
Every flag can be given as a variable: --max-tokens is MLX_SERVER_MAX_TOKENS.
@name reads flags from the file of that name.

commands, each with a --help of its own (server.py COMMAND --help):
"""
REASONING_FORMATS = {"auto": "separate", "deepseek": "separate", "none": "raw"}
LOG_LEVELS = {"critical": "error", "trace": "debug"}
"""What they call the values of a flag."""


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
    max_body: int = 32 * 2**20
    timeout: float = 0.0
    allowed_origins: tuple[str, ...] = ("*",)
    no_cors: bool = False
    allowed_hosts: tuple[str, ...] = ()
    api_key: str | None = None
    api_key_file: str | None = None
    chat_template_args: dict[str, Any] = field(default_factory=dict)
    reasoning_format: str = "separate"
    reasoning_budget: int | None = None
    served_model_name: str | None = None
    top_k: int | None = None
    min_p: float | None = None
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
    stall_timeout: float = 120.0
    idle_unload: float = math.inf
    kv_bits: int | None = None
    memory_limit: int | None = None
    force: bool = False

    @property
    def origins(self) -> tuple[str, ...]:
        """The web pages that may call."""
        return () if self.no_cors else self.allowed_origins

    @property
    def is_exposed(self) -> bool:
        """Whether other machines may call, and need no key."""
        is_local = self.host == "localhost" or self.host.startswith("127.") or self.host == "::1"
        return not (is_local or self.api_key or self.api_key_file)

    @property
    def model_name(self) -> str:
        """What clients see as the model's id."""
        if self.served_model_name:
            return self.served_model_name
        folder = Path(self.model).expanduser()
        if not folder.is_dir():
            return self.model
        return "demo" if folder.resolve() == DEMO_MODEL else folder.resolve().name


def parse(argv: Sequence[str] | None = None) -> Settings:
    """Read the command line, and files and variables for what it does not say.

    Exits with a message when a value cannot be used, and after `--print-config`.
    """
    reading = _parser().read(sys.argv[1:] if argv is None else argv)
    given, sources = dict(reading.values), dict(reading.sources)
    is_asked = given.pop("print_config", False)
    positional = given.pop("positional_model", None)
    if positional:
        given["model"], sources["model"] = positional, ARGUMENT
    settings = Settings(**given)
    if is_asked:
        print(explained(settings, sources))
        sys.exit(0)
    return settings


def settings_of(reading: Reading) -> Settings:
    """The settings among the values that a command read."""
    names = {known.name for known in fields(Settings)}
    return Settings(**{name: v for name, v in reading.values.items() if name in names})


def environment_name(flag: str) -> str:
    """The variable that stands for a flag: `--max-tokens` is MLX_SERVER_MAX_TOKENS."""
    return "MLX_SERVER_" + flag.removeprefix("--").replace("-", "_").upper()


def arguments_of(settings: Settings) -> list[str]:
    """The command line that gives these settings; the key is left to its variable."""
    words = []
    for known in fields(Settings):
        value, default = getattr(settings, known.name), getattr(Settings(), known.name)
        if value != default and known.name != "api_key":
            flag = "--" + known.name.replace("_", "-")
            words += [flag] if value is True else [flag, _written(value)]
    return words


def explained(settings: Settings, sources: Mapping[str, str]) -> str:
    """Each value on a line, and where it came from."""
    rows = []
    for known in fields(Settings):
        value = getattr(settings, known.name)
        text = "(not shown)" if known.name == "api_key" and value else _written(value)
        flag = "--" + known.name.replace("_", "-")
        rows.append((flag, text, sources.get(known.name, "default")))
    widths = [max(len(row[column]) for row in rows) for column in range(2)]
    return "\n".join(f"{a:{widths[0]}}  {b:{widths[1]}}  {c}" for a, b, c in rows)


def _written(value: Any) -> str:
    """A value as it is written on the command line."""
    match value:
        case None:
            return "-"
        case bool():
            return "yes" if value else "no"
        case dict():
            return json.dumps(value)
        case tuple():
            return ",".join(value)
        case math.inf:
            return "never"
    return str(value)


def _parser() -> FlagParser:
    parser = FlagParser(
        prog="server.py",
        usage="server.py [MODEL] [flags]\n       server.py COMMAND [flags]",
        description="Serve a language model on this machine to every client that speaks OpenAI.",
        epilog=EPILOG + "\n".join(f"  {name:15}{text}" for name, text in COMMANDS.items()),
    )
    parser.add_argument("positional_model", nargs="?", metavar="MODEL", help="same as --model")
    parser.add_argument("--version", action="version", version=f"mlx-server {VERSION}")
    parser.add_argument(
        "--print-config", action="store_true", help="print every value and where it came from"
    )
    parser.add_argument(
        "--print-completion", metavar="SHELL", help="print completions for bash, zsh or tcsh"
    )
    add_flags(parser)
    return parser


def add_flags(parser: FlagParser, *, hidden: bool = False) -> None:
    """Add the server's flags to a command line; hidden ones work and are not in its help."""
    add = _Flags(parser, Settings(), hidden=hidden).add
    add("--model", str, "Hugging Face repository or folder of the model", metavar="MODEL")
    add("--served-model-name", str, "what clients see as the model's id", metavar="NAME")
    add("--host", str, "address to listen on")
    add("--port", _within(int, 0, 65535), "port to listen on; 0 takes a free one")
    add("--max-tokens", _within(int, 1, 10**7), "tokens of an answer when a request names none")
    add("--temp", _within(float, 0, 2), "temperature when a request names none")
    add("--top-p", _within(float, 0, 1), "top_p when a request names none")
    add("--top-k", _within(int, 0, 10**6), "top_k when a request names none, not the model's")
    add("--min-p", _within(float, 0, 1), "min_p when a request names none, not the model's")
    add("--max-batch", _within(int, 1, 1024), "requests answered at the same time")
    add("--max-queue", _within(int, 0, 10**6), "requests that may wait; more are answered 429")
    add("--ctx-size", _window, "context window in tokens, instead of the model's")
    add("--max-body", _body_bytes, "size of a request's body, such as 8M", shown="32M")
    add("--timeout", _within(float, 0, 10**6), "seconds that an answer may take; 0 is no limit")
    add("--allowed-origins", _listed, "web pages that may call, comma-separated; * is any")
    add("--no-cors", None, "no web page of another server may call")
    add("--allowed-hosts", _listed, "more names that this server is called by; * is any")
    add("--api-key", str, "key that clients must send")
    add("--api-key-file", str, "file of keys, one a line; each sees only its own conversations")
    add("--chat-template-args", _json_object, "JSON object of arguments for the chat template")
    add(
        "--reasoning-format",
        _named(REASONING_FORMATS),
        "thinking beside the answer, left out, or in it as the model wrote it",
        choices=("separate", "hidden", "raw"),
    )
    add("--reasoning-budget", _within(int, 0, 10**9), "tokens after which thinking is closed")
    add("--adapter-path", str, "folder of a LoRA adapter", metavar="FOLDER")
    add("--trust-remote-code", None, "run code that comes with the model")
    add("--idle-unload", _idle, "time after which an idle model leaves memory", metavar="TIME")
    add("--kv-bits", _bits, "keep the KV caches in 8 or 4 bits", metavar="BITS")
    add("--memory-limit", _num_bytes, "memory for everything, such as 12G, instead of most of it")
    add("--force", None, "load a model that does not seem to fit into memory")
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
    add(
        "--log-level",
        _named(LOG_LEVELS),
        "how much to log",
        choices=("debug", "info", "warning", "error"),
    )
    add("--log-format", str, "lines for people, or one JSON object each", choices=("text", "json"))
    add(
        "--stall-timeout",
        _within(float, 1, 86400),
        "seconds without a step, while work waits, after which the engine has failed",
    )
    for flags, (num_values, why) in IGNORED.items():
        parser.add_ignored(*flags, num_values=num_values, why=why)


class _Flags:
    """Adds flags to a parser, each with its default, its aliases and its variable."""

    def __init__(self, parser: FlagParser, defaults: Settings, *, hidden: bool) -> None:
        self._parser = parser
        self._defaults = defaults
        self._is_hidden = hidden

    def add(
        self,
        flag: str,
        convert: Callable[[str], Any] | None,
        text: str,
        *,
        aliases: Sequence[str] = (),
        shown: str = "",
        **options: Any,
    ) -> None:
        said = f" ({shown})" if shown else _shown(getattr(self._defaults, name_of(flag)))
        self._parser.add_flag(
            flag,
            convert,
            argparse.SUPPRESS if self._is_hidden else text + said,
            aliases=ALIASES.get(flag, ()),
            variable=environment_name(flag),
            **options,
        )


def _shown(default: Any) -> str:
    if default is None or default is False or default in ({}, (), math.inf):
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


def _idle(text: str) -> float:
    if text.strip().lower() in ("0", "off", "never"):
        return math.inf
    try:
        return seconds(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{error}, not {text}") from None


def _bits(text: str) -> int:
    if text not in ("4", "8"):
        raise argparse.ArgumentTypeError("must be 4 or 8")
    return int(text)


def _num_bytes(text: str) -> int:
    match = re.fullmatch(r"(\d{1,19}(?:\.\d+)?)([KMGT]?)(?:I?B)?", text.strip().upper())
    if match is None:
        raise argparse.ArgumentTypeError(f"must be a size such as 512M or 2G, not {text}")
    return int(float(match[1]) * 1024 ** (" KMGT".index(match[2]) if match[2] else 0))


def _named(others: Mapping[str, str]) -> Callable[[str], str]:
    """Read one of a flag's values, also by the name that another server has for it."""

    def convert(text: str) -> str:
        return others.get(text.lower(), text.lower())

    return convert


def _window(text: str) -> int | None:
    """Tokens, also as 32k (thousands) or 32K (1,024s); 0 is the model's own."""
    found = re.fullmatch(r"(\d+)([kKmM]?)", text.strip())
    if not found:
        raise argparse.ArgumentTypeError(f"must be a number of tokens such as 32768, not {text}")
    tokens = int(found[1]) * {"": 1, "k": 10**3, "K": 2**10, "m": 10**6, "M": 2**20}[found[2]]
    return None if tokens == 0 else int(_within(int, 16, 10**8)(str(tokens)))


def _body_bytes(text: str) -> int:
    if (size := _num_bytes(text)) < 1:
        raise argparse.ArgumentTypeError("must be at least a byte")
    return size


def _listed(text: str) -> tuple[str, ...]:
    if text.lstrip().startswith("["):
        with contextlib.suppress(ValueError, TypeError):
            text = ",".join(json.loads(text))
    return tuple(name.strip().rstrip("/") for name in text.split(",") if name.strip())


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
