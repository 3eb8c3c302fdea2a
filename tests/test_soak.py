"""Short versions of what takes long: `make soak` runs the long ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import kill
from tests.serving import running
from tests.soak import FLAGS, soak

MAX_GROWTH = 20.0
"""MB a minute: a minute is mostly warm-up, and only a leak that many would notice is seen in it."""


@pytest.mark.soak
def test_many_clients_for_a_minute_leave_nothing_behind(
    float32_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with running(tmp_path, *FLAGS, model=float32_model) as server:
        report = soak(server, seconds=60)
        assert server.wait_until_idle() == {"running": 0, "waiting": 0}
        assert server.stop() == 0
        assert not server.complaints()
    with capsys.disabled():
        print(f"\n{report}")
    assert not report.judged(MAX_GROWTH)


@pytest.mark.soak
def test_a_server_that_is_killed_or_stopped_leaves_everything_whole(tmp_path: Path) -> None:
    assert kill.rounds(tmp_path, 5) == []
