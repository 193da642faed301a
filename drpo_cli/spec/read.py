"""A parsed document → validated sections, collecting every problem on the way."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any, TypeVar, cast

from pydantic import ValidationError

from drpo_cli import plugins
from drpo_cli.errors import UserError
from drpo_cli.plugins import KINDS, Selected
from drpo_cli.settings import (
    CheckpointSettings,
    CriticSettings,
    EvalSettings,
    ModelSettings,
    ReferenceSettings,
    RewardSettings,
    RunSettings,
    Settings,
    TrackerSettings,
    TrainSettings,
)
from drpo_cli.spec.lost import NOTHING, Lost
from drpo_cli.spec.messages import MissingKey, UnknownKey, problems_of, unknown_section
from drpo_cli.spec.model import CHOICES, LISTS, ORDER, SECTIONS, Choice, Spec
from drpo_cli.spec.positions import KeyPath
from drpo_cli.spec.problems import Problem, key_text

S = TypeVar("S", bound=Settings)
L = TypeVar("L", ModelSettings, ReferenceSettings, CriticSettings)


class Reader:
    """Reads one document; what is wrong with it gathers in `problems`.

    Keys that fail are absent from the settings returned (reading one raises AttributeError), so
    that rules over the other keys can still be checked and reported in the same go.
    """

    def __init__(self, document: dict[str, Any], path: Path, lost: Lost = NOTHING) -> None:
        self.document = document
        self.lost = lost
        self.path = path
        self.folder = path.parent
        self.problems: list[Problem] = []

    def spec(self) -> Spec:
        """The spec, complete when `problems` stays empty."""
        for name in self.document:
            if name not in SECTIONS and name not in CHOICES and name not in LISTS:
                what, meant = unknown_section(name)
                self.problems.append(Problem((name,), what, on_key=True))
                self.mean((), meant)
        evaluation = self.document.get("eval", {})
        held_out: tuple[Selected[Any], ...] = ()
        if isinstance(evaluation, dict) and "data" in evaluation:
            held_out = self.several(("eval", "data"), evaluation["data"], LISTS["data"])
        return Spec(
            path=self.path,
            folder=self.folder,
            run=self.section("run", RunSettings),
            model=_located(self.section("model", ModelSettings), self.folder),
            data=self.several(("data",), self.document.get("data", []), LISTS["data"]),
            rollout=self.optional("rollout"),
            reward=self.several(("reward",), self.document.get("reward", []), LISTS["reward"]),
            advantage=self.optional("advantage"),
            objective=self.optional("objective"),
            train=self.section("train", TrainSettings),
            reference=self.extra("reference", ReferenceSettings),
            critic=self.extra("critic", CriticSettings),
            eval=self.section("eval", EvalSettings, leave="data"),
            eval_data=held_out,
            checkpoint=self.section("checkpoint", CheckpointSettings),
            tracker=self.trackers(),
        )

    def forget(self, spec: Spec) -> None:
        """Takes the sections out of `spec` that are written but cannot be read."""
        for name in ORDER:
            unread = name not in self.document and self.lost.covers((name,))
            if unread or (name,) in self.lost.keys:
                spec.__dict__.pop(name)
        if self.lost.covers(("eval", "data")):
            spec.__dict__.pop("eval_data")

    def mean(self, table: KeyPath, meant: str | None) -> None:
        """An unknown key was said to stand for `meant`: its value is as good as lost."""
        if meant is not None:
            self.lost = self.lost.plus(keys=[(*table, meant)])

    def trackers(self) -> tuple[Selected[Any], ...]:
        """The one list that may be empty or absent."""
        tables = self.document.get("tracker", [])
        return () if tables == [] else self.several(("tracker",), tables, LISTS["tracker"])

    def say(self, key: KeyPath, what: str) -> None:
        self.problems.append(Problem(key, what))

    def section(self, name: str, model: type[S], leave: str = "") -> S:
        needed = [key for key, field in model.model_fields.items() if field.is_required()]
        if name not in self.document and self.lost.covers((name,)):
            return _nothing(model)
        if name not in self.document and needed:
            self.say((name,), f"is missing; add a [{name}] section with {' and '.join(needed)}")
            return _nothing(model)
        table = self.document.get(name, {})
        if not isinstance(table, dict):
            self.say((name,), f"must be a section; write [{name}] and its keys on lines below it")
            return _nothing(model)
        return self.validated((name,), model, {k: v for k, v in table.items() if k != leave})

    def extra(self, name: str, model: type[L]) -> L | None:
        """A section that switches its part of a run on; its path is the model's kind of path."""
        return _located(self.section(name, model), self.folder) if name in self.document else None

    def optional(self, name: str) -> Selected[Any]:
        return self.chosen((name,), self.document.get(name, {}), CHOICES[name])

    def several(self, key: KeyPath, tables: Any, choice: Choice) -> tuple[Selected[Any], ...]:
        header = f"[[{key_text(key)}]]"
        if isinstance(tables, dict):
            self.say(key, f"is a single table; write {header}, with two brackets on each side")
        elif not isinstance(tables, list):
            self.say(key, f"must be a list of tables; write each as {header}")
        elif not tables and not self.lost.covers(key):
            self.say(key, f"is missing; add at least one {header} table with a type")
        else:
            return tuple(self.chosen((*key, i), t, choice) for i, t in enumerate(tables))
        return ()

    def chosen(self, key: KeyPath, table: Any, choice: Choice) -> Selected[Any]:
        base = KINDS[choice.kind].base
        if not isinstance(table, dict):
            self.say(key, f"must be a table; write [{key_text(key)}] and its keys below it")
            return Selected(choice.kind, "", _nothing(base))
        options = {k: v for k, v in table.items() if k != choice.selector}
        if self.misspelt(key, table, choice) or self.lost.covers((*key, choice.selector)):
            name, config = "", base
        else:
            name, config = self.plugin(key, choice, table.get(choice.selector, choice.default))
        if not name:  # what every plugin of the kind takes can be checked all the same
            options = {k: v for k, v in options.items() if k in base.model_fields}
        if name and issubclass(config, RewardSettings | TrackerSettings):
            options.setdefault("name", plugins.short_name(name))
        settings = self.validated(key, config, options)
        return Selected(choice.kind, plugins.absolute(name, self.folder), settings)

    def misspelt(self, key: KeyPath, table: dict[str, Any], choice: Choice) -> bool:
        """Whether the key that names the plugin is there under a wrong name, which is then said."""
        others = [name for name in table if name not in KINDS[choice.kind].base.model_fields]
        if choice.selector in others:
            return False
        close = difflib.get_close_matches(choice.selector, others, n=1, cutoff=0.7)
        for name in close:
            what = f"is not a known key; did you mean {choice.selector!r}?"
            self.problems.append(Problem((*key, name), what, on_key=True))
        return bool(close)

    def plugin(self, key: KeyPath, choice: Choice, name: Any) -> tuple[str, type[Settings]]:
        """A plugin's type and `Config`; ("", the kind's base) once it has been said why not."""
        noun, base = KINDS[choice.kind].noun, KINDS[choice.kind].base
        what = ""
        if name is None:
            known = ", ".join(plugins.available(choice.kind))
            what = f"is missing; say which {noun}: {known}, or your own './file.py:name'"
        elif not isinstance(name, str):
            what = f"is {name!r}; must be a name in quotes"
        else:
            try:
                return name, plugins.load(choice.kind, name, self.folder).Config
            except UserError as error:
                what = str(error)
        self.say((*key, choice.selector), what)
        return "", base

    def validated(self, key: KeyPath, model: type[S], options: dict[str, Any]) -> S:
        table = _path_defaults(model) | options
        try:
            valid = model.model_validate(table, context={"folder": self.folder})
            return self.known(key, valid) if self.lost.touches(key) else valid
        except UserError as error:
            self.say(key, str(error))
            return _nothing(model)
        except ValidationError as error:
            errors = error.errors(include_url=False)
        found = self.certain(key, problems_of(errors, model, key, table))
        self.problems += found
        known = {k: v for k, v in table.items() if k in model.model_fields}
        partial = cast(S, model.model_construct(**known))
        for problem in found:
            for name in problem.key[len(key) : len(key) + 1]:
                partial.__dict__.pop(str(name), None)
        return self.known(key, partial)

    def certain(self, table: KeyPath, found: list[Problem]) -> list[Problem]:
        """Problems that do not come from what is lost."""
        for problem in found:
            if isinstance(problem, UnknownKey):
                self.mean(problem.key[:-1], problem.meant)
        return [
            problem
            for problem in found
            if not (isinstance(problem, MissingKey) and self.lost.covers(problem.key))
            and not (problem.key == table and self.lost.touches(table))
        ]

    def known(self, table: KeyPath, model: S) -> S:
        """A model without the keys that may have another value than it says."""
        left = model.model_copy()
        for name in type(model).model_fields:
            key = (*table, name)
            if any(lost[: len(key)] == key for lost in self.lost.keys) or (
                table in self.lost.tables and name not in model.model_fields_set
            ):
                left.__dict__.pop(name, None)
        return left


def _nothing(model: type[S]) -> S:
    empty = cast(S, model.model_construct())
    empty.__dict__.clear()
    return empty


def _path_defaults(model: type[Settings]) -> dict[str, str]:
    """Default paths too count from the spec's folder, so they go through validation like others."""
    defaults = {name: field.default for name, field in model.model_fields.items()}
    return {name: str(value) for name, value in defaults.items() if isinstance(value, Path)}


def _located(model: L, folder: Path) -> L:
    """The model's path made absolute, unless it can only be a hub id."""
    name = getattr(model, "path", None)
    if not isinstance(name, str):
        return model
    path = folder / Path(name).expanduser()
    is_path = name.startswith(("./", "../", "/", "~")) or name in (".", "..")
    if is_path or getattr(model, "prepare", None) is not None or path.is_dir():
        return model.model_copy(update={"path": str(path.resolve())})
    return model
