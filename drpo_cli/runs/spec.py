"""The spec of a run, as tables: readable whatever version wrote it, and without its plugins."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import tomli

from drpo_cli.errors import UserError
from drpo_cli.plugins import short_name
from drpo_cli.runs.folder import RunFolder


@dataclass(frozen=True)
class Role:
    """A reward's part in the total; one of weight 0 that is not a gate is a metric."""

    type: str
    weight: float = 1.0
    gate: bool = False

    @property
    def counts(self) -> bool:
        """Whether the total depends on it."""
        return self.gate or self.weight != 0

    @property
    def sign(self) -> int:
        """−1 where more of it lowers the total, else 1; of a metric, more is taken as better."""
        return -1 if self.weight < 0 and not self.gate else 1

    def __str__(self) -> str:
        if self.gate:
            return "gate"
        return f"weight {self.weight:g}" if self.weight else "metric (weight 0)"


Roles = dict[str, Role]
"""By the reward's name, in the order of the spec."""


def read_spec(folder: RunFolder) -> dict[str, Any]:
    """Reads the resolved spec as tables. Raises UserError when it cannot be read."""
    try:
        return tomli.loads(folder.spec.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{folder.spec.name} cannot be read: {error}") from error


def read_steps(folder: RunFolder) -> int | None:
    """Reads how many steps the run should take; None where the spec does not say."""
    try:
        return find_steps(read_spec(folder))
    except UserError:
        return None


def find_steps(spec: Mapping[str, Any]) -> int | None:
    """The steps that a spec asks for; None where it does not say."""
    run = spec.get("run")
    steps = run.get("steps") if isinstance(run, Mapping) else None
    return steps if isinstance(steps, int) else None


def find_roles(spec: Mapping[str, Any]) -> Roles:
    """The role of each of a spec's rewards."""
    return {
        table.get("name") or short_name(table["type"]): Role(
            table["type"], table.get("weight", 1.0), table.get("gate", False)
        )
        for table in spec.get("reward", [])
    }


def role_of(roles: Roles, name: str) -> Role:
    """The reward's role; one that the spec does not have is a metric."""
    return roles.get(name, Role("not in the spec", weight=0.0))
