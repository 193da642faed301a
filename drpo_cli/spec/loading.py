"""Loads a spec: the text of a file → a TOML document → validated sections → rules."""

from __future__ import annotations

import difflib
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar, cast

import tomli
from pydantic import ValidationError

from drpo_cli import plugins
from drpo_cli.errors import UserError
from drpo_cli.plugins import KINDS, Selected
from drpo_cli.settings import (
    NAMED,
    CheckpointSettings,
    CriticSettings,
    EvalSettings,
    EvalSuiteSettings,
    LoraSettings,
    ModelSettings,
    ParallelSettings,
    ReferenceSettings,
    RunSettings,
    Settings,
    SftSettings,
    TeacherSettings,
    TrainSettings,
)
from drpo_cli.spec import presets, rules
from drpo_cli.spec.messages import (
    MissingKey,
    UnknownKey,
    problems_of,
    unknown_section,
    version_note,
)
from drpo_cli.spec.model import CHOICES, LISTS, SECTIONS, SUITES, Choice, Spec
from drpo_cli.spec.overrides import apply_overrides
from drpo_cli.spec.positions import KeyPath, TooDeepError, scan
from drpo_cli.spec.problems import Problem, Source, SpecError, key_text
from drpo_cli.spec.syntax import explain
from drpo_cli.spec.text import read_text

TOO_DEEP = "nests too deeply; a spec needs three levels"

S = TypeVar("S", bound=Settings)


def load(path: Path, overrides: Sequence[str] = (), checks: Sequence[rules.Rule] = ()) -> Spec:
    """Loads the run that `path` describes, with `overrides` (`"a.b=v"`) on top.

    Relative paths count from the folder of the spec; the result has absolute ones. Plugins are
    imported. `checks` are additional rules. Raises SpecError: with the first syntax error of a
    file that is not TOML, else with everything that is wrong, in file order.
    """
    return load_text(read_text(Path(path)), Path(path), overrides, checks)


def load_text(
    text: str,
    path: Path,
    overrides: Sequence[str] = (),
    checks: Sequence[rules.Rule] = (),
    others: Sequence[str] = (),
) -> Spec:
    """Loads a spec from its TOML text, as if `path` held it; see `load`.

    `others` are sections that the caller reads.
    """
    source = Source(str(path), text, note=version_note(path))
    document = {key: value for key, value in _parse(source).items() if key not in others}
    source = replace(source, places=_scan(source))
    overridden, astray = apply_overrides(document, overrides)
    preset = presets.expand(document)
    source = replace(source, overrides=overridden, preset=preset.keys)
    reader = _Reader(document, path.absolute(), preset.unknown)
    spec = replace(reader.read(), source=source, preset=preset.name)
    reader.forget_unknown(spec)
    problems = [*preset.problems, *reader.problems, *rules.find_errors(spec, checks)]
    warnings = rules.find_warnings(spec)
    if not problems and not astray:
        return replace(spec, warnings=tuple(source.diagnostics(warnings, "warning")))
    error = source.error(problems, warnings)
    also = [replace(one, file=str(path)) for one in astray]
    raise SpecError([*error.problems, *also], error.warnings, error.note)


def _parse(source: Source) -> dict[str, Any]:
    try:
        # tomli takes \r\n for \n, which `read_text` has done: in its text each \r is one too many
        return tomli.loads(source.text.replace("\r\n", "\r\r\n"))
    except tomli.TOMLDecodeError as error:
        raise source.error([explain(source.text, error)]) from None
    except RecursionError:
        raise source.error([Problem((), TOO_DEEP)]) from None


def _scan(source: Source) -> dict[KeyPath, Any]:
    try:
        return scan(source.text)
    except TooDeepError as error:
        raise source.error([Problem((), TOO_DEEP, at=error.at)]) from None
    except RecursionError:
        raise source.error([Problem((), TOO_DEEP)]) from None


