"""The real clients, as their users install them: each in a folder of its own under `.clients/`.

Two gigabytes come from the package registries, once; `make clean` forgets them.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import venv
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.serving import ROOT

FOLDER = ROOT / ".clients"
WANTED = "TEST_CLIENTS"
"""The variable that makes the tests use them."""
NPM = {
    "codex": "@openai/codex@0.171.0",
    "opencode": "opencode-ai@1.18.33",
    "claude": "@anthropic-ai/claude-code@2.1.332",
    "cn": "@continuedev/cli@1.5.47",
}
PYPI = {"llm": "llm==0.36", "litellm": "litellm[proxy]==1.110.2"}
INSTALL_S = 900
ANSWER_S = 180
"""Seconds after which a client that says nothing is taken for dead."""
QUIET = {
    "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
    "CONTINUE_TELEMETRY_ENABLED": "0",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "OPENCODE_DISABLE_AUTOUPDATE": "1",
    "OPENCODE_DISABLE_MODELS_FETCH": "1",
}
"""What keeps them from asking the network for anything but an answer."""


def installed(program: str) -> Path:
    """The program of a client, installed if need be; skips the test where that cannot be done."""
    folder = FOLDER / program
    bin_folder = folder / ("bin" if program in PYPI else "node_modules/.bin")
    done = folder / ".installed"
    if not done.exists():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        _install(program, folder)
        done.touch()
    return bin_folder / program


def _install(program: str, folder: Path) -> None:
    if program in PYPI:
        venv.create(folder, with_pip=True)
        argv = [str(folder / "bin" / "pip"), "install", "--quiet", PYPI[program]]
    else:
        (folder / "package.json").write_text("{}")
        argv = ["npm", "install", "--silent", "--no-audit", "--no-fund", NPM[program]]
    try:
        subprocess.run(
            argv,
            cwd=folder,
            env={**os.environ, "PATH": path()},
            capture_output=True,
            text=True,
            timeout=INSTALL_S,
            check=True,
        )
    except subprocess.SubprocessError as error:
        said = str(getattr(error, "stderr", "") or error).strip()
        pytest.skip(f"{program} cannot be installed here: {said[-300:]}")


def path() -> str:
    """Where programs are looked for: Node comes with this environment."""
    return f"{Path(sys.executable).parent}:{os.environ['PATH']}"


def environment(home: Path, more: Mapping[str, str] = {}) -> dict[str, str]:
    """What a client of a fresh user sees."""
    return {"PATH": path(), "HOME": str(home), "LC_ALL": "C.UTF-8", **QUIET, **more}


def ask(
    program: str,
    argv: list[str],
    home: Path,
    more: Mapping[str, str] = {},
) -> str:
    """Run a client to its end. Returns all that it said."""
    done = subprocess.run(
        [str(installed(program)), *argv],
        cwd=home,
        env=environment(home, more),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=ANSWER_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout
