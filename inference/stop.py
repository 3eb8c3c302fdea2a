"""A stop scanner cuts a growing text at the first stop string, wherever its pieces are cut."""

from __future__ import annotations

from collections.abc import Sequence


class StopScanner:
    """Pass text through until a stop string comes; hold back what may be the start of one."""

    def __init__(self, stop: Sequence[str]) -> None:
        self._stop = tuple(s for s in stop if s)
        self._held = ""
        self.has_stopped = False

    @property
    def num_held(self) -> int:
        """Bytes that were taken and not given: held back, or cut off for good."""
        return len(self._held.encode("utf-8", "replace"))

    def add(self, text: str) -> str:
        """Take more text; give what certainly stands before any stop string."""
        if not self._stop:
            return text
        text = self._held + text
        if self.has_stopped:
            self._held = text
            return ""
        found = [(i + len(s), i) for s in self._stop if (i := text.find(s)) >= 0]
        if found:
            self.has_stopped = True
            # The first to be complete, as if the text had come letter by letter.
            _, start = min(found)
            self._held = text[start:]
            return text[:start]
        keep = self._start_of_stop(text)
        self._held = text[keep:]
        return text[:keep]

    def flush(self) -> str:
        """Give what was held back: no stop string came of it."""
        if self.has_stopped:
            return ""
        text, self._held = self._held, ""
        return text

    def _start_of_stop(self, text: str) -> int:
        """Index of the earliest suffix of `text` that begins a stop string."""
        longest = max(len(s) for s in self._stop)
        for index in range(max(0, len(text) - longest + 1), len(text)):
            suffix = text[index:]
            if any(s.startswith(suffix) for s in self._stop):
                return index
        return len(text)
