"""The start of an episode that `drpo environment try` plays: an environment, and a row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from drpo_cli.data.pipeline.prompts import converse
from drpo_cli.data.pipeline.rows import Source, open_sources
from drpo_cli.errors import UserError
from drpo_cli.rollout.engine.protocol import derive_seed
from drpo_cli.settings import EnvironmentSettings, SourceSettings
from drpo_cli.spec import Spec
from drpo_cli.types import Message, Row


class Start(NamedTuple):
    """Where an episode starts.

    index    of the environment in the spec
    config   its options
    row      what its `start` gets
    opening  messages that the model sees in front of what `start` returns
    """

    index: int
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
    """The start in an environment, by default the first, from a row of a source that it serves.

    `row` is the number of a row in the first such source, or an id such as `words/17`. Needs no
    model. Raises UserError for what is not there.
    """
    index = _find_environment(spec, environment)
    selected = spec.environment[index]
    served = [source for source in spec.data if spec.environment_of(_settings(source)) is selected]
    if not served:
        raise UserError(
            f"environment {selected.config.name!r}: no source of the spec uses it",
            f"set `environment = {selected.config.name!r}` in a [[data]] table",
        )
    sources = open_sources(spec.data)
    found, number = _find_row([sources[spec.data.index(one)] for one in served], row)
    if not 0 <= number < len(found):
        raise UserError(
            f"--row {row}: {found.name} has the rows 0 to {len(found) - 1:,}", "name one of them"
        )
    data_row = found[number]
    messages, opening = converse(data_row)
    problem = data_row.problem
    return Start(
        index,
        selected.config,
        Row(
            data_row.id,
            str(messages[-1]["content"]),
            tuple(messages[opening:]),
            problem.answer,
            problem.metadata,
        ),
        tuple(messages[:opening]),
    )


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


def _find_row(sources: Sequence[Source], row: str) -> tuple[Source, int]:
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


def _settings(source: object) -> SourceSettings:
    config = getattr(source, "config")  # noqa: B009
    assert isinstance(config, SourceSettings)
    return config