class _Reader:
    """Reads the sections of one document, and collects in `problems` what is wrong with it.

    A key that is wrong is absent from the settings returned: reading it raises AbsentKeyError, so
    that rules over the other keys are still checked and reported at the same time. `unknown` are
    the keys whose value nobody can tell, because a misspelt key or preset may stand for them:
    nothing that follows from them is reported.
    """

    def __init__(self, document: dict[str, Any], path: Path, unknown: frozenset[KeyPath]) -> None:
        self.document = document
        self.path = path
        self.folder = path.parent
        self.unknown = set(unknown)
        self.problems: list[Problem] = []

    def read(self) -> Spec:
        """The spec; it is complete if `problems` stays empty."""
        for name in self.document:
            if name not in SECTIONS and name not in CHOICES and name not in LISTS:
                what, meant = unknown_section(name)
                self.report((name,), what, on_key=True)
                self.unknown |= {(meant,)} if meant else set()
        return Spec(
            path=self.path,
            folder=self.folder,
            run=self.section("run", RunSettings),
            model=_locate(self.section("model", ModelSettings), self.folder),
            data=self.array("data"),
            rollout=self.choice("rollout"),
            reward=self.array("reward", optional=self.has_environments()),
            advantage=self.choice("advantage"),
            objective=self.choice("objective"),
            train=self.section("train", TrainSettings),
            lora=self.optional("lora", LoraSettings),
            reference=self.optional("reference", ReferenceSettings),
            teacher=self.optional("teacher", TeacherSettings),
            critic=self.optional("critic", CriticSettings),
            sft=self.optional("sft", SftSettings, leave=("data",)),
            sft_data=self.own_data("sft"),
            parallel=self.section("parallel", ParallelSettings),
            eval=self.section("eval", EvalSettings, leave=("data", "suite")),
            eval_data=self.own_data("eval"),
            eval_suites=self.suites(),
            checkpoint=self.section("checkpoint", CheckpointSettings),
            environment=self.array("environment", optional=True),
            tracker=self.array("tracker", optional=True),
        )

    def forget_unknown(self, spec: Spec) -> None:
        """Makes the sections absent that a misspelt section may stand for."""
        for key in self.unknown:
            if len(key) == 1:
                spec.__dict__.pop(str(key[0]), None)

    def report(self, key: KeyPath, what: str, on_key: bool = False) -> None:
        self.problems.append(Problem(key, what, on_key=on_key))

    def is_unknown(self, key: KeyPath) -> bool:
        """Whether the value of `key`, of a part of it, or of what holds it, is unknown."""
        return any(key[: len(one)] == one[: len(key)] for one in self.unknown)

    def section(self, name: str, model: type[S], leave: Sequence[str] = ()) -> S:
        needed = [key for key, field in model.model_fields.items() if field.is_required()]
        table = self.document.get(name, {})
        if name not in self.document and self.is_unknown((name,)) and needed:
            return _empty(model)
        if name not in self.document and needed:
            self.report((name,), f"is missing; add a [{name}] section with {' and '.join(needed)}")
            return _empty(model)
        if not isinstance(table, dict):
            what = f"must be a section; write [{name}], with its keys on the lines below"
            self.report((name,), what)
            return _empty(model)
        return self.validate((name,), model, {k: v for k, v in table.items() if k not in leave})

    def optional(self, name: str, model: type[S], leave: Sequence[str] = ()) -> S | None:
        """A section that switches a part of the run on; its `path` is like that of the model."""
        if name not in self.document:
            return None
        return _locate(self.section(name, model, leave), self.folder)

    def own_data(self, name: str) -> tuple[Selected[Any], ...]:
        """The sources in a section of their own, if there are any."""
        table = self.document.get(name, {})
        if not isinstance(table, dict) or "data" not in table:
            return ()
        return self.several((name, "data"), table["data"], LISTS["data"])

    def suites(self) -> tuple[EvalSuiteSettings, ...]:
        """The suites that the run is scored on, if there are any."""
        section, part = SUITES
        table = self.document.get(section, {})
        if not isinstance(table, dict) or part not in table:
            return ()
        return tuple(self.suite(key, one) for key, one in self.each(SUITES, table[part], "name"))

    def suite(self, key: KeyPath, table: Any) -> EvalSuiteSettings:
        if not isinstance(table, dict):
            self.report(key, "must be a table; write [[eval.suite]], with its keys below")
            return _empty(EvalSuiteSettings)
        return self.validate(key, EvalSuiteSettings, table)

    def choice(self, name: str) -> Selected[Any]:
        return self.select((name,), self.document.get(name, {}), CHOICES[name])

    def array(self, name: str, optional: bool = False) -> tuple[Selected[Any], ...]:
        """The tables of an array, which may be empty if it is optional."""
        tables = self.document.get(name, [])
        return () if optional and tables == [] else self.several((name,), tables, LISTS[name])

    def has_environments(self) -> bool:
        """Whether there are environments, whose own rewards may be enough; or may be meant."""
        return self.document.get("environment", []) != [] or self.is_unknown(("environment",))

    def several(self, key: KeyPath, tables: Any, choice: Choice) -> tuple[Selected[Any], ...]:
        found = self.each(key, tables, choice.selector)
        return tuple(self.select(at, table, choice) for at, table in found)

    def each(self, key: KeyPath, tables: Any, selector: str) -> list[tuple[KeyPath, Any]]:
        """The entries of an array of tables, with their keys."""
        header = f"[[{key_text(key)}]]"
        if isinstance(tables, dict):
            self.report(key, f"is a single table; write {header}, with two brackets on each side")
        elif not isinstance(tables, list):
            self.report(key, f"must be a list of tables; write each as {header}")
        elif not tables and not self.is_unknown(key):
            other = ", or an [[environment]]" if key == ("reward",) else ""
            what = f"is missing; add at least one {header} table with a {selector}{other}"
            self.report(key, what)
        else:
            return [((*key, i), table) for i, table in enumerate(tables)]
        return []

    def select(self, key: KeyPath, table: Any, choice: Choice) -> Selected[Any]:
        """A table that selects a plugin. Its type is "" where the plugin is unknown."""
        base = KINDS[choice.kind].base
        if not isinstance(table, dict):
            self.report(key, f"must be a table; write [{key_text(key)}], with its keys below")
            return Selected(choice.kind, "", _empty(base))
        options = {k: v for k, v in table.items() if k != choice.selector}
        name, config = self.plugin(key, table, choice)
        if not name:  # the options that every plugin of the kind takes can be checked all the same
            options = {k: v for k, v in options.items() if k in base.model_fields}
            self.unknown |= {(*key, "name")} if "name" not in options else set()
        if name and issubclass(config, NAMED):
            options.setdefault("name", plugins.short_name(name))
        settings = self.validate(key, config, options)
        return Selected(choice.kind, plugins.absolute(name, self.folder), settings)

    def plugin(
        self, key: KeyPath, table: dict[str, Any], choice: Choice
    ) -> tuple[str, type[Settings]]:
        """The type and the `Config` of the plugin that a table selects.

        ("", the base of its kind) where there is none, which is reported.
        """
        base = KINDS[choice.kind].base
        if misspelt := _misspelt_selector(table, choice):
            what = f"is not a known key; did you mean {choice.selector!r}?"
            self.report((*key, misspelt), what, on_key=True)
            return "", base
        if self.is_unknown((*key, choice.selector)):
            return "", base
        name = table.get(choice.selector, choice.default)
        if name is None:
            known = "".join(f"{one}, " for one in plugins.available(choice.kind))
            own = f"{known}or your own './file.py:name'" if known else "your own './file.py:name'"
            what = f"is missing; name {KINDS[choice.kind].a_noun}: {own}"
        elif not isinstance(name, str):
            what = f"is {name!r}; must be a name in quotes"
        else:
            try:
                return name, plugins.load(choice.kind, name, self.folder).Config
            except UserError as error:
                what = str(error)
        self.report((*key, choice.selector), what)
        return "", base

    def validate(self, key: KeyPath, model: type[S], options: dict[str, Any]) -> S:
        """The options as a model, without the keys that are wrong or unknown."""
        table = _default_paths(model) | options
        try:
            settings = model.model_validate(table, context={"folder": self.folder})
        except UserError as error:
            self.report(key, str(error))
            return _empty(model)
        except ValidationError as error:
            found = problems_of(error.errors(include_url=False), model, key, table)
            self.unknown |= {
                (*problem.key[:-1], problem.meant)
                for problem in found
                if isinstance(problem, UnknownKey) and problem.meant
            }
            self.problems += [problem for problem in found if not self.follows(problem, key)]
            wrong = {problem.key[len(key)] for problem in found if len(problem.key) > len(key)}
            known = {k: v for k, v in table.items() if k in model.model_fields and k not in wrong}
            settings = cast(S, model.model_construct(**known))
        else:
            wrong = set()
        for one in self.unknown:
            if one[: len(key)] == key and len(one) > len(key):
                wrong.add(one[len(key)])
        settings = settings.model_copy()
        for name in wrong:
            settings.__dict__.pop(str(name), None)
        return settings

    def follows(self, problem: Problem, table: KeyPath) -> bool:
        """Whether a problem only follows from a key whose value is unknown."""
        if isinstance(problem, MissingKey):
            return self.is_unknown(problem.key)
        return problem.key == table and self.is_unknown(table)


