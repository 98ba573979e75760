"""A real browser for tests: the system's Chromium, driven by playwright."""

import contextlib
import shutil
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, sync_playwright

# Under these names systems install it.
NAMES = ("chromium", "chromium-browser", "google-chrome")


@contextlib.contextmanager
def browser_or_skip() -> Iterator[Browser]:
    """A headless browser; the test is skipped where the machine has none, CI's included."""
    path = next((found for name in NAMES if (found := shutil.which(name))), None)
    if path is None:
        pytest.skip(f"no browser: none of {', '.join(NAMES)} is installed")
    with sync_playwright() as driver:
        # Its sandbox does not work for root, and all that it sees is our own.
        browser = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
        try:
            yield browser
        finally:
            browser.close()
