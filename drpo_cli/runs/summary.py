"""One run in a few values, and how two runs differ, whatever version of drpo wrote them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from drpo_cli.runs.flat import flatten
from drpo_cli.runs.folder import RunFolder
from drpo_cli.runs.saved import HeldOutScore, SavedRun

ABSENT = "–"
_OWN = ("run.name", "run.folder")  # differ between any two runs


@dataclass(frozen=True)
class ScoreSummary:
    """Held-out scores: of the untrained model, the newest, and the best of the trained ones.

    problems  hash of what they depend on; equal for runs whose scores compare
    """

    base: float | None = None
    last: float | None = None
    best: float | None = None
    best_step: int | None = None
    problems: str | None = None


@dataclass(frozen=True)
class RunSummary:
    """One run.

    done       the last step on record, of `steps` that were asked for
    seconds    of all steps on record, summed
    started    unix seconds, as is `written`, when a step was last recorded
    size       bytes of all its files
    notes      what could not be read
    """

    path: Path
    state: str
    done: int
    steps: int | None
    held_out: ScoreSummary
    objective: str
    seconds: float
    started: float
    written: float
    size: int
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class KeyDifference:
    """A key with two values; None where a side does not have the key.

    quiet  the run's own name and folder, or paths that differ only in the folders above
    """

    key: str
    a: Any
    b: Any
    quiet: bool = False


@dataclass(frozen=True)
class RunDifference:
    """How two runs differ. same_problems is None where a run does not record its problems."""

    a: RunFolder
    b: RunFolder
    spec: list[KeyDifference]
    versions: list[KeyDifference]
    held_out_a: ScoreSummary
    held_out_b: ScoreSummary
    same_problems: bool | None
    notes: list[str]


def summarize(run: SavedRun) -> RunSummary:
    """Summarizes a run; what cannot be read is a note."""
    folder = run.folder
    written = max(map(_modified, (folder.metrics, folder.versions, folder.spec)))
    return RunSummary(
        path=folder.path,
        state=run.state,
        done=run.last_step,
        steps=run.steps,
        held_out=summarize_scores(run),
        objective=_describe_objective(run.spec),
        seconds=sum(record.get("seconds", {}).get("step") or 0.0 for record in run.metrics),
        started=_find_start(run) or written,
        written=written,
        size=measure_size(folder.path),
        notes=tuple(run.notes),
    )


def summarize_scores(run: SavedRun) -> ScoreSummary:
    """The base, newest and best of a run's held-out scores."""
    base = next((each.score for each in run.held_out if each.step == 0), None)
    trained: list[HeldOutScore] = [each for each in run.held_out if each.step > 0]
    best = max(trained, key=lambda each: each.score, default=None)
    return ScoreSummary(
        base=base,
        last=run.final_score,
        best=None if best is None else best.score,
        best_step=None if best is None else best.step,
        problems=run.held_out_set,
    )


def compare_runs(a: SavedRun, b: SavedRun) -> RunDifference:
    """Compares two runs; of a run of an older version, what it has."""
    specs = [dict(flatten(run.spec)) for run in (a, b)]
    versions = [dict(flatten(run.versions)) for run in (a, b)]
    held_out = [summarize_scores(run) for run in (a, b)]
    problems = [score.problems for score in held_out]
    return RunDifference(
        a=a.folder,
        b=b.folder,
        spec=compare_values(*specs),
        versions=compare_values(*versions),
        held_out_a=held_out[0],
        held_out_b=held_out[1],
        same_problems=None if None in problems else problems[0] == problems[1],
        notes=[f"{run.folder.path}: {note}" for run in (a, b) for note in run.notes],
    )


def compare_values(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[KeyDifference]:
    """The keys whose values differ, in the order of `a`, then those that only `b` has."""
    return [
        KeyDifference(
            key, a.get(key), b.get(key), key in _OWN or _same_name(a.get(key), b.get(key))
        )
        for key in {**a, **b}
        if a.get(key) != b.get(key)
    ]


def measure_size(folder: Path | str) -> int:
    """Bytes of all files below; does not follow links, and ignores what vanishes meanwhile."""
    total = 0
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    total += measure_size(entry.path)
                else:
                    total += entry.stat(follow_symlinks=False).st_size
    except OSError:
        return total
    return total


def _same_name(a: Any, b: Any) -> bool:
    """Whether both are absolute paths with the same last name: `/x/model` and `/y/model`."""
    if not (isinstance(a, str) and isinstance(b, str) and a[:1] == b[:1] == "/"):
        return False
    return PurePath(a).name == PurePath(b).name


def _describe_objective(spec: Mapping[str, Any]) -> str:
    chosen = spec.get("objective", {})
    options = [f"{key} {value}" for key, value in chosen.items() if key != "type"]
    return " ".join([chosen.get("type", ""), ", ".join(options)]).strip()


def _find_start(run: SavedRun) -> float | None:
    """When the run wrote its first event; a run of an older version has none."""
    return run.events[0]["time"] if run.events else _modified(run.folder.versions) or None


def _modified(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0
