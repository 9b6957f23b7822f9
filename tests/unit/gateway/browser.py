"""A real browser: Debian's Chromium, driven by Playwright."""

import importlib.util
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
WHY_NOT = (
    "Playwright's Python package is not installed (gateway[test])"
    if importlib.util.find_spec("playwright") is None
    else "there is no Chromium here (Debian: apt-get install chromium)"
    if CHROMIUM is None
    else ""
)


@contextmanager
def chromium() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        # no sandbox: CI runs as root, and the pages are our own
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        try:
            yield browser
        finally:
            browser.close()
