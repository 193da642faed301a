"""Makes the pictures of a report for the docs: `python docs/pictures.py RUN_DIR`.

Writes docs/figures/report-light.png and report-dark.png, the top of the page in both themes. It
needs a Chromium.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from playwright.sync_api import ViewportSize, sync_playwright

from drpo_cli.report.page import report

FIGURES = Path(__file__).parent / "figures"
SIZE = ViewportSize(width=1000, height=1180)


def main(run: Path) -> None:
    """Makes both pictures of the run's page."""
    browser = shutil.which("chromium") or sys.exit("no Chromium: apt-get install chromium")
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as driver:
        page = report([run], Path(folder) / "report.html")
        chromium = driver.chromium.launch(executable_path=browser, args=arguments)
        for scheme in ("light", "dark"):
            shot: Any = chromium.new_page(viewport=SIZE, color_scheme=scheme)
            shot.goto(page.as_uri())
            shot.wait_for_selector("html[data-drawn]")
            shot.wait_for_timeout(500)
            shot.screenshot(path=FIGURES / f"report-{scheme}.png")
        chromium.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
