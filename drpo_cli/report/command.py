"""`drpo report`: one page of one run, or of several."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from drpo_cli.errors import UserError
from drpo_cli.report.html import save
from drpo_cli.report.page import render_page
from drpo_cli.runs.folder import open_folder

COMPARISON = "comparison.html"


def report(paths: Sequence[Path], out: Path | None = None) -> Path:
    """Writes the page and returns its path.

    The path is `out`, else report.html in the folder of a single run, else comparison.html here.
    Raises UserError for a folder without a run, or where the page cannot be written.
    """
    folders = [open_folder(path) for path in paths]
    if out is None:
        out = folders[0].report if len(folders) == 1 else Path(COMPARISON)
    if out.is_dir():
        raise UserError(f"--out {out} is a folder", f"name a file, such as {out / COMPARISON}")
    if not out.absolute().parent.is_dir():
        raise UserError(
            f"--out {out}: the folder {out.parent} does not exist", "create it, or name another"
        )
    text = render_page(folders)
    try:
        save(out, text)
    except OSError as error:
        raise UserError(
            f"{out}: cannot write the report: {error.strerror}",
            "make room, or write it elsewhere with --out FILE.html. An older page is unchanged.",
        ) from error
    return out
