"""Makes the fixtures of `tests/` known to `test_server.py` too."""

from tests.conftest import *  # noqa: F403
