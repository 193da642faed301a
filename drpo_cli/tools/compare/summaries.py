"""The report of a grid: each cell over its seeds, with intervals, and against a baseline."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from drpo_cli.errors import UserError
from drpo_cli.evaluate.metrics import CONFIDENCE, ROUNDING, Estimate
from drpo_cli.tools.compare.grid import Axis, Cell
from drpo_cli.tools.compare.jobs import Job, State
from drpo_cli.tools.compare.lag import unit_of
from drpo_cli.tools.compare.results import Result, read_result, require_same_problems

DEFINITIONS = {
    "lag": "A rollout is 0 to lag − 1 optimizer updates old when it is used; mini-batch, samples, "
    "updates and learning rate are the same for every lag. All curves count updates.",
    "final": "Held-out avg@k after the last step, mean over seeds.",
    "best": "Highest held-out avg@k of the run, mean over seeds. Optimistic: it is chosen on the "
    "same problems that it is judged on.",
    "area": "Area under the learning curve (trapezoid rule over {unit}s, the untrained model "
    "included), divided by the {unit}s: the mean held-out score of the run.",
    "{unit}s to target": "First evaluated {unit} with a held-out score of at least the target: the "
    "median over all seeds, where a run that never reaches it counts as later than any other; in "
    "brackets, how many reached it.",
    "collapsed": "Runs whose last held-out score is below half of their best one, the untrained "
    "model's included, or whose last updates were all non-finite, or that failed for that reason.",
    "difference": "Value minus the baseline's, paired by seed and by the values of all other "
    "varied keys, mean over pairs. Intervals are not widened for the number of comparisons; p is.",
    "p": "Of the difference of the final score: paired t-test over seeds, with Holm's correction "
    "for all differences of the table. Where p is below 0.05 the score has an arrow: of tables in "
    "which no method differs, at most about one in twenty has any.",
    "interval": "95 %, of Student's t over seeds; Wilson's interval for the share that collapsed. "
    "Where all seeds give the same value there is none.",
    "one seed": "There is one seed, so the numbers do not show how much they vary from run to run: "
    "no interval is printed. Run more seeds before you rely on a difference.",
}


@dataclass(frozen=True)
class Baseline:
    """What the other cells are compared with: a value of one varied key."""

    key: str
    value: str


@dataclass(frozen=True)
class Reached:
    """Runs that reached the target; `median` is None when at least half of them did not."""

    count: int
    runs: int
    median: float | None


@dataclass(frozen=True)
class Share:
    """`count` of `runs`, with Wilson's 95 % interval; its ends are None for a single run."""

    count: int
    runs: int
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Summary:
    """A cell over its finished runs; numbers that need a finished run are None without one."""

    cell: Cell
    finished: int
    failed: int
    runs: int
    final: Estimate | None
    best: Estimate | None
    area: Estimate | None
    reached: Reached | None
    collapsed: Share | None


@dataclass(frozen=True)
class CellDifference:
    """A cell minus its baseline, over the seeds that finished in both.

    p  of the final difference, corrected for the number of comparisons; None where it has no
       interval
    """

    cell: Cell
    baseline: Cell
    pairs: int
    final: Estimate
    area: Estimate
    p: float | None

    @property
    def sign(self) -> int:
        """1 or −1 where the final score differs from the baseline's, else 0."""
        if self.p is None or self.p >= 1 - CONFIDENCE:
            return 0
        return 1 if self.final.value > 0 else -1


@dataclass(frozen=True)
class Report:
    """All results of a grid."""

    name: str
    command: str
    axes: tuple[Axis, ...]
    seeds: int
    target: float | None
    baseline: Baseline
    results: tuple[Result, ...]
    summaries: tuple[Summary, ...]
    differences: tuple[CellDifference, ...]

    def of_cell(self, cell: Cell) -> list[Result]:
        """A cell's finished runs."""
        return [r for r in self.results if r.cell is cell and r.finished]

    @property
    def unit(self) -> str:
        """What the curves count: "step", or "update" in a grid with a lag."""
        return unit_of([axis.key for axis in self.axes])

    @property
    def failed(self) -> list[Result]:
        """Runs that failed."""
        return [r for r in self.results if r.status == "failed"]

    def definitions(self) -> dict[str, str]:
        """What the columns of this report mean."""
        absent = {"interval", "p"} if self.seeds == 1 else {"one seed"}
        absent |= {"{unit}s to target"} if self.target is None else set()
        absent |= {"lag"} if self.unit == "step" else set()
        kept = {name: text for name, text in DEFINITIONS.items() if name not in absent}
        return {n.format(unit=self.unit): text.format(unit=self.unit) for n, text in kept.items()}

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "command": self.command,
            "axes": {axis.key: list(axis.values) for axis in self.axes},
            "target": self.target,
            "baseline": asdict(self.baseline),
            "cells": [
                {**asdict(row), "cell": row.cell.label, "point": dict(row.cell.point)}
                for row in self.summaries
            ],
            "differences": [
                {**asdict(row), "cell": row.cell.label, "baseline": row.baseline.label}
                for row in self.differences
            ],
            "runs": [result.as_dict(self.target) for result in self.results],
            "definitions": self.definitions(),
        }


