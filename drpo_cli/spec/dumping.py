"""Writes a spec out in full: as TOML, or as a list of settings with what set each of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomli_w

from drpo_cli import plugins
from drpo_cli.plugins import Selected
from drpo_cli.settings import NAMED, Settings
from drpo_cli.spec.model import CHOICES, LISTS, ORDER, SUITES, Choice, Spec
from drpo_cli.spec.positions import KeyPath
from drpo_cli.spec.problems import Diagnostic


def dump(spec: Spec) -> str:
    """The spec as TOML: every value explicit, every path absolute, unset keys left out.

    The text can be loaded from any folder and gives an equal spec.
    """
    return tomli_w.dumps(document(spec))


def document(spec: Spec) -> dict[str, Any]:
    """The spec as nested dictionaries, as `dump` writes them."""
    written: dict[str, Any] = {}
    for name in ORDER:
        part = getattr(spec, name)
        if part is None or part == ():
            continue
        if name in LISTS:
            written[name] = [_table(selected, LISTS[name].selector) for selected in part]
        elif name in CHOICES:
            written[name] = _table(part, CHOICES[name].selector)
        else:
            written[name] = part.model_dump(mode="json", exclude_none=True)
        if own := spec.own_data(name):
            written[name]["data"] = [_table(one, LISTS["data"].selector) for one in own]
        if name == SUITES[0] and spec.eval_suites:
            suites = [one.model_dump(mode="json", exclude_none=True) for one in spec.eval_suites]
            written[name][SUITES[1]] = suites
    return written


def _table(selected: Selected[Any], selector: str) -> dict[str, Any]:
    options: dict[str, Any] = selected.config.model_dump(mode="json", exclude_none=True)
    return {selector: selected.type} | options


@dataclass(frozen=True)
class Setting:
    """A key of a spec with its value and its default.

    required  it has no default
    origin    what set it; None for a key that nothing set
    """

    key: KeyPath
    value: Any
    default: Any
    required: bool
    origin: Diagnostic | None

    @property
    def differs(self) -> bool:
        """Whether something set it to another value than its default."""
        return self.origin is not None and (self.required or self.value != self.default)

    @property
    def set_by(self) -> str:
        """`line 12`, `preset`, `--set` or `default`."""
        if self.origin is None:
            return "default"
        return f"line {self.origin.line}" if self.origin.origin == "file" else self.origin.origin


def settings_of(spec: Spec) -> list[Setting]:
    """Every key of a spec, in the order of `ORDER`."""
    found: list[Setting] = []
    for name in ORDER:
        part = getattr(spec, name)
        if name in LISTS:
            for index, selected in enumerate(part):
                found += _settings_of_plugin(spec, (name, index), selected, LISTS[name])
        elif name in CHOICES:
            found += _settings_of_plugin(spec, (name,), part, CHOICES[name])
        elif part is not None:
            found += _settings_of_table(spec, (name,), part)
        for index, selected in enumerate(spec.own_data(name)):
            found += _settings_of_plugin(spec, (name, "data", index), selected, LISTS["data"])
        for index, suite in enumerate(spec.eval_suites if name == SUITES[0] else ()):
            found += _settings_of_table(spec, (*SUITES, index), suite)
    return found


def _settings_of_plugin(
    spec: Spec, at: KeyPath, selected: Selected[Any], choice: Choice
) -> Iterator[Setting]:
    key, default = (*at, choice.selector), choice.default
    yield Setting(key, selected.type, default, default is None, spec.source.origin(key))
    yield from _settings_of_table(spec, at, selected.config, plugins.short_name(selected.type))


def _settings_of_table(
    spec: Spec, at: KeyPath, table: Settings, name: str = ""
) -> Iterator[Setting]:
    for key, field in type(table).model_fields.items():
        default = field.get_default(call_default_factory=True)
        if isinstance(default, Path):
            default = spec.folder / default
        if key == "name" and isinstance(table, NAMED):
            default = name
        origin = spec.source.origin((*at, key)) if key in table.model_fields_set else None
        yield Setting((*at, key), getattr(table, key), default, field.is_required(), origin)
