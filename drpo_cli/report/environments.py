"""The page's part on environments: ranked by what failed in them, and by the time they took."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from drpo_cli.report.charts import Line, Panel, colour, drop_gaps, thin
from drpo_cli.report.charts import series as trace
from drpo_cli.report.html import Table, Value
from drpo_cli.report.plain import format_counts, join_lines
from drpo_cli.runs.metrics import EnvironmentUsage
from drpo_cli.runs.saved import SavedRun

FAILURES = (
    "environment", "episodes", "failed", "failures", "ended by a limit", "ends",
    "calls not parsed", "calls that failed",
)  # fmt: skip
FAILURE_KINDS = {"environment": "k", "failures": "k", "ends": "k"} | dict.fromkeys(
    ("episodes", "failed", "ended by a limit", "calls not parsed", "calls that failed"), "n"
)
TIME = (
    "environment", "seconds", "answers", "mean answer, s", "slowest answer, s", "turns per episode",
    "tool calls per episode", "sampled tokens", "observed tokens", "in several rows",
)  # fmt: skip
TIME_KINDS = {"environment": "k"} | dict.fromkeys(TIME[1:], "n")
CHARTS = (
    ("turns", "turns per episode", False),
    ("unparsed_share", "share of calls that cannot be parsed", True),
    ("answer_s", "seconds per answer", False),
    ("observed_tokens", "observed tokens per episode", False),
)
FINISHED, FAILED = "done", "failed"


@dataclass(frozen=True)
class EnvironmentsPart:
    """Two tables of environments, worst first, and how long nobody sampled."""

    failures: Table
    time: Table
    idle: str


@dataclass(frozen=True)
class Usage:
    """What happened in one environment over all steps, by its records of each."""

    name: str
    steps: Sequence[EnvironmentUsage]

    @property
    def episodes(self) -> int:
        """All of them."""
        return sum(one.get("episodes", 0) for one in self.steps)

    @property
    def failures(self) -> Counter[str]:
        """Failed episodes by kind."""
        return sum((Counter(one.get("failures", {})) for one in self.steps), Counter())

    @property
    def ends(self) -> dict[str, float]:
        """Shares of all episodes by why they ended."""
        found: Counter[str] = Counter()
        for one in self.steps:
            for end, share in one.get("ends", {}).items():
                found[end] += round((share or 0.0) * one.get("episodes", 0))
        return {end: count / self.episodes for end, count in found.items()} if found else {}

    @property
    def tool_errors(self) -> Mapping[str, float]:
        """Failed calls by the name of the tool."""
        found: Counter[str] = Counter()
        for one in self.steps:
            for key, count in one.get("counts", {}).items():
                kind, _, tool = key.partition("/")
                if tool and kind == "tool_errors":
                    found[tool] += int(count or 0)
        return found

    @property
    def seconds(self) -> float:
        """Of all answers."""
        return sum(one.get("seconds") or 0.0 for one in self.steps)

    @property
    def slowest(self) -> float | None:
        """Seconds of the slowest answer."""
        known = [value for one in self.steps if (value := one.get("slowest_s")) is not None]
        return max(known, default=None)

    def mean(self, of: Callable[[EnvironmentUsage], float | None]) -> float | None:
        """A mean per episode, over all steps that have it."""
        pairs = [
            (value, one.get("episodes", 0)) for one in self.steps if (value := of(one)) is not None
        ]
        count = sum(weight for _, weight in pairs)
        return sum(value * weight for value, weight in pairs) / count if count else None


def describe_environments(run: SavedRun) -> EnvironmentsPart | None:
    """Ranks the environments of a run; None where it has none."""
    found = _usages(run)
    if not found:
        return None
    by_failures = sorted(found, key=lambda one: (-_trouble(one), one.name))
    by_time = sorted(found, key=lambda one: (-one.seconds, one.name))
    idle = [v for record in run.trained if (v := record.get("idle_share")) is not None]
    said = "No step has recorded how much of the rollout nobody sampled."
    if idle:
        said = (
            f"In {sum(idle) / len(idle):.1%} of the rollouts' time nobody sampled, because every "
            f"episode waited for its environment; at most {max(idle):.1%} in a step."
        )
    return EnvironmentsPart(
        Table(FAILURES, [_failure_row(one) for one in by_failures], FAILURE_KINDS),
        Table(TIME, [_time_row(one) for one in by_time], TIME_KINDS),
        said,
    )


def environments_panels(runs: Sequence[SavedRun]) -> list[Panel]:
    """Charts of each environment, and of the time in which nobody sampled."""
    names = dict.fromkeys(one.name for run in runs for one in _usages(run))
    panels: list[Panel] = []
    for i, name in enumerate(names):
        panels += [
            Panel(f"environment-{i}-{key}", f"{name}: {title}", lines, share=share)
            for key, title, share in CHARTS
            if (lines := _lines(runs, title, key, name))
        ]
        if not runs[1:]:
            lines = _end_lines(runs[0], name)
            panels.append(Panel(f"environment-{i}-ends", f"{name}: ends", lines, share=True))
    idle = Panel("idle", "share of the rollout in which nobody sampled", _idle(runs), share=True)
    return [panel for panel in (*panels, idle) if panel.has_data]


def _usages(run: SavedRun) -> list[Usage]:
    found: dict[str, list[EnvironmentUsage]] = {}
    for record in run.trained:
        for name, own in record.get("environments", {}).items():
            found.setdefault(name, []).append(own)
    return [Usage(name, steps) for name, steps in found.items()]


def _trouble(one: Usage) -> float:
    return one.failures.total() / one.episodes if one.episodes else 0.0


def _failure_row(one: Usage) -> list[Value]:
    ends = one.ends
    limits = sum(share for end, share in ends.items() if end not in (FINISHED, FAILED))
    return [
        one.name,
        one.episodes,
        _percent(_trouble(one)),
        format_counts(one.failures),
        _percent(limits),
        "\n".join(f"{_percent(share)} {end}" for end, share in _ranked(ends)),
        _percent(one.mean(lambda own: own.get("unparsed_share"))),
        join_lines(
            [
                _percent(one.mean(lambda own: own.get("tool_errors"))),
                format_counts(one.tool_errors),
            ]
        ),
    ]


def _time_row(one: Usage) -> list[Value]:
    answers = sum(own.get("answers", 0) for own in one.steps)
    return [
        one.name,
        one.seconds,
        answers,
        one.seconds / answers if answers else None,
        one.slowest,
        one.mean(lambda own: own.get("turns")),
        one.mean(lambda own: own.get("tool_calls")),
        one.mean(lambda own: own.get("sampled_tokens")),
        one.mean(lambda own: own.get("observed_tokens")),
        _percent(one.mean(lambda own: own.get("split_share"))),
    ]


def _ranked(shares: dict[str, float]) -> list[tuple[str, float]]:
    return sorted(shares.items(), key=lambda pair: (-pair[1], pair[0]))


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{share:.1%}"


def _lines(runs: Sequence[SavedRun], label: str, key: str, name: str) -> list[Line]:
    return [
        Line(run.name if runs[1:] else label, points, colour(place))
        for place, run in enumerate(runs)
        if drop_gaps(points := trace(thin(run.trained)[0], "environments", name, key))
    ]


def _end_lines(run: SavedRun, name: str) -> list[Line]:
    steps = [
        (record["step"], own.get("ends", {}))
        for record in thin(run.trained)[0]
        if (own := record.get("environments", {}).get(name)) is not None
    ]
    return [
        Line(end, [(step, ends.get(end) or 0.0) for step, ends in steps], colour(i))
        for i, end in enumerate(dict.fromkeys(end for _, ends in steps for end in ends))
    ]


def _idle(runs: Sequence[SavedRun]) -> list[Line]:
    return [
        Line(run.name if runs[1:] else "idle", points, colour(place))
        for place, run in enumerate(runs)
        if drop_gaps(points := trace(thin(run.trained)[0], "idle_share"))
    ]