def make_report(
    name: str,
    command: str,
    axes: tuple[Axis, ...],
    states: Mapping[Job, State],
    baseline: Baseline,
    target: float | None,
) -> Report:
    """Reads every run. Raises UserError when runs were scored on different problems."""
    require_same_problems(list(states))
    results = tuple(read_result(job, state) for job, state in states.items())
    by_cell: dict[Cell, list[Result]] = {}
    for one in results:
        by_cell.setdefault(one.cell, []).append(one)
    return Report(
        name=name,
        command=command,
        axes=axes,
        seeds=len({one.seed for one in results}),
        target=target,
        baseline=baseline,
        results=results,
        summaries=tuple(summarise(cell, runs, target) for cell, runs in by_cell.items()),
        differences=tuple(compute_differences(by_cell, baseline)),
    )


def choose_baseline(text: str | None, axes: Sequence[Axis]) -> Baseline:
    """Finds the baseline that `--baseline` names: a value of the first axis, or KEY=VALUE of any.

    Raises UserError when there is no such value.
    """
    first = axes[0]
    if text is None:
        return Baseline(first.key, first.values[0])
    for axis in axes:
        for value in axis.values:
            if text.strip() in (f"{axis.key}={value}", value if axis is first else None):
                return Baseline(axis.key, value)
    known = [*first.values, *(f"{axis.key}={value}" for axis in axes[1:] for value in axis.values)]
    raise UserError(
        f"--baseline {text}: is not a value of this grid", f"give one of {', '.join(known)}"
    )


def average_over_seeds(values: Sequence[float], lowest: float = 0.0) -> Estimate:
    """Mean and 95 % interval of one value per seed, each in [lowest, 1].

    The interval is that of Student's t, cut at these bounds. There is none when all are equal.
    """
    mean = math.fsum(values) / len(values)
    if (test := _t_test(values)) is None:
        return Estimate(mean, None, None)
    interval = test.confidence_interval(CONFIDENCE)
    return Estimate(mean, max(lowest, float(interval.low)), min(1.0, float(interval.high)))


def corrected(differences: Sequence[Sequence[float]]) -> list[float | None]:
    """The p-value of each list of paired differences, corrected by Holm (1979) for their number.

    A t-test each; None for a list of one value, or of equal ones.
    """
    tests = [_t_test(values) for values in differences]
    found: list[float | None] = [None if test is None else float(test.pvalue) for test in tests]
    ranked = sorted((p, place) for place, p in enumerate(found) if p is not None)
    largest = 0.0
    for rank, (p, place) in enumerate(ranked):
        largest = max(largest, min(1.0, p * (len(ranked) - rank)))
        found[place] = largest
    return found


def _t_test(values: Sequence[float]) -> Any:
    """Whether the mean is 0, by Student's t; None where nothing varies."""
    if len(values) < 2 or max(values) - min(values) < ROUNDING:
        return None
    from scipy.stats import ttest_1samp

    return ttest_1samp(values, 0.0)


def summarise(cell: Cell, results: Sequence[Result], target: float | None) -> Summary:
    """Summarises a cell's runs."""
    done = [result for result in results if result.finished]
    judged = [result.collapsed for result in results if result.collapsed is not None]
    return Summary(
        cell=cell,
        finished=len(done),
        failed=sum(result.status == "failed" for result in results),
        runs=len(results),
        final=average_over_seeds([r.final for r in done]) if done else None,
        best=average_over_seeds([r.best[1] for r in done]) if done else None,
        area=average_over_seeds([r.area for r in done]) if done else None,
        reached=_count_reached(done, target) if done and target is not None else None,
        collapsed=estimate_share(sum(judged), len(judged)) if judged else None,
    )


def compute_differences(
    results: Mapping[Cell, Sequence[Result]], base: Baseline
) -> list[CellDifference]:
    """Compares each cell with the baseline's cell that has the same other values, by seed."""
    by_point = {cell.point: cell for cell in results}
    compared = []
    for cell in results:
        point = tuple((k, base.value if k == base.key else v) for k, v in cell.point)
        if (other := by_point[point]) is not cell:
            there = {r.seed: r for r in results[other] if r.finished}
            pairs = [(r, there[r.seed]) for r in results[cell] if r.finished and r.seed in there]
            if pairs:
                final = [mine.final - theirs.final for mine, theirs in pairs]
                area = [mine.area - theirs.area for mine, theirs in pairs]
                compared.append((cell, other, final, area))
    return [
        CellDifference(
            cell, other, len(final), average_over_seeds(final, -1), average_over_seeds(area, -1), p
        )
        for (cell, other, final, area), p in zip(
            compared, corrected([final for _, _, final, _ in compared]), strict=True
        )
    ]


def estimate_share(count: int, runs: int) -> Share:
    """Estimates a share of runs, with Wilson's interval."""
    if runs < 2:
        return Share(count, runs, None, None)
    from scipy.stats import binomtest

    interval = binomtest(count, runs).proportion_ci(CONFIDENCE, method="wilson")
    return Share(count, runs, float(interval.low), float(interval.high))


def _count_reached(done: Sequence[Result], target: float) -> Reached:
    steps = [result.reached(target) for result in done]
    median = statistics.median(math.inf if step is None else step for step in steps)
    count = sum(step is not None for step in steps)
    return Reached(count, len(steps), median if math.isfinite(median) else None)
