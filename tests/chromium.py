"""The system's Chromium, driven without a window.

Debian: `apt-get install chromium`; tests that need it are skipped where there is none.
"""

import os
import shutil
from contextlib import contextmanager

import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: apt-get install chromium")


@contextmanager
def launched(*flags):
    """A browser; ``flags`` are further options of its command line."""
    from playwright.sync_api import sync_playwright

    usual = ["--headless=new", "--disable-gpu", *(["--no-sandbox"] if os.geteuid() == 0 else [])]
    with sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=CHROMIUM, args=[*usual, *flags])
        yield opened
        opened.close()
