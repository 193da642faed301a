"""Lines for a stream that is no terminal: one a step, and what the run says once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TextIO

from drpo_cli.report.view.follow import Followed, Fresh
from drpo_cli.report.view.parts import event_text, failures
from drpo_cli.report.view.text import number, visible
from drpo_cli.runs.metrics import failed_calls

VALUES = (
    ("reward", "reward"),
    ("shift_p99", "|π−μ| p99"),
    ("corrective_share", "corrective"),
    ("gap", "gap"),
    ("entropy", "entropy"),
    ("grad_norm", "grad norm"),
    ("response_length", "length"),
)


def step_line(metrics: Mapping[str, Any], total: int) -> str:
    """A step on one line."""
    values = "  ".join(f"{label} {number(metrics.get(key))}" for key, label in VALUES)
    held_out = f"  held-out {metrics['held_out']:.3f}" if "held_out" in metrics else ""
    seconds = (metrics.get("seconds") or {}).get("step")
    took = f"  {seconds:.1f} s" if seconds is not None else ""
    failed = failures(failed_calls(metrics), metrics.get("skipped_samples") or 0)
    line = f"step {metrics['step']}/{total}  {values}{held_out}{took}"
    return f"{line}  failures {visible(failed)}" if failed else line


class Lines:
    """Writes what is new of each run, with the run's name in front where there are several.

    `errors_elsewhere` leaves failures of ranks to whoever shows the whole of them.
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
        """Says what was passed over."""
        for run in runs:
            if run.unreadable():
                self.stream.write(run.unreadable() + "\n")
        self.stream.flush()

    def _lines(self, run: Followed, new: Fresh) -> list[str]:
        begun = [e for e in new.events if e.get("state") not in ("finished", "stopped", "failed")]
        ended = [e for e in new.events if e not in begun]
        if self.errors_elsewhere:
            ended = [event for event in ended if "rank" not in event]
        steps = [step_line(record, run.total) for record in new.steps if record["step"] > 0]
        said = [event_text(event) for event in begun]
        return [*said, *steps, *self._alerts(run), *(event_text(event) for event in ended)]

    def _alerts(self, run: Followed) -> list[str]:
        fresh = [a for a in run.holding() if (run.name, a.kind, a.step) not in self.alerted]
        self.alerted |= {(run.name, a.kind, a.step) for a in fresh}
        return [visible(str(alert)) for alert in fresh]
