"""This server, the library in one process, and mlx_lm.server: measured in turn, in one table.

    python benchmarks/serving.py [--model REPOSITORY_OR_FOLDER] [--only throughput,prefix]
    make bench MODEL=… ARGS="--skip-peer --json found.json --plot found.svg"

What each row means stands in benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from measures import OF_A_SERVER, OF_OURS, QUICK, Scale, Session
from report import LIBRARY, OURS, PEER, Report
from servers import ROOT, Failed, Server, ours, peer, program, running

NAMES = [*OF_A_SERVER, *OF_OURS]


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--model", default="", help="repository or folder (the bundled demo model)")
    add("--only", type=_chosen, default=NAMES, help="some of " + ",".join(NAMES))
    add("--runs", type=int, default=1, help="of each measure; the table has their medians (1)")
    add("--sizes", choices=("quick", "full"), default="full", help="how much of everything")
    add("--tokens", type=int, default=256, help="of an answer (256)")
    add("--clients", type=_numbers, help="how many at once, for the throughput (1,8,32)")
    add("--words", type=int, default=100, help="of a prompt, on average (100)")
    add("--skip-peer", action="store_true", help="do not run mlx_lm.server")
    add("--skip-library", action="store_true", help="do not run the library's own loops")
    add("--skip-ours", action="store_true", help="do not run this server")
    add("--flags", type=shlex.split, default=[], help="more flags for this server")
    add("--json", type=Path, help="write what was found to a file, after every row")
    add("--plot", type=Path, help="draw it into an SVG file")
    given = parser.parse_args()
    given.model = given.model or str(ROOT / "demo" / "model")
    if Path(given.model).expanduser().is_dir():
        given.model = str(Path(given.model).expanduser().resolve())
    return given


def _chosen(text: str) -> list[str]:
    names = text.split(",")
    if unknown := set(names) - set(NAMES):
        raise argparse.ArgumentTypeError(f"no measure is called {', '.join(sorted(unknown))}")
    return names


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split(",")))


def scale_of(given: argparse.Namespace, about: dict[str, Any]) -> Scale:
    """How much is measured of this model."""
    scale = replace(
        Scale(),
        tokens=given.tokens,
        words=given.words,
        runs=given.runs,
        window=about["window"],
        tokens_per_word=about["tokens_per_word"],
    )
    if given.sizes == "quick":
        scale = replace(scale, **QUICK)
    return replace(scale, clients=given.clients) if given.clients else scale


def measure_library(given: argparse.Namespace, scale: Scale, report: Report) -> None:
    job = {
        "model": given.model,
        "batches": scale.clients,
        "tokens": scale.tokens,
        "words": scale.words,
        "runs": scale.runs,
    }
    told = program("library.py", job)
    for batch in scale.clients:
        rows = [row for row in told if row["batch"] == batch]
        name = "1 client, greedy" if batch == 1 else f"{batch} clients, greedy"
        report.tell(LIBRARY, name, "tok/s", [row["tokens_per_s"] for row in rows])
    sizes = [row["bytes_per_token"] / 2**10 for row in told if "bytes_per_token" in row]
    report.tell(LIBRARY, "KV cache of a token", "KiB", sizes[-1:])


def measure_server(
    side: str, command: list[str], names: list[str], scale: Scale, report: Report
) -> None:
    """Run a server, and one measure after another on it."""
    known = OF_A_SERVER | (OF_OURS if side == OURS else {})
    with running(command) as server:
        session = Session(server, scale, partial(report.tell, side))
        for name in names:
            if name in known:
                _measure(server, session, side, name, report)


def _measure(server: Server, session: Session, side: str, name: str, report: Report) -> None:
    try:
        (OF_A_SERVER | OF_OURS)[name](session)
    except Failed as error:
        server.has_failed = True
        report.fail(side, name, str(error))


def main() -> int:
    given = parse()
    began = time.monotonic()
    about = program("library.py", {"about": True, "model": given.model})[-1]
    scale = scale_of(given, about)
    report = Report({"model": given.model, "scale": asdict(scale), **about}, given.json)
    print(f"{given.model} on {about['device']}, {about['versions']}", flush=True)
    sides = []
    if not given.skip_library and {"throughput", "memory"} & set(given.only):
        sides.append((LIBRARY, partial(measure_library, given, scale, report)))
    for side, command, is_skipped in (
        (OURS, ours(given.model, given.flags), given.skip_ours),
        (PEER, peer(given.model), given.skip_peer),
    ):
        if not is_skipped:
            sides.append((side, partial(measure_server, side, command, given.only, scale, report)))
    for side, measure in sides:
        try:
            measure()
        except Failed as error:
            report.fail(side, "all", str(error))
    print(f"\n{report.table()}\n\n{time.monotonic() - began:.0f} s", flush=True)
    if given.plot:
        given.plot.write_text(report.plot(), encoding="utf-8")
    for failure in report.failures:
        print(failure, file=sys.stderr)
    return 1 if report.failures else 0


if __name__ == "__main__":
    sys.exit(main())
