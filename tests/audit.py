"""Known holes in what the server installs: pip-audit is asked about every pin of the lock.

    python -m tests.audit

Exit code 1 when a hole is known, 0 when none is. It is 0, too, when nobody could be asked, and the
last line says which it was: no test may fail for want of a network. Flags go to pip-audit.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from itertools import zip_longest
from pathlib import Path
from typing import Any

from tests import lock

Report = list[dict[str, Any]]
"""What pip-audit says of each package."""

# OSV, because pip-audit takes a package index that has no advisories for one that knows of none.
AUDIT = (
    *(sys.executable, "-m", "pip_audit", "--vulnerability-service", "osv", "--format", "json"),
    *("--desc", "off", "--progress-spinner", "off", "--disable-pip", "--no-deps", "--requirement"),
)
NO_ANSWER = re.compile(r"^(requests\.exceptions|pip_audit\._service)\.|Could not connect", re.M)
"""How pip-audit ends when its service is not there, or says nothing that can be read."""


class NotAsked(Exception):
    """The service could not be reached, or had no answer."""


def rounds(pins: list[lock.Pin]) -> list[list[lock.Pin]]:
    """pip-audit takes one version of a name: what is pinned twice is asked about apart."""
    versions: dict[str, list[lock.Pin]] = {}
    for pin in pins:
        versions.setdefault(pin.name, []).append(pin)
    return [[pin for pin in pins if pin] for pins in zip_longest(*versions.values())]


def ask(pins: list[lock.Pin], flags: list[str]) -> Report:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pins.txt"
        # Without markers: pip-audit would leave out what this machine does not install.
        path.write_text("".join(f"{pin.name}=={pin.version}\n" for pin in pins), encoding="utf-8")
        done = subprocess.run([*AUDIT, str(path), *flags], capture_output=True, text=True)
    if done.stdout:
        report: Report = json.loads(done.stdout)["dependencies"]
        return report
    if NO_ANSWER.search(done.stderr):
        raise NotAsked(done.stderr.splitlines()[-1])
    sys.exit(done.stderr)


def verdict(report: Report) -> int:
    """Tell what was found; the exit code."""
    holes = [(package, hole) for package in report for hole in package.get("vulns", [])]
    for package, hole in holes:
        mended = ", ".join(hole["fix_versions"]) or "no version yet"
        print(f"{package['name']} {package['version']}: {hole['id']}, mended in {mended}")
    num_skipped = sum("skip_reason" in package for package in report)
    if num_skipped:
        print(f"Nothing is known of {num_skipped} of them: the service could not be asked.")
    print(f"Known holes: {len(holes)}. Packages asked about: {len(report) - num_skipped}.")
    return int(bool(holes))


def main(flags: list[str]) -> int:
    served = [
        pin
        for pin in lock.pins(lock.SERVER)
        if any(lock.holds(pin.requirement, platform) for platform in lock.SERVED)
    ]
    try:
        report = [package for pins in rounds(served) for package in ask(pins, flags)]
    except NotAsked as error:
        print(f"Not audited: there was nobody to ask for known holes ({error}).")
        return 0
    return verdict(report)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
