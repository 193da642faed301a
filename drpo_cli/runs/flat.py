"""Records and specs with one value per key, for data frames, comparisons and trackers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from drpo_cli.plugins import short_name

NAMED = ("environment", "reward", "tracker")
"""The arrays of tables of a spec whose tables have names."""


def flatten(value: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """Yields keys with dots and their values; a table of an array goes by its name.

    `reward[tidy].weight` is the weight of the reward `tidy`. An empty table is a value, so that a
    comparison shows where only one side has it.
    """
    for key, inner in value.items():
        path = f"{above}{key}"
        if isinstance(inner, Mapping) and inner:
            yield from flatten(inner, f"{path}.")
        elif isinstance(inner, list) and inner and all(isinstance(i, Mapping) for i in inner):
            for label, table in zip(_label_tables(key, inner), inner, strict=True):
                yield from flatten(table, f"{path}[{label}].")
        else:
            yield path, inner


def _label_tables(section: str, tables: Sequence[Mapping[str, Any]]) -> list[str]:
    """The name of each table of `NAMED`, the type of every other; repeats get a number."""
    labels: list[str] = []
    for number, table in enumerate(tables, 1):
        named = table.get("name") if section in NAMED else None
        label = str(named or short_name(str(table.get("type") or number)))
        taken = sum(other.partition(" #")[0] == label for other in labels)
        labels.append(f"{label} #{taken + 1}" if taken else label)
    return labels
