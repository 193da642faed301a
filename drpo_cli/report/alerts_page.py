"""The page's part on alerts: what went wrong when, why that is said, and what to do."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from drpo_cli.report.curves import colour
from drpo_cli.report.elements import paragraph, table
from drpo_cli.report.plots import Shade
from drpo_cli.runs.alerts import Alert
from drpo_cli.runs.saved import SavedRun

ALARM = "#d03030"
COLUMNS = ("steps", "alert", "reason", "what to do")


def alerts_section(runs: Sequence[SavedRun]) -> str:
    """A table in the order of steps, a run at a time."""
    several = len(runs) > 1
    rows = [
        [*([run.name] if several else []), _when(alert, run), alert.kind, alert.reason,
         alert.suggestion]
        for run in runs
        for alert in run.alerts
    ]  # fmt: skip
    columns = (*(["run"] if several else []), *COLUMNS)
    kinds = dict.fromkeys(("run", "steps", "alert"), "k") | {"reason": "t", "what to do": "t"}
    found = table(columns, rows, kinds) if rows else paragraph("None.")
    return f"<h2 id=alerts>Alerts</h2>{found}"


def shades(runs: Sequence[SavedRun]) -> list[Shade]:
    """When there was any alert, for the charts: in red, or of several runs in each one's colour."""
    return [
        (first, last, colour(place) if len(runs) > 1 else ALARM)
        for place, run in enumerate(runs)
        for first, last in _merged(_spans(run))
    ]


def _spans(run: SavedRun) -> Iterator[tuple[int, int]]:
    for alert in run.alerts:
        yield alert.step, run.last_step if alert.until is None else alert.until


def _merged(spans: Iterator[tuple[int, int]]) -> list[tuple[int, int]]:
    found: list[tuple[int, int]] = []
    for first, last in sorted(spans):
        if found and first <= found[-1][1] + 1:
            found[-1] = (found[-1][0], max(last, found[-1][1]))
        else:
            found.append((first, last))
    return found


def _when(alert: Alert, run: SavedRun) -> str:
    if alert.until is None:
        return f"{alert.step} to {run.last_step}, still"
    return f"{alert.step} to {alert.until}" if alert.until > alert.step else str(alert.step)