def _empty(model: type[S]) -> S:
    """Settings without a single key."""
    empty = cast(S, model.model_construct())
    empty.__dict__.clear()
    return empty


def _misspelt_selector(table: dict[str, Any], choice: Choice) -> str | None:
    """The key that is to name the plugin, if it is there under a wrong name."""
    others = [name for name in table if name not in KINDS[choice.kind].base.model_fields]
    if choice.selector in others:
        return None
    return next(iter(difflib.get_close_matches(choice.selector, others, n=1, cutoff=0.7)), None)


def _default_paths(model: type[Settings]) -> dict[str, str]:
    """Default paths count from the folder of the spec too, so they are validated like others."""
    defaults = {name: field.default for name, field in model.model_fields.items()}
    return {name: str(value) for name, value in defaults.items() if isinstance(value, Path)}


def _locate(model: S, folder: Path) -> S:
    """Makes the path of the model absolute, unless it can only be a hub id."""
    name = getattr(model, "path", None)
    if not isinstance(name, str):
        return model
    path = folder / os.path.expanduser(name)
    is_path = name.startswith(("./", "../", "/", "~")) or name in (".", "..")
    if is_path or getattr(model, "prepare", None) is not None or path.exists():
        return model.model_copy(update={"path": str(path.resolve())})
    return model
