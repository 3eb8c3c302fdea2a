"""The server as a user starts it, around a device that fails at every step, or hangs.

FAULT=fail|hang python tests/faults/failing_server.py --port 0
"""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

from mlx_lm.tokenizer_utils import load

import server
from door import settings as door_settings
from door.settings import Settings
from inference.engine import Engine, LoadedModel
from tests.demo import ENDS
from tests.inference.scripted import Call, Script, scripted_model


def fail(call: Call) -> None:
    if call.name == "decode":
        raise RuntimeError("the device has gone away")


def hang(call: Call) -> None:
    if call.name == "decode":
        threading.Event().wait()


def engine(settings: Settings) -> Any:
    how = {"fail": fail, "hang": hang}[os.environ["FAULT"]]

    def model() -> LoadedModel:
        return scripted_model(Script(how), load(Path(settings.model), eos_token_ids=ENDS))

    return Engine(model, stall_timeout=settings.stall_timeout)


if __name__ == "__main__":
    server._engine = engine
    sys.exit(server.main(door_settings.parse()))
