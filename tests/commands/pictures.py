"""The README's picture of the banner, made anew from what a real server says.

python -m tests.commands.pictures [FOLDER]
"""

from __future__ import annotations

import io
import re
import sys
import tempfile
from pathlib import Path

import httpx
from rich.console import CONSOLE_SVG_FORMAT, Console
from rich.text import Text

from tests.serving import ROOT, Running, running, wait_until

COLUMNS = 100
PORT = "8080"
"""What the picture says, whichever port was free."""
QUESTION = {"messages": [{"role": "user", "content": "Hello!"}], "temperature": 0}


def take(path: Path) -> None:
    """Write the picture."""
    with tempfile.TemporaryDirectory() as folder, running(Path(folder)) as server:
        said = _said(server)
    console = Console(width=COLUMNS, record=True, file=io.StringIO())
    console.print(Text.assemble(("$ ", "green"), "make serve"))
    console.print(_coloured(said))
    picture = console.export_svg(title="", code_format=_own_font(), unique_id="banner")
    path.write_text(picture, encoding="utf-8")


def _said(server: Running) -> str:
    """The banner, and the line of a request."""
    httpx.post(f"{server.base_url}/v1/chat/completions", json=QUESTION, timeout=60)
    text = wait_until(lambda: _with_request(server.log), "the request's line")
    return str(text).replace(server.base_url.rpartition(":")[2], PORT)


def _with_request(log: Path) -> str | None:
    text = log.read_text(encoding="utf-8")
    return text if "chatcmpl-" in text and text.endswith("\n") else None


def _coloured(said: str) -> Text:
    text = Text(said.rstrip())
    text.highlight_regex(r"(?<=open  )http\S+", "bold cyan")
    text.highlight_regex(r"[\d.]+ tok/s", "green")
    return text


def _own_font() -> str:
    """Rich's frame with a font of the reader's own machine: nothing is loaded from elsewhere."""
    return re.sub(r"@font-face \{\{.*?\}\}", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL).replace(
        "Fira Code, monospace", "ui-monospace, Menlo, DejaVu Sans Mono, monospace"
    )


if __name__ == "__main__":
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "docs" / "images"
    folder.mkdir(parents=True, exist_ok=True)
    take(folder / "banner.svg")
