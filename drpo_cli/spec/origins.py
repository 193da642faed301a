"""Where each value of a spec comes from: the file, a preset, `--set`, or a default."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from drpo_cli import plugins
from drpo_cli.plugins import Selected
from drpo_cli.settings import RewardSettings
from drpo_cli.spec.model import CHOICES, LISTS, ORDER, Choice, Spec
from drpo_cli.spec.positions import KeyPath
from drpo_cli.spec.problems import Diagnostic


@dataclass(frozen=True)
class Setting:
    """A key of a spec, its value, and its default.

    `required`: it has none. `origin` is where it was set, None for a key that was not.
    """

    key: KeyPath
    value: Any
    default: Any
    required: bool
    origin: Diagnostic | None

    @property
    def differs(self) -> bool:
        """Whether somebody set it to something else than its default."""
        return self.origin is not None and (self.required or self.value != self.default)

    @property
    def whence(self) -> str:
        """`line 12`, `preset` or `--set`."""
        if self.origin is None:
            return "default"
        return f"line {self.origin.line}" if self.origin.origin == "file" else self.origin.origin


def settings_of(spec: Spec) -> list[Setting]:
    """Every key of a spec, in the order that specs are written in."""
    found: list[Setting] = []
    for name in ORDER:
        part = getattr(spec, name)
        if name in LISTS:
            for index, selected in enumerate(part):
                found += _plugin(spec, (name, index), selected, LISTS[name])
        elif name in CHOICES:
            found += _plugin(spec, (name,), part, CHOICES[name])
        elif part is not None:
            found += _keys(spec, (name,), part)
        if name == "eval":
            for index, selected in enumerate(spec.eval_data):
                found += _plugin(spec, ("eval", "data", index), selected, LISTS["data"])
    return found


def _plugin(spec: Spec, at: KeyPath, selected: Selected[Any], choice: Choice) -> Iterator[Setting]:
    key = (*at, choice.selector)
    origin = spec.source.origin(key)
    default = choice.default
    yield Setting(key, selected.type, default, default is None, origin)
    yield from _keys(spec, at, selected.config, plugins.short_name(selected.type))


def _keys(spec: Spec, at: KeyPath, model: BaseModel, name: str = "") -> Iterator[Setting]:
    for key, field in type(model).model_fields.items():
        default = field.get_default(call_default_factory=True)
        if isinstance(default, Path):
            default = spec.folder / default
        if key == "name" and isinstance(model, RewardSettings):
            default = name
        origin = spec.source.origin((*at, key)) if key in model.model_fields_set else None
        yield Setting((*at, key), getattr(model, key), default, field.is_required(), origin)
