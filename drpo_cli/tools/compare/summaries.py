"""Over seeds: each cell's numbers with intervals, and its differences from a baseline."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from drpo_cli.errors import UserError
from drpo_cli.evaluate.metrics import CONFIDENCE, ROUNDING, Estimate, estimate
from drpo_cli.tools.compare.grid import Cell
from drpo_cli.tools.compare.request import Axis
from drpo_cli.tools.compare.results import Result

DEFINITIONS = {
    "final": "Held-out avg@k after the last step, mean over seeds.",
    "best": "Highest held-out avg@k of the run, mean over seeds. Optimistic: it is chosen on the "
    "very problems it is judged on.",
    "area": "Area under the learning curve (trapezoid rule over steps, the untrained model "
    "included), divided by the steps: the mean held-out score of the run.",
    "steps to target": "First evaluated step with a held-out score of at least the target: the "
    "median over all seeds, a run that never reaches it counting as later than any; in brackets "
    "how many reached it.",
    "collapsed": "Runs whose last held-out score is below half of their best one, the untrained "
    "model's included, or whose last updates were all non-finite, or that failed for that reason.",
    "difference": "Value minus the baseline's, paired by seed and by the values of all other "
    "varied keys, mean over pairs. Intervals are not widened for the number of comparisons.",
    "interval": "95 % percentile bootstrap over seeds, of the share that collapsed Wilson's. With "
    "few seeds a bootstrap is too narrow: of five, it covers clearly less than 95 %. Where all "
    "seeds give the same value there is none.",
    "one seed": "There is one seed, so nothing says how much the numbers vary from run to run: no "
    "interval is printed. Run more seeds before reading anything into a difference.",
}


@dataclass(frozen=True)
class Baseline:
    """What the other cells are compared with: a value of one varied key."""

    key: str
    value: str


@dataclass(frozen=True)
class Reached:
    """Runs that reached the target; `median` is None when half of them or more never did."""

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
    """A cell over its finished runs. What needs a finished run is None without one."""

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
class Difference:
    """A cell minus its baseline, over the seeds that finished in both."""

    cell: Cell
    baseline: Cell
    pairs: int
    final: Estimate
    area: Estimate


def baseline(text: str | None, axes: Sequence[Axis]) -> Baseline:
    """The baseline that `--baseline` names: a value of the first axis, or KEY=VALUE of any.

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
    raise UserError(f"--baseline {text}: is no value of this grid; known are {', '.join(known)}")


def over_seeds(values: Sequence[float]) -> Estimate:
    """Mean and 95 % interval of one value a seed; no interval where nothing varies."""
    if len(values) < 2 or max(values) - min(values) < ROUNDING:
        return Estimate(math.fsum(values) / len(values), None, None)
    return estimate(values)


def summary(cell: Cell, results: Sequence[Result], target: float | None) -> Summary:
    """A cell's runs as one row."""
    done = [result for result in results if result.finished]
    judged = [result.collapsed for result in results if result.collapsed is not None]
    return Summary(
        cell=cell,
        finished=len(done),
        failed=sum(result.status == "failed" for result in results),
        runs=len(results),
        final=over_seeds([r.final for r in done]) if done else None,
        best=over_seeds([r.best[1] for r in done]) if done else None,
        area=over_seeds([r.area for r in done]) if done else None,
        reached=_reached(done, target) if done and target is not None else None,
        collapsed=share(sum(judged), len(judged)) if judged else None,
    )


def differences(results: Mapping[Cell, Sequence[Result]], base: Baseline) -> list[Difference]:
    """Every cell that has pairs with the baseline cell of its own other values."""
    by_point = {cell.point: cell for cell in results}
    found = []
    for cell in results:
        point = tuple((k, base.value if k == base.key else v) for k, v in cell.point)
        if (other := by_point[point]) is not cell:
            there = {r.seed: r for r in results[other] if r.finished}
            pairs = [(r, there[r.seed]) for r in results[cell] if r.finished and r.seed in there]
            if pairs:
                final = over_seeds([mine.final - theirs.final for mine, theirs in pairs])
                area = over_seeds([mine.area - theirs.area for mine, theirs in pairs])
                found.append(Difference(cell, other, len(pairs), final, area))
    return found


def share(count: int, runs: int) -> Share:
    """How many of the runs, with Wilson's interval."""
    if runs < 2:
        return Share(count, runs, None, None)
    from scipy.stats import binomtest

    interval = binomtest(count, runs).proportion_ci(CONFIDENCE, method="wilson")
    return Share(count, runs, float(interval.low), float(interval.high))


def _reached(done: Sequence[Result], target: float) -> Reached:
    steps = [result.reached(target) for result in done]
    median = statistics.median(math.inf if step is None else step for step in steps)
    count = sum(step is not None for step in steps)
    return Reached(count, len(steps), median if math.isfinite(median) else None)
