"""The global order of training rows: a cursor through every pool of them, and whose turn it is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from drpo_cli.data.pipeline.mix import Turns
from drpo_cli.data.pipeline.rows import Row
from drpo_cli.data.pipeline.split import PATIENCE, Split, endless, shuffled
from drpo_cli.errors import UserError


class Cursor:
    """A place in the endless order of some rows, shuffled for every epoch by (seed, epoch, key).

    The rows of an endless source keep their own order. `patience` is how many rows in a row may be
    of no use before none is expected to be.
    """

    def __init__(self, rows: Sequence[Row], seed: int, key: tuple[int, ...] = ()) -> None:
        self.rows = rows
        # A row that can be served comes at the latest at the end of the epoch after this one.
        self.patience = PATIENCE if endless(rows) else 2 * len(rows)
        self._seed, self._key = seed, key
        self.go_to(0, 0)

    def go_to(self, epoch: int, position: int) -> None:
        """Move, to before the row at `position` of `epoch`."""
        self.epoch, self.position = epoch, position
        self._order: Any = (
            range(len(self.rows))
            if endless(self.rows)
            else shuffled(len(self.rows), self._seed, epoch, *self._key)
        )

    def take(self) -> Row:
        """The next row."""
        if self.position == len(self._order):
            self.go_to(self.epoch + 1, 0)
        row = self.rows[self._order[self.position]]
        self.position += 1
        return row


class Order:
    """A cursor through all rows as one; or, where sources have weights, one each, taking turns."""

    def __init__(self, data: Split, seed: int) -> None:
        self._sources = [[s.name, len(s), s.config.weight] for s in data.sources]
        if data.weighted:
            # From 2 on: (seed, epoch) by itself and the held-out choice shuffle by other keys.
            self._cursors = [Cursor(rows, seed, (at + 2,)) for at, rows in enumerate(data.pools)]
            self._turns = Turns([source.config.weight or 0 for source in data.sources])
        else:
            self._cursors = [Cursor(data.pools[0], seed)]
            self._turns = Turns([1])

    def next(self) -> Cursor:
        """The cursor that the next prompt comes from. It may need to take several rows for it."""
        return self._cursors[self._turns.next()]

    def state_dict(self) -> dict[str, Any]:
        """What the order runs over, and how far it is."""
        return {
            "sources": self._sources,
            "cursors": [[cursor.epoch, cursor.position] for cursor in self._cursors],
            "turns": self._turns.taken,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue at a saved place. Raises UserError when the data is not what it was."""
        if state["sources"] != self._sources:
            raise UserError(
                f"data: the checkpoint was made with {_described(state['sources'])}, now the "
                f"training data is {_described(self._sources)}; resume with the same data, or "
                "start a new run"
            )
        for cursor, place in zip(self._cursors, state["cursors"], strict=True):
            cursor.go_to(*place)
        self._turns.taken = list(state["turns"])


def _described(sources: list[list[Any]]) -> str:
    return ", ".join(
        f"{name} ({rows} rows{'' if weight is None else f', weight {weight:g}'})"
        for name, rows, weight in sources
    )
