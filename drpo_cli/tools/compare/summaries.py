"""The report of a grid: each cell over its seeds, with intervals, and against a baseline."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from drpo_cli.errors import UserError
from drpo_cli.evaluate.metrics import CONFIDENCE, ROUNDING, Estimate, estimate
from drpo_cli.tools.compare.grid import Axis, Cell
from drpo_cli.tools.compare.jobs import Job, State
from drpo_cli.tools.compare.results import Result, read_result, require_same_problems

DEFINITIONS = {
    "final": "Held-out avg@k after the last step, mean over seeds.",
    "best": "Highest held-out avg@k of the run, mean over seeds. Optimistic: it is chosen on the "
    "same problems that it is judged on.",
    "area": "Area under the learning curve (trapezoid rule over steps, the untrained model "
    "included), divided by the steps: the mean held-out score of the run.",
    "steps to target": "First evaluated step with a held-out score of at least the target: the "
    "median over all seeds, where a run that never reaches it counts as later than any other; in "
    "brackets, how many reached it.",
    "collapsed": "Runs whose last held-out score is below half of their best one, the untrained "
    "model's included, or whose last updates were all non-finite, or that failed for that reason.",
    "difference": "Value minus the baseline's, paired by seed and by the values of all other "
    "varied keys, mean over pairs. Intervals are not widened for the number of comparisons.",
    "interval": "95 % percentile bootstrap over seeds; Wilson's interval for the share that "
    "collapsed. With few seeds a bootstrap is too narrow: with five, it covers clearly less than "
    "95 %. Where all seeds give the same value there is none.",
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
    """A cell minus its baseline, over the seeds that finished in both."""

    cell: Cell
    baseline: Cell
    pairs: int
    final: Estimate
    area: Estimate


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
    def failed(self) -> list[Result]:
        """Runs that failed."""
        return [r for r in self.results if r.status == "failed"]

    def definitions(self) -> dict[str, str]:
        """What the columns of this report mean."""
        absent = {"interval"} if self.seeds == 1 else {"one seed"}
        absent |= {"steps to target"} if self.target is None else set()
        return {name: text for name, text in DEFINITIONS.items() if name not in absent}

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


def average_over_seeds(values: Sequence[float]) -> Estimate:
    """Mean and 95 % interval of one value per seed; without an interval when all are equal."""
    if len(values) < 2 or max(values) - min(values) < ROUNDING:
        return Estimate(math.fsum(values) / len(values), None, None)
    return estimate(values)


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
    found = []
    for cell in results:
        point = tuple((k, base.value if k == base.key else v) for k, v in cell.point)
        if (other := by_point[point]) is not cell:
            there = {r.seed: r for r in results[other] if r.finished}
            pairs = [(r, there[r.seed]) for r in results[cell] if r.finished and r.seed in there]
            if pairs:
                final = average_over_seeds([mine.final - theirs.final for mine, theirs in pairs])
                area = average_over_seeds([mine.area - theirs.area for mine, theirs in pairs])
                found.append(CellDifference(cell, other, len(pairs), final, area))
    return found


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
