"""`drpo report`: one page of one run, or of several."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from drpo_cli.errors import UserError
from drpo_cli.report.document import save
from drpo_cli.report.page import page_of
from drpo_cli.runs.folder import RunFolder

COMPARISON = "comparison.html"


def report(paths: Sequence[Path], out: Path | None = None) -> Path:
    """Writes the page and returns its path.

    That is `out`; else a single run's own report.html, or comparison.html here. Raises UserError
    for a folder without a run, or where the page cannot be written.
    """
    folders = [_folder(path) for path in paths]
    if out is None:
        out = folders[0].report if len(folders) == 1 else Path(COMPARISON)
    if out.is_dir():
        raise UserError(f"--out {out}: is a folder; name a file, such as {out / COMPARISON}")
    if not out.absolute().parent.is_dir():
        raise UserError(f"--out {out}: {out.parent} is no folder; make it, or name another")
    text = page_of(folders)
    try:
        save(out, text)
    except OSError as error:
        raise UserError(
            f"{out}: cannot write the report: {error.strerror}; make room, or write it elsewhere "
            f"with --out FILE.html. A page that was there is as it was."
        ) from error
    return out


def _folder(path: Path) -> RunFolder:
    folder = RunFolder(path)
    if not path.is_dir():
        raise UserError(f"{path}: no such folder; name the folder of a run, such as runs/NAME")
    if not folder.exists():
        inside = sorted(found.parent for found in path.glob("*/spec.toml"))
        hint = f"; runs inside it: {', '.join(map(str, inside[:5]))}" if inside else ""
        raise UserError(f"{path}: no run was started here: it has no spec.toml{hint}")
    return folder
