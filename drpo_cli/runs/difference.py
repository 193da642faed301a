"""How two runs differ: specs, versions and machines, held-out scores."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from drpo_cli.plugins import short_name
from drpo_cli.runs.facts import (
    HeldOut,
    held_out,
    metrics_notes,
    read_metrics,
    read_spec,
    read_versions,
    where_it_stands,
)
from drpo_cli.runs.folder import RunFolder

ABSENT = "–"
_OWN = ("run.name", "run.folder")  # of every run its own


@dataclass(frozen=True)
class Differing:
    """A key with two values; None where a side has no such key.

    quiet  the run's own name and folder, or paths that differ in the folders above alone
    """

    key: str
    a: Any
    b: Any
    quiet: bool = False


@dataclass(frozen=True)
class Difference:
    """Between two runs. same_problems is None where a run does not say what it was scored on."""

    a: RunFolder
    b: RunFolder
    spec: list[Differing]
    versions: list[Differing]
    held_out_a: HeldOut
    held_out_b: HeldOut
    same_problems: bool | None
    notes: list[str]


def between(a: RunFolder, b: RunFolder) -> Difference:
    """How two runs differ; of a run of an older version, what it has is compared."""
    notes: list[str] = []
    specs, versions, scores = [], [], []
    for run in (a, b):
        own: list[str] = []
        specs.append(dict(flat(read_spec(run, own))))
        versions.append(dict(flat(read_versions(run, own))))
        metrics = read_metrics(run.metrics)
        scores.append(held_out(metrics))
        own += metrics_notes(metrics, where_it_stands(run, own))
        notes += [f"{run.path}: {note}" for note in own]
    problems = [score.problems for score in scores]
    return Difference(
        a=a,
        b=b,
        spec=differing(*specs),
        versions=differing(*versions),
        held_out_a=scores[0],
        held_out_b=scores[1],
        same_problems=None if None in problems else problems[0] == problems[1],
        notes=notes,
    )


def differing(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[Differing]:
    """The keys whose values are not the same, in the order of `a`, then those of `b` alone."""
    return [
        Differing(key, a.get(key), b.get(key), key in _OWN or same_name(a.get(key), b.get(key)))
        for key in {**a, **b}
        if a.get(key) != b.get(key)
    ]


def same_name(a: Any, b: Any) -> bool:
    """Whether both are absolute paths of one last name: `/x/model` and `/y/model`."""
    if not (isinstance(a, str) and isinstance(b, str) and a[:1] == b[:1] == "/"):
        return False
    return PurePath(a).name == PurePath(b).name


def flat(value: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """Keys with dots and their values; a table of an array goes by its name, `reward[tidy].weight`.

    An empty table is a value, so that its absence on the other side shows.
    """
    for key, inner in value.items():
        path = f"{above}{key}"
        if isinstance(inner, Mapping) and inner:
            yield from flat(inner, f"{path}.")
        elif isinstance(inner, list) and inner and all(isinstance(i, Mapping) for i in inner):
            for label, table in zip(_labels(key, inner), inner, strict=True):
                yield from flat(table, f"{path}[{label}].")
        else:
            yield path, inner


def _labels(section: str, tables: Sequence[Mapping[str, Any]]) -> list[str]:
    """The name of each reward, the type of all else; the second of a name gets a number."""
    labels: list[str] = []
    for number, table in enumerate(tables, 1):
        named = table.get("name") if section in ("reward", "tracker") else None
        label = str(named or short_name(str(table.get("type") or number)))
        taken = sum(other.partition(" #")[0] == label for other in labels)
        labels.append(f"{label} #{taken + 1}" if taken else label)
    return labels
