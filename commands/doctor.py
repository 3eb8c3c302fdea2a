"""The doctor looks at everything that serving needs, and says what to do where it is missing."""

from __future__ import annotations

import argparse
import errno
import json
import os
import platform
import socket
import sys
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from commands import remote
from door.settings import VERSION, Settings
from parts import ServerError, Unavailable

Check = Callable[[Settings], str]
"""Says what it found, or raises `Unavailable` with what to do."""
LOOK_S = 0.5
"""Seconds in which a server that holds the port answers, or is none of ours."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """It has none of its own."""


def run(settings: Settings, options: argparse.Namespace) -> int:
    num_wrong = 0
    for name, check in CHECKS.items():
        try:
            mark, found = "✓", check(settings)
        except Unavailable as error:
            mark, found = "✗", error.message
            num_wrong += 1
        print(f"{mark} {name:14}{found}".encode(_encoding(), "replace").decode(_encoding()))
    return 1 if num_wrong else 0


def _encoding() -> str:
    return sys.stdout.encoding or "ascii"


def python(settings: Settings) -> str:
    return f"{platform.python_version()} at {sys.executable}"


def mlx(settings: Settings) -> str:
    try:
        import mlx.core as mx
    except ImportError as error:
        raise Unavailable(f"cannot be imported ({error}): `pip install -r requirements.txt`") from (
            error
        )
    device = mx.device_info().get("device_name") or platform.processor() or platform.machine()
    kind = "GPU" if mx.default_device() == mx.Device(mx.gpu) else "CPU"
    return f"{version('mlx')}, mlx-lm {version('mlx-lm')}, on the {kind} ({device})"


def memory(settings: Settings) -> str:
    from inference.repository import find, weight_bytes
    from inference.sizes import advice, fit, in_words, physical_memory

    has = f"{in_words(physical_memory())}"
    folder = find(settings.model)
    if folder is None or not folder.is_dir():
        return f"{has}; nothing is known of the model's size"
    num_bytes = weight_bytes(folder)
    words = f"{has}, of which the weights take {in_words(num_bytes)}"
    if fit(num_bytes) == "too big" and not settings.force:
        raise Unavailable(f"{words}: {advice()}")
    return f"{words}: {fit(num_bytes)}"


def disk(settings: Settings) -> str:
    from inference.sizes import free_disk, in_words

    free = free_disk(_cache())
    if free < 10**9:
        raise Unavailable(f"only {in_words(free)} free for models: make room, or set HF_HOME")
    return f"{in_words(free)} free for models"


def port(settings: Settings) -> str:
    server = remote.at(settings)
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((settings.host, settings.port))
        except OSError as error:
            reason = (error.strerror or "it cannot be used").lower()
            if error.errno not in (errno.EADDRINUSE, errno.EACCES):
                raise Unavailable(
                    f"{settings.host} is not an address of this machine; try --host 127.0.0.1"
                ) from error
            if error.errno == errno.EADDRINUSE and remote.is_there(server, timeout=LOOK_S):
                return f"{settings.port} is served already: {_served(server)}"
            raise Unavailable(f"{settings.port}: {reason}; try --port 0") from error
    return f"{settings.port} on {settings.host} is free"


def _served(server: remote.Remote) -> str:
    try:
        return str(server.model(timeout=LOOK_S)["id"])
    except ServerError:
        return "it is loading, or wants its key"


def model(settings: Settings) -> str:
    from inference.repository import check, find, read_config

    folder = find(settings.model)
    if folder is None:
        raise Unavailable(f"{settings.model} is not here, or not whole: serving it fetches it")
    check(folder, is_forced=settings.force)
    return f"{settings.model_name} ({read_config(folder)['model_type']}), whole"


def template(settings: Settings) -> str:
    from inference.repository import find

    folder = find(settings.model)
    text = _template_text(folder) if folder and folder.is_dir() else None
    if text is None:
        return "cannot be looked at before the model is here"
    if not text:
        return "none: this base model gets a plain one"
    skills = [
        f"{name} {'yes' if any(word in text for word in words) else 'no'}"
        for name, words in (("tools", ("tools",)), ("thinking", ("enable_thinking", "<think>")))
    ]
    return f"the model's own; {', '.join(skills)}"


def _template_text(folder: Path) -> str:
    """The text of a model's chat template; empty when it has none."""
    for name in ("chat_template.jinja", "tokenizer_config.json"):
        if (folder / name).is_file():
            text = (folder / name).read_text(encoding="utf-8")
            found = text if name.endswith("jinja") else json.loads(text).get("chat_template")
            if found:
                return json.dumps(found)
    return ""


def models(settings: Settings) -> str:
    from inference.repository import cached_repositories

    folder = _writable(_cache())
    return f"{folder} can be written, {_counted(len(cached_repositories()), 'model')} in it"


def conversations(settings: Settings) -> str:
    if settings.no_conversation_logs or not settings.conversation_logs:
        return "not kept (--no-conversation-logs)"
    folder = _writable(Path(settings.conversation_logs))
    number = len(list(folder.glob("*_*.json"))) if folder.is_dir() else 0
    return f"{folder} can be written, {_counted(number, 'conversation')} in it"


def versions(settings: Settings) -> str:
    for name in ("uvicorn", "huggingface_hub", "pydantic", "llguidance"):
        _version(name)
    shown = [f"{name} {_version(name)}" for name in ("fastapi", "transformers")]
    return ", ".join([f"server {VERSION}", *shown])


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError as error:
        raise Unavailable(f"{name} is missing: `pip install -r requirements.txt`") from error


def _cache() -> Path:
    from huggingface_hub.constants import HF_HUB_CACHE

    return Path(HF_HUB_CACHE)


def _writable(folder: Path) -> Path:
    """The folder, when files can be written in it or it can be made."""
    there = folder
    while not there.exists():
        there = there.parent
    if not os.access(there, os.W_OK | os.X_OK):
        raise Unavailable(f"{there} cannot be written: change its owner, or choose another folder")
    return folder


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")


CHECKS: dict[str, Check] = {
    "python": python,
    "mlx": mlx,
    "memory": memory,
    "disk": disk,
    "port": port,
    "model": model,
    "chat template": template,
    "model cache": models,
    "conversations": conversations,
    "versions": versions,
}
