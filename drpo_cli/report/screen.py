"""The view of a running run: a live panel on a terminal, plain lines otherwise."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any, Protocol, TextIO

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from drpo_cli.report.metrics import failed_calls

PLAIN = (
    ("reward", "reward"),
    ("shift_p99", "|π−μ| p99"),
    ("corrective_share", "corrective"),
    ("gap", "gap"),
    ("entropy", "entropy"),
    ("grad_norm", "grad norm"),
    ("response_length", "length"),
)


class Screen(Protocol):
    """Where a run shows itself; only rank 0 has one that shows anything."""

    def message(self, text: str) -> None:
        """Says something once."""

    def step(self, step: int, metrics: Mapping[str, Any], samples: list[tuple[str, str]]) -> None:
        """Shows a finished step; `samples` are (prompt, completion) pairs."""

    def close(self) -> None:
        """Leaves the terminal as it was."""


def open_screen(stream: TextIO, title: str, steps: int) -> Screen:
    """A live view when the stream is a terminal, else plain lines."""
    console = Console(file=stream)
    if console.is_terminal:
        return LiveScreen(console, title, steps)
    return PlainScreen(stream, steps)


class SilentScreen:
    """Ranks other than 0."""

    def message(self, text: str) -> None:
        """Nothing."""

    def step(self, step: int, metrics: Mapping[str, Any], samples: list[tuple[str, str]]) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


class PlainScreen:
    """One line a step."""

    def __init__(self, stream: TextIO, steps: int):
        self.stream = stream
        self.steps = steps

    def message(self, text: str) -> None:
        """See `Screen.message`."""
        self.stream.write(text + "\n")
        self.stream.flush()

    def step(self, step: int, metrics: Mapping[str, Any], samples: list[tuple[str, str]]) -> None:
        """See `Screen.step`."""
        values = "  ".join(f"{label} {_number(metrics.get(key))}" for key, label in PLAIN)
        held_out = f"  held-out {metrics['held_out']:.3f}" if "held_out" in metrics else ""
        seconds = metrics["seconds"]["step"]
        failed = _failed(failed_calls(metrics), metrics.get("skipped_samples", 0))
        line = f"step {step}/{self.steps}  {values}{held_out}  {seconds:.1f} s"
        self.message(f"{line}  failures {failed}" if failed else line)

    def close(self) -> None:
        """See `Screen.close`."""


class LiveScreen:
    """Progress, the metrics that matter, failures, where the time goes, two completions."""

    def __init__(self, console: Console, title: str, steps: int):
        self.title = title
        self.progress = Progress(
            TextColumn("step"), MofNCompleteColumn(), BarColumn(None), TimeRemainingColumn()
        )
        self.task = self.progress.add_task("steps", total=steps)
        self.notes: list[str] = []
        self.held_out: list[float] = []
        self.failed: Counter[tuple[str, str]] = Counter()
        self.skipped = 0
        self.body: RenderableType = Text("starting …")
        # stdout and stderr already go to the rank's log; rich would bring them back to the screen
        self.live = Live(
            self._render(),
            console=console,
            refresh_per_second=4,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self.live.start()

    def message(self, text: str) -> None:
        """See `Screen.message`."""
        self.live.console.print(text, highlight=False, markup=False)

    def step(self, step: int, metrics: Mapping[str, Any], samples: list[tuple[str, str]]) -> None:
        """See `Screen.step`."""
        self.progress.update(self.task, completed=step)
        if "held_out" in metrics:
            self.held_out.append(metrics["held_out"])
        table = Table.grid(padding=(0, 2), expand=True)
        for key, label in PLAIN:
            table.add_row(label, _number(metrics.get(key)))
        rewards = metrics.get("rewards") or {}
        if [*rewards.values()] not in ([], [metrics["reward"]]):
            table.add_row("rewards", Text(_means(rewards)))
        if self.held_out:
            trail = " → ".join(f"{value:.1%}" for value in self.held_out[-5:])
            table.add_row("held-out", trail)
        table.add_row("seconds", _phases(metrics["seconds"]))
        self.failed.update(failed_calls(metrics))
        self.skipped += metrics.get("skipped_samples", 0)
        if failed := _failed(self.failed, self.skipped):
            table.add_row(Text("failures", "red"), Text(f"{failed} since the start", "red"))
        rate = metrics["tokens_per_second"]
        table.add_row("tokens/s", f"rollout {rate['rollout']:,.0f}, training {rate['train']:,.0f}")
        shown = [Text(f"{prompt!r} → {completion!r}", "dim") for prompt, completion in samples]
        self.body = Group(table, *shown)
        self.live.update(self._render())

    def close(self) -> None:
        """See `Screen.close`."""
        self.live.stop()

    def _render(self) -> RenderableType:
        return Panel(Group(self.progress, self.body), title=self.title)


def _failed(calls: Counter[tuple[str, str]], skipped: int) -> str:
    # `judge 3 timeout 1 crash, http 2 exception; 4 samples skipped`
    names = dict.fromkeys(name for name, _ in calls)
    parts = [
        " ".join([name, *(f"{n} {kind}" for (owner, kind), n in calls.items() if owner == name)])
        for name in names
    ]
    samples = f"{skipped} {'sample' if skipped == 1 else 'samples'} skipped" if skipped else ""
    return "; ".join(part for part in (", ".join(parts), samples) if part)


def _means(rewards: Mapping[str, float | None]) -> str:
    return ", ".join(f"{name} {_number(value)}" for name, value in rewards.items())


def _phases(seconds: Mapping[str, float]) -> str:
    parts = [f"{name} {value:.2f}" for name, value in seconds.items() if name != "step"]
    return f"{seconds['step']:.2f}: " + ", ".join(parts)


def _number(value: float | None) -> str:
    if value is None:  # a step in which no token was trained on has none of the tokens' metrics
        return "–"
    return f"{value:.2e}" if 0 < abs(value) < 1e-3 else f"{value:.3f}"
