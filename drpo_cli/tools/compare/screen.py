"""What a running grid shows: one line a run that ended, and on a terminal a counter below."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from drpo_cli.runs.records import read
from drpo_cli.tools.compare.jobs import Job
from drpo_cli.tools.compare.state import State


class GridScreen:
    """A line a run, plain where stdout is no terminal."""

    def __init__(self, total: int, done: int):
        self.total = total
        self.done = done
        self.began: dict[Job, float] = {}
        self.progress: Progress | None = None
        if sys.stdout.isatty():
            columns = (TextColumn("runs"), MofNCompleteColumn(), BarColumn(None))
            self.progress = Progress(*columns, TimeElapsedColumn(), console=Console())
            self.task = self.progress.add_task("runs", total=total, completed=done)

    def __enter__(self) -> GridScreen:
        """Shows the counter."""
        if self.progress is not None:
            self.progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Leaves the terminal as it was."""
        if self.progress is not None:
            self.progress.stop()

    def started(self, job: Job) -> None:
        """See `runner.Screen.started`."""
        self.began[job] = time.monotonic()

    def ended(self, job: Job, state: State) -> None:
        """See `runner.Screen.ended`."""
        over = state.status in ("finished", "failed")
        self.done += over
        seconds = time.monotonic() - self.began[job]
        counter = f"{self.done}/{self.total}"
        self._say(f"{counter}  {job.label}: {_outcome(job, state)}  ({seconds:.1f} s)")
        if self.progress is not None:
            self.progress.update(self.task, completed=self.done)

    def _say(self, line: str) -> None:
        if self.progress is not None:
            self.progress.console.print(line, markup=False, highlight=False, soft_wrap=True)
            return
        sys.stdout.write(line + "\n")
        sys.stdout.flush()


def _outcome(job: Job, state: State) -> str:
    if state.status == "failed":
        return f"failed: {state.reason}"
    records = read(job.folder.metrics)
    if state.status != "finished":
        return f"stopped after step {records[-1]['step'] if records else 0}"
    scored = [record["held_out"] for record in records if "held_out" in record]
    return f"held-out {scored[0]:.3f} → {scored[-1]:.3f}"
