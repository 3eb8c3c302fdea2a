"""Results: rows by their names, told as they come, as a table with ratios, as JSON, as a plot."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

LIBRARY, OURS, PEER = "in process", "this server", "mlx_lm.server"
SIDES = (LIBRARY, OURS, PEER)
COLOURS = {LIBRARY: "#9aa0a6", OURS: "#1a73e8", PEER: "#e8710a"}
WITHIN = (
    ("sampled over greedy", "{clients} clients, sampled", "{clients} clients, greedy"),
    ("cached over cold", "second turn, TTFT cached", "second turn, TTFT cold"),
    (
        "p99 beside over p50 before",
        "… p99 while a long prompt comes in",
        "8 streams, inter-token p50",
    ),
    (
        "long prompt beside over alone",
        "long prompt, TTFT beside 8 streams",
        "long prompt, TTFT alone",
    ),
)
"""Ratios of two rows of one side."""


class Report:
    """What has been found so far; written to a file with every row."""

    def __init__(self, about: dict[str, Any], path: Path | None) -> None:
        self._about = about
        self._path = path
        self._rows: dict[str, dict[str, Any]] = {}
        self.failures: list[str] = []

    def tell(self, side: str, name: str, unit: str, runs: Sequence[float]) -> None:
        """Take a row: the value of each run."""
        if not runs:
            return
        row = self._rows.setdefault(name, {"unit": unit, "runs": {}})
        row["runs"][side] = list(runs)
        print(f"{side:>14}  {name:<42} {_number(self._value(name, side))} {unit}", flush=True)
        self.save()

    def fail(self, side: str, measure: str, problem: str) -> None:
        """Note what could not be measured."""
        self.failures.append(f"{side}, {measure}: {problem}")
        print(f"{side:>14}  {measure} FAILED: {problem}", flush=True)
        self.save()

    def save(self) -> None:
        if self._path is not None:
            found = {**self._about, "rows": self._rows, "failures": self.failures}
            self._path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")

    def _value(self, name: str, side: str) -> float | None:
        runs = self._rows.get(name, {}).get("runs", {}).get(side)
        return statistics.median(runs) if runs else None

    # The table

    def table(self) -> str:
        """Every row in Markdown: medians, and this server over each of the others."""
        heads = ("measure", "unit", *SIDES, "over in process", "over mlx_lm.server")
        lines = [self._line(name) for name in self._rows] + self._within()
        widths = [max(len(line[i]) for line in (heads, *lines)) for i in range(len(heads))]
        rule = [("-" * w if i < 2 else "-" * (w - 1) + ":") for i, w in enumerate(widths)]
        return "\n".join(
            "| "
            + " | ".join(c.ljust(w) if i < 2 else c.rjust(w) for i, (c, w) in enumerate(cells))
            + " |"
            for cells in (list(zip(line, widths, strict=True)) for line in (heads, rule, *lines))
        )

    def _line(self, name: str) -> tuple[str, ...]:
        limit, ours, peer = (self._value(name, side) for side in SIDES)
        numbers = (_number(v) for v in (limit, ours, peer))
        return (name, self._rows[name]["unit"], *numbers, _ratio(ours, limit), _ratio(ours, peer))

    def _within(self) -> list[tuple[str, ...]]:
        clients = max(
            (int(n.split()[0]) for n in self._rows if n.endswith("clients, greedy")), default=0
        )
        lines = []
        for title, above, below in WITHIN:
            above, below = above.format(clients=clients), below.format(clients=clients)
            ratios = [_ratio(self._value(above, s), self._value(below, s)) for s in SIDES]
            if any(ratios):
                lines.append((title, "ratio", *ratios, "", ""))
        return lines

    # The plot

    def plot(self) -> str:
        """An SVG: throughput by clients, and what becomes of it as batch and context grow."""
        charts = [
            _chart("tok/s, greedy, by clients", self._curves("client", ", greedy"), 0),
            _chart("tok/s by batch", self._curves("batch ", ""), 1),
            _chart("tok/s by context", self._curves("context ", ", decode"), 2),
        ]
        legend = "".join(
            f'<text x="{40 + 140 * i}" y="16" fill="{COLOURS[side]}">{side}</text>'
            for i, side in enumerate(SIDES)
        )
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{3 * WIDTH}" height="{HEIGHT}" '
            'font-family="sans-serif" font-size="11"><rect width="100%" height="100%" '
            f'fill="white"/>{legend}{"".join(charts)}</svg>\n'
        )

    def _curves(self, kind: str, end: str) -> dict[str, list[tuple[int, float]]]:
        """For each side, the rows of one kind: the number in the name, and the value."""
        curves: dict[str, list[tuple[int, float]]] = {side: [] for side in SIDES}
        for name in self._rows:
            digits = "".join(c for c in name if c.isdigit())
            if kind in name and name.endswith(end) and digits:
                for side in SIDES:
                    if (value := self._value(name, side)) is not None:
                        curves[side].append((int(digits), value))
        return {side: sorted(points) for side, points in curves.items()}


WIDTH, HEIGHT = 320, 260


def _chart(title: str, curves: dict[str, list[tuple[int, float]]], column: int) -> str:
    """Lines over evenly spaced numbers, from 0 up."""
    numbers = sorted({x for points in curves.values() for x, _ in points})
    top = max((y for points in curves.values() for _, y in points), default=0.0)
    if not numbers or not top:
        return ""
    step = (WIDTH - 90) / max(1, len(numbers) - 1)

    def at(x: int, y: float) -> tuple[float, float]:
        return 50 + numbers.index(x) * step, HEIGHT - 30 - y / top * (HEIGHT - 80)

    drawn = [f'<text x="50" y="36" font-weight="bold">{escape(title)}</text>']
    drawn.append(
        f'<text x="46" y="{at(numbers[0], top)[1]:.0f}" text-anchor="end">{top:,.0f}</text>'
    )
    drawn.append(f'<path d="M50 {HEIGHT - 30}H{WIDTH - 30}" stroke="#999"/>')
    for number in numbers:
        x = f"{at(number, 0)[0]:.0f}"
        drawn.append(f'<text x="{x}" y="{HEIGHT - 14}" text-anchor="middle">{number}</text>')
    for side, points in curves.items():
        places = [at(*point) for point in points]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        drawn.append(f'<polyline points="{path}" fill="none" stroke="{COLOURS[side]}"/>')
        drawn += [
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{COLOURS[side]}"/>' for x, y in places
        ]
    return f'<g transform="translate({column * WIDTH},0)">{"".join(drawn)}</g>'


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if value >= 100 or value == int(value) else f"{value:.3g}"


def _ratio(above: float | None, below: float | None) -> str:
    return f"{above / below:.2f}" if above is not None and below else ""
