"""Commands: what `server.py` does besides serving. Each is a file, imported when it is called.

A command is a module with `add_arguments` and `run`; it understands the server's flags too, so
that it finds the server, or starts one, the way that serving would.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from typing import Protocol, cast

from door.flags import FlagParser
from door.settings import COMMANDS, Settings, add_flags, settings_of

COMPLETION = "--print-completion"


class Command(Protocol):
    """What every module of this room offers."""

    def add_arguments(self, parser: argparse.ArgumentParser) -> None: ...

    def run(self, settings: Settings, options: argparse.Namespace) -> int:
        """Do it. Returns the exit code; raises `ServerError` with a sentence for the user."""


def is_called(argv: Sequence[str]) -> bool:
    """Whether a command line calls a command; otherwise it serves."""
    return (bool(argv) and argv[0] in COMMANDS) or _asked_for_completion(argv) is not None


def run(argv: Sequence[str]) -> int:
    """Run the command that a command line calls. Returns the process's exit code."""
    from parts import ServerError

    shell = _asked_for_completion(argv)
    name, *rest = argv if shell is None else ["completion", *shell]
    command = module(name)
    reading = parser_of(name, command).read(rest)
    try:
        return command.run(settings_of(reading), argparse.Namespace(**reading.values))
    except ServerError as error:
        print(error.message, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader had enough: nothing more can be said
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _asked_for_completion(argv: Sequence[str]) -> list[str] | None:
    """The shell that completions are wanted for, wherever it is said; None when they are not."""
    for index, word in enumerate(argv):
        flag, has_value, value = word.partition("=")
        if flag == COMPLETION:
            return [value] if has_value else list(argv[index + 1 : index + 2])
    return None


def module(name: str) -> Command:
    return cast(Command, importlib.import_module(f"commands.{name}"))


def parser_of(name: str, command: Command) -> FlagParser:
    """The parser of a command's own arguments and of the server's flags."""
    parser = FlagParser(
        prog=f"server.py {name}",
        description=COMMANDS.get(name, "").capitalize() + ".",
        epilog="The server's flags are understood too: --port, --api-key, --model and the rest.",
    )
    command.add_arguments(parser)
    add_flags(parser, hidden=True)
    return parser
