"""What a run has recorded, read once for every part of a page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from drpo_cli.runs.alerts import Alert, alerts
from drpo_cli.runs.archive import Archive, read_archive
from drpo_cli.runs.folder import RunFolder
from drpo_cli.runs.records import Tail
from drpo_cli.runs.roles import Roles, read_roles
from drpo_cli.runs.suspicion import Pair, pairs

Metrics = Sequence[Mapping[str, Any]]
Rates = tuple[float, ...]
"""Share of right responses of each held-out problem, in the order of the problems."""


@dataclass(frozen=True)
class Recorded:
    """A run's records so far.

    name      what the page calls it, distinct among the page's runs
    metrics   in the order of steps
    rates     by evaluated step; empty for a run of an older version
    left_out  what of the files could not be read, a sentence each
    """

    folder: RunFolder
    name: str
    metrics: Metrics
    roles: Roles
    archive: Archive
    rates: Mapping[int, Rates]
    left_out: tuple[str, ...]

    @property
    def last_step(self) -> int:
        """The newest step on record, 0 where there is none."""
        return int(self.metrics[-1]["step"]) if self.metrics else 0

    @property
    def trained(self) -> Metrics:
        """The records of training steps: without the untrained model's evaluation."""
        return [record for record in self.metrics if "reward" in record]

    @cached_property
    def alerts(self) -> list[Alert]:
        """What went wrong, in the order of the steps where it began."""
        return alerts(self.metrics)

    @cached_property
    def looked_at(self) -> list[Pair]:
        """Each reward beside the total, for the suspicion of reward hacking."""
        return pairs(self.metrics, self.roles)


def read_run(folder: RunFolder, name: str) -> Recorded:
    """Reads a folder's records; files that are not there hold none."""
    metrics, held_out = Tail(folder.metrics), Tail(folder.held_out)
    lines = [line for line in metrics.new() if isinstance(line.get("step"), int)]
    rates = {line["step"]: tuple(line["rates"]) for line in held_out.new()}
    archive = read_archive(folder.samples)
    return Recorded(
        folder=folder,
        name=name,
        metrics=lines,
        roles=read_roles(folder.spec),
        archive=archive,
        rates=rates,
        left_out=tuple(_left_out(metrics, held_out, archive)),
    )


def _left_out(metrics: Tail, held_out: Tail, archive: Archive) -> Iterator[str]:
    for path, cut, broken in (
        (metrics.path, metrics.cut, metrics.broken),
        (held_out.path, held_out.cut, held_out.broken),
        (archive.path, archive.cut, archive.broken),
    ):
        if cut:
            yield f"The last line of {path.name} was cut short, as by a kill; it is left out."
        if broken:
            yield f"{path.name}: {broken:,} lines are no records of this version; left out."
