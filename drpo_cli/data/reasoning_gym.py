"""Procedurally generated problems of reasoning-gym: more than 100 tasks, seeded, no download.

    task  = "chain_sum"
    level = { num_terms = 3 }

or several: `tasks = [{ task = "chain_sum", weight = 2 }, { task = "countdown", level = 1 }]`. Each
row is generated when it is read and depends only on the tasks and the seed; without `size` there is
no last row. Score them with the reward of the same name, which finds task, options and entry in the
row's metadata.
"""

from __future__ import annotations

import dataclasses
import difflib
import random
from collections.abc import Callable, Sequence
from typing import Annotated, Any

from pydantic import Field, model_validator

from drpo_cli.data.pipeline.rows import Lazy
from drpo_cli.errors import UserError
from drpo_cli.settings import Count, Settings, SourceSettings
from drpo_cli.types import Problem

ENDLESS = 2**31 - 1
"""Rows of a source without `size`."""

Level = Annotated[int, Field(ge=0)]

# Tasks check their options with assert; a wrong type fails wherever it is first used.
_REFUSED = (ArithmeticError, AssertionError, AttributeError, LookupError, TypeError, ValueError)


class Task(Settings):
    """One task of several."""

    task: Annotated[str, Field(min_length=1)]
    """Name of the task."""
    weight: Annotated[float, Field(gt=0)] = 1.0
    """Share of the rows, relative to the other tasks'."""
    options: dict[str, Any] = Field(default={})
    """The task's own options."""
    level: Level | dict[str, Level] | None = None
    """Its difficulty."""


class Config(SourceSettings):
    """Options of reasoning-gym's problems."""

    task: Annotated[str, Field(min_length=1)] | None = None
    """Name of the task, for example `chain_sum` or `countdown`."""
    tasks: tuple[Task, ...] = Field(default=(), strict=False)
    """Several tasks in place of one, each with its own `weight`, `options` and `level`. The seed
    and i decide which task row i comes from."""
    size: Count | None = None
    """Number of rows; endless when not set. A few tasks plan their rows ahead and need it."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of the problems. Most tasks give for seed s + 1 the rows of seed s from the second on:
    choose seeds far apart to get different problems."""
    options: dict[str, Any] = Field(default={})
    """The task's own options, as reasoning-gym names them, for example `{ min_terms = 2 }`."""
    level: Level | dict[str, Level] | None = None
    """Difficulty on the task's own curriculum, from 0: one level for all of its attributes, or one
    per attribute, for example `{ num_terms = 3 }`. `options` override it."""

    @model_validator(mode="after")
    def _check_tasks(self) -> Config:
        if (self.task is None) != bool(self.tasks):
            raise ValueError(
                'name one task (task = "chain_sum") or several (tasks = [{ task = "chain_sum", '
                'weight = 2 }, { task = "countdown" }])'
            )
        if self.tasks and (self.options or self.level is not None):
            raise ValueError("options and level belong to one task; move them into `tasks`")
        return self


def load(config: Config) -> Sequence[Problem]:
    """Opens the problems. Raises UserError for a task, level or option that does not exist."""
    tasks = config.tasks
    if config.task is not None:
        tasks = (Task(task=config.task, options=config.options, level=config.level),)
    makers = [_task_maker(task, config) for task in tasks]
    weights = [task.weight for task in tasks]

    def make(index: int) -> Problem:
        (maker,) = random.Random(f"{config.seed}/{index}").choices(makers, weights)
        return maker(index)

    return Lazy(config.size or ENDLESS, make)


def _task_maker(task: Task, config: Config) -> Callable[[int], Problem]:
    """A function that makes row i of a task."""
    factory = _factory(task.task)
    options = {**_options_at_level(task, factory), **task.options}
    size = {} if config.size is None else {"size": config.size}
    where = f"data 'reasoning_gym': task {task.task!r}"
    try:
        dataset = factory.create_dataset(task.task, seed=config.seed, **size, **options)
    except _REFUSED as error:
        raise UserError(
            f"{where} refuses its options: {error}",
            f"its options are {_list_options(task.task, factory)}",
        ) from error

    def make(index: int) -> Problem:
        try:
            entry = dataset[index]
        except _REFUSED as error:
            raise UserError(
                f"{where} cannot make row {index} with options {options}: {error}", "change them"
            ) from error
        return Problem(
            prompt=entry["question"],
            answer=None if entry["answer"] is None else str(entry["answer"]),
            metadata={"task": task.task, "options": options, "entry": entry},
        )

    if config.size is None:
        try:
            dataset[ENDLESS - 1]
        except IndexError as error:
            raise UserError(
                f"{where} plans its rows ahead, so they cannot be endless",
                "set size to the number of rows",
            ) from error
    return make


def _factory(task: str) -> Any:
    """reasoning-gym's factory. Raises UserError when it lacks the task."""
    try:
        from reasoning_gym import factory
        from reasoning_gym.factory import DATASETS
    except ImportError as error:
        raise UserError(
            f"data 'reasoning_gym': {error}", "install it with: pip install reasoning-gym"
        ) from error
    names = sorted(DATASETS.keys() - {"composite"})  # `tasks` does the same
    if task not in names:
        close = difflib.get_close_matches(task, names, n=1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise UserError(
            f"data 'reasoning_gym': there is no task {task!r}",
            f"{hint}tasks: {', '.join(names)}",
        )
    return factory


def _options_at_level(task: Task, factory: Any) -> dict[str, Any]:
    """The options that the task's curriculum sets at its level; others keep their defaults."""
    if task.level is None:
        return {}
    where = f"data 'reasoning_gym': task {task.task!r}"
    if not factory.has_curriculum(task.task):
        raise UserError(
            f"{where} has no levels",
            f"make it harder with options: they are {_list_options(task.task, factory)}",
        )
    curriculum = factory.create_curriculum(task.task)
    highest = {name: len(each.levels) - 1 for name, each in curriculum.attributes.items()}
    if isinstance(task.level, int):
        wanted = {name: min(task.level, top) for name, top in highest.items()}
        known = task.level <= max(highest.values())
    else:
        wanted = task.level
        known = all(name in highest and level <= highest[name] for name, level in wanted.items())
    if not known:
        levels = ", ".join(f"{name} 0 to {top}" for name, top in highest.items())
        raise UserError(f"{where} has no level {task.level}", f"its levels are {levels}")
    for name, level in wanted.items():
        curriculum.set_attr_level(name, level)
    made = curriculum.generate_configuration()
    roles = ("field_name", "lower_field_name", "upper_field_name")
    keys = [vars(curriculum.attributes[name]).get(role) for name in wanted for role in roles]
    return {key: getattr(made, key) for key in keys if key}


def _list_options(task: str, factory: Any) -> str:
    names = [field.name for field in dataclasses.fields(factory.DATASETS[task][1])]
    return ", ".join(name for name in names if name not in ("seed", "size")) or "none"
