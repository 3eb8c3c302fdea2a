"""What is installed is known to the byte, and asked after."""

from __future__ import annotations

import contextlib
import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from packaging.markers import default_environment
from packaging.utils import canonicalize_name

from tests import audit, lock
from tests.serving import run

LOCKS = [lock.SERVER, lock.TOOLS]
HOLE = {
    "id": "TEST-2026-1",
    "affected": [
        {
            "package": {"name": "h11", "ecosystem": "PyPI"},
            "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "99.1"}]}],
        }
    ],
}


@pytest.mark.parametrize("path", LOCKS, ids=lambda path: path.name)
def test_a_lock_pins_what_is_required_on_every_machine(path: Path) -> None:
    for platform in lock.SERVED:
        pinned = {pin.name: pin.version for pin in lock.pins_on(platform, path)}
        for required in lock.requirements(path.with_suffix(".txt")):
            if lock.holds(required, platform):
                name = canonicalize_name(required.name)
                assert name in pinned, f"{required} is not locked: make lock"
                assert required.specifier.contains(pinned[name]), f"{required}: make lock"


@pytest.mark.parametrize("path", LOCKS, ids=lambda path: path.name)
def test_a_lock_has_one_version_of_a_name_and_hashes_of_its_files(path: Path) -> None:
    for platform in lock.SERVED:
        names = [pin.name for pin in lock.pins_on(platform, path)]
        assert len(names) == len(set(names))
    for pin in lock.pins(path):
        assert pin.hashes, pin
        assert all(re.fullmatch("sha256:[0-9a-f]{64}", found) for found in pin.hashes), pin


@pytest.mark.parametrize("path", LOCKS, ids=lambda path: path.name)
def test_a_lock_names_no_registry_and_no_folder(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert "/" not in text
    assert not re.search(r"^\s*-(?!-hash=)", text, re.MULTILINE)


def test_every_machine_has_its_build_of_mlx() -> None:
    builds = {"darwin": "mlx-metal", "linux": "mlx-cpu"}
    for platform in lock.SERVED:
        pinned = {pin.name: pin.version for pin in lock.pins_on(platform, lock.SERVER)}
        assert set(builds.values()) & set(pinned) == {builds[platform["sys_platform"]]}
        assert pinned[builds[platform["sys_platform"]]] == pinned["mlx"]


def test_the_tests_run_with_what_is_served() -> None:
    for platform in lock.SERVED:
        served = {(p.name, p.version, p.hashes) for p in lock.pins_on(platform, lock.SERVER)}
        assert served < {(p.name, p.version, p.hashes) for p in lock.pins_on(platform, lock.TOOLS)}


def test_what_is_installed_here_is_what_is_locked() -> None:
    here: lock.Platform = {**default_environment()}  # type: ignore[dict-item]
    for pin in lock.pins_on(here, lock.SERVER):
        installed = version(pin.name)
        assert pin.requirement.specifier.contains(installed, prereleases=True), pin.name


@pytest.mark.parametrize(
    ("target", "path"), [("serve", lock.SERVER), ("lint", lock.TOOLS)], ids=["serve", "test"]
)
def test_make_installs_from_the_lock(target: str, path: Path, tmp_path: Path) -> None:
    said = run(["make", "--dry-run", f"VENV={tmp_path}", target], lock.ROOT)
    installs = [line for line in said.splitlines() if "pip install" in line]
    assert len(installs) == 1
    assert installs[0].endswith(f"--require-hashes -r {path.name}")


class Advisories(BaseHTTPRequestHandler):
    """What pip-audit asks: a database of known holes, with none but those it is given."""

    holes: dict[str, dict[str, Any]]
    asked: list[tuple[str, str]]
    status: int

    def do_POST(self) -> None:
        query = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        name = query["package"]["name"]
        self.asked.append((name, query["version"]))
        known = {"vulns": [self.holes[name]]} if name in self.holes else {}
        self.send_response(self.status)
        self.end_headers()
        self.wfile.write(json.dumps(known).encode())

    def log_message(self, format: str, *args: Any) -> None: ...


@contextlib.contextmanager
def advisories(
    holes: dict[str, dict[str, Any]] | None = None, status: int = 200
) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """The address of such a database, and what it was asked."""
    asked: list[tuple[str, str]] = []
    known = {"holes": holes or {}, "asked": asked, "status": status}
    with ThreadingHTTPServer(("127.0.0.1", 0), type("Known", (Advisories,), known)) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", asked
        finally:
            server.shutdown()
            thread.join()


def test_every_pin_is_audited_whatever_machine_it_is_for(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with advisories() as (url, asked):
        assert audit.main(["--osv-url", url]) == 0
    pinned = {
        (pin.name, pin.version)
        for platform in lock.SERVED
        for pin in lock.pins_on(platform, lock.SERVER)
    }
    assert sorted(asked) == sorted(pinned)
    assert f"Known holes: 0. Packages asked about: {len(pinned)}." in capsys.readouterr().out


def test_a_known_hole_fails_the_audit(capsys: pytest.CaptureFixture[str]) -> None:
    with advisories({"h11": HOLE}) as (url, _):
        assert audit.main(["--osv-url", url]) == 1
        said = capsys.readouterr().out
        assert re.search(r"^h11 [\d.]+: TEST-2026-1, mended in 99.1$", said, re.MULTILINE)
        assert audit.main(["--osv-url", url, "--ignore-vuln", "TEST-2026-1"]) == 0


def test_without_an_answer_the_audit_says_so_and_fails_nobody(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with advisories(status=503) as (url, _):
        assert audit.main(["--osv-url", url]) == 0
        assert capsys.readouterr().out.startswith("Not audited: ")
    assert audit.main(["--osv-url", url]) == 0, "nobody listens there any more"
    told = capsys.readouterr().out
    assert told.startswith("Not audited: ")
    assert told.count("\n") == 1


def test_a_package_that_could_not_be_asked_about_is_not_called_free_of_holes(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert audit.verdict([{"name": "h11", "skip_reason": "it is not on this index"}]) == 0
    assert "Nothing is known of 1 of them" in capsys.readouterr().out


def test_an_audit_that_fails_of_itself_is_no_missing_answer() -> None:
    with pytest.raises(SystemExit, match="unrecognized arguments"):
        audit.main(["--no-such-flag"])
