"""Procedurally generated problems of reasoning-gym: more than 100 tasks, seeded, no download.

Each row is generated when asked for, the same for the same task, seed and options. Score it with
the reward of the same name, which finds task, options and entry in the row's metadata.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import Field

from drpo_cli.data._rows import Lazy
from drpo_cli.errors import UserError
from drpo_cli.settings import Count, SourceSettings
from drpo_cli.types import Problem


class Config(SourceSettings):
    """Options of a reasoning-gym task."""

    task: Annotated[str, Field(min_length=1)]
    """Name of the task, for example `chain_sum` or `countdown`."""
    size: Count = 1000
    """Rows."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of the problems; row i is the same whatever the size."""
    options: dict[str, Any] = Field(default={})
    """The task's own options, as reasoning-gym names them, for example `{ min_terms = 2 }`."""


def load(config: Config) -> Sequence[Problem]:
    """The task's problems. Raises UserError for a task or options that reasoning-gym lacks."""
    try:
        from reasoning_gym.factory import DATASETS, create_dataset
    except ImportError as error:
        raise UserError(
            f"data 'reasoning_gym': {error}; install it with: pip install reasoning-gym"
        ) from error
    if config.task not in DATASETS:
        close = difflib.get_close_matches(config.task, DATASETS, n=1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise UserError(
            f"data 'reasoning_gym': there is no task {config.task!r}; {hint}"
            f"tasks: {', '.join(sorted(DATASETS))}"
        )
    try:
        dataset = create_dataset(config.task, size=config.size, seed=config.seed, **config.options)
    # Tasks check their options with assert; a wrong type shows wherever it is first used.
    except (AssertionError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"data 'reasoning_gym': task {config.task!r} refuses its options: {error}"
        ) from error

    def make(index: int) -> Problem:
        entry = dataset[index]
        return Problem(
            prompt=entry["question"],
            answer=None if entry["answer"] is None else str(entry["answer"]),
            metadata={"task": config.task, "options": config.options, "entry": entry},
        )

    return Lazy(config.size, make)
