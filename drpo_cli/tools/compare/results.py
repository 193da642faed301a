"""What one run of a grid achieved: its learning curve and the numbers read from it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, NamedTuple

from drpo_cli.errors import UserError
from drpo_cli.runs.metrics import StepMetrics
from drpo_cli.runs.reader import read
from drpo_cli.tools.compare.grid import Point, label_of
from drpo_cli.tools.compare.jobs import Job, State, Status

DIGITS = 6  # of a score in compare.json, and in everything computed from it
COLLAPSE = 0.5  # a run collapsed when its last held-out score is below this share of its best
NOT_FINITE = re.compile(r"\b(nan|inf|non-finite|not finite)\b", re.IGNORECASE)


class Tokens(NamedTuple):
    """How many tokens a run trained on, and what its objective did to them.

    masked     weight 0: no gradient
    corrected  negative weight: pulled back towards μ
    """

    trained: int
    masked: int
    corrected: int


@dataclass(frozen=True)
class Result:
    """One run.

    curve      (step, held-out avg@k in [0, 1]), from the untrained model at step 0; in a grid with
               a lag, updates instead of steps
    length     of the whole run, in the same unit
    base       the base model of `--bases`; empty without it
    candidate  the values of `--tune` that it has; empty without any
    collapsed  None when the run is neither finished nor failed for a numeric reason
    by_mu      tokens of all updates, by the lowest μ of their range, from frequent to rare
    """

    point: Point
    base: str
    seed: int
    folder: str
    status: Status
    reason: str
    curve: tuple[tuple[int, float], ...]
    length: int
    collapsed: bool | None
    candidate: str = ""
    by_mu: tuple[tuple[str, Tokens], ...] = ()

    @property
    def label(self) -> str:
        """The run's cell, and its base model, for people."""
        on = f" on {PurePosixPath(self.base).name}" if self.base else ""
        return f"{label_of(self.point)}{on}"

    @property
    def finished(self) -> bool:
        """Whether the run has all its steps."""
        return self.status == "finished"

    @property
    def final(self) -> float:
        """Held-out score after the last step."""
        return self.curve[-1][1]

    @property
    def best(self) -> tuple[int, float]:
        """Step and value of the highest held-out score; of equal ones, the earliest."""
        return max(self.curve, key=lambda point: point[1])

    @property
    def area(self) -> float:
        """Area under the curve by the trapezoid rule, over its length: the mean score."""
        if len(self.curve) == 1:
            return self.final
        pairs = list(zip(self.curve, self.curve[1:], strict=False))
        total = sum((y + z) / 2 * (b - a) for (a, y), (b, z) in pairs)
        return total / (self.curve[-1][0] - self.curve[0][0])

    def reached(self, target: float) -> int | None:
        """The first evaluated step, or update, whose score is at least the target."""
        return next((step for step, score in self.curve if score >= target), None)

    def time_to(self, target: float) -> int:
        """The step, or update, at which it reaches the target; its length if it never does."""
        found = self.reached(target)
        return self.length if found is None else found

    def as_dict(self, target: float | None) -> dict[str, Any]:
        """Plain JSON values; the numbers of the whole curve only for a finished run."""
        values: dict[str, Any] = {
            "cell": label_of(self.point),
            "point": dict(self.point),
            "base": self.base,
            "candidate": self.candidate,
            "seed": self.seed,
            "folder": self.folder,
            "status": self.status,
            "reason": self.reason or None,
            "collapsed": self.collapsed,
            "length": self.length,
            "curve": [list(point) for point in self.curve],
            "by_mu": {lowest: list(tokens) for lowest, tokens in self.by_mu},
        }
        if self.finished:
            step, best = self.best
            values |= {"final": self.final, "best": best, "best_step": step, "area": self.area}
            values |= {} if target is None else {"time_to_target": self.reached(target)}
        return values

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> Result:
        """Reads what `as_dict` gave. Raises KeyError, TypeError or ValueError for anything else."""
        return Result(
            point=tuple((str(key), str(value)) for key, value in values["point"].items()),
            base=str(values["base"]),
            seed=int(values["seed"]),
            folder=str(values["folder"]),
            status=values["status"],
            reason=values["reason"] or "",
            curve=tuple((int(step), float(score)) for step, score in values["curve"]),
            length=int(values["length"]),
            collapsed=values["collapsed"],
            candidate=str(values["candidate"]),
            by_mu=tuple((str(key), Tokens(*map(int, n))) for key, n in values["by_mu"].items()),
        )


def read_result(job: Job, state: State) -> Result:
    """Reads a run's metrics."""
    records = read(job.folder.metrics, StepMetrics)
    scores = {r["step"]: s for r in records if (s := r.get("held_out")) is not None}
    lag = job.cell.lag
    curve = tuple((step * lag, round(score, DIGITS)) for step, score in sorted(scores.items()))
    return Result(
        point=job.cell.point,
        base=job.cell.base,
        seed=job.seed,
        folder=job.folder.path.name,
        status=state.status,
        reason=state.reason,
        curve=curve,
        length=job.spec.run.steps * lag,
        candidate=job.cell.candidate,
        by_mu=_count_tokens(records),
        collapsed=_has_collapsed(state, curve, records, job.spec.train.updates_per_rollout),
    )


def require_same_problems(jobs: Sequence[Job]) -> None:
    """Raises UserError when runs recorded different held-out sets; a run may record none."""
    first: dict[str, Job] = {}
    for job in jobs:
        for record in read(job.folder.metrics, StepMetrics)[:1]:
            if (problems := record.get("held_out_set")) is not None:
                first.setdefault(problems, job)
    if len(first) > 1:
        one, other, *_ = first.values()
        raise UserError(
            f"{one.folder.path} and {other.folder.path} were scored on different held-out "
            f"problems, so the grid cannot be compared; did data or model change in between?",
            "run the grid again with another --out",
        )


def _count_tokens(records: Sequence[StepMetrics]) -> tuple[tuple[str, Tokens], ...]:
    found: dict[str, Sequence[float]] = {}
    for record in records:
        for lowest, values in record.get("by_mu", {}).items():
            trained = (record["trained_tokens"] or 0.0) * (values["token_share"] or 0.0)
            shares = (1.0, values["masked_share"] or 0.0, values["corrective_share"] or 0.0)
            before = found.get(lowest, (0.0, 0.0, 0.0))
            found[lowest] = [a + trained * share for a, share in zip(before, shares, strict=True)]
    frequent_first = sorted(found, key=float, reverse=True)
    return tuple((lowest, Tokens(*map(round, found[lowest]))) for lowest in frequent_first)


def _has_collapsed(
    state: State,
    curve: Sequence[tuple[int, float]],
    records: Sequence[StepMetrics],
    updates: int,
) -> bool | None:
    only_skipped = bool(records) and (records[-1].get("skipped_updates") or 0) >= updates
    if state.status == "failed":
        return True if only_skipped or NOT_FINITE.search(state.reason) else None
    if state.status != "finished":
        return None
    return only_skipped or curve[-1][1] < COLLAPSE * max(score for _, score in curve)
