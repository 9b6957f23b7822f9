"""A real browser: Debian's Chromium, driven by Playwright."""

import importlib.util
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
ANOTHER_NAME = "gateway.lan"  # leads here: to the browser, this machine under it is another
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

    arguments = ["--no-sandbox", "--disable-gpu", f"--host-resolver-rules=MAP {ANOTHER_NAME} 127.0.0.1"]
    with sync_playwright() as playwright:
        # no sandbox: CI runs as root, and the pages are our own
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        try:
            yield browser
        finally:
            browser.close()
