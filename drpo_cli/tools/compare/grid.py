"""The cells of a grid: every combination of the varied values, each with its overrides."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations, product
from typing import Any

from drpo_cli import plugins
from drpo_cli.errors import UserError
from drpo_cli.spec.model import CHOICES
from drpo_cli.spec.overrides import parse_variant
from drpo_cli.spec.presets import PRESETS
from drpo_cli.tools.compare.request import VARIANTS, Axis, spelled, toml

LONGEST_NAME = 120  # of a run folder; a longer one ends in a hash


@dataclass(frozen=True)
class Cell:
    """One combination of the varied values: a run a seed.

    point      each varied key and its value, in the order of the `--vary`
    label      the same for people; name: for the file system
    overrides  what it sets in the base spec, as for `--set`
    """

    point: tuple[tuple[str, str], ...]
    label: str
    name: str
    overrides: tuple[str, ...]

    def value(self, key: str) -> str:
        """The value of a varied key."""
        return dict(self.point)[key]


def cells(axes: Sequence[Axis]) -> tuple[Cell, ...]:
    """The full product, the first axis changing slowest.

    Raises UserError when two axes set the same key, or two cells would share a folder.
    """
    settings = {(a.key, v): _settings(a.key, v) for a in axes for v in a.values}
    _require_apart(axes, settings)
    short = short_keys([axis.key for axis in axes])
    found = []
    for values in product(*(axis.values for axis in axes)):
        point = tuple((axis.key, value) for axis, value in zip(axes, values, strict=True))
        set_here = [item for pair in point for item in settings[pair].items()]
        # whole sections first: a key of one would be lost with the section that is replaced
        set_here.sort(key=lambda item: "." in item[0])
        overrides = tuple(f"{key}={text}" for key, text in set_here)
        label = ", ".join(v if k in VARIANTS else f"{short[k]}={v}" for k, v in point)
        found.append(Cell(point, label, _name(point, short), overrides))
    shared = [name for name, count in Counter(cell.name for cell in found).items() if count > 1]
    if shared:
        raise UserError(f"--vary: two cells would share the folder {shared[0]}; rename a value")
    return tuple(found)


def run_name(cell: Cell, seed: int) -> str:
    """The run of a cell with one seed."""
    return f"{cell.name}-seed{seed}"


def _settings(key: str, value: str) -> dict[str, str]:
    """What one value of an axis sets: a key or a whole section, each with its TOML."""
    if key not in VARIANTS:
        return {key: value}
    name, options = parse_variant(value)
    choice = CHOICES[key]
    if key == "rollout":  # the section also says how to sample, whatever the engine
        return {f"rollout.{k}": toml(v) for k, v in {choice.selector: name, **options}.items()}
    preset = PRESETS.get(name) if name not in plugins.available(choice.kind) else None
    if key == "objective" and preset is not None:
        if options:
            raise UserError(
                f"--vary objective={value}: {name} is a preset and takes no options; give them to "
                f"its objective, {preset['objective']['type']}"
            )
        return _preset_settings(preset)
    return {key: toml({choice.selector: name, **options})}


def _preset_settings(preset: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Whole sections where the preset names their plugin, single keys of the others."""
    found = {}
    for section, keys in preset.items():
        if section in CHOICES and CHOICES[section].selector in keys:
            found[section] = toml(dict(keys))
        else:
            found |= {f"{section}.{key}": toml(value) for key, value in keys.items()}
    return found


def _require_apart(
    axes: Sequence[Axis], settings: Mapping[tuple[str, str], Mapping[str, str]]
) -> None:
    """Raises UserError when one axis sets what another sets too, as a preset may."""
    for axis, other in permutations(axes, 2):
        theirs = {key for value in other.values for key in settings[other.key, value]}
        for value in axis.values:
            both = sorted(theirs & settings[axis.key, value].keys())
            if both:
                raise UserError(
                    f"--vary {axis.key}={value}: sets {both[0]}, and so does --vary {other.key}; "
                    f"vary one of them"
                )


def short_keys(keys: Sequence[str]) -> dict[str, str]:
    """Each key without its section, where that still tells the keys apart."""
    last = Counter(key.rpartition(".")[2] for key in keys)
    return {k: k.rpartition(".")[2] if last[k.rpartition(".")[2]] == 1 else k for k in keys}


def _name(point: Sequence[tuple[str, str]], short: Mapping[str, str]) -> str:
    """A name that any file system takes, the same however the grid grows."""
    parts = [v if k in VARIANTS else f"{short[k]}={v}" for k, v in point]
    readable = "-".join(part.replace(":", "_").replace("=", "") for part in parts)
    safe = re.sub(r"[^A-Za-z0-9._-]+", "_", readable).lstrip("._-") or "cell"
    if safe != readable or len(safe) > LONGEST_NAME:
        digest = hashlib.sha256(spelled([list(pair) for pair in point]).encode()).hexdigest()[:8]
        safe = f"{safe[:LONGEST_NAME]}-{digest}"
    return safe
