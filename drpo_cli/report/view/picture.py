"""The view as a picture: what a terminal shows, for a page or a mail."""

from __future__ import annotations

import io
import re
from pathlib import Path

from rich.console import Console, Group

from drpo_cli.report.view.follow import Followed
from drpo_cli.report.view.table import together
from drpo_cli.runs.folder import write_whole

WIDTH, HEIGHT = 90, 40
FONTS = re.compile(r"@font-face \{.*?\}\s*", re.DOTALL)


def write_svg(runs: list[Followed], path: Path) -> None:
    """Writes the runs as they are to an SVG file. Raises OSError."""
    console = Console(
        file=io.StringIO(), record=True, width=WIDTH, force_terminal=True, color_system="truecolor"
    )
    console.print(Group(*together(runs, WIDTH, HEIGHT)))
    title = "drpo watch " + " ".join(run.name for run in runs)
    drawn = console.export_svg(title=title)
    # rich would have the fonts fetched from the network
    write_whole(path, FONTS.sub("", drawn))
