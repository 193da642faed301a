"""What a broken statement may have said: nothing that hangs on it may be called missing."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from drpo_cli.spec.positions import KeyPath


@dataclass(frozen=True)
class Lost:
    """Keys that are written but cannot be read, and tables with lines that may be any key."""

    keys: frozenset[KeyPath] = frozenset()
    tables: frozenset[KeyPath] = frozenset()

    def covers(self, key: KeyPath) -> bool:
        """Whether `key`, or a part of it, may stand in what cannot be read."""
        return key[:-1] in self.tables or any(_on_one_path(key, lost) for lost in self.keys)

    def touches(self, table: KeyPath) -> bool:
        """Whether something in `table` cannot be read."""
        inside = (*self.keys, *self.tables)
        return any(lost[: len(table)] == table for lost in inside) or self.covers(table)

    def plus(self, keys: Iterable[KeyPath] = (), tables: Iterable[KeyPath] = ()) -> Lost:
        """With more of both."""
        return Lost(self.keys.union(keys), self.tables.union(tables))


NOTHING = Lost()


def _on_one_path(one: KeyPath, other: KeyPath) -> bool:
    shared = min(len(one), len(other))
    return one[:shared] == other[:shared]
