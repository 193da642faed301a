"""The page's parts on rewards: what each gave, cost and failed at, and signs of reward hacking."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass

from drpo_cli.report.charts import Line, Metrics, Panel, Series, colour, drop_gaps, thin
from drpo_cli.report.charts import series as trace
from drpo_cli.report.conversation import describe_messages
from drpo_cli.report.html import Table, Value
from drpo_cli.report.plain import format_counts, format_number, shorten
from drpo_cli.runs.metrics import QuarantineRecord, failed_calls
from drpo_cli.runs.saved import SavedRun
from drpo_cli.runs.spec import role_of
from drpo_cli.runs.suspicion import (
    MIN_STEPS,
    Pair,
    Trend,
    ends,
    reward_names,
    series,
    suspicious,
)

COLUMNS = (
    "reward", "counts as", "first tenth", "last tenth", "calls", "seconds", "slowest",
    "failed calls", "counted",
)  # fmt: skip
KINDS = {"reward": "k", "counts as": "k"} | dict.fromkeys(COLUMNS[2:7], "n")
TRENDS = (
    "reward", "over", "ρ of the total", "p up", "ρ of the reward", "p", "first tenth", "last tenth",
)  # fmt: skip
TREND_KINDS = dict.fromkeys(TRENDS[:2], "k") | dict.fromkeys(TRENDS[2:], "n")
FAILURES = ("reward", "reason", "detail", "prompt", "completion", "from")
FAILURE_KINDS = dict.fromkeys(FAILURES, "t") | {"reward": "k", "reason": "k", "from": "k"}
LAST_FAILURES = 5


@dataclass(frozen=True)
class RewardsPart:
    """The table of rewards; which samples were skipped; how long a run waited for grading."""

    table: Table
    skipped: Sequence[str]
    waited: str


@dataclass(frozen=True)
class QuarantinePart:
    """How many calls failed, by reward and reason, and the last ones with their texts."""

    text: str
    counts: Table
    last: Table


def describe_rewards(run: SavedRun) -> RewardsPart | None:
    """Describes what each reward gave and cost; None where no step was recorded."""
    steps = run.trained
    if not steps:
        return None
    total: list[Value] = ["total", "", *_ends(series(steps)), *[""] * 5]
    rows = [total, *(_reward_row(name, run) for name in reward_names(steps, run.roles))]
    skipped = sum(record.get("skipped_samples", 0) for record in steps)
    what = "a reward failed on them, and they are not in means, advantages and losses"
    seconds = [record.get("seconds", {}) for record in steps]
    waited = sum(own.get("reward") or 0.0 for own in seconds)
    whole = sum(own.get("step") or 0.0 for own in seconds)
    share = f", {waited / whole:.1%} of the time" if whole else ""
    return RewardsPart(
        table=Table(COLUMNS, rows, KINDS),
        skipped=[f"Samples skipped: {skipped:,}; {what}."] if skipped else [],
        waited=f"Grading that the rollout did not hide took {format_number(waited)} s{share}.",
    )


def rewards_panels(runs: Sequence[SavedRun]) -> list[Panel]:
    """A chart of each reward, of the time spent waiting for grading, and of what failed."""
    names = dict.fromkeys(name for run in runs for name in reward_names(run.trained, run.roles))
    panels = [
        Panel(f"reward-{i}", name, _lines_by_run(runs, name, "rewards", name))
        for i, name in enumerate(names)
    ]
    waited = _lines_by_run(runs, "seconds", "seconds", "reward")
    panels.append(Panel("waited", "seconds of grading that the rollout did not hide", waited))
    panels += [
        Panel(f"failed-{place}", "failed calls" + (f": {run.name}" if runs[1:] else ""), lines)
        for place, run in enumerate(runs)
        if (lines := _failure_lines(thin(run.trained)[0]))
    ]
    return [panel for panel in panels if panel.has_data]


def describe_pair(pair: Pair) -> str:
    """A suspicion in words."""
    total, reward = pair.total, pair.reward
    went = "fell" if pair.role.sign > 0 else "rose"
    return (
        f"Over {pair.window} the total rose from {format_number(total.first)} to "
        f"{format_number(total.last)} (ρ = {_format_rho(total)}) while {pair.name} ({pair.role}) "
        f"{went} from {format_number(reward.first)} to {format_number(reward.last)} "
        f"(ρ = {_format_rho(reward)}, p = {reward.p:.1g})."
    )


def examined_table(pairs: Sequence[Pair]) -> Table:
    """Every reward that was compared with the total."""
    rows: list[list[Value]] = [
        [
            pair.name, pair.window, _format_rho(pair.total), f"{pair.total.p:.1g}",
            _format_rho(pair.reward), f"{pair.reward.p:.1g}", pair.reward.first, pair.reward.last,
        ]
        for pair in pairs
    ]  # fmt: skip
    return Table(TRENDS, rows, TREND_KINDS)


def describe_nothing(pairs: Sequence[Pair]) -> str:
    """What to write where nothing is suspicious; empty where something is."""
    if suspicious(pairs):
        return ""
    if not pairs:
        return f"Nothing was examined: no reward has changing values on {MIN_STEPS} steps or more."
    names = list(dict.fromkeys(pair.name for pair in pairs))
    return f"Nothing suspicious. Compared with the total: {', '.join(names)}."


def describe_quarantine(run: SavedRun) -> QuarantinePart | None:
    """Counts the failed calls and shows the last ones; None where no call failed."""
    counts: Counter[tuple[str, str]] = Counter()
    last: deque[QuarantineRecord] = deque(maxlen=LAST_FAILURES)
    for record in run.quarantine():
        counts[record["reward"], record["reason"]] += 1
        last.append(record)
    if not counts:
        return None
    rows = [(*key, count) for key, count in sorted(counts.items())]
    return QuarantinePart(
        text=f"{counts.total():,} calls failed; all of them are in {run.folder.quarantine}.",
        counts=Table(("reward", "reason", "calls"), rows, {"calls": "n"}),
        last=Table(FAILURES, [_failure_row(record) for record in reversed(last)], FAILURE_KINDS),
    )


def _reward_row(name: str, run: SavedRun) -> list[Value]:
    role, steps = role_of(run.roles, name), run.trained
    used = [own for record in steps if (own := record.get("grading", {}).get(name)) is not None]
    counts: dict[str, float] = {}
    failed: Counter[str] = Counter()
    for one in used:
        for key, count in one.get("counts", {}).items():
            counts[key] = counts.get(key, 0.0) + (count or 0.0)
        failed.update(one.get("failures", {}))
    cost: list[Value] = [
        sum(one.get("calls", 0) for one in used) if used else None,
        sum(one.get("seconds") or 0.0 for one in used) if used else None,
        max((one.get("slowest") or 0.0 for one in used), default=None),
    ]
    title = name if role.type == name else f"{name}\n{role.type}"
    means = _ends(series(steps, name))
    return [title, str(role), *means, *cost, format_counts(failed), format_counts(counts)]


def _ends(points: list[tuple[int, float]]) -> tuple[float, float] | tuple[None, None]:
    return ends(points) if points else (None, None)


def _format_rho(trend: Trend) -> str:
    return format_number(round(trend.rho, 2))


def _lines_by_run(runs: Sequence[SavedRun], label: str, *path: str) -> list[Line]:
    return [
        Line(run.name if runs[1:] else label, points, colour(place))
        for place, run in enumerate(runs)
        if drop_gaps(points := trace(thin(run.trained)[0], *path))
    ]


def _failure_lines(steps: Metrics) -> list[Line]:
    calls = [(record["step"], failed_calls(record)) for record in steps]
    found: dict[str, Series] = {}
    for name in dict.fromkeys(name for _, counts in calls for name, _ in counts):
        points: Series = [
            (step, sum(n for (owner, _), n in counts.items() if owner == name))
            for step, counts in calls
        ]
        found[f"{_sum(points):,} of {name}"] = points
    skipped: Series = [(record["step"], record.get("skipped_samples", 0)) for record in steps]
    if _sum(skipped):
        found[f"{_sum(skipped):,} skipped samples"] = skipped
    return [Line(name, points, colour(i)) for i, (name, points) in enumerate(found.items())]


def _sum(points: Series) -> float:
    return sum(count for _, count in points)


def _failure_row(record: QuarantineRecord) -> list[str]:
    completion = record.get("completion", "")
    texts = completion if isinstance(completion, list) else [completion]
    if "messages" in record:
        texts = list(describe_messages(record["messages"]))
    sample = "all samples" if isinstance(completion, list) else f"sample {record.get('sample')}"
    turn = f"\nturn {record['turn']}" if "turn" in record else ""
    return [
        record["reward"],
        f"{record['reason']}\nafter {record.get('seconds') or 0:.1f} s",
        shorten(record.get("detail", "")),
        shorten(record.get("prompt", "")),
        shorten("\n———\n".join(texts)),
        f"step {record.get('step')}\n{record.get('prompt_id')}\n{sample}{turn}",
    ]
