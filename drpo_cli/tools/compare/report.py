"""The report of a grid: all results with the numbers computed from them, and its JSON.

`compare.json` holds every learning curve, so that the same report can be made from it alone.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from drpo_cli.errors import UserError
from drpo_cli.tools.compare.grid import Axis, Point, label_of
from drpo_cli.tools.compare.jobs import Job, State
from drpo_cli.tools.compare.lag import LAG, unit_of
from drpo_cli.tools.compare.results import DIGITS, Result, read_result, require_same_problems
from drpo_cli.tools.compare.summaries import (
    Baseline,
    CellDifference,
    Summary,
    choose_baseline,
    compute_differences,
    summarise,
)
from drpo_cli.tools.compare.tuning import Trial

DEFINITIONS = {
    "lag": "A rollout is 0 to lag − 1 optimizer updates old when it is used; mini-batch, samples, "
    "updates and learning rate are the same for every lag. All curves count updates.",
    "final": "Held-out avg@k after the last step, mean over {over}.",
    "best": "Highest held-out avg@k of the run, mean over {over}. Optimistic: it is chosen on the "
    "same problems that it is judged on.",
    "area": "Area under the learning curve (trapezoid rule over {unit}s, the untrained model "
    "included), divided by the {unit}s: the mean held-out score of the run.",
    "{unit}s to target": "First evaluated {unit} with a held-out score of at least the target: the "
    "median over all runs, where a run that never reaches it counts as later than any other; in "
    "brackets, how many reached it. For differences, the mean over pairs, where such a run counts "
    "as the last {unit}.",
    "collapsed": "Runs whose last held-out score is below half of their best one, the untrained "
    "model's included, or whose last updates were all non-finite, or that failed for that reason. "
    "For differences, pairs in which only this run collapsed (+) or only the baseline's (−).",
    "difference": "Value minus the baseline's, paired by {pairing} and by the values of all other "
    "varied keys. Intervals are not widened for the number of comparisons; p is.",
    "p": "Of the difference to its left: a paired t-test over {over}, and for collapsed the exact "
    "sign test over pairs. Holm's correction covers all differences of the table, for each of "
    "these outcomes by itself. Where p is below 0.05 the score has an arrow: of tables in which no "
    "method differs, at most about one in twenty has any.",
    "detectable": "The smallest true difference of the final score that as many {over}, with the "
    "standard deviation seen here, show with 80 % power at an uncorrected p below 0.05. A "
    "difference without an arrow may be of this size.",
    "spread": "Standard deviation of the final score in points: between base models, and between "
    "seeds of one base model (method of moments of ANOVA).",
    "masked / pulled back": "Shares of the tokens of a range of μ that the objective gives the "
    "weight 0, and a negative one, over all updates of the finished runs.",
    "chosen": "Of the candidates of each cell, the one with the highest mean final score on the "
    "selection seeds; of equal ones, the first. Its score there is optimistic, since it was chosen "
    "by it. With --halve, the worse half of them was dropped after each seed on each base model. "
    "All other tables are of the chosen ones on the reported seeds.",
    "interval": "95 %, of Student's t over {over}; {share} for the share that collapsed. "
    "Where all values are the same there is none.",
    "base models": "The mean of a base model over its seeds is one value: intervals and p cover "
    "other base models made in the same way. The sign test speaks of these base models only.",
    "one seed": "There is one seed, so the numbers do not show how much they vary from run to run: "
    "no interval is printed. Run more seeds before you rely on a difference.",
}


@dataclass(frozen=True)
class Report:
    """All results of a grid.

    bases   the base models of `--bases`; empty without it
    trials  the candidates of `--tune` on the selection seeds; `results` are of the chosen ones on
            the reported seeds
    """

    name: str
    command: str
    axes: tuple[Axis, ...]
    bases: tuple[str, ...]
    seeds: tuple[int, ...]
    target: float | None
    baseline: Baseline
    results: tuple[Result, ...]
    trials: tuple[Trial, ...]
    summaries: tuple[Summary, ...]
    differences: tuple[CellDifference, ...]

    def at(self, point: Point) -> list[Result]:
        """The finished runs of a cell."""
        return [r for r in self.results if r.point == point and r.finished]

    @property
    def unit(self) -> str:
        """What the curves count: "step", or "update" in a grid with a lag."""
        return unit_of([axis.key for axis in self.axes])

    @property
    def clustered(self) -> bool:
        """Whether the base models are the sample, and not the seeds."""
        return len(self.bases) > 1

    @property
    def sample_size(self) -> int:
        """How many independent values a mean is over."""
        return len(self.bases) if self.clustered else len(self.seeds)

    @property
    def failed(self) -> list[Result]:
        """Runs that failed."""
        return [r for r in self.results if r.status == "failed"]

    def definitions(self) -> dict[str, str]:
        """What the columns of this report mean."""
        absent = {"one seed"} if self.sample_size > 1 else {"interval", "p", "detectable"}
        absent |= set() if self.clustered else {"spread", "base models"}
        absent |= {"{unit}s to target"} if self.target is None else set()
        absent |= set() if LAG in [axis.key for axis in self.axes] else {"lag"}
        absent |= set() if self.trials else {"chosen"}
        counted = any(one.by_mu for one in self.results)
        absent |= set() if counted else {"masked / pulled back"}
        words = {
            "unit": self.unit,
            "over": "base models" if self.clustered else "seeds",
            "pairing": "base model and seed" if self.bases else "seed",
            "share": "also" if self.clustered else "Wilson's interval",
        }
        kept = {name: text for name, text in DEFINITIONS.items() if name not in absent}
        return {name.format(**words): text.format(**words) for name, text in kept.items()}

    def to_json(self) -> str:
        """JSON text with one line per cell, difference and run; `read_report` reads it."""
        lists: dict[str, Iterable[Any]] = {
            "cells": (_labelled(row) for row in self.summaries),
            "differences": (_labelled(row) for row in self.differences),
            "trials": ({**asdict(one), "point": dict(one.point)} for one in self.trials),
            "runs": (result.as_dict(self.target) for result in self.results),
        }
        parts: dict[str, Any] = {
            "name": self.name,
            "command": self.command,
            "axes": {axis.key: list(axis.values) for axis in self.axes},
            "bases": list(self.bases),
            "seeds": list(self.seeds),
            "target": self.target,
            "baseline": asdict(self.baseline),
            "definitions": self.definitions(),
        }
        lines = [f"{_dump(key)}: {_dump(value)}" for key, value in parts.items()]
        for key, rows in lists.items():
            body = ",\n".join(f"  {_dump(_round(row))}" for row in rows)
            lines.append(f"{_dump(key)}: [\n{body}\n ]" if body else f"{_dump(key)}: []")
        return "{\n " + ",\n ".join(lines) + "\n}\n"


def make_report(
    name: str,
    command: str,
    axes: tuple[Axis, ...],
    states: Mapping[Job, State],
    baseline: Baseline,
    target: float | None,
    bases: Sequence[str] = (),
    trials: Sequence[Trial] = (),
) -> Report:
    """Reads every run. Raises UserError when runs were scored on different problems."""
    require_same_problems(list(states))
    results = tuple(read_result(job, state) for job, state in states.items())
    return _build(name, command, axes, tuple(bases), results, tuple(trials), baseline, target)


def read_report(path: Path, baseline: str | None = None, target: float | None = None) -> Report:
    """Makes the report again from its `compare.json`, without the runs.

    A baseline or a target given here replaces the recorded one. Raises UserError for any other
    file.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        axes = tuple(Axis(key, tuple(values)) for key, values in found["axes"].items())
        results = tuple(Result.from_dict(run) for run in found["runs"])
        trials = tuple(
            Trial(**{**one, "point": tuple(one["point"].items())}) for one in found["trials"]
        )
        recorded = Baseline(**found["baseline"])
        texts = (str(found["name"]), str(found["command"]))
        bases, own_target = tuple(found["bases"]), found["target"]
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path}: is not a compare.json that this version of drpo can read",
            "give the command that made the grid again, which writes a new one",
        ) from error
    chosen = recorded if baseline is None else choose_baseline(baseline, axes)
    wanted = own_target if target is None else target
    return _build(*texts, axes, bases, results, trials, chosen, wanted)


