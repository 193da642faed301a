"""The data set of an environment of the package `verifiers`, for the environment of that name.

Each row has the environment's own prompt, with its system message and examples, its answer, and its
further columns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from drpo_cli.data.pipeline.rows import Lazy
from drpo_cli.errors import UserError
from drpo_cli.gym import of_verifiers
from drpo_cli.settings import SourceSettings
from drpo_cli.types import Message, Problem

IMPORTS = ("verifiers",)
NEEDS = "an environment of verifiers that is installed"


class Config(of_verifiers.LoadSettings, SourceSettings):
    """Options of the data set."""

    part: Literal["train", "eval"] = "train"
    """Which of the environment's two data sets; one without `eval` serves its other one."""


def load(config: Config) -> Sequence[Problem]:
    """Opens the rows. Raises UserError for an environment that cannot be loaded or has none."""
    environment = of_verifiers.load(config)
    try:
        rows = environment.get_dataset() if config.part == "train" else None
    except ValueError as error:
        raise UserError(
            f"data 'verifiers': {config.load!r} has no data set for training ({error})",
            'set part = "eval"',
        ) from error
    if rows is None:
        rows = environment.get_eval_dataset()
    return Lazy(len(rows), lambda index: _problem(rows[index]))


def _problem(row: Mapping[str, Any]) -> Problem:
    others = {key: value for key, value in row.items() if key not in ("prompt", "answer")}
    answer = row.get("answer")
    return Problem(
        prompt=tuple(_message(one) for one in row["prompt"]),
        answer=None if answer is None else str(answer),
        metadata={"of_verifiers": others},
    )


def _message(message: Mapping[str, Any]) -> Message:
    """Without the columns that Arrow fills with None."""
    return {key: value for key, value in message.items() if value is not None}
