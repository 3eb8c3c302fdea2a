"""A log line: text for people or JSON for machines, written where it can hold nobody up.

Lines are made where something happens and written by a thread of their own: a terminal that is
stopped, a full pipe or a closed one costs lines, never a request.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import queue
import sys
import threading
import time
import traceback
import unicodedata
from datetime import UTC, datetime
from typing import Any, Literal

from parts import ServerError

LogFormat = Literal["text", "json"]
MAX_WAITING = 10_000
"""Lines that wait to be written; more are dropped."""
FLUSH_S = 1.0
"""Seconds that the last lines get at the end."""
_DRIVING = {"Cc", "Cf", "Zl", "Zp", "Cs"}
"""Categories of characters that move a cursor, end a line, or turn text around."""
_FRANK = (ServerError, RuntimeError, OSError, MemoryError, ImportError, TypeError, AttributeError)
"""Exceptions whose words speak of the machine; those of others may be what somebody wrote."""


def set_up(level: str, kind: LogFormat = "text") -> None:
    """Send the log to stderr."""
    global _lines
    _fill_missing_streams()
    logging.raiseExceptions = False
    _lines = _Lines(JsonLine() if kind == "json" else TextLine())
    logging.captureWarnings(True)
    logging.basicConfig(handlers=[_lines], level=level.upper(), force=True)
    for name in ("uvicorn", "uvicorn.error", "httpx", "httpx2", "huggingface_hub", "transformers"):
        logging.getLogger(name).setLevel("DEBUG" if level == "debug" else "WARNING")


def _fill_missing_streams() -> None:
    """Open what the process was started without, before a client's socket gets its number."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number
    sys.stdout = sys.stdout or open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = sys.stderr or open(2, "w", closefd=False)  # noqa: SIM115


def say(text: str, message: str, **fields: Any) -> None:
    """Say what is said at every level: `text` to people, `message` and `fields` to machines."""
    if _lines is None:
        print(text, file=sys.stderr, flush=True)
    elif isinstance(_lines.formatter, JsonLine):
        _lines.put(json.dumps({"time": _time(time.time()), "message": message, **fields}))
    else:
        _lines.put(text)


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")


def one_line(text: str) -> str:
    """Escape what could drive a terminal or look like another line."""
    if text.isprintable():
        return text
    return "".join(map(_plain, text))


def _plain(character: str) -> str:
    if unicodedata.category(character) in _DRIVING:
        return character.encode("unicode_escape").decode("ascii")
    return character


def exception_lines(error: BaseException | None) -> list[str]:
    """Where an exception comes from, cause first, without words that may be a client's."""
    lines: list[str] = []
    while error is not None:
        words = f": {one_line(str(error))}" if isinstance(error, _FRANK) else ""
        frames = "".join(traceback.format_tb(error.__traceback__)).splitlines()
        lines = [*frames, f"{type(error).__qualname__}{words}", *lines]
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return lines


class TextLine(logging.Formatter):
    """`12:34:56 I what happened`; an exception follows on lines of its own."""

    def format(self, record: logging.LogRecord) -> str:
        clock = time.strftime("%H:%M:%S", time.localtime(record.created))
        lines = [f"{clock} {record.levelname[:1]} {one_line(record.getMessage())}"]
        if record.exc_info:
            lines += exception_lines(record.exc_info[1])
        return "\n".join(lines)


class JsonLine(logging.Formatter):
    """One JSON object: `time`, `level`, `message`, and the fields that come with the record.

    They are in its `told`, where `message` is what is the same for all lines of a kind.
    """

    def format(self, record: logging.LogRecord) -> str:
        told = {
            "time": _time(record.created),
            "level": record.levelname.lower(),
            "message": record.getMessage(),
        }
        told |= getattr(record, "told", {})
        if record.exc_info:
            told["exception"] = "\n".join(exception_lines(record.exc_info[1]))
        # ASCII only: every control character and every other line's end is escaped by that.
        return json.dumps(told, default=str)


class _Lines(logging.Handler):
    """Makes lines where they are logged, and has them written elsewhere."""

    def __init__(self, formatter: logging.Formatter) -> None:
        super().__init__()
        self.setFormatter(formatter)
        self._waiting: queue.Queue[str] = queue.Queue(MAX_WAITING)
        threading.Thread(target=self._write, name="log", daemon=True).start()

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self.put(self.format(record))
        except Exception:  # a line that cannot be made is no reason to fail
            self.handleError(record)

    def put(self, line: str) -> None:
        """Have a line written, unless too many wait."""
        with contextlib.suppress(queue.Full):
            self._waiting.put_nowait(line)

    def _write(self) -> None:
        while True:
            left = (self._waiting.get() + "\n").encode("utf-8", "backslashreplace")
            # To the descriptor itself: a write that never ends must not hold the lock of
            # `sys.stderr`, which the end of the process waits for.
            with contextlib.suppress(OSError):
                while left:
                    left = left[os.write(2, left) :]
            self._waiting.task_done()

    def flush(self) -> None:
        """Wait a moment for the lines that are still to be written."""
        deadline = time.monotonic() + FLUSH_S
        while self._waiting.unfinished_tasks and time.monotonic() < deadline:
            time.sleep(0.005)


_lines: _Lines | None = None
