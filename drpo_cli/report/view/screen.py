"""The view on a terminal: the whole screen while it lasts, then the last picture stays."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Protocol, TextIO

from rich.console import Console, Group
from rich.live import Live

from drpo_cli.report.view.follow import Followed, Fresh
from drpo_cli.report.view.parts import event_text
from drpo_cli.report.view.plain import Lines
from drpo_cli.report.view.table import together
from drpo_cli.runs.events import ENDED

REFRESH_S = 0.3
CLOCK_S = 1.0
WIDE, LONG = 80, 1000  # of what is no terminal


class Screen(Protocol):
    """Where runs show themselves."""

    def show(self, runs: list[Followed], fresh: list[Fresh]) -> None:
        """Shows the runs after a look that found something new, or nothing."""

    def close(self, runs: list[Followed]) -> None:
        """Leaves the stream as it was, with the last state on it."""


class FullScreen:
    """Draws on the terminal's second screen, in whatever size it has at that moment."""

    def __init__(self, stream: TextIO):
        self.stream = stream
        self.console = console_of(stream)
        # What others print goes where it went before: rich would bring it onto this screen
        self.live = Live(
            console=self.console,
            screen=True,
            auto_refresh=False,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self.live.start()
        self.drawn = 0.0

    def show(self, runs: list[Followed], fresh: list[Fresh]) -> None:
        """See `Screen.show`. Without news the picture is drawn once a second, for its clock."""
        size, before = size_of(self.stream), tuple(self.console.size)
        news = size != before or any(new.steps or new.events for new in fresh)
        if not news and time.monotonic() - self.drawn < CLOCK_S:
            return
        self.drawn = time.monotonic()
        self.console.size = width, height = size
        self.live.update(_picture(runs, width, height, self.console), refresh=True)

    def close(self, runs: list[Followed]) -> None:
        """See `Screen.close`."""
        self.live.stop()
        show_once(runs, self.stream)


def open_screen(stream: TextIO, errors_elsewhere: bool = False) -> FullScreen | Lines:
    """The whole terminal where the stream is one that can be drawn on, else plain lines."""
    if stream.isatty() and not console_of(stream).is_dumb_terminal:
        return FullScreen(stream)
    return Lines(stream, errors_elsewhere)


def show_once(runs: list[Followed], stream: TextIO) -> None:
    """Prints the runs as they are, and the last word of each that has ended."""
    console = console_of(stream)
    terminal = stream.isatty()
    width, height = size_of(stream)
    if not terminal:
        height = LONG if len(runs) == 1 else len(runs) + 2  # several are a row each
    console.print(_picture(runs, width, height, console))
    for run in runs if len(runs) == 1 else ():
        ended = [i for i, event in enumerate(run.events) if event.get("state") == run.state]
        for event in run.events[ended[-1] :] if run.state in ENDED and ended else ():
            console.print(event_text(event), markup=False, highlight=False, soft_wrap=True)


def follow(
    runs: list[Followed], screen: Screen, ended: Callable[[], bool], wait: Callable[[float], object]
) -> None:
    """Shows the runs until they have ended, the very last changes included."""
    while True:
        last = ended()
        screen.show(runs, [run.look() for run in runs])
        if last:
            return
        wait(REFRESH_S)


def console_of(stream: TextIO) -> Console:
    """A console for the stream, coloured on terminals only, and not where NO_COLOR is set."""
    width, height = size_of(stream)
    return Console(
        file=stream, width=width, height=height, force_terminal=stream.isatty(), highlight=False
    )


def size_of(stream: TextIO) -> tuple[int, int]:
    """Columns and rows of the terminal; of what is none, 80 and many."""
    try:
        size = os.get_terminal_size(stream.fileno())
    except (OSError, ValueError):
        return WIDE, LONG
    return (size.columns or WIDE, size.lines or 24)


def _picture(runs: list[Followed], width: int, height: int, console: Console) -> Group:
    ascii_only = not console.encoding.startswith("utf")
    return Group(*together(runs, width, height, ascii_only))
