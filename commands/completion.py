"""Completion: what a shell must know to complete `mlx-server`, an alias for the server."""

from __future__ import annotations

import argparse

import commands
from door.settings import COMMANDS, Settings, add_flags

SHELLS = ("bash", "zsh", "tcsh")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("shell", choices=SHELLS)


def run(settings: Settings, options: argparse.Namespace) -> int:
    import shtab

    print(shtab.complete(_whole_parser(), options.shell))
    return 0


def _whole_parser() -> argparse.ArgumentParser:
    """A parser of everything that can be written after the server's name."""
    from door.flags import FlagParser

    whole = FlagParser(prog="mlx-server")
    add_flags(whole)
    kinds = whole.add_subparsers(parser_class=argparse.ArgumentParser)
    for name, text in COMMANDS.items():
        parser = kinds.add_parser(name, help=text)
        commands.module(name).add_arguments(parser)
    return whole
