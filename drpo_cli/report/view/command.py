"""`drpo watch`: runs as their files tell them, from any terminal."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from drpo_cli.errors import UserError
from drpo_cli.report.view.follow import Followed
from drpo_cli.report.view.screen import follow, open_screen, show_once
from drpo_cli.runs.folder import RunFolder

EXIT_INTERRUPTED = 130


def watch(paths: list[Path], once: bool, out: Path | None = None) -> int:
    """Shows the runs until all have ended, or as they are now, or draws them in `out`.

    Returns the exit code. Raises UserError when a folder is no run or `out` cannot be written.
    """
    runs = [Followed(folder) for folder in folders(paths)]
    for run in runs:
        run.look()
    if out is not None:
        return _draw(runs, out)
    if once or (sys.stdout.isatty() and all(run.over for run in runs)):
        show_once(runs, sys.stdout)
        return 0
    return _follow([Followed(run.folder) for run in runs])


def folders(paths: list[Path]) -> list[RunFolder]:
    """The runs among the paths; a folder of runs, as `drpo compare` leaves, stands for them all.

    Raises UserError for what is neither.
    """
    found: list[RunFolder] = []
    for path in paths:
        inside = [RunFolder(child) for child in sorted(path.glob("*"))]
        runs = [RunFolder(path), *inside][: 1 if RunFolder(path).exists() else None]
        runs = [run for run in runs if run.exists()]
        if not runs and (len(paths) == 1 or not path.is_dir()):
            raise UserError(
                f"{path} is no run folder: it has no spec.toml; name a folder that `drpo train` "
                f"made, such as runs/NAME beside the spec"
            )
        found += runs
    if not found:
        raise UserError("none of these is a run folder: not one has a spec.toml")
    return list(dict.fromkeys(found))


def _draw(runs: list[Followed], out: Path) -> int:
    from drpo_cli.report.view.picture import write_svg

    try:
        write_svg(runs, out)
    except OSError as error:
        raise UserError(
            f"--out {out}: {error.strerror}; name a file that can be written"
        ) from error
    sys.stdout.write(f"{out}\n")
    return 0


def _follow(runs: list[Followed]) -> int:
    screen = open_screen(sys.stdout)
    try:
        follow(runs, screen, lambda: all(run.over for run in runs), time.sleep)
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    finally:
        screen.close(runs)
    return 0
