"""A real browser for the tests of pages: the system's Chromium, driven by Playwright."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")


@dataclass
class Seen:
    """What a page did besides showing itself: warnings, errors, dialogs, requests."""

    complaints: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def hear(self, message: Any) -> None:
        """Keeps what the page writes to the console, if it is a warning or an error."""
        if message.type in ("error", "warning"):
            self.complaints.append(message.text)


@contextmanager
def browser() -> Iterator[Any]:
    """A headless Chromium; as root, without its own sandbox."""
    from playwright.sync_api import sync_playwright

    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield started
        started.close()


@contextmanager
def opened(started: Any, path: Path, **options: Any) -> Iterator[tuple[Any, Seen]]:
    """Opens the page in a context of its own, and waits until its charts are drawn."""
    context = started.new_context(**{"viewport": {"width": 1280, "height": 900}, **options})
    page, seen = context.new_page(), Seen()
    page.on("request", lambda request: seen.requests.append(request.url))
    page.on("pageerror", lambda error: seen.complaints.append(str(error)))
    page.on("dialog", lambda dialog: seen.complaints.append(dialog.message))
    page.on("dialog", lambda dialog: dialog.dismiss())
    page.on("console", seen.hear)
    page.goto(path.resolve().as_uri())
    page.wait_for_selector("html[data-drawn]")
    yield page, seen
    context.close()
