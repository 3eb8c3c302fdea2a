"""A chat in the terminal: what the model thinks is dimmed, what it says is not.

The conversation is the server's own (`/v1/responses`), so that it is found again on the page and
in the archive.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from commands.remote import Remote, reached
from commands.table import aligned
from door.log import progress_line
from door.settings import Settings
from parts import Progress, ServerError

if TYPE_CHECKING:
    from rich.console import Console

HELP = aligned(
    [
        ("/new", "begin another conversation"),
        ("/system TEXT", "say how the model should be, from now on"),
        ("/think on|off", "let the model think, or not"),
        ("/help", "this"),
        ("/quit", "or Ctrl-D; Ctrl-C stops an answer"),
    ]
)


@dataclass(slots=True)
class Talk:
    """One conversation: what was answered last, and how the next question is asked."""

    server: Remote
    console: Console
    last_id: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    again: list[dict[str, str]] = field(default_factory=list)
    """What was said since the last answer that finished: nothing else can be continued."""

    def ask(self, text: str) -> None:
        """Ask, and print the answer while it comes. Raises `ServerError`."""
        asked = [*self.again, {"role": "user", "content": text}]
        body: dict[str, Any] = {"input": asked, "return_progress": True, **self.options}
        if self.last_id:
            body["previous_response_id"] = self.last_id
        printed = Printed(self.console)
        try:
            with contextlib.ExitStack() as ends:
                ends.callback(printed.stop_waiting)
                events = contextlib.closing(self.server.events("/v1/responses", body))
                for event in ends.enter_context(events):
                    self._take(event, printed)
        except KeyboardInterrupt:
            said = [{"role": "assistant", "content": printed.said}] if printed.said else []
            self.again = [*asked, *said]
            self.console.print("\n[dim]stopped[/dim]")
            return
        self.console.print(f"\n[dim]{printed.summary()}[/dim]")

    def _take(self, event: dict[str, Any], printed: Printed) -> None:
        match event["type"]:
            case "response.progress":
                printed.wait(
                    Progress(
                        event["num_ahead"], event["processed"], event["total"], event["cached"]
                    )
                )
            case "response.output_text.delta":
                printed.said += event["delta"]
                printed.add(event["delta"], "")
            case "response.reasoning_summary_text.delta":
                printed.add(event["delta"], "dim")
            case "response.completed" | "response.incomplete":
                self.last_id, self.again = event["response"]["id"], []
                printed.usage = event["response"]["usage"]
                printed.is_cut = event["type"] == "response.incomplete"
            case "response.failed":
                raise ServerError(event["response"]["error"]["message"])

    def obey(self, line: str) -> bool:
        """Do what a line that begins with a slash says. False when it says to stop."""
        word, _, rest = line.partition(" ")
        match word, rest.strip():
            case (("/quit" | "/exit" | "/q"), _):
                return False
            case "/new", _:
                self.last_id, self.again = None, []
                self.console.print("[dim]a new conversation[/dim]")
            case "/system", text:
                self.options["instructions"] = text
            case "/think", ("on" | "off") as choice:
                self.options["enable_thinking"] = choice == "on"
            case _:
                self.console.print(HELP, markup=False, highlight=False)
        return True


@dataclass(slots=True)
class Printed:
    """An answer on its way to the terminal."""

    console: Console
    began: float = field(default_factory=time.perf_counter)
    first_s: float | None = None
    style: str = ""
    said: str = ""
    """The answer so far, without its thoughts."""
    usage: dict[str, Any] = field(default_factory=dict)
    is_cut: bool = False
    is_waiting: bool = False

    def wait(self, progress: Progress) -> None:
        """Say how far the prompt is, in a line that goes when the answer begins."""
        if self.console.is_terminal:
            self.stop_waiting()
            self.console.print(progress_line(progress), style="dim", end="", highlight=False)
            self.is_waiting = True

    def stop_waiting(self) -> None:
        """Take that line away."""
        from rich.control import Control
        from rich.segment import ControlType

        if self.is_waiting:
            self.console.control(
                Control(ControlType.CARRIAGE_RETURN, (ControlType.ERASE_IN_LINE, 2))
            )
            self.is_waiting = False

    def add(self, text: str, style: str) -> None:
        """Print more; thoughts and words are set apart by an empty line."""
        self.stop_waiting()
        if self.first_s is None:
            self.first_s = time.perf_counter() - self.began
        elif style != self.style:
            self.console.print("\n")
        self.style = style
        self.console.print(text, style=style, end="", markup=False, highlight=False, soft_wrap=True)

    def summary(self) -> str:
        """The answer in figures."""
        number = self.usage.get("output_tokens", 0)
        first = self.first_s or 0.0
        pace = (number - 1) / max(time.perf_counter() - self.began - first, 1e-9)
        cached = (self.usage.get("input_tokens_details") or {}).get("cached_tokens", 0)
        words = [f"{number} tokens", f"{pace:.1f} tok/s", f"first after {first:.2f} s"]
        words += [f"{cached} cached"] if cached else []
        return ", ".join(words + (["cut at its limit"] if self.is_cut else []))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("question", nargs="*", default=[], help="asked at once; then it ends")
    parser.add_argument("--system", default=None, help="how the model should be", metavar="TEXT")


def run(settings: Settings, options: argparse.Namespace) -> int:
    from rich.console import Console

    console = Console(highlight=False)
    with reached(settings) as server:
        talk = Talk(server, console)
        if options.system:
            talk.options["instructions"] = options.system
        if options.question:
            talk.ask(" ".join(options.question))
            return 0
        console.print(f"[bold]{server.model()['id']}[/bold]  [dim]/help, /quit[/dim]")
        _converse(talk)
    return 0


def _converse(talk: Talk) -> None:
    """Ask what is typed, until there is no more."""
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401  # makes `input` remember lines
    while True:
        try:
            line = input("> " if sys.stdin.isatty() else "").strip()
        except (EOFError, KeyboardInterrupt):
            return
        if line.startswith("/"):
            if not talk.obey(line):
                return
        elif line:
            try:
                talk.ask(line)
            except ServerError as error:
                talk.console.print(error.message, style="red", markup=False)
