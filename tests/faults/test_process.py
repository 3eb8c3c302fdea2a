"""What is left of the process when its device fails for good: everybody is told, then it ends."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from server import ENGINE_FAILED
from tests.oracle import assert_envelope, events
from tests.serving import PATIENCE_S, running

PROGRAM = Path(__file__).parent / "failing_server.py"


@pytest.mark.parametrize(
    ("fault", "reason"), [("fail", "steps keep failing"), ("hang", "a step hangs")]
)
def test_a_device_that_fails_for_good_ends_the_process_and_its_streams(
    tmp_path: Path, fault: str, reason: str
) -> None:
    flags = ("--stall-timeout", "1")
    with running(tmp_path, *flags, program=PROGRAM, env={"FAULT": fault}) as server:
        while (told := ask(server.base_url)) is not None:
            *_, error, done = events(told)  # each that was begun is told why it ends
            assert assert_envelope(error)["code"] == "server_error"
            assert done == "[DONE]"
        assert server.process.wait(PATIENCE_S) == ENGINE_FAILED
        assert server.is_port_free()
        assert f"the engine has failed: {reason}" in server.log.read_text()


def ask(url: str) -> str | None:
    """All of a stream; None when nobody answers any more."""
    body = {"messages": [{"role": "user", "content": "hello"}], "stream": True}
    is_begun = False
    try:
        where = f"{url}/v1/chat/completions"
        with httpx.stream("POST", where, json=body, timeout=PATIENCE_S) as answer:
            if answer.status_code != 200:
                return None
            is_begun = True
            return answer.read().decode()
    except httpx.TransportError:
        assert not is_begun, "a stream just stopped"
        return None
