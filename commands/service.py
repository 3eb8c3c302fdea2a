"""The server as something that starts with this machine: launchd on a Mac, systemd on Linux.

It runs as the user who installs it, with the flags given then.
"""

from __future__ import annotations

import argparse
import os
import plistlib
import re
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from commands import remote
from door.settings import ROOT, Settings, arguments_of, environment_name
from parts import Unavailable

LABEL = "local.mlx-server"
UNIT = "mlx-server.service"
LOOK_S = 0.5
START_S = 30.0
"""Seconds in which a server opens its port, unless it has to fetch its model first."""
GONE_S = 30.0
"""Seconds in which one that was stopped is gone; launchd refuses its name until then."""


@dataclass(frozen=True, slots=True)
class Installation:
    """A file that tells the system what to start, and what is run to make it known."""

    path: Path
    text: bytes
    install: tuple[Sequence[str], ...]
    uninstall: tuple[Sequence[str], ...]
    status: Sequence[str]
    hint: str


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("action", choices=("install", "status", "uninstall"))
    parser.add_argument(
        "--print", action="store_true", default=False, help="only print the file", dest="only_print"
    )


def run(settings: Settings, options: argparse.Namespace) -> int:
    make = launchd if sys.platform == "darwin" else systemd
    settings = _from_anywhere(settings)
    installation = make(settings)
    if options.only_print:
        print(installation.text.decode(), end="")
        return 0
    match options.action:
        case "install":
            return _install(installation, remote.at(settings))
        case "status":
            return _status(installation)
        case _:
            return _uninstall(installation)


def _from_anywhere(settings: Settings) -> Settings:
    """The same settings in the server's own folder: what is a path from here, is one from there."""
    names = ("api_key_file", "adapter_path", "prompt_cache_dir", "conversation_logs")
    given = {name: path for name in names if (path := getattr(settings, name))}
    if Path(settings.model).expanduser().exists() or settings.model.startswith((".", "~")):
        given["model"] = settings.model
    paths = {name: str(Path(path).expanduser().absolute()) for name, path in given.items()}
    return replace(settings, **cast(dict[str, Any], paths))


def launchd(settings: Settings) -> Installation:
    path = Path.home() / "Library" / "LaunchAgents" / f"{LABEL}.plist"
    log = str(Path.home() / "Library" / "Logs" / "mlx-server.log")
    content = {
        "Label": LABEL,
        "ProgramArguments": _command(settings),
        "WorkingDirectory": str(ROOT),
        "EnvironmentVariables": _environment(settings),
        "RunAtLoad": True,
        "KeepAlive": {"SuccessfulExit": False},
        "ThrottleInterval": 10,
        "StandardOutPath": log,
        "StandardErrorPath": log,
    }
    domain = f"gui/{os.getuid()}"
    return Installation(
        path,
        plistlib.dumps(content, sort_keys=False),
        (("launchctl", "bootstrap", domain, str(path)),),
        (("launchctl", "bootout", f"{domain}/{LABEL}"),),
        ("launchctl", "print", f"{domain}/{LABEL}"),
        f"Its log is {log}.",
    )


def systemd(settings: Settings) -> Installation:
    folder = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    variables = "".join(
        f"Environment={_quoted(f'{name}={value}')}\n"
        for name, value in _environment(settings).items()
    )
    text = (
        "[Unit]\n"
        "Description=MLX server, an OpenAI-compatible server for a local model\n\n"
        "[Service]\n"
        f"ExecStart={' '.join(_quoted(word).replace('$', '$$') for word in _command(settings))}\n"
        f"WorkingDirectory={str(ROOT).replace('%', '%%')}\n"
        f"{variables}"
        "Restart=on-failure\n"
        "RestartSec=10\n"
        f"TimeoutStopSec={int(settings.drain) + 15}\n\n"
        "[Install]\n"
        "WantedBy=default.target\n"
    )
    control = ("systemctl", "--user")
    return Installation(
        folder / "systemd" / "user" / UNIT,
        text.encode(),
        ((*control, "daemon-reload"), (*control, "enable", "--now", UNIT)),
        ((*control, "disable", "--now", UNIT),),
        (*control, "--no-pager", "status", UNIT),
        f"Its log: journalctl --user -u {UNIT}. To run without a login: loginctl enable-linger.",
    )


def _command(settings: Settings) -> list[str]:
    return [sys.executable, str(ROOT / "server.py"), *arguments_of(settings)]


def _environment(settings: Settings) -> dict[str, str]:
    """The key, which is no argument where others could read it, and where models are kept."""
    names = ("HF_HOME", "HF_HUB_CACHE", "HF_ENDPOINT", "HF_HUB_OFFLINE")
    kept = {name: os.environ[name] for name in names if name in os.environ}
    for name in ("HF_HOME", "HF_HUB_CACHE"):
        if name in kept:
            kept[name] = str(Path(kept[name]).expanduser().absolute())
    if settings.api_key:
        kept[environment_name("--api-key")] = settings.api_key
    return kept


def _quoted(word: str) -> str:
    """A word as systemd reads it; in a command, but nowhere else, $ is doubled too."""
    word = re.sub(r'(["\\])', r"\\\1", word).replace("\n", "\\n")
    return '"' + word.replace("%", "%%") + '"'


def _install(installation: Installation, server: remote.Remote) -> int:
    path = installation.path
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists():
        _run(installation.uninstall, is_quiet=True)
        _until(lambda: _program(installation.status, is_quiet=True).returncode != 0, GONE_S)
    if remote.is_there(server, timeout=LOOK_S):
        raise Unavailable(f"Another server answers at {server.url}: stop it, or give --port.")
    # The key may be in it.
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(installation.text)
    path.chmod(0o600)
    print(f"Written to {path}.")
    _run(installation.install)
    print("It starts with your login from now on.")
    if _until(lambda: remote.is_there(server, timeout=LOOK_S), START_S):
        print(f"It runs: {server.url}. {installation.hint}")
    else:
        print(
            f"It was told to start, and does not answer at {server.url} yet: a model that is "
            f"fetched takes its time, and `service status` says more. {installation.hint}"
        )
    return 0


def _until(look: Callable[[], bool], patience_s: float) -> bool:
    """Look again and again, for so many seconds, until it is so. Returns whether it is."""
    deadline = time.monotonic() + patience_s
    while not look():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


def _uninstall(installation: Installation) -> int:
    if not installation.path.exists():
        raise Unavailable(f"It is not installed: there is no {installation.path}.")
    _run(installation.uninstall, is_quiet=True)
    installation.path.unlink()
    print(f"Stopped, and removed {installation.path}.")
    return 0


def _status(installation: Installation) -> int:
    if not installation.path.exists():
        print("It is not installed.")
        return 3  # what systemctl gives for a unit that does not run
    return _program(installation.status).returncode


def _run(commands: Sequence[Sequence[str]], *, is_quiet: bool = False) -> None:
    for command in commands:
        done = _program(command, is_quiet=is_quiet)
        if done.returncode and not is_quiet:
            raise Unavailable(f"`{' '.join(command)}` failed; the file stays where it is.")


def _program(
    command: Sequence[str], *, is_quiet: bool = False
) -> subprocess.CompletedProcess[bytes]:
    output = subprocess.DEVNULL if is_quiet else None
    try:
        return subprocess.run(command, stdout=output, stderr=output, check=False)
    except FileNotFoundError:
        raise Unavailable(
            f"There is no {command[0]} here; `--print` shows the file for a start of your own."
        ) from None
