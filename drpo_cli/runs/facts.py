"""What became of one run, from its files alone, whatever version of drpo wrote them."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tomli

from drpo_cli.runs import events as progress
from drpo_cli.runs.folder import RunFolder
from drpo_cli.runs.records import parsed

# Where a step's line says how long it took: taking that out of the text is ten times as fast as
# parsing every line, which for hundreds of runs takes seconds.
_STEP_SECONDS = re.compile(rb'"seconds": \{[^{}]*"step": ([\d.eE+-]+)')


@dataclass(frozen=True)
class HeldOut:
    """Held-out scores: of the untrained model, the newest, and the best of the trained ones."""

    base: float | None = None
    last: float | None = None
    best: float | None = None
    best_step: int | None = None
    problems: str | None = None
    """What they depend on, as a hash; equal for runs whose scores compare."""


@dataclass(frozen=True)
class Facts:
    """One run.

    done       the last step on record; `steps` of them were asked for
    seconds    of all steps on record, summed
    started    unix seconds; written is when a step was last recorded
    size       bytes of all its files
    notes      what could not be read
    """

    path: Path
    state: str
    done: int
    steps: int | None
    held_out: HeldOut
    objective: str
    seconds: float
    started: float
    written: float
    size: int
    notes: tuple[str, ...] = ()


@dataclass
class Metrics:
    """What is read of metrics.jsonl: the lines that evaluate, the last one, and times."""

    last: Mapping[str, Any] = field(default_factory=dict)
    evaluated: list[Mapping[str, Any]] = field(default_factory=list)
    seconds: float = 0.0
    cut: bool = False


def facts(folder: RunFolder) -> Facts:
    """Everything about a run; what cannot be read is a note."""
    notes: list[str] = []
    spec = read_spec(folder, notes)
    metrics = read_metrics(folder.metrics)
    state = where_it_stands(folder, notes)
    notes += metrics_notes(metrics, state)
    run, done = spec.get("run"), metrics.last.get("step")
    steps = run.get("steps") if isinstance(run, Mapping) else None
    written = max(_changed(folder.metrics), _changed(folder.versions), _changed(folder.spec))
    return Facts(
        path=folder.path,
        state=state,
        done=done if isinstance(done, int) else 0,
        steps=steps if isinstance(steps, int) else None,
        held_out=held_out(metrics),
        objective=_objective(spec),
        seconds=metrics.seconds,
        started=_started(folder) or written,
        written=written,
        size=size(folder.path),
        notes=tuple(notes),
    )


def where_it_stands(folder: RunFolder, notes: list[str]) -> str:
    """The run's state; `unknown`, with a note, where its files may not be read."""
    try:
        return progress.state(folder)
    except OSError as error:
        notes.append(f"its state is not to be seen: {error}")
        return "unknown"


def read_spec(folder: RunFolder, notes: list[str]) -> dict[str, Any]:
    """The run's spec as it was written; empty, with a note, where it is no TOML."""
    try:
        return tomli.loads(folder.spec.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        notes.append(f"spec.toml cannot be read: {error}")
        return {}


def read_versions(folder: RunFolder, notes: list[str]) -> dict[str, Any]:
    """What the run recorded of its machine; empty, with a note, where it is not to be read."""
    try:
        found = json.loads(folder.versions.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        notes.append(f"versions.json cannot be read: {error}")
        return {}
    return found if isinstance(found, dict) else {}


def read_metrics(path: Path) -> Metrics:
    """The lines of metrics.jsonl that matter here; a line that is no JSON is passed over."""
    found = Metrics()
    try:
        text = path.read_bytes()
    except OSError:
        return found
    whole, _, rest = text.rpartition(b"\n")
    found.cut = bool(rest)
    lines = whole.splitlines()
    records = (record for line in reversed(lines) if (record := parsed(line)) is not None)
    found.last = next(records, {})
    evaluating = (parsed(line) for line in lines if b'"held_out"' in line)
    found.evaluated = [line for line in evaluating if line and _is_number(line.get("held_out"))]
    found.seconds = sum(float(seconds) for seconds in _STEP_SECONDS.findall(whole))
    return found


def metrics_notes(metrics: Metrics, state: str) -> list[str]:
    """What is to be said of a metrics.jsonl; a line that a running run is writing is not."""
    cut = metrics.cut and state not in ("starting", "running")
    return ["the last line of metrics.jsonl is cut off, and left out"] if cut else []


def held_out(metrics: Metrics) -> HeldOut:
    """The scores among the lines that evaluate."""
    base = next((line for line in metrics.evaluated if line.get("step") == 0), None)
    trained = [line for line in metrics.evaluated if line.get("step")]
    best = max(trained, key=lambda line: float(line["held_out"]), default=None)
    problems = None if base is None else base.get("held_out_set")
    return HeldOut(
        base=None if base is None else base["held_out"],
        last=trained[-1]["held_out"] if trained else None,
        best=None if best is None else best["held_out"],
        best_step=None if best is None else best["step"],
        problems=problems if isinstance(problems, str) else None,
    )


def size(folder: Path | str) -> int:
    """Bytes of all files below; links are not followed, and what vanishes meanwhile is nothing."""
    total = 0
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    total += size(entry.path)
                else:
                    total += entry.stat(follow_symlinks=False).st_size
    except OSError:
        return total
    return total


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float)


def _objective(spec: Mapping[str, Any]) -> str:
    chosen = spec.get("objective")
    if not isinstance(chosen, Mapping):
        return ""
    options = [f"{key} {value}" for key, value in chosen.items() if key != "type"]
    return " ".join([str(chosen.get("type", "")), ", ".join(options)]).strip()


def _started(folder: RunFolder) -> float | None:
    """When the run first said something; a run of an older version did not."""
    try:
        with folder.events.open("rb") as file:
            first = parsed(file.readline())
    except OSError:
        return _changed(folder.versions) or None
    time: Any = (first or {}).get("time")
    return float(time) if _is_number(time) else _changed(folder.versions) or None


def _changed(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0
