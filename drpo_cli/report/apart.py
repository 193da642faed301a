"""The page written by a process of its own: neither its time nor its failure is the run's.

`python -m drpo_cli.report.apart RUN_FOLDER` writes it once, at the lowest priority with `--nice`.
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
    """Writes the page in this process, and says so as the launcher of a run does."""
    from drpo_cli.report import page

    try:
        page.write(folder)
    except OSError as error:
        sys.stderr.write(say_if_room(folder, f"{folder.report}: {error.strerror}"))
        return
    sys.stderr.write(say_if_room(folder, f"report: {folder.report}"))


class PageWriter:
    """Writes a run's page every so many steps while it goes on, and once it is over.

    One process at a time: a step that comes before the last page is done is not waited for.
    """

    def __init__(self, folder: RunFolder, every: int):
        self.folder = folder
        self.every = every
        self._child: processes.Child | None = None
        self._written: int | None = None
        self._problem = ""

    def step(self, done: int) -> str:
        """Takes note of the last step on record; returns what went wrong since, if it is news."""
        problem = ""
        if self._child is not None and self._child.poll() is not None:
            problem, self._child = self._news(self._child.returncode), None
        if self._written is None:
            self._written = done
        if self.every and self._child is None and done // self.every != self._written // self.every:
            self._written = done
            self._child = self._start("--nice")
        return problem

    def finish(self) -> str:
        """Writes the last page; returns what is wrong with it, or an empty string."""
        if self._child is not None:
            self._child.kill()  # two writers would write over each other
            self._child.wait()
        self._child = self._start()
        return self._why(self._child.wait())

    def abandon(self) -> None:
        """Ends the process that writes, whatever it has done so far; the old page stays."""
        if self._child is not None:
            self._child.kill()

    def _start(self, *options: str) -> processes.Child:
        return processes.start(
            processes.python("drpo_cli.report.apart", self.folder.path, *options),
            log=self.folder.path / "logs" / "report.log",
            environment={"OMP_NUM_THREADS": "1"},
        )

    def _news(self, code: int) -> str:
        before, self._problem = self._problem, self._why(code)
        return "" if self._problem == before else self._problem

    def _why(self, code: int) -> str:
        if code == 0:
            return ""
        if code == DISK_FULL:
            return f"{self.folder.report} could not be written: the disk is full"
        log = self.folder.path / "logs" / "report.log"
        return f"{self.folder.report} could not be written; {log} says why"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
