"""What training did to the held-out score: of a run against its start, of runs against each other.

Two scores of the same problems are compared problem by problem where each problem's is on record:
that interval is narrower than one from both scores' own intervals.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from drpo_cli.evaluate.metrics import Estimate, estimate
from drpo_cli.report.curves import Band, Line, Panel, colour
from drpo_cli.runs.recorded import Rates, Recorded

MOST_INTERVALS = 24
"""Steps of a chart of differences that are drawn: each takes a bootstrap."""


@dataclass(frozen=True)
class Difference:
    """How much more avg@k one has than the other; without an interval where it is of means only.

    problems   how many the difference is paired over, 0 where single scores are not on record
    """

    estimate: Estimate
    problems: int


def scored(run: Recorded) -> list[Mapping[str, Any]]:
    """The records that have a held-out score."""
    return [record for record in run.metrics if record.get("held_out") is not None]


def verdict(run: Recorded) -> str:
    """One line: how far the run went and what it did to the held-out score."""
    records = scored(run)
    if len(records) < 2:
        return f"{run.last_step} steps; not evaluated after training yet."
    first, last = records[0], records[-1]
    best = max(records, key=lambda record: record["held_out"])
    parts = (("base", first), (f"best (step {best['step']})", best), ("last", last))
    return (
        f"{run.last_step} steps. Held-out: " + ", ".join(f"{name} {rate(r)}" for name, r in parts)
        + f". Last − base: {points(progress(run))}."
    )  # fmt: skip


def progress(run: Recorded) -> Difference:
    """The last score less the first; the run needs two."""
    first, *_, last = scored(run)
    return _difference(run, int(first["step"]), run, int(last["step"]))


def rate(record: Mapping[str, Any]) -> str:
    """A record's held-out score with its interval, where it has one."""
    interval = ""
    if record.get("held_out_low") is not None:
        interval = f" [{record['held_out_low']:.1%}, {record['held_out_high']:.1%}]"
    return f"{record['held_out']:.1%}{interval}"


def points(found: Difference) -> str:
    """A difference in percentage points, and what it is paired over."""
    value, low, high = found.estimate.value, found.estimate.low, found.estimate.high
    text = _signed(value)
    if low is not None and high is not None:
        text += f" [{_signed(low)}, {_signed(high)}]"
    if found.problems:
        return f"{text} points, paired over {found.problems:,} problems"
    return f"{text} points, of means: single problems' scores are not on record"


def common_steps(base: Recorded, run: Recorded) -> list[int]:
    """Steps after training began on which both were evaluated."""
    there = {record["step"] for record in scored(base)}
    return [int(r["step"]) for r in scored(run) if r["step"] in there and r["step"] > 0]


def same_problems(base: Recorded, run: Recorded) -> bool:
    """Whether both were scored on the same problems in the same way, as far as they say."""
    ids = {record["held_out_set"] for one in (base, run) for record in one.metrics[:1]
           if record.get("held_out_set") is not None}  # fmt: skip
    return len(ids) < 2


def last_difference(base: Recorded, run: Recorded) -> Difference:
    """`run` less `base` at the last step on which both were evaluated; there must be one."""
    step = common_steps(base, run)[-1]
    return _difference(base, step, run, step)


def mean_difference(base: Recorded, run: Recorded) -> Difference:
    """`run` less `base`, each problem's mean over all steps on which both were evaluated."""
    steps = common_steps(base, run)
    rates = [(run.rates.get(step, ()), base.rates.get(step, ())) for step in steps]
    if not all(_paired(*pair) for pair in rates):
        scores = [{r["step"]: r["held_out"] for r in scored(one)} for one in (run, base)]
        mean = sum(scores[0][step] - scores[1][step] for step in steps) / len(steps)
        return Difference(Estimate(mean, None, None), 0)
    problems = range(len(rates[0][0]))
    by_problem = [sum(mine[i] - its[i] for mine, its in rates) / len(steps) for i in problems]
    return Difference(estimate(by_problem, lowest=-1.0, highest=1.0), len(by_problem))


def difference_panel(runs: Sequence[Recorded]) -> Panel:
    """Differences from the first run over the steps, with intervals where they are paired."""
    base, *others = runs
    lines, bands = [], []
    for place, run in enumerate(others, 1):
        if not same_problems(base, run):
            continue
        found = [
            (float(s), _difference(base, s, run, s).estimate)
            for s in _spread(common_steps(base, run))
        ]
        label = f"{run.name} − {base.name}"
        values = [(step, e.value) for step, e in found]
        lines.append(Line(label, values, colour(place), marks=True))
        low = [(step, e.low) for step, e in found if e.low is not None]
        high = [(step, e.high) for step, e in found if e.high is not None]
        bands += [Band(f"{label}, 95 % interval", low, high, colour(place))] if low else []
    title = f"held-out avg@k less that of {base.name}"
    return Panel("difference", title, lines, bands, share=True)


def _difference(first: Recorded, at: int, second: Recorded, then: int) -> Difference:
    was, now = first.rates.get(at, ()), second.rates.get(then, ())
    if _paired(was, now):
        by_problem = [new - old for old, new in zip(was, now, strict=True)]
        return Difference(estimate(by_problem, lowest=-1.0, highest=1.0), len(by_problem))
    before = next(r["held_out"] for r in scored(first) if r["step"] == at)
    after = next(r["held_out"] for r in scored(second) if r["step"] == then)
    return Difference(Estimate(after - before, None, None), 0)


def _paired(was: Rates, now: Rates) -> bool:
    return len(was) == len(now) > 0


def _spread(steps: Sequence[int]) -> list[int]:
    if len(steps) <= MOST_INTERVALS:
        return list(steps)
    last = len(steps) - 1
    return [steps[round(i * last / (MOST_INTERVALS - 1))] for i in range(MOST_INTERVALS)]


def _signed(value: float) -> str:
    return f"{100 * value:+.1f}".replace("-", "−")
