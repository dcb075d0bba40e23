"""Pages in headless Chromium: what they say on the console and load, and how they look and answer."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


@dataclass
class Opened:
    """A page and what it has said and loaded since."""

    page: Any
    """`playwright.sync_api.Page`."""
    said: list[str] = field(default_factory=list)
    """Errors, warnings and other lines of the console."""
    loaded: list[str] = field(default_factory=list)
    """Addresses outside the file system."""


@contextmanager
def chromium() -> Iterator[Any]:
    """The browser, closed at the end; where there is none, the test is skipped and says so."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright, which extra dev has")
    found = next((path for name in NAMES if (path := shutil.which(name))), None)
    with playwright.sync_playwright() as driver:
        if found is None and not Path(driver.chromium.executable_path).exists():
            pytest.skip(f"needs a browser: none of {', '.join(NAMES)} is here, nor playwright's own")
        arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
        browser = driver.chromium.launch(executable_path=found, args=arguments)
        yield browser
        browser.close()


def open_page(browser: Any, file: Path, width: int = 1280, scheme: str = "light") -> Opened:
    """Open a file in a window of this width, in light or dark."""
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    opened = Opened(page)
    page.on("console", lambda message: opened.said.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: opened.said.append(f"error: {error}"))
    local = ("file:", "data:", "blob:")
    page.on("request", lambda request: None if request.url.startswith(local) else opened.loaded.append(request.url))
    page.goto(file.as_uri())
    return opened
