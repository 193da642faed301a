"""`drpo watch`: shows runs by their files, from any terminal."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from drpo_cli.errors import UserError
from drpo_cli.report.view.follow import Followed
from drpo_cli.report.view.screen import follow, open_screen, show_once, write_svg
from drpo_cli.runs.folder import RunFolder

EXIT_INTERRUPTED = 130


def watch(paths: list[Path], once: bool, out: Path | None = None) -> int:
    """Shows the runs until all have ended; with `once`, as they are now; with `out`, as a picture.

    Returns the exit code. Raises UserError when a folder is not a run or `out` cannot be written.
    """
    runs = [Followed(folder) for folder in find_folders(paths)]
    for run in runs:
        run.look()
    if out is not None:
        try:
            write_svg(runs, out)
        except OSError as error:
            raise UserError(
                f"--out {out}: {error.strerror}", "name a file that can be written"
            ) from error
        sys.stdout.write(f"{out}\n")
        return 0
    if once or (sys.stdout.isatty() and all(run.over for run in runs)):
        show_once(runs, sys.stdout)
        return 0
    return _follow([Followed(run.folder) for run in runs])


def find_folders(paths: list[Path]) -> list[RunFolder]:
    """The runs among the paths; a folder of runs, such as `drpo compare` makes, gives all of them.

    Raises UserError for a path that is neither.
    """
    found: list[RunFolder] = []
    for path in paths:
        inside = [RunFolder(child) for child in sorted(path.glob("*"))]
        runs = [RunFolder(path), *inside][: 1 if RunFolder(path).exists() else None]
        runs = [run for run in runs if run.exists()]
        if not runs and (len(paths) == 1 or not path.is_dir()):
            raise UserError(
                f"{path} is not a run folder: it has no spec.toml",
                "name a folder that `drpo train` made, such as runs/NAME next to the spec",
            )
        found += runs
    if not found:
        raise UserError(
            "none of these is a run folder: none has a spec.toml",
            "name a folder that `drpo train` made, such as runs/NAME next to the spec",
        )
    return list(dict.fromkeys(found))


def _follow(runs: list[Followed]) -> int:
    screen = open_screen(sys.stdout)
    try:
        follow(runs, screen, lambda: all(run.over for run in runs), time.sleep)
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    finally:
        screen.close(runs)
    return 0
