"""Durations as people write them."""

from __future__ import annotations

import math

import httpx
import pytest

from door.durations import FOR_EVER, seconds
from door.settings import parse
from tests.scripted import ScriptedEngine


@pytest.mark.parametrize(
    ("text", "expected"),
    [("90s", 90), ("10m", 600), ("1.5h", 5400), ("1d", 86400), (30, 30), ("0", 0), (-1, FOR_EVER)],
)
def test_a_duration_is_read(text: str | float, expected: float) -> None:
    assert seconds(text) == expected


@pytest.mark.parametrize("text", ["soon", "", "10 parsecs", math.nan, math.inf, "1e9"])
def test_what_is_no_duration_is_refused(text: str | float) -> None:
    with pytest.raises(ValueError, match="must be a time"):
        seconds(text)


@pytest.mark.parametrize(("text", "expected"), [("10m", 600), ("off", math.inf), ("0", math.inf)])
def test_the_flag(text: str, expected: float) -> None:
    assert parse(["--idle-unload", text]).idle_unload == expected


@pytest.mark.parametrize("is_stream", [False, True])
@pytest.mark.parametrize("path", ["chat/completions", "responses"])
def test_a_request_says_how_long_the_model_stays(
    scripted_url: str, engine: ScriptedEngine, path: str, is_stream: bool
) -> None:
    said = {"messages": [{"role": "user", "content": "Hi"}], "input": "Hi", "stream": is_stream}
    url = f"{scripted_url}/v1/{path}"
    assert httpx.post(url, json={**said, "keep_alive": "10m"}).status_code == 200
    assert httpx.post(url, json={**said, "keep_alive": -1}).status_code == 200
    refused = httpx.post(url, json={**said, "keep_alive": "soon"})
    assert httpx.post(url, json=said).status_code == 200
    assert engine.stays == [600, FOR_EVER, None]
    assert refused.status_code == 422
    assert refused.json()["error"]["param"] == "keep_alive"
