"""The page's part on rewards: what each gave, what it cost, how it failed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from drpo_cli.report.curves import Line, Metrics, Panel, colour, known, thinned
from drpo_cli.report.curves import series as curve
from drpo_cli.report.elements import number, paragraph, table, tally
from drpo_cli.runs.metrics import failed_calls
from drpo_cli.runs.saved import SavedRun
from drpo_cli.runs.spec import Roles, role_of
from drpo_cli.runs.suspicion import Series, ends, reward_names, series

COLUMNS = (
    "reward", "counts as", "first tenth", "last tenth", "calls", "seconds", "slowest",
    "failed calls", "counted",
)  # fmt: skip
NUMBERS = ("first tenth", "last tenth", "calls", "seconds", "slowest")
KINDS = dict.fromkeys(NUMBERS, "n") | dict.fromkeys(("reward", "counts as"), "k")
LEGEND = (
    "First and last tenth: mean over the first and the last tenth of the steps, before the weight. "
    "Calls, seconds in them and the slowest one: all ranks of the run's steps; none are known for "
    "a run of an older version. Counted: what the reward itself counts, such as tokens or cost."
)


def rewards_text(run: SavedRun) -> str:
    """A table by reward, with what was skipped and how long grading was waited for."""
    steps = run.trained
    if not steps:
        return paragraph("No step was recorded.")
    names = reward_names(steps, run.roles)
    rows = [_total(steps), *(_row(name, steps, run.roles) for name in names)]
    return "\n".join(
        [
            table(COLUMNS, rows, KINDS),
            *(paragraph(text, "bad") for text in [_skipped(steps)] if text),
            paragraph(_waited(steps)),
            paragraph(LEGEND, "note"),
        ]
    )


def rewards_panels(runs: Sequence[SavedRun]) -> list[Panel]:
    """A chart of each reward, of the time that grading was waited for, and of what failed."""
    names = dict.fromkeys(name for run in runs for name in reward_names(run.trained, run.roles))
    panels = [
        Panel(f"reward-{i}", name, _by_run(runs, name, "rewards", name))
        for i, name in enumerate(names)
    ]
    waited = _by_run(runs, "seconds", "seconds", "reward")
    panels.append(Panel("waited", "seconds of grading not hidden behind the rollout", waited))
    panels += [
        Panel(f"failed-{place}", "failed calls" + (f": {run.name}" if runs[1:] else ""), lines)
        for place, run in enumerate(runs)
        if (lines := _failed(thinned(run.trained)[0]))
    ]
    return [panel for panel in panels if panel.drawn]


def _total(steps: Metrics) -> list[str]:
    return ["total", "", *_ends(series(steps)), *[""] * 5]


def _row(name: str, steps: Metrics, roles: Roles) -> list[str]:
    role = role_of(roles, name)
    used = [record["grading"][name] for record in steps if name in (record.get("grading") or {})]
    counts: Counter[str] = Counter()
    failed: Counter[str] = Counter()
    for one in used:
        counts.update(one.get("counts") or {})
        failed.update(one.get("failures") or {})
    cost = [
        f"{sum(one['calls'] for one in used):,}",
        number(sum(one["seconds"] for one in used)),
        number(max(one["slowest"] for one in used)),
    ] if used else ["–"] * 3  # fmt: skip
    title = name if role.type == name else f"{name}\n{role.type}"
    return [title, str(role), *_ends(series(steps, name)), *cost, tally(failed), tally(counts)]


def _ends(points: Series) -> tuple[str, str]:
    if not points:
        return "–", "–"
    first, last = ends(points)
    return number(first), number(last)


def _skipped(steps: Metrics) -> str:
    skipped = sum(record.get("skipped_samples") or 0 for record in steps)
    what = "a reward failed on them, and they took no part in means, advantages and losses"
    return f"Samples skipped: {skipped:,}; {what}." if skipped else ""


def _waited(steps: Metrics) -> str:
    seconds = [record.get("seconds") or {} for record in steps]
    waited = sum(own.get("reward", 0.0) for own in seconds)
    whole = sum(own.get("step", 0.0) for own in seconds)
    share = f", {waited / whole:.1%} of the time" if whole else ""
    return f"Grading that was not hidden behind the rollout took {number(waited)} s{share}."


def _by_run(runs: Sequence[SavedRun], label: str, *path: str) -> list[Line]:
    return [
        Line(run.name if runs[1:] else label, points, colour(place))
        for place, run in enumerate(runs)
        if known(points := curve(thinned(run.trained)[0], *path))
    ]


def _failed(steps: Metrics) -> list[Line]:
    calls = [(record["step"], failed_calls(record)) for record in steps]
    found: dict[str, Series] = {}
    for name in dict.fromkeys(name for _, counts in calls for name, _ in counts):
        points: Series = [
            (step, sum(n for (owner, _), n in counts.items() if owner == name))
            for step, counts in calls
        ]
        found[f"{_sum(points):,} of {name}"] = points
    skipped: Series = [(record["step"], record.get("skipped_samples") or 0) for record in steps]
    if _sum(skipped):
        found[f"{_sum(skipped):,} skipped samples"] = skipped
    return [Line(name, points, colour(i)) for i, (name, points) in enumerate(found.items())]


def _sum(points: Series) -> float:
    return sum(count for _, count in points)
