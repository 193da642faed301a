"""What the launcher does beside a run: shows it, says at once why a rank failed, writes the page.

All of it in a thread that only reads the run's files, so that neither a blocked rank nor a blocked
terminal holds up the other; signals stay with the main thread.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import TextIO

from torch.distributed.elastic.multiprocessing import SignalException

from drpo_cli.launch.failures import Failures
from drpo_cli.report.view.follow import Followed, Fresh
from drpo_cli.report.view.screen import REFRESH_S, Lines, open_screen
from drpo_cli.report.writer import PageWriter
from drpo_cli.runs.events import say_if_room
from drpo_cli.runs.folder import RunFolder

LEAVE_S = 5.0  # how long a view that cannot write to its terminal is waited for


class Beside:
    """The thread, from before the ranks start until after they are gone."""

    def __init__(self, failures: Failures, report_every: int, out: TextIO, err: TextIO):
        self.folder = failures.folder
        self.failures = failures
        self.out, self.err = out, err
        self.pages = PageWriter(self.folder, report_every)
        self.run = Followed(self.folder)
        self.run.look()  # what a resumed run did before is no news
        self.screen = open_screen(out, errors_elsewhere=True)
        self._words: list[str] = []
        self._over = threading.Event()
        self._done = False
        self._thread = threading.Thread(target=self._attend, daemon=True)

    def __enter__(self) -> Beside:
        """Starts."""
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Writes the last page, shows the last things, and leaves the terminal as it was."""
        self._over.set()
        try:
            self._thread.join()
        except SignalException:  # a second one: the page is not worth the wait
            self.pages.abandon()
            self._thread.join(LEAVE_S)
        if not self._done:
            self.err.write(f"the view ended early; {launch_log(self.folder)} says why\n")

    def tell(self, text: str) -> None:
        """Has a failure said that no rank left word of."""
        self._words.append(text)

    def _attend(self) -> None:
        try:
            while not self._over.wait(REFRESH_S):
                self._look()
            self._look()
            problem = self.pages.finish()
            self._note(problem or f"report: {self.folder.report}")
            self._look()
            self._done = True
        finally:
            with suppress(OSError):  # a terminal that is gone needs no tidying
                self.screen.close([self.run])

    def _look(self) -> None:
        fresh = self.run.look()
        words = [self.failures.new(), *self._words]
        self._words = []
        # Nobody may be reading any more, as in `drpo train … | head`; the run goes on
        with suppress(OSError):
            self._show(fresh, "".join(words))
        if problem := self.pages.step(self.run.done):
            self._note(problem)

    def _show(self, fresh: Fresh, words: str) -> None:
        if words:
            if not isinstance(self.screen, Lines):
                self.screen.close([self.run])
                self.screen = Lines(self.out, errors_elsewhere=True)
            self.err.write(words)
            self.err.flush()
        self.screen.show([self.run], [fresh])

    def _note(self, text: str) -> None:
        self.tell(say_if_room(self.folder, text))


def launch_log(folder: RunFolder) -> Path:
    """What the launcher itself, and workers before they have their logs, printed."""
    return folder.path / "logs" / "launch.log"


@contextmanager
def set_aside(log: Path) -> Iterator[tuple[TextIO, TextIO]]:
    """Points what this process and its children print to a log; gives the two streams it had."""
    streams = (sys.stdout, sys.stderr)
    kept = [os.dup(1), os.dup(2)]
    handle = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o644)
    _point(streams, (handle, handle))
    os.close(handle)
    out, err = (
        os.fdopen(fd, "w", encoding=stream.encoding, errors="replace")
        for fd, stream in zip(kept, streams, strict=True)
    )
    try:
        yield out, err
    finally:
        _point(streams, kept)
        for stream in (out, err):
            with suppress(OSError):  # whoever read it is gone
                stream.close()


def _point(streams: tuple[TextIO, TextIO], targets: tuple[int, int] | list[int]) -> None:
    for stream, number, target in zip(streams, (1, 2), targets, strict=True):
        stream.flush()
        os.dup2(target, number)
