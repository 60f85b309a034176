"""A real browser for the tests that need one: Debian's Chromium, driven by playwright."""

import os
import shutil
import time
from contextlib import contextmanager

import pytest

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
NAMES = ("chromium", "chromium-browser", "google-chrome")
START = time.monotonic()
SECONDS = os.environ.get("BROWSER_SECONDS")  # in continuous integration: begin no test after these


@contextmanager
def chromium():
    """A headless browser; the test is skipped, and says what to install, where there is none."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is missing: make env")
    path = next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        pytest.skip("no Chromium here: apt install chromium")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=FLAGS)
        try:
            yield browser
        finally:
            browser.close()


@pytest.fixture(autouse=True)
def in_time():
    """Skip a test for which continuous integration has no time left."""
    if SECONDS and time.monotonic() - START > float(SECONDS):
        pytest.skip(f"the {SECONDS} s for tests in a browser are over: make test-all runs them all")