def _build(
    name: str,
    command: str,
    axes: tuple[Axis, ...],
    bases: tuple[str, ...],
    results: tuple[Result, ...],
    trials: tuple[Trial, ...],
    baseline: Baseline,
    target: float | None,
) -> Report:
    by_point: dict[Point, list[Result]] = {}
    for one in results:
        by_point.setdefault(one.point, []).append(one)
    return Report(
        name=name,
        command=command,
        axes=axes,
        bases=bases,
        seeds=tuple(dict.fromkeys(one.seed for one in results)),
        target=target,
        baseline=baseline,
        results=results,
        trials=trials,
        summaries=tuple(summarise(point, runs, target) for point, runs in by_point.items()),
        differences=tuple(compute_differences(by_point, baseline, target)),
    )


def _labelled(row: Summary | CellDifference) -> dict[str, Any]:
    values = {"cell": label_of(row.point), **asdict(row), "point": dict(row.point)}
    if isinstance(row, CellDifference):
        values["baseline"] = label_of(row.baseline)
    return values


def _round(value: Any) -> Any:
    """Plain JSON values with floats of a few digits: more say nothing, and fill the file."""
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}")
    if isinstance(value, dict):
        return {key: _round(one) for key, one in value.items()}
    return [_round(one) for one in value] if isinstance(value, list | tuple) else value


def _dump(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)
