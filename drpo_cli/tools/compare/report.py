"""What a grid came to, read from the folders of its runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from drpo_cli.tools.compare.grid import Cell
from drpo_cli.tools.compare.jobs import Job
from drpo_cli.tools.compare.request import Axis
from drpo_cli.tools.compare.results import Result, require_same_problems, result
from drpo_cli.tools.compare.state import State
from drpo_cli.tools.compare.summaries import (
    DEFINITIONS,
    Baseline,
    Difference,
    Summary,
    differences,
    summary,
)


@dataclass(frozen=True)
class Report:
    """Everything a grid came to."""

    name: str
    command: str
    axes: tuple[Axis, ...]
    seeds: int
    target: float | None
    baseline: Baseline
    results: tuple[Result, ...]
    summaries: tuple[Summary, ...]
    differences: tuple[Difference, ...]

    def of_cell(self, cell: Cell) -> list[Result]:
        """A cell's finished runs."""
        return [r for r in self.results if r.cell is cell and r.finished]

    @property
    def failed(self) -> list[Result]:
        """Runs that failed."""
        return [r for r in self.results if r.status == "failed"]

    def definitions(self) -> dict[str, str]:
        """What the columns mean, those that the report has."""
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
            "cells": [_cell_dict(row) for row in self.summaries],
            "differences": [_difference_dict(row) for row in self.differences],
            "runs": [result.as_dict(self.target) for result in self.results],
            "definitions": self.definitions(),
        }


def build(
    name: str,
    command: str,
    axes: tuple[Axis, ...],
    states: Mapping[Job, State],
    baseline: Baseline,
    target: float | None,
) -> Report:
    """Reads every run. Raises UserError when runs were scored on different problems."""
    require_same_problems(list(states))
    results = tuple(result(job, state) for job, state in states.items())
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
        summaries=tuple(summary(cell, runs, target) for cell, runs in by_cell.items()),
        differences=tuple(differences(by_cell, baseline)),
    )


def _cell_dict(row: Summary) -> dict[str, Any]:
    return {**asdict(row), "cell": row.cell.label, "point": dict(row.cell.point)}


def _difference_dict(row: Difference) -> dict[str, Any]:
    return {**asdict(row), "cell": row.cell.label, "baseline": row.baseline.label}
