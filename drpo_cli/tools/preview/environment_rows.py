"""The start of an episode that `drpo environment try` plays: an environment, and a row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from drpo_cli.data.pipeline.prompts import converse
from drpo_cli.data.pipeline.rows import Row as DataRow
from drpo_cli.data.pipeline.rows import Source, open_sources
from drpo_cli.errors import UserError
from drpo_cli.rollout.engine.protocol import derive_seed
from drpo_cli.settings import EnvironmentSettings
from drpo_cli.spec import Spec
from drpo_cli.types import Message, Row


class Start(NamedTuple):
    """Where an episode starts.

    number   of the environment in the spec
    config   its options
    row      what its `start` gets
    opening  messages that the model sees in front of what `start` returns
    """

    number: int
    config: EnvironmentSettings
    row: Row
    opening: tuple[Message, ...]

    @property
    def name(self) -> str:
        """The environment's name."""
        return str(self.config.name)

    def seed(self, seed: int) -> int:
        """The seed of the environment where this is the seed of sampling, as in `step.play`."""
        return derive_seed(seed, "start", self.row.id, 0)


def choose_start(spec: Spec, environment: str | None, row: str) -> Start:
    """The start in an environment, from a row: see `find_row`. Needs no model."""
    index, found = find_row(spec, environment, row)
    messages, opening = converse(found)
    own = tuple(messages[opening:])
    problem = found.problem
    text = str(messages[-1]["content"])
    return Start(
        index,
        spec.environment[index].config,
        Row(found.id, text, own, problem.answer, problem.metadata),
        tuple(messages[:opening]),
    )


def find_row(spec: Spec, environment: str | None, row: str) -> tuple[int, DataRow]:
    """The index of an environment, by default the first, and a row of a source that it serves.

    `row` is the number of a row in the first such source, or an id such as `words/17`. Raises
    UserError for what is not there.
    """
    index = _find_environment(spec, environment)
    selected = spec.environment[index]
    sources = [
        source
        for source in open_sources(spec.data)
        if spec.environment_of(source.config) is selected
    ]
    if not sources:
        raise UserError(
            f"environment {selected.config.name!r}: no source of the spec uses it",
            f"set `environment = {selected.config.name!r}` in a [[data]] table",
        )
    found, number = _find_number(sources, row)
    if number >= len(found):
        raise UserError(
            f"--row {row}: {found.name} has the rows 0 to {len(found) - 1:,}", "name one of them"
        )
    return index, found[number]


def _find_environment(spec: Spec, name: str | None) -> int:
    names = [str(one.config.name) for one in spec.environment]
    if not names:
        raise UserError(
            f"{spec.path}: the spec has no [[environment]]",
            "add one: docs/environments.md says how to write it",
        )
    if name is None:
        return 0
    if name not in names:
        raise UserError(f"--environment {name}: the spec has none of this name", _one_of(names))
    return names.index(name)


def _find_number(sources: Sequence[Source], row: str) -> tuple[Source, int]:
    name, _, number = row.rpartition("/")
    found = [source for source in sources if source.name == name] if name else list(sources)
    if not found:
        raise UserError(
            f"--row {row}: the environment has no source {name!r}",
            _one_of([source.name for source in sources]),
        )
    if not number.isdecimal():
        raise UserError(
            f"--row {row}: not the number of a row", f"write a number, or an id: {found[0].name}/0"
        )
    return found[0], int(number)


def _one_of(names: Sequence[str]) -> str:
    return f"name {'one of ' if names[1:] else ''}{', '.join(names)}"
