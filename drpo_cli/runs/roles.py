"""What each reward of a run is to its total, read from the run's own spec."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tomli

from drpo_cli.plugins import short_name


@dataclass(frozen=True)
class Role:
    """A reward's part in the total; one of weight 0 that is no gate is a metric."""

    type: str
    weight: float = 1.0
    gate: bool = False

    @property
    def counts(self) -> bool:
        """Whether the total depends on it."""
        return self.gate or self.weight != 0

    @property
    def sign(self) -> int:
        """−1 where more of it lowers the total; a metric's good direction is taken to be up."""
        return -1 if self.weight < 0 and not self.gate else 1

    def __str__(self) -> str:
        if self.gate:
            return "gate"
        return f"weight {self.weight:g}" if self.weight else "metric (weight 0)"


Roles = dict[str, Role]
"""By name, in the spec's order."""


def read_roles(spec: Path) -> Roles:
    """Roles of the rewards in a run's `spec.toml`."""
    tables = tomli.loads(spec.read_text(encoding="utf-8")).get("reward", [])
    return {
        table.get("name") or short_name(table["type"]): Role(
            table["type"], table.get("weight", 1.0), table.get("gate", False)
        )
        for table in tables
    }


def role_of(roles: Roles, name: str) -> Role:
    """The reward's role; one the spec does not have is a metric."""
    return roles.get(name, Role("not in the spec", weight=0.0))
