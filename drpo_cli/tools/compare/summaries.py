"""Each cell of a grid over its runs, and against the baseline's cell."""

from __future__ import annotations

import math
import statistics as basic
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from drpo_cli.errors import UserError
from drpo_cli.evaluate.metrics import CONFIDENCE, Estimate
from drpo_cli.tools.compare import statistics
from drpo_cli.tools.compare.grid import Axis, Point
from drpo_cli.tools.compare.results import Result
from drpo_cli.tools.compare.statistics import Share, Spread

T = TypeVar("T")
Pair = tuple[Result, Result]


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
class Summary:
    """A cell over its runs.

    final, best, area, spread  over finished runs; None without one
    reached, collapsed         over runs with an outcome: finished, or failed for a numeric reason
    spread                     of the final score; None for one base model
    """

    point: Point
    finished: int
    failed: int
    runs: int
    final: Estimate | None
    best: Estimate | None
    area: Estimate | None
    spread: Spread | None
    reached: Reached | None
    collapsed: Share | None


@dataclass(frozen=True)
class CellDifference:
    """A cell minus its baseline, over pairs of runs with the same base model and seed.

    pairs                           finished in both
    final, area, detectable, spread over these; None without one
    time                            to the target; a run that never reaches it counts as its length
    more, fewer                     pairs in which only this cell's run collapsed, or only the
                                    baseline's
    p, time_p, collapsed_p          each corrected for the number of differences in the table; None
                                    where nothing varies
    """

    point: Point
    baseline: Point
    pairs: int
    final: Estimate | None
    p: float | None
    detectable: float | None
    spread: Spread | None
    area: Estimate | None
    time: Estimate | None
    time_p: float | None
    more: int
    fewer: int
    collapsed_p: float | None

    @property
    def sign(self) -> int:
        """1 or −1 where the final score differs from the baseline's, else 0."""
        return _sign(self.final, self.p)

    @property
    def time_sign(self) -> int:
        """1 or −1 where the time to the target differs, else 0."""
        return _sign(self.time, self.time_p)

    @property
    def collapsed_sign(self) -> int:
        """1 or −1 where another share of runs collapses, else 0."""
        difference = Estimate(self.more - self.fewer, None, None)
        return _sign(difference, self.collapsed_p)


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


def summarise(point: Point, results: Sequence[Result], target: float | None) -> Summary:
    """Summarises a cell's runs."""
    done = [result for result in results if result.finished]
    judged = [result for result in results if result.collapsed is not None]
    final = group(done, lambda r: r.final)
    return Summary(
        point=point,
        finished=len(done),
        failed=sum(result.status == "failed" for result in results),
        runs=len(results),
        final=statistics.average(final) if done else None,
        best=statistics.average(group(done, lambda r: r.best[1])) if done else None,
        area=statistics.average(group(done, lambda r: r.area)) if done else None,
        spread=statistics.components(final),
        reached=_count_reached(judged, target) if judged and target is not None else None,
        collapsed=statistics.estimate_share(group(judged, lambda r: bool(r.collapsed)))
        if judged
        else None,
    )


def compute_differences(
    results: Mapping[Point, Sequence[Result]], base: Baseline, target: float | None
) -> list[CellDifference]:
    """Compares each cell with the baseline's cell that has the same other values, run by run."""
    found = []
    for point, mine in results.items():
        other = tuple((k, base.value if k == base.key else v) for k, v in point)
        if other != point and (pairs := _pair(mine, results[other])):
            found.append((point, other, pairs))
    raw = [_Tests(pairs, target) for _, _, pairs in found]
    final, time, collapsed = (
        statistics.correct(values)
        for values in ([t.final for t in raw], [t.time for t in raw], [t.collapsed for t in raw])
    )
    return [
        _difference(*cells, target, ps)
        for cells, ps in zip(found, zip(final, time, collapsed, strict=True), strict=True)
    ]


def group(results: Sequence[Result], value: Callable[[Result], T]) -> list[list[T]]:
    """A value of each run, in one list per base model."""
    found: dict[str, list[T]] = {}
    for result in results:
        found.setdefault(result.base, []).append(value(result))
    return list(found.values())


class _Tests:
    """The p-values of one difference, before they are corrected."""

    def __init__(self, pairs: Sequence[Pair], target: float | None) -> None:
        finished = _finished(pairs)
        self.final = statistics.compute_p(_final(finished)) if finished else None
        self.time = None if target is None else statistics.compute_p(_time(pairs, target))
        discordant = _count_discordant(pairs)
        self.collapsed = statistics.compute_sign_p(*discordant) if len(pairs) > 1 else None


def _difference(
    point: Point,
    other: Point,
    pairs: Sequence[Pair],
    target: float | None,
    ps: tuple[float | None, float | None, float | None],
) -> CellDifference:
    finished = _finished(pairs)
    final = _final(finished)
    area = _by_base(finished, lambda mine, theirs: mine.area - theirs.area)
    more, fewer = _count_discordant(pairs)
    return CellDifference(
        point=point,
        baseline=other,
        pairs=len(finished),
        final=statistics.average(final, -1) if finished else None,
        p=ps[0],
        detectable=statistics.detectable(final) if finished else None,
        spread=statistics.components(final),
        area=statistics.average(area, -1) if finished else None,
        time=None
        if target is None
        else statistics.average(_time(pairs, target), -math.inf, math.inf),
        time_p=ps[1],
        more=more,
        fewer=fewer,
        collapsed_p=ps[2],
    )


def _pair(mine: Sequence[Result], theirs: Sequence[Result]) -> list[Pair]:
    """Runs with the same base model and seed, where both have an outcome."""
    there = {(r.base, r.seed): r for r in theirs if r.collapsed is not None}
    ours = [r for r in mine if r.collapsed is not None]
    return [(r, there[r.base, r.seed]) for r in ours if (r.base, r.seed) in there]


def _finished(pairs: Sequence[Pair]) -> list[Pair]:
    return [pair for pair in pairs if pair[0].finished and pair[1].finished]


def _final(pairs: Sequence[Pair]) -> list[list[float]]:
    return _by_base(pairs, lambda mine, theirs: mine.final - theirs.final)


def _time(pairs: Sequence[Pair], target: float) -> list[list[float]]:
    return _by_base(pairs, lambda mine, theirs: mine.time_to(target) - theirs.time_to(target))


def _by_base(
    pairs: Sequence[Pair], subtract: Callable[[Result, Result], float]
) -> list[list[float]]:
    found: dict[str, list[float]] = {}
    for mine, theirs in pairs:
        found.setdefault(mine.base, []).append(subtract(mine, theirs))
    return list(found.values())


def _count_discordant(pairs: Sequence[Pair]) -> tuple[int, int]:
    more = sum(bool(mine.collapsed) and not theirs.collapsed for mine, theirs in pairs)
    fewer = sum(bool(theirs.collapsed) and not mine.collapsed for mine, theirs in pairs)
    return more, fewer


def _count_reached(judged: Sequence[Result], target: float) -> Reached:
    times = [result.reached(target) for result in judged]
    median = basic.median(math.inf if time is None else time for time in times)
    count = sum(time is not None for time in times)
    return Reached(count, len(times), median if math.isfinite(median) else None)


def _sign(difference: Estimate | None, p: float | None) -> int:
    if difference is None or p is None or p >= 1 - CONFIDENCE:
        return 0
    return 1 if difference.value > 0 else -1
