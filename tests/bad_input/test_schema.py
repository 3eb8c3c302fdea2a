"""Requests made from the OpenAPI document, right and wrong ones: none may be a 5xx.

ODD_REQUESTS=9000 python -m pytest tests/bad_input/test_schema.py        asks so many
ODD_SERVER=http://127.0.0.1:8080 python -m pytest tests/bad_input/test_schema.py   asks that server
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from door.settings import Settings
from server import create_app
from tests.scripted import ScriptedEngine
from tests.serving import serving

NUM_REQUESTS = int(os.environ.get("ODD_REQUESTS", "2400"))
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]

app = create_app(Settings(no_conversation_logs=True), ScriptedEngine())
schema = schemathesis.openapi.from_dict(app.openapi())
OPERATIONS = {operation.ok().label for operation in schema.get_all_operations()}
seen: list[tuple[str, int]] = []
"""The operation and the status of each request."""


Ask = Callable[[schemathesis.Case], schemathesis.Response]


@pytest.fixture(scope="module")
def ask() -> Iterator[Ask]:
    """Sends a request to the application."""
    running = os.environ.get("ODD_SERVER")
    at = contextlib.nullcontext(running) if running else serving(app)
    with at as url, requests.Session() as session:
        yield lambda case: case.call(base_url=url, session=session, timeout=60)


@schema.parametrize()
@settings(
    max_examples=-(-NUM_REQUESTS // len(OPERATIONS)),
    phases=[Phase.generate],
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)
def test_no_request_that_can_be_made_is_a_5xx(
    case: schemathesis.Case, ask: Ask, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.clear()
    answer = ask(case)
    seen.append((case.operation.label, answer.status_code))
    case.validate_response(answer, checks=CHECKS)
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


def test_enough_was_asked_and_some_was_answered() -> None:
    if {operation for operation, _ in seen} != OPERATIONS:
        pytest.skip("only some of the operations were asked here")
    # Those that take no arguments are asked once.
    assert len(seen) >= NUM_REQUESTS * 0.8
    assert {200, 400, 404, 422} <= {status for _, status in seen}
