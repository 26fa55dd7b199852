"""Pages in a real Chromium without a window, for tests that click."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Page, sync_playwright

PROGRAM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_chromium = pytest.mark.skipif(PROGRAM is None, reason="no Chromium here; install the package chromium")


@contextmanager
def opened(path: Path, dark: bool = False) -> Iterator[Page]:
    """A page of the disk, with no network. What the page itself complains of, in its console or by an error, fails the test."""
    complaints: list[str] = []
    with sync_playwright() as program:
        # without a sandbox, because tests may run as root in a container
        browser = program.chromium.launch(executable_path=PROGRAM, args=["--no-sandbox", "--disable-gpu"])
        context = browser.new_context(offline=True, color_scheme="dark" if dark else "light")
        page = context.new_page()
        page.on("console", lambda m: complaints.append(m.text) if m.type in ("error", "warning") else None)
        page.on("pageerror", lambda e: complaints.append(str(e)))
        page.goto(path.as_uri())
        yield page
        browser.close()
    assert complaints == []
