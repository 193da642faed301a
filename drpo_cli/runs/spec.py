"""The spec of a run, as tables: readable whatever version wrote it, and without its plugins."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Required, TypedDict

import tomli
from msgspec import Meta

from drpo_cli.errors import UserError
from drpo_cli.plugins import short_name
from drpo_cli.runs.folder import RunFolder
from drpo_cli.runs.metrics import Count
from drpo_cli.runs.reader import DEEPEST, check, describe_error, measure_depth, read_text


class _Run(TypedDict, total=False):
    name: str
    steps: Count


class _Model(TypedDict, total=False):
    path: str


class _Plugin(TypedDict):
    type: str


class _Reward(TypedDict, total=False):
    type: Required[str]
    name: str
    weight: float
    gate: bool


class _Environment(TypedDict, total=False):
    type: Required[str]
    name: str
    weight: float


class _Tracker(TypedDict, total=False):
    type: Required[str]
    name: Annotated[str, Meta(pattern=r"^[^/\x00]+$")]  # of a folder
    finish_s: Annotated[float, Meta(ge=0, le=1e9)]


class SpecTables(TypedDict, total=False):
    """What is read of a spec of any version, besides showing it."""

    run: _Run
    model: _Model
    objective: _Plugin
    environment: list[_Environment]
    reward: list[_Reward]
    tracker: list[_Tracker]


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


def read_tables(folder: RunFolder) -> tuple[dict[str, Any], str]:
    """Reads the resolved spec as tables; and what cannot be read of it, which is left out."""
    try:
        tables = tomli.loads(read_text(folder.spec))
    except (OSError, ValueError, RecursionError) as error:
        return {}, f"{folder.spec.name} {describe_error(error)}"
    if measure_depth(tables) > DEEPEST:
        return {}, f"{folder.spec.name} cannot be read: it has more than {DEEPEST} levels"
    found, why = check(tables, SpecTables)
    left = {key: tables[key] for key in found or ()}
    return left, why and f"{folder.spec.name}: a table is left out: {why}"


def read_spec(folder: RunFolder) -> dict[str, Any]:
    """Reads the resolved spec as tables. Raises UserError when some of it cannot be read."""
    found, why = read_tables(folder)
    if why:
        raise UserError(f"{folder.path}: {why}", "correct the file")
    return found


def read_steps(folder: RunFolder) -> int | None:
    """Reads how many steps the run should take; None where the spec does not say."""
    return find_steps(read_tables(folder)[0])


def find_steps(spec: Mapping[str, Any]) -> int | None:
    """The steps that a spec asks for; None where it does not say."""
    steps: int | None = spec.get("run", {}).get("steps")
    return steps


def find_roles(spec: Mapping[str, Any]) -> Roles:
    """The role of each of a spec's rewards; those of the environments' own come first."""
    return {
        table.get("name") or short_name(table["type"]): Role(
            table["type"], table.get("weight", 1.0), table.get("gate", False)
        )
        for table in (*spec.get("environment", []), *spec.get("reward", []))
    }


def role_of(roles: Roles, name: str) -> Role:
    """The reward's role; one that the spec does not have is a metric."""
    return roles.get(name, Role("not in the spec", weight=0.0))
