"""What a client sees of a disk that fails and of a clock that jumps: nothing but `/health`."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from door.settings import Settings
from protocol import archive
from protocol.archive import Archive
from protocol.conversations import Store
from server import create_app
from tests.door.asking import create, post
from tests.protocol.turns import DISK_CALLS, Clock
from tests.scripted import ScriptedEngine
from tests.serving import serving, wait_until


class Disk:
    """The os module, in which one call goes wrong for as long as `error` says how."""

    def __init__(self, broken: str) -> None:
        self.broken = broken
        self.error: BaseException | None = None
        self.num_fired = 0

    def __getattr__(self, name: str) -> Any:
        real = getattr(os, name)
        return self._broken if name == self.broken and self.error else real

    def _broken(self, *arguments: Any, **options: Any) -> Any:
        assert self.error
        self.num_fired += 1
        raise self.error


@contextmanager
def disk(broken: str) -> Iterator[Disk]:
    with pytest.MonkeyPatch.context() as patch:
        made = Disk(broken)
        patch.setattr(archive, "os", made)
        yield made


def health(url: str) -> Any:
    answer = httpx.get(f"{url}/health", timeout=20)
    assert (answer.status_code, answer.json()["status"]) == (200, "ok")
    return answer.json()["archive"]


def served(folder: Path) -> Any:
    settings = Settings(conversation_logs=str(folder), conversation_ttl=0.05)
    return serving(create_app(settings, ScriptedEngine()))


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EROFS, errno.EMFILE])
@pytest.mark.parametrize("broken", [name for name in DISK_CALLS if name in ("open", "write")])
def test_a_disk_that_fails_is_said_by_health_and_harms_nobody(
    tmp_path: Path, broken: str, code: int
) -> None:
    with disk(broken) as failing, served(tmp_path / "logs") as url:
        wait_until(lambda: (tmp_path / "logs").exists(), "the archive is open")
        failing.error = OSError(code, os.strerror(code))
        first = create(url)
        wait_until(lambda: health(url) == f"failing: {os.strerror(code)}", "health says so")
        assert failing.num_fired
        again = post(url, input="and?", previous_response_id=first["id"])
        assert again.status_code == 200
        assert not list((tmp_path / "logs").glob("*"))  # nor what is half written
        failing.error = None
        wait_until(lambda: list((tmp_path / "logs").glob("*.json")), "it is archived")
        wait_until(lambda: health(url) == "ok", "health says so")
        later = post(url, input="and?", previous_response_id=again.json()["id"])
        assert later.status_code == 200


@pytest.mark.parametrize("broken", ["listdir", "write", "rename"])
def test_what_nobody_expected_of_a_disk_does_not_end_the_archiving(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, broken: str
) -> None:
    with disk(broken) as failing:
        failing.error = RuntimeError("what a client said")
        with served(tmp_path / "logs") as url:
            create(url)
            wait_until(lambda: failing.num_fired, "it has failed")
            failing.error = None
            wait_until(lambda: list((tmp_path / "logs").glob("*.json")), "it is archived")
            assert health(url) == "ok"
    assert "RuntimeError" in caplog.text
    assert "what a client said" not in caplog.text


def test_what_cannot_be_archived_at_the_end_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with disk("write") as failing:
        settings = Settings(conversation_logs=str(tmp_path / "logs"))
        with serving(create_app(settings, ScriptedEngine())) as url:
            create(url)
            create(url)
            failing.error = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        assert failing.num_fired
    assert "2 conversations could not be archived and are lost" in caplog.text


@pytest.mark.parametrize("jump", [-10 * 365 * 86400.0, 10 * 365 * 86400.0, -2e9])
def test_a_clock_that_jumps_expires_nothing_and_loses_nothing(tmp_path: Path, jump: float) -> None:
    wall = Clock(1.8e9)
    store = Store(Archive(tmp_path, now=wall), now=wall)
    with serving(create_app(Settings(), ScriptedEngine(), store)) as url:
        first = create(url)
        wall.advance(jump)
        second = create(url, previous_response_id=first["id"])
        wall.advance(-jump)
        third = create(url, previous_response_id=second["id"])
        assert first["created_at"] == third["created_at"] != second["created_at"]
        assert health(url) == "ok"
    (archived,) = tmp_path.glob("*.json")
    assert all(made["id"] in archived.read_text() for made in (first, second, third))
