"""A lock file, read: what it pins, on which platforms, with which hashes."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
SERVER = ROOT / "requirements.lock"
TOOLS = ROOT / "requirements-dev.lock"

Platform = dict[str, str]
"""What markers ask of a machine and its Python."""


def _platform(system: str, machine: str, python: str) -> Platform:
    return {
        "sys_platform": system.lower(),
        "platform_system": system,
        "platform_machine": machine,
        "python_version": python,
        "python_full_version": f"{python}.1",
        "os_name": "posix",
        "implementation_name": "cpython",
        "platform_python_implementation": "CPython",
    }


MACHINES = [("Darwin", "arm64"), ("Linux", "x86_64"), ("Linux", "aarch64")]
PYTHONS = ["3.11", "3.12", "3.13", "3.14"]
SERVED: list[Platform] = [
    _platform(*machine, python) for machine, python in product(MACHINES, PYTHONS)
]


def holds(requirement: Requirement, platform: Platform) -> bool:
    return requirement.marker is None or requirement.marker.evaluate(platform)


@dataclass(frozen=True)
class Pin:
    requirement: Requirement
    hashes: tuple[str, ...]

    @property
    def name(self) -> str:
        return canonicalize_name(self.requirement.name)

    @property
    def version(self) -> str:
        return str(self.requirement.specifier).removeprefix("==")


def pins(lock: Path) -> list[Pin]:
    """Every pin of a lock: a requirement, then a hash for each of its files."""
    lines = lock.read_text(encoding="utf-8").splitlines()
    text = "\n".join(line for line in lines if not line.lstrip().startswith("#"))
    found = []
    for entry in text.replace("\\\n", " ").splitlines():
        pin, *hashes = entry.split("--hash=")
        found.append(Pin(Requirement(pin), tuple(x.strip() for x in hashes)))
    return found


def pins_on(platform: Platform, lock: Path) -> list[Pin]:
    return [pin for pin in pins(lock) if holds(pin.requirement, platform)]


def requirements(path: Path) -> list[Requirement]:
    """What a `requirements*.txt` asks for, with what it includes."""
    found = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("-r "):
            found += requirements(path.parent / line.removeprefix("-r "))
        elif line and not line.startswith("#"):
            found.append(Requirement(line))
    return found
