"""Where a view is shown: a terminal's whole screen, plain lines, or a picture."""

from __future__ import annotations

import io
import os
import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol, TextIO

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from drpo_cli.console import open_console
from drpo_cli.report.view.follow import Followed, Fresh
from drpo_cli.report.view.frame import format_event, format_failures
from drpo_cli.report.view.table import draw_runs
from drpo_cli.report.view.text import format_number, make_visible
from drpo_cli.runs.events import ENDED
from drpo_cli.runs.folder import write_whole
from drpo_cli.runs.metrics import StepMetrics, failed_calls

REFRESH_S = 0.3
CLOCK_S = 1.0
WIDE, LONG = 80, 1000  # size of a stream that is not a terminal
PICTURE = (90, 40)  # columns and rows
FONTS = re.compile(r"@font-face \{.*?\}\s*", re.DOTALL)
VALUES = (
    ("reward", "reward"),
    ("shift_p99", "|π−μ| p99"),
    ("corrective_share", "corrective"),
    ("gap", "gap"),
    ("entropy", "entropy"),
    ("grad_norm", "grad norm"),
    ("response_length", "length"),
)


class Screen(Protocol):
    """Where runs are shown."""

    def show(self, runs: list[Followed], fresh: list[Fresh]) -> None:
        """Shows the runs after a look, whether or not it found something new."""

    def close(self, runs: list[Followed]) -> None:
        """Leaves the stream as it was, with the last state on it."""


class FullScreen:
    """Draws on the terminal's alternate screen, in the size that it has at that moment."""

    def __init__(self, stream: TextIO):
        self.stream = stream
        self.console = _open_console(stream)
        # Other output stays where it was: rich would redirect it to this screen
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
        """See `Screen.show`. Without news it draws once per second, for the clock."""
        size, before = _measure(self.stream), tuple(self.console.size)
        news = size != before or any(new.steps or new.events for new in fresh)
        if not news and time.monotonic() - self.drawn < CLOCK_S:
            return
        self.drawn = time.monotonic()
        self.console.size = width, height = size
        self.live.update(_draw(runs, width, height, self.console), refresh=True)

    def close(self, runs: list[Followed]) -> None:
        """See `Screen.close`."""
        self.live.stop()
        show_once(runs, self.stream)


class Lines:
    """Writes one line per new step and event, after the run's name where there are several runs.

    With `errors_elsewhere`, it leaves out the failures of ranks: the launcher shows them in full.
    """

    def __init__(self, stream: TextIO, errors_elsewhere: bool = False):
        self.stream = stream
        self.errors_elsewhere = errors_elsewhere
        self.alerted: set[tuple[str, str, int]] = set()

    def show(self, runs: list[Followed], fresh: list[Fresh]) -> None:
        """Writes the steps and events of one look."""
        for run, new in zip(runs, fresh, strict=True):
            front = f"{run.name}: " if len(runs) > 1 else ""
            for line in self._lines(run, new):
                self.stream.write(front + line + "\n")
        self.stream.flush()

    def close(self, runs: list[Followed]) -> None:
        """Writes what of the files could not be read."""
        for run in runs:
            for note in run.notes:
                self.stream.write(make_visible(note) + "\n")
        self.stream.flush()

    def _lines(self, run: Followed, new: Fresh) -> list[str]:
        begun = [event for event in new.events if event.get("state") not in ENDED]
        ended = [event for event in new.events if event.get("state") in ENDED]
        if self.errors_elsewhere:
            ended = [event for event in ended if "rank" not in event]
        steps = [format_step(record, run.total) for record in new.steps if record["step"] > 0]
        before, after = ([format_event(event) for event in part] for part in (begun, ended))
        return [*before, *steps, *self._alerts(run), *after]

    def _alerts(self, run: Followed) -> list[str]:
        fresh = [a for a in run.current_alerts() if (run.name, a.kind, a.step) not in self.alerted]
        self.alerted |= {(run.name, a.kind, a.step) for a in fresh}
        return [make_visible(str(alert)) for alert in fresh]


def open_screen(stream: TextIO, errors_elsewhere: bool = False) -> FullScreen | Lines:
    """The whole screen of a terminal that can be drawn on, else plain lines."""
    if stream.isatty() and not _open_console(stream).is_dumb_terminal:
        return FullScreen(stream)
    return Lines(stream, errors_elsewhere)


def follow(
    runs: list[Followed], screen: Screen, ended: Callable[[], bool], wait: Callable[[float], object]
) -> None:
    """Shows the runs until they have ended, their last changes included."""
    while True:
        last = ended()
        screen.show(runs, [run.look() for run in runs])
        if last:
            return
        wait(REFRESH_S)


def show_once(runs: list[Followed], stream: TextIO) -> None:
    """Prints the runs as they are, and of a single run that has ended, its last events."""
    console = _open_console(stream)
    width, height = _measure(stream)
    if not stream.isatty():
        height = LONG if len(runs) == 1 else len(runs) + 2  # several have one row each
    console.print(_draw(runs, width, height, console))
    for run in runs if len(runs) > 1 else ():  # the view of a single one has its notes
        for note in run.notes:
            console.print(Text(make_visible(f"{run.name}: {note}"), "yellow"), soft_wrap=True)
    for run in runs if len(runs) == 1 else ():
        ended = [i for i, event in enumerate(run.events) if event.get("state") == run.state]
        for event in run.events[ended[-1] :] if run.state in ENDED and ended else ():
            console.print(format_event(event), soft_wrap=True)


def write_svg(runs: list[Followed], path: Path) -> None:
    """Writes the view of the runs as an SVG picture. Raises OSError."""
    width, height = PICTURE
    console = open_console(
        io.StringIO(), width, record=True, force_terminal=True, color_system="truecolor"
    )
    console.print(Group(*draw_runs(runs, width, height)))
    title = make_visible("drpo watch " + " ".join(run.name for run in runs))
    drawn = console.export_svg(title=title)
    # rich's fonts would be fetched from the network
    write_whole(path, FONTS.sub("", drawn))


def format_step(metrics: StepMetrics, total: int) -> str:
    """A step on one line."""
    numbers: Mapping[str, Any] = metrics
    values = "  ".join(f"{label} {format_number(numbers.get(key))}" for key, label in VALUES)
    score = metrics.get("held_out")
    held_out = "" if score is None else f"  held-out {score:.3f}"
    for name, suite in metrics.get("suites", {}).items():
        held_out += f"  {make_visible(name)} {format_number(suite.get('score'))}"
    seconds = metrics.get("seconds", {}).get("step")
    took = f"  {seconds:.1f} s" if seconds is not None else ""
    failed = format_failures(failed_calls(metrics), metrics.get("skipped_samples", 0))
    line = f"step {metrics['step']}/{total}  {values}{held_out}{took}"
    return f"{line}  failures {make_visible(failed)}" if failed else line


def _open_console(stream: TextIO) -> Console:
    """A console for the stream, coloured only on terminals, and not where NO_COLOR is set."""
    width, height = _measure(stream)
    return open_console(stream, width, height=height, force_terminal=stream.isatty())


def _measure(stream: TextIO) -> tuple[int, int]:
    """Columns and rows of the terminal; of any other stream, 80 and many."""
    try:
        size = os.get_terminal_size(stream.fileno())
    except (OSError, ValueError):
        return WIDE, LONG
    return (size.columns or WIDE, size.lines or 24)


def _draw(runs: list[Followed], width: int, height: int, console: Console) -> Group:
    ascii_only = not console.encoding.startswith("utf")
    return Group(*draw_runs(runs, width, height, ascii_only))
