"""Flags: a command line that also reads variables, files of flags, and other servers' words.

Imports nothing heavy. Every value knows where it came from, and a misspelt flag is met with the
nearest one that exists.
"""

from __future__ import annotations

import argparse
import difflib
import os
import re
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

ARGUMENT = "argument"
"""The source of a value that was written on the command line."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What a command line came to: values by name, and the source of each that is no default."""

    values: dict[str, Any] = field(default_factory=dict)
    sources: dict[str, str] = field(default_factory=dict)
    """`argument`, the name of a file, or the name of a variable."""

    def taking(self, values: dict[str, Any], source: str) -> Reading:
        """The same with more values, which count for more."""
        return Reading(self.values | values, self.sources | dict.fromkeys(values, source))


class _Exact(argparse.ArgumentParser):
    """argparse that reads `-ngl` as a flag of that name, not as `-n` with the value `gl`."""

    def _get_option_tuples(self, option_string: str) -> list[Any]:
        return []


class FlagParser(_Exact):
    """argparse, with flags whose values may also come from a file or a variable.

    What is written on the command line counts most, then the files (`@name`), then the variables.
    """

    def __init__(self, **options: Any) -> None:
        options.setdefault("formatter_class", _OneName)
        super().__init__(allow_abbrev=False, argument_default=argparse.SUPPRESS, **options)
        self._variables: dict[str, argparse.Action] = {}
        self._ignored: list[argparse.Action] = []

    def add_flag(
        self,
        flag: str,
        convert: Callable[[str], Any] | None,
        text: str,
        *,
        aliases: Sequence[str] = (),
        variable: str,
        **options: Any,
    ) -> None:
        """Add a flag that a variable can stand for; without `convert` it is a switch."""
        if aliases and text != argparse.SUPPRESS:
            text += f"; also {', '.join(aliases)}"
        kind = {"action": "store_true"} if convert is None else {"type": convert}
        options = {"help": text, "dest": name_of(flag), **kind, **options}
        self._variables[variable] = self.add_argument(flag, *aliases, **options)

    def add_ignored(self, *flags: str, num_values: int, why: str) -> None:
        """Add flags that other servers need and this one does not: they are said to be ignored."""
        action = self.add_argument(
            *flags,
            action=_Ignored,
            nargs=num_values,
            dest=argparse.SUPPRESS,
            help=argparse.SUPPRESS,
            metavar=why,
        )
        self._ignored.append(action)

    def read(self, argv: Sequence[str]) -> Reading:
        """Read a command line, and files and variables behind it. Exits when it makes no sense."""
        direct = [word for word in argv if not _is_file(word)]
        given = self.parse_args(direct)
        reading = Reading()
        for variable, action in self._variables.items():
            if (text := os.environ.get(variable)) is not None:
                value = self._converted(variable, action, text)
                reading = reading.taking({action.dest: value}, variable)
        for word in filter(_is_file, argv):
            reading = reading.taking(self._from_file(word[1:]), word[1:])
        return reading.taking(vars(given), ARGUMENT)

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse's, but what is unknown is met with what may have been meant."""
        given, unknown = self.parse_known_intermixed_args(args, namespace)
        if unknown:
            self.error(_unknown(unknown, list(self._option_string_actions)))
        return given

    def error(self, message: str) -> NoReturn:
        """Exit with one sentence: the usage of thirty flags would hide it."""
        message = re.sub(r"^argument (-[^/:]+)[^:]*:", r"\1", message)
        self.exit(2, f"{self.prog}: {message} (--help lists what there is)\n")

    def _from_file(self, name: str) -> dict[str, Any]:
        try:
            words = shlex.split(Path(name).expanduser().read_text(encoding="utf-8"), comments=True)
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            self.error(f"the flags in {name!r} cannot be read: {reason}")
        only_flags = _Exact(
            prog=f"{self.prog} @{name}",
            add_help=False,
            allow_abbrev=False,
            argument_default=argparse.SUPPRESS,
            parents=[self._bare()],
        )
        given, unknown = only_flags.parse_known_args(words)
        if unknown:
            self.error(f"in {name!r}: {_unknown(unknown, list(self._option_string_actions))}")
        return vars(given)

    def _bare(self) -> argparse.ArgumentParser:
        """A parser with this one's flags and nothing else."""
        bare = _Exact(add_help=False)
        bare.error = self.error  # type: ignore[method-assign]
        for action in (*self._variables.values(), *self._ignored):
            bare._add_action(action)
        return bare

    def _converted(self, variable: str, action: argparse.Action, text: str) -> Any:
        if action.nargs == 0:
            return text.lower() in ("1", "true", "yes", "on")
        convert: Any = action.type
        try:
            value = convert(text)
        except (argparse.ArgumentTypeError, TypeError, ValueError) as error:
            reason = error if isinstance(error, argparse.ArgumentTypeError) else repr(text)
            self.error(f"{variable} cannot be used: {reason}")
        if action.choices is not None and value not in action.choices:
            self.error(f"{variable} must be one of {', '.join(action.choices)}, not {text!r}")
        return value


class _Ignored(argparse.Action):
    """A flag that does nothing but say so."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        print(f"{option_string} is ignored: {self.metavar}", file=sys.stderr)


class _OneName(argparse.RawDescriptionHelpFormatter):
    """Help in which every flag stands under its own name; the text names the others."""

    def _format_action_invocation(self, action: argparse.Action) -> str:
        if not action.option_strings or isinstance(action, argparse._HelpAction):
            return super()._format_action_invocation(action)
        flag = action.option_strings[0]
        metavar = action.metavar or action.dest.upper()
        if action.choices is not None:
            metavar = "{" + ",".join(action.choices) + "}"
        return flag if action.nargs == 0 else f"{flag} {metavar}"


def name_of(flag: str) -> str:
    """The name of a flag's value: `--max-tokens` is max_tokens."""
    return flag.removeprefix("--").replace("-", "_")


def _is_file(word: str) -> bool:
    return len(word) > 1 and word.startswith("@")


def _unknown(words: Sequence[str], flags: Sequence[str]) -> str:
    flag = next((word for word in words if word.startswith("-")), None)
    if flag is None:
        return f"nothing is known of {words[0]!r}"
    flag = flag.partition("=")[0]
    near = difflib.get_close_matches(flag, flags, n=1, cutoff=0.6)
    return f"there is no flag {flag}" + (f"; did you mean {near[0]}?" if near else "")
