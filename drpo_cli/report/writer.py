"""Writes the page in a process of its own, which can neither delay nor fail the run.

Consumes      the files of a run's folder
Produces      `report.html`, and `logs/report.log` with whatever the process printed
Waits for     nothing while the run continues; the last page after its end
Unblocked by  the end of the process

`python -m drpo_cli.report.writer RUN_FOLDER` writes it once, with `--nice` at the lowest priority.
"""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path

from drpo_cli import processes
from drpo_cli.runs.events import say_if_room
from drpo_cli.runs.folder import RunFolder

DISK_FULL = 3  # exit code
LEAST_PRIORITY = 19


def main(arguments: list[str]) -> int:
    """Writes the page; returns the exit code."""
    if "--nice" in arguments:
        os.nice(LEAST_PRIORITY)
    from drpo_cli.report import page

    try:
        page.write(RunFolder(Path(arguments[0])))
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        return DISK_FULL
    return 0


def write_here(folder: RunFolder) -> None:
    """Writes the page in this process, and records it as the launcher of a run does."""
    from drpo_cli.report import page

    try:
        page.write(folder)
    except OSError as error:
        sys.stderr.write(say_if_room(folder, f"{folder.report}: {error.strerror}"))
        return
    sys.stderr.write(say_if_room(folder, f"report: {folder.report}"))


class PageWriter:
    """Writes a run's page every few steps while it trains, and once after its end.

    One process at a time: a page that is due while the last one is being written is skipped.
    """

    def __init__(self, folder: RunFolder, every: int):
        self.folder = folder
        self.every = every
        self._child: processes.Child | None = None
        self._written: int | None = None
        self._problem = ""

    def step(self, done: int) -> str:
        """Starts a page if one is due after this step; returns a new problem, if any."""
        try:
            return self._step(done)
        except OSError as error:
            return self._report_change(f"{self.folder.report} was not written: {error}")

    def _step(self, done: int) -> str:
        problem = ""
        if self._child is not None and self._child.poll() is not None:
            problem, self._child = self._report_change(self._explain(self._child.returncode)), None
        if self._written is None:
            self._written = done
        if self.every and self._child is None and done // self.every != self._written // self.every:
            self._written = done
            self._child = self._start("--nice")
        return problem

    def finish(self) -> str:
        """Writes the last page; returns its problem, or an empty string."""
        if self._child is not None:
            self._child.kill()  # else two processes would replace each other's page
            self._child.wait()
        try:
            self._child = self._start()
        except OSError as error:
            return f"{self.folder.report} was not written: {error}"
        return self._explain(self._child.wait())

    def abandon(self) -> None:
        """Kills the process that writes; the old page stays."""
        if self._child is not None:
            self._child.kill()

    def _start(self, *options: str) -> processes.Child:
        return processes.start(
            processes.python("drpo_cli.report.writer", self.folder.path, *options),
            log=self.folder.path / "logs" / "report.log",
            environment={"OMP_NUM_THREADS": "1"},
        )

    def _report_change(self, problem: str) -> str:
        before, self._problem = self._problem, problem
        return "" if self._problem == before else self._problem

    def _explain(self, code: int) -> str:
        if code == 0:
            return ""
        if code == DISK_FULL:
            return f"{self.folder.report} could not be written: the disk is full"
        log = self.folder.path / "logs" / "report.log"
        return f"{self.folder.report} could not be written; {log} says why"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
