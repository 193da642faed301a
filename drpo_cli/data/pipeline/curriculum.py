"""Rows that taught nothing come back less often: `sampling = "difficulty"`."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

from drpo_cli.data.pipeline.rows import Row, Source

ONE_IN = 4
"""A row that was all right or all wrong is served in one epoch of so many, on average."""


class Curriculum:
    """The last pass rate of every row of the sources that ask for it, and who rests because of it.

    A group whose responses are all right, or all wrong, has no advantage to learn from. Whether
    its row rests in a later epoch is decided by a hash, so that no generator needs saving.
    """

    def __init__(self, seed: int, sources: Sequence[Source], held_out: Sequence[Row]) -> None:
        tracked = [source for source in sources if source.config.sampling == "difficulty"]
        self._seed = seed
        self._names = frozenset(source.name for source in tracked)
        self._rows = sum(map(len, tracked)) - sum(self._tracks(row.id) for row in held_out)
        self.rates: dict[str, float] = {}

    def observe(self, rates: Mapping[str, float]) -> None:
        """Take in pass rates by prompt id; the last one of a row counts."""
        for id, rate in rates.items():
            if not 0 <= rate <= 1:
                raise ValueError(f"pass rate of {id} is {rate}, not in [0, 1]")
            if self._tracks(id):
                self.rates[id] = float(rate)

    def rests(self, row: Row, epoch: int) -> bool:
        """Whether a row is passed over in this epoch."""
        if self.rates.get(row.id) not in (0.0, 1.0):
            return False
        key = f"{self._seed} {epoch} {row.id}".encode()
        return hashlib.blake2b(key, digest_size=1).digest()[0] % ONE_IN != 0

    def counts(self) -> dict[str, int]:
        """Rows by their last pass rate; empty when no source asks for a curriculum.

        `unseen` includes rows that never will be: too short or long, or like a held-out problem.
        """
        if not self._names:
            return {}
        right = sum(rate == 1 for rate in self.rates.values())
        wrong = sum(rate == 0 for rate in self.rates.values())
        return {
            "unseen": self._rows - len(self.rates),
            "always_wrong": wrong,
            "between": len(self.rates) - right - wrong,
            "always_right": right,
        }

    def _tracks(self, id: str) -> bool:
        return id.rpartition("/")[0] in self._names
