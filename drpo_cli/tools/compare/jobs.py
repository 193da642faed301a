"""The runs of a grid: a resolved spec and a folder each, all checked before any of them starts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import tomli

from drpo_cli.errors import UserError
from drpo_cli.plan import make_plan
from drpo_cli.runs.folder import RunFolder
from drpo_cli.spec import Spec, SpecError, dump, load
from drpo_cli.tools.compare.evaluation import require_same_evaluation
from drpo_cli.tools.compare.grid import Cell, run_name

MOST_SHOWN = 5


@dataclass(frozen=True, eq=False)  # a job is itself, and a key: its spec may hold tables
class Job:
    """One run of a grid."""

    cell: Cell
    seed: int
    spec: Spec
    folder: RunFolder

    @property
    def label(self) -> str:
        """What the screen calls it."""
        return f"{self.cell.label}, seed {self.seed}"


def specs(base: Path, overrides: Sequence[str], cells: Sequence[Cell], world: int) -> list[Spec]:
    """The spec of every cell, checked on `world` processes.

    Raises UserError with everything that is wrong with any of them, each under its cell's label,
    and when the cells would be evaluated differently.
    """
    found: dict[str, Spec] = {}
    problems: dict[str, list[str]] = {}
    for cell in cells:
        try:
            found[cell.label] = load(base, [*overrides, *cell.overrides])
            make_plan(found[cell.label], world)
        except SpecError as error:
            problems[cell.label] = [str(one) for one in error.problems]
        except UserError as error:
            problems[cell.label] = [str(error)]
    if problems:
        raise UserError("\n".join(_by_cell(problems, len(cells))))
    require_same_evaluation(found)
    return list(found.values())


def jobs(
    cells: Sequence[Cell], specs: Sequence[Spec], seeds: Sequence[int], out: Path
) -> list[Job]:
    """A job for every cell and seed; all cells of one seed before the next seed.

    Raises UserError where a folder holds a run of another spec.
    """
    found = [
        _job(cell, spec, seed, out)
        for seed in seeds
        for cell, spec in zip(cells, specs, strict=True)
    ]
    others = [line for job in found for line in _other_run(job)]
    if others:
        more = len(others) - MOST_SHOWN
        lines = [*others[:MOST_SHOWN], *([f"and {more} more like these"] if more > 0 else [])]
        lines.append(f"{out} holds another grid; give --out another folder")
        raise UserError("\n".join(lines))
    return found


def _job(cell: Cell, spec: Spec, seed: int, out: Path) -> Job:
    name = run_name(cell, seed)
    run = spec.run.model_copy(update={"seed": seed, "name": name, "folder": out})
    return Job(cell, seed, replace(spec, run=run), RunFolder(out / name))


def _other_run(job: Job) -> list[str]:
    if not job.folder.exists():
        return []
    try:
        there = load(job.folder.spec)
    except SpecError as error:
        return [f"{job.folder.path}: its spec.toml does not load: {error.problems[0]}"]
    if there == job.spec:
        return []
    return [f"{job.folder.path}: was run with another spec: {differences(there, job.spec)}"]


def differences(there: Spec, here: Spec) -> str:
    """The keys two specs differ in, with both values."""
    was, now = (_flat(tomli.loads(dump(spec))) for spec in (there, here))
    keys = [key for key in {**was, **now} if was.get(key) != now.get(key)]
    shown = [f"{k} is {was.get(k)!r} there, {now.get(k)!r} here" for k in keys[:MOST_SHOWN]]
    return ", ".join([*shown, *(["…"] if len(keys) > MOST_SHOWN else [])])


def _flat(value: Any, key: str = "") -> dict[str, Any]:
    if isinstance(value, Mapping):
        parts = [_flat(inner, f"{key}.{name}".lstrip(".")) for name, inner in value.items()]
    elif isinstance(value, list) and value and isinstance(value[0], Mapping):
        parts = [_flat(inner, f"{key}[{i}]") for i, inner in enumerate(value)]
    else:
        return {key: value}
    return {name: inner for part in parts for name, inner in part.items()}


def _by_cell(problems: Mapping[str, Sequence[str]], cells: int) -> list[str]:
    """Each problem after its cell's label; those that every cell has once, without one."""
    times = Counter(line for lines in problems.values() for line in set(lines))
    common = [line for line in next(iter(problems.values())) if times[line] == cells]
    own = [
        f"{label}: {line}"
        for label, lines in problems.items()
        for line in lines
        if line not in common
    ]
    return [*common, *own]
