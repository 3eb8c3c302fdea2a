"""A terminal of 80 columns without colours, and what a person sees in it at the end.

It is a pseudo-terminal, which is there on every machine; where tmux is, that is asked too.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import shlex
import struct
import subprocess
import sys
import termios
from collections.abc import Callable, Mapping
from pathlib import Path

from tests.serving import PATIENCE_S, ROOT, run, wait_until

GOLDEN = Path(__file__).parent / "golden"
COLUMNS = 80
REGENERATE = "REGENERATE_GOLDEN"
"""The variable that makes the tests write the golden texts instead of comparing them."""


class Terminal:
    """`server.py` in a terminal."""

    def __init__(
        self, argv: list[str], cwd: Path, env: Mapping[str, str | None] | None = None
    ) -> None:
        """A variable that is None is taken out."""
        self._ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, COLUMNS, 0, 0))
        os.set_blocking(self._ours, False)
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(cwd),
            "LC_ALL": "C.UTF-8",
            "TERM": "xterm-256color",
            "NO_COLOR": "1",
            **(env or {}),
        }
        environment = {name: text for name, text in environment.items() if text is not None}
        self.process = subprocess.Popen(
            [sys.executable, str(ROOT / "server.py"), *argv],
            cwd=cwd,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
        )
        os.close(theirs)
        self.raw = b""
        """What the program wrote, as far as it was looked at."""

    def seen(self) -> str:
        """What stands in the terminal now."""
        with contextlib.suppress(BlockingIOError, OSError):
            while more := os.read(self._ours, 65536):
                self.raw += more
        return shown(self.raw.decode(errors="replace"))

    def wait_for(self, found: Callable[[str], object], what: str) -> str:
        """Look until something is there. Returns all that is."""
        wait_until(lambda: found(self.seen()) or self.process.poll() is not None, what)
        return self.seen()

    def end(self) -> str:
        """Wait until the program ends. Returns what it left in the terminal."""
        wait_until(lambda: (self.seen(), self.process.poll() is not None)[1], "the end")
        return self.seen()

    def close(self) -> None:
        self.process.kill()
        self.process.wait(PATIENCE_S)
        os.close(self._ours)


class Tmux:
    """`server.py` in tmux, which draws what it is sent as a terminal does, long lines wrapped."""

    END = "(end)"

    def __init__(self, argv: list[str], cwd: Path, env: Mapping[str, str]) -> None:
        self._socket = cwd / "tmux"
        words = [f"{name}={text}" for name, text in env.items()]
        program = shlex.join(["env", *words, sys.executable, str(ROOT / "server.py"), *argv])
        # What is drawn when a program has ended need not be all that it said.
        command = f"{program}; echo {shlex.quote(self.END)}; exec sleep 600"
        self._run("new-session", "-d", "-x", str(COLUMNS), "-y", "60", command)

    def end(self) -> list[str]:
        """Wait until all that the program said is drawn. Returns the rows."""
        drawn = ("capture-pane", "-p", "-S", "-")
        wait_until(lambda: self.END in self._run(*drawn), "the end")
        return self._run(*drawn).splitlines()

    def close(self) -> None:
        self._run("kill-server")

    def _run(self, *words: str) -> str:
        return run(["tmux", "-S", str(self._socket), "-f", os.devnull, *words], ROOT)


def rows(text: str) -> list[str]:
    """Lines as a terminal wraps them."""
    return [
        line[start : start + COLUMNS]
        for line in text.splitlines()
        for start in range(0, len(line) or 1, COLUMNS)
    ]


def shown(raw: str) -> str:
    """What is left of a program's output when lines have been written over."""
    lines = []
    for line in raw.replace("\r\n", "\n").split("\n"):
        last = re.split(r"\r|\x1b\[2K", line)
        text = next((part for part in reversed(last) if re.sub(r"\x1b\[[?\d;]*\w", "", part)), "")
        lines.append(re.sub(r"\x1b\[[?\d;]*\w", "", text).rstrip())
    return "\n".join(lines)


def compare(name: str, text: str, *, wraps: str = "") -> None:
    """Compare a text with the golden one of this name.

    Its lines must fit the terminal, but for those that match `wraps`, which go on in the next row.
    """
    path = GOLDEN / f"{name}.txt"
    if os.environ.get(REGENERATE):
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8"), f"set {REGENERATE}=1 if that is right"
    assert_fits(text, wraps=wraps)


def assert_fits(text: str, *, wraps: str = "") -> None:
    """See that no line is wider than the terminal, but for those that match `wraps`."""
    wide = [line for line in text.splitlines() if len(line) > COLUMNS]
    assert not [line for line in wide if not (wraps and re.search(wraps, line))]


def without_numbers(text: str) -> str:
    """Every number as #, so that any machine gives the same text."""
    text = re.sub(r"\d+([.,:-]\d+)*", "#", text)
    return re.sub(r" {2,}#", "  #", text)
