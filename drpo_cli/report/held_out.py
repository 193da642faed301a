"""What training did to the held-out score: of a run since its start, and of runs compared.

Two scores of the same problems are compared problem by problem where the score of each problem is
on record: that interval is narrower than one from the two scores' own intervals.
"""

from __future__ import annotations

from collections.abc import Sequence

from drpo_cli.evaluate.metrics import Estimate
from drpo_cli.evaluate.results import Difference, pair_differences
from drpo_cli.report.charts import Band, Line, Panel, colour
from drpo_cli.runs.saved import HeldOutScore, SavedRun

MOST_INTERVALS = 24
"""Most steps in a chart of differences."""


def describe_run(run: SavedRun) -> str:
    """One line: the steps of the run, and its held-out scores."""
    scores = run.held_out
    if len(scores) < 2:
        return f"{run.last_step} steps; not evaluated after training yet."
    best = max(scores, key=lambda each: each.score)
    parts = (("base", scores[0]), (f"best (step {best.step})", best), ("last", scores[-1]))
    listed = ", ".join(f"{name} {format_score(each)}" for name, each in parts)
    gain = format_difference(compare_ends(run))
    return f"{run.last_step} steps. Held-out: {listed}. Last − base: {gain}."


def format_score(score: HeldOutScore) -> str:
    """A held-out score with its interval, where it has one."""
    if score.low is None or score.high is None:
        return f"{score.score:.1%}"
    return f"{score.score:.1%} [{score.low:.1%}, {score.high:.1%}]"


def format_difference(found: Difference) -> str:
    """A difference in percentage points, and the number of problems it is paired over."""
    value, low, high = found.estimate.value, found.estimate.low, found.estimate.high
    text = _signed(value)
    if low is not None and high is not None:
        text += f" [{_signed(low)}, {_signed(high)}]"
    if found.pairs:
        return f"{text} points, paired over {found.pairs:,} problems"
    return f"{text} points, of means: the scores of single problems are not on record"


def common_steps(base: SavedRun, run: SavedRun) -> list[int]:
    """Steps after training began on which both runs were evaluated."""
    evaluated = {each.step for each in base.held_out}
    return [each.step for each in run.held_out if each.step in evaluated and each.step > 0]


def same_problems(base: SavedRun, run: SavedRun) -> bool:
    """Whether both runs were scored on the same problems in the same way, where they record it."""
    return None in (base.held_out_set, run.held_out_set) or base.held_out_set == run.held_out_set


def compare_ends(run: SavedRun) -> Difference:
    """The last score minus the first; the run needs two."""
    return _compare(run, run.held_out[0], run, run.held_out[-1])


def compare_last(base: SavedRun, run: SavedRun) -> Difference:
    """`run` minus `base` at the last step on which both were evaluated; there must be one."""
    step = common_steps(base, run)[-1]
    return _compare_at(step, base, run)


def compare_means(base: SavedRun, run: SavedRun) -> Difference:
    """`run` minus `base`, as means over all steps on which both were evaluated."""
    steps = common_steps(base, run)
    before, after = (_at_steps(each, steps) for each in (base, run))
    if all(_paired(was, now) for was, now in zip(before, after, strict=True)):
        means = [_mean_rates(scores) for scores in (before, after)]
        return pair_differences(base.name, means[0], run.name, means[1])
    gains = [now.score - was.score for was, now in zip(before, after, strict=True)]
    mean = sum(gains) / len(steps)
    return Difference(base.name, run.name, Estimate(mean, None, None), 0)


def difference_panel(runs: Sequence[SavedRun]) -> Panel:
    """A chart of the differences from the first run, with intervals where they are paired."""
    base, *others = runs
    lines, bands = [], []
    for place, run in enumerate(others, 1):
        if not same_problems(base, run):
            continue
        steps = _thin(common_steps(base, run))
        found = [(float(step), _compare_at(step, base, run).estimate) for step in steps]
        label = f"{run.name} − {base.name}"
        values = [(step, e.value) for step, e in found]
        lines.append(Line(label, values, colour(place), marks=True))
        low = [(step, e.low) for step, e in found if e.low is not None]
        high = [(step, e.high) for step, e in found if e.high is not None]
        bands += [Band(f"{label}, 95 % interval", low, high, colour(place))] if low else []
    title = f"held-out avg@k minus that of {base.name}"
    return Panel("difference", title, lines, bands, share=True)


def _compare_at(step: int, base: SavedRun, run: SavedRun) -> Difference:
    (was,), (now,) = _at_steps(base, [step]), _at_steps(run, [step])
    return _compare(base, was, run, now)


def _compare(base: SavedRun, was: HeldOutScore, run: SavedRun, now: HeldOutScore) -> Difference:
    if _paired(was, now):
        return pair_differences(base.name, was.rates, run.name, now.rates)
    return Difference(base.name, run.name, Estimate(now.score - was.score, None, None), 0)


def _paired(was: HeldOutScore, now: HeldOutScore) -> bool:
    return len(was.rates) == len(now.rates) > 0


def _at_steps(run: SavedRun, steps: Sequence[int]) -> list[HeldOutScore]:
    by_step = {each.step: each for each in run.held_out}
    return [by_step[step] for step in steps]


def _mean_rates(scores: Sequence[HeldOutScore]) -> list[float]:
    return [sum(rates) / len(scores) for rates in zip(*(s.rates for s in scores), strict=True)]


def _thin(steps: Sequence[int]) -> list[int]:
    if len(steps) <= MOST_INTERVALS:
        return list(steps)
    last = len(steps) - 1
    return [steps[round(i * last / (MOST_INTERVALS - 1))] for i in range(MOST_INTERVALS)]


def _signed(value: float) -> str:
    return f"{100 * value:+.1f}".replace("-", "−")
