"""The thread of the launcher that shows a run, reports failures at once and writes the page.

Consumes      the run's files: metrics, events, samples, `logs/rankN.error`
Waits for     nothing but its own clock, three times a second
Unblocked by  the launcher, which ends it after the last rank
Produces      the view on the terminal, `report.html` (by a process of its own), events

It only reads what the ranks write, so neither a blocked rank nor a blocked terminal delays the
other. Signals go to the main thread.
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

from drpo_cli.launch import launch_log
from drpo_cli.launch.failures import Failures
from drpo_cli.report.view.follow import Followed, Fresh
from drpo_cli.report.view.screen import REFRESH_S, Lines, open_screen
from drpo_cli.report.writer import PageWriter
from drpo_cli.runs.events import say_if_room
from drpo_cli.terminal import Printable

PATIENCE_S = 5.0  # how long the launcher waits for a view that cannot write to its terminal


class Monitor:
    """Shows a run, from before its ranks start until after they have ended."""

    def __init__(self, failures: Failures, report_every: int, out: TextIO, err: TextIO):
        self.folder = failures.folder
        self.failures = failures
        self.out, self.err = out, err
        self.pages = PageWriter(self.folder, report_every)
        self.run = Followed(self.folder)
        self.run.look()  # what a resumed run did before is not news
        self.screen = open_screen(out, errors_elsewhere=True)
        self._messages: list[str] = []
        self._over = threading.Event()
        self._done = False
        self._thread = threading.Thread(target=self._loop, daemon=True)

    def __enter__(self) -> Monitor:
        """Starts the thread."""
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Writes the last page, shows the last news, and leaves the terminal as it was."""
        self._over.set()
        try:
            self._thread.join()
        except SignalException:  # a second one: the user does not want to wait for the page
            self.pages.abandon()
            self._thread.join(PATIENCE_S)
        if not self._done:
            self.err.write(f"the view ended early; {launch_log(self.folder)} says why\n")

    def show(self, message: str) -> None:
        """Shows a message of the launcher on stderr, at the thread's next look."""
        self._messages.append(message)

    def _loop(self) -> None:
        try:
            while not self._over.wait(REFRESH_S):
                self._look()
            self._look()
            problem = self.pages.finish()
            self._record(problem or f"report: {self.folder.report}")
            self._look()
            self._done = True
        finally:
            with suppress(OSError):  # the terminal is gone
                self.screen.close([self.run])

    def _look(self) -> None:
        fresh = self.run.look()
        messages = [self.failures.new_message(), *self._messages]
        self._messages = []
        # The reader may be gone, as in `drpo train … | head`; the run continues
        with suppress(OSError):
            self._draw(fresh, "".join(messages))
        if problem := self.pages.step(self.run.done):
            self._record(problem)

    def _draw(self, fresh: Fresh, messages: str) -> None:
        if messages:
            if not isinstance(self.screen, Lines):
                self.screen.close([self.run])
                self.screen = Lines(self.out, errors_elsewhere=True)
            self.err.write(messages)
            self.err.flush()
        self.screen.show([self.run], [fresh])

    def _record(self, text: str) -> None:
        self.show(say_if_room(self.folder, text))


@contextmanager
def divert_output(log: Path) -> Iterator[tuple[TextIO, TextIO]]:
    """Sends what this process and its children print to a log; yields the two streams it had."""
    streams = (sys.stdout, sys.stderr)
    kept = [os.dup(1), os.dup(2)]
    handle = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o644)
    _point(streams, (handle, handle))
    os.close(handle)
    out, err = (
        Printable(fd, stream.encoding, lines=True, optional=stream is streams[1])
        for fd, stream in zip(kept, streams, strict=True)
    )
    try:
        yield out, err
    finally:
        _point(streams, kept)
        for stream in (out, err):
            with suppress(OSError):  # its reader is gone
                stream.close()


def _point(streams: tuple[TextIO, TextIO], targets: tuple[int, int] | list[int]) -> None:
    for stream, number, target in zip(streams, (1, 2), targets, strict=True):
        stream.flush()
        os.dup2(target, number)
