"""The browser of these tests: Debian's Chromium, a Chrome that is there, or Playwright's own.

python -m tests.web.chromium      sees that there is one, and installs it if need be
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator

from playwright.sync_api import Browser, Error, Playwright, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
APT = ("apt-get", "-qq")


class NoBrowser(RuntimeError):
    """None could be started."""


@contextlib.contextmanager
def launched(playwright: Playwright) -> Iterator[Browser]:
    """A browser that ends with the block. Raises `NoBrowser`."""
    browser = _launch(playwright)
    try:
        yield browser
    finally:
        browser.close()


def _launch(playwright: Playwright) -> Browser:
    found = [path for name in NAMES if (path := shutil.which(name))]
    # Chromium's sandbox refuses to be started by root.
    flags = ["--no-sandbox"] if _is_root() else []
    problems = []
    for path in (*found, None):
        try:
            return playwright.chromium.launch(executable_path=path, args=flags)
        except Error as error:
            problems.append(str(error).splitlines()[0])
    raise NoBrowser("; ".join(problems))


def _is_root() -> bool:
    return hasattr(os, "geteuid") and os.geteuid() == 0


def _starts() -> bool:
    with sync_playwright() as playwright:
        try:
            with launched(playwright):
                return True
        except NoBrowser:
            return False


def _install() -> None:
    if _is_root() and shutil.which("apt-get"):
        quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        subprocess.run([*APT, "update"], check=True, env=quiet)
        install = ["install", "-y", "--no-install-recommends", "chromium", "fonts-dejavu-core"]
        subprocess.run([*APT, *install], check=True, env=quiet, stdout=subprocess.DEVNULL)
    else:
        subprocess.run([sys.executable, "-m", "playwright", "install", "chromium"], check=True)


if __name__ == "__main__":
    if not _starts():
        print("Installing Chromium for the tests of the page (once).")
        _install()
        if not _starts():
            sys.exit("No Chromium can be started here.")
