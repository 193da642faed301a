"""What `--vary` and `--seeds` ask for: axes, seeds, and the cells of the grid with overrides."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import permutations, product
from pathlib import PurePosixPath
from typing import Any

from drpo_cli import plugins
from drpo_cli.errors import UserError
from drpo_cli.spec.model import CHOICES, Spec
from drpo_cli.spec.overrides import parse_value, parse_variant, to_toml
from drpo_cli.spec.presets import PRESETS
from drpo_cli.tools.compare.lag import LAG, lag_settings, read_lag

VARIANTS = ("objective", "advantage", "rollout")
"""Keys that name a section with a plugin: their values are variants, `drpo:delta=0.2`."""
FIXED = {
    "run.seed": "give --seeds",
    "run.name": "each run of a grid gets its own name",
    "run.folder": "give --out",
}
Point = tuple[tuple[str, str], ...]
"""Each varied key and its value, in the order of the `--vary`."""
OPEN, CLOSE, QUOTES = "[{(", "]})", "\"'"
MODEL = "model.path"
HIGHEST_SEED = 2**32 - 1
MOST_SEEDS = 10_000  # more is a typing error, as in `--seeds 0-40000`
LONGEST_NAME = 120  # of a run folder; a longer name is cut and ends in a hash


@dataclass(frozen=True)
class Axis:
    """One `--vary`: a key of the spec and its values, each in its normal spelling."""

    key: str
    values: tuple[str, ...]


@dataclass(frozen=True)
class Cell:
    """One combination of the varied values on one base model: one run per seed.

    point      each varied key and its value
    label      the cell for people
    name       the cell for the file system
    overrides  what the cell sets in the base spec, written as for `--set`
    lag        updates per step, where they vary as `lag`: curves then count updates; else 1
    base       the base model of `--bases`; empty without it
    candidate  the values of `--tune` that it tries; empty without any
    """

    point: Point
    label: str
    name: str
    overrides: tuple[str, ...]
    lag: int = 1
    base: str = ""
    candidate: str = ""

    def value(self, key: str) -> str:
        """The value of a varied key."""
        return dict(self.point)[key]


def parse_axes(texts: Sequence[str]) -> tuple[Axis, ...]:
    """Reads every `KEY=V1,V2,…`. Raises UserError for a wrong one and for a key given twice."""
    if not texts:
        raise UserError("--vary: is missing", "say what to compare: --vary objective=drpo,grpo")
    found = tuple(parse_axis("--vary", text) for text in texts)
    keys = [axis.key for axis in found]
    for key in keys:
        if keys.count(key) > 1:
            raise UserError(f"--vary {key}: is given twice", "put all its values into one --vary")
    return found


def parse_seeds(text: str, option: str = "--seeds") -> tuple[int, ...]:
    """Reads `0-4`, `0,3,7` or a mixture, in that order. Raises UserError for anything else."""
    found: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d+)\s*(?:-\s*(\d+)\s*)?", part)
        if match is None:
            raise UserError(f"{option} {text}: {part!r} is not a seed", "write 0-4, or 0,3,7")
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first:
            raise UserError(f"{option} {text}: {part.strip()} goes down", f"write {last}-{first}")
        if last > HIGHEST_SEED:
            raise UserError(
                f"{option} {text}: {last} is too high; a seed is at most {HIGHEST_SEED}"
            )
        if last - first >= MOST_SEEDS:
            raise UserError(f"{option} {text}: is over {MOST_SEEDS:,} seeds", "ask for fewer")
        found += range(first, last + 1)
    seed, times = Counter(found).most_common(1)[0]
    if times > 1:
        raise UserError(f"{option} {text}: names seed {seed} twice", "name it once")
    return tuple(found)


def make_cells(axes: Sequence[Axis], base: Spec | None = None) -> tuple[Cell, ...]:
    """Every combination of values; the first axis changes slowest.

    A lag changes numbers of the `base` spec. Raises UserError when it cannot, when two axes set the
    same key, or when two cells would share a folder.
    """
    settings = {(a.key, v): settings_of(a.key, v, base) for a in axes for v in a.values}
    _require_disjoint(axes, settings)
    short = short_keys([axis.key for axis in axes])
    found = []
    for values in product(*(axis.values for axis in axes)):
        point = tuple((axis.key, value) for axis, value in zip(axes, values, strict=True))
        items = [item for pair in point for item in settings[pair].items()]
        # whole sections first: replacing a section would lose a key that was set in it before
        items.sort(key=lambda item: "." in item[0])
        overrides = tuple(f"{key}={text}" for key, text in items)
        lag = int(dict(point).get(LAG, 1))
        found.append(Cell(point, label_of(point), _file_name(point, short), overrides, lag))
    shared = [name for name, count in Counter(cell.name for cell in found).items() if count > 1]
    if shared:
        raise UserError(f"--vary: two cells would share the folder {shared[0]}", "rename a value")
    return tuple(found)


def parse_bases(text: str, axes: Sequence[Axis], set_: Sequence[str]) -> tuple[str, ...]:
    """Reads `A,B,C`, each a value of model.path; none for an empty text.

    Raises UserError for two of the same name, and where something else sets model.path.
    """
    if not text:
        return ()
    found = tuple(split_values(text))
    others = [f"--vary {axis.key}" for axis in axes if axis.key in ("model", MODEL)]
    others += [f"--set {one}" for one in set_ if one.partition("=")[0].strip() == MODEL]
    if others:
        raise UserError(f"{others[0]}: sets {MODEL}, and so does --bases", "give one of them")
    if not all(found):
        raise UserError(f"--bases {text}: has an empty value", "write --bases A,B,C")
    name, times = Counter(map(_base_name, found)).most_common(1)[0]
    if times > 1:
        raise UserError(f"--bases {text}: two of them are named {name}", "rename one")
    return found


def put_on_bases(cells: Sequence[Cell], bases: Sequence[str]) -> tuple[Cell, ...]:
    """Each cell on each base model; the cells as they are without any."""
    if not bases:
        return tuple(cells)
    return tuple(
        replace(
            cell,
            label=f"{cell.label} on {_base_name(base)}",
            name=f"{cell.name}-{_base_name(base)}",
            overrides=(*cell.overrides, f"{MODEL}={to_toml(base)}"),
            base=base,
        )
        for cell in cells
        for base in bases
    )


def label_of(point: Point) -> str:
    """A point for people."""
    short = short_keys([key for key, _ in point])
    return ", ".join(v if k in VARIANTS else f"{short[k]}={v}" for k, v in point)


def run_name(cell: Cell, seed: int) -> str:
    """The name of a cell's run with one seed."""
    return f"{cell.name}-seed{seed}"


def short_keys(keys: Sequence[str]) -> dict[str, str]:
    """Each key without its section, unless two keys would then be the same."""
    last = Counter(key.rpartition(".")[2] for key in keys)
    return {k: k.rpartition(".")[2] if last[k.rpartition(".")[2]] == 1 else k for k in keys}


def split_values(text: str) -> list[str]:
    """Splits at commas outside brackets and quotes, and strips the parts."""
    parts, depth, quote = [""], 0, ""
    for character in text:
        if quote:
            quote = "" if character == quote else quote
        elif character in QUOTES:
            quote = character
        elif character in OPEN or character in CLOSE:
            depth += 1 if character in OPEN else -1
        elif character == "," and depth == 0:
            parts.append("")
            continue
        parts[-1] += character
    return [part.strip() for part in parts]


def spell(value: Any) -> str:
    """A value's spelling in labels and names: one for `1e-3` and `0.001`, and it reads back."""
    return value if isinstance(value, str) and parse_value(value) == value else to_toml(value)


def parse_axis(option: str, text: str) -> Axis:
    """Reads one `KEY=V1,V2,…`. Raises UserError for a wrong one."""
    key, equals, rest = text.partition("=")
    key = key.strip()
    if not equals or not key:
        raise UserError(f"{option} {text}: has no key and values", "write section.key=value,value")
    if key in FIXED:
        raise UserError(f"{option} {key}: cannot be varied", FIXED[key])
    parts = split_values(rest)
    if not all(parts):
        raise UserError(f"{option} {text}: has an empty value", f"write {key}=value,value")
    values = [normal_value(key, part) for part in parts]
    for value in values:
        if values.count(value) > 1:
            raise UserError(f"{option} {text}: names {value} twice", "name it once")
    return Axis(key, tuple(values))


def normal_value(key: str, text: str) -> str:
    """The one spelling of a value of a key. Raises UserError for what cannot be its value."""
    if key == LAG:
        return read_lag(text)
    if key not in VARIANTS:
        return spell(parse_value(text))
    name, options = parse_variant(text)
    if not name:
        raise UserError(f"--vary {key}={text}: names no {key}", "write name:option=value")
    return ":".join([name, *(f"{option}={spell(v)}" for option, v in options.items())])


def settings_of(key: str, value: str, base: Spec | None = None) -> dict[str, str]:
    """What one value of an axis sets: keys or whole sections, each with its TOML.

    Raises UserError where it cannot be set, and for a lag that the base spec does not allow.
    """
    if key == LAG:
        assert base is not None
        return lag_settings(base, int(value))
    if key not in VARIANTS:
        return {key: value}
    name, options = parse_variant(value)
    choice = CHOICES[key]
    if key == "rollout":  # the section's other keys say how to sample, whatever the engine
        return {f"rollout.{k}": to_toml(v) for k, v in {choice.selector: name, **options}.items()}
    preset = PRESETS.get(name) if name not in plugins.available(choice.kind) else None
    if key == "objective" and preset is not None:
        if options:
            raise UserError(
                f"--vary objective={value}: {name} is a preset and takes no options",
                f"give them to its objective, {preset['objective']['type']}",
            )
        return _preset_settings(preset)
    return {key: to_toml({choice.selector: name, **options})}


def _preset_settings(preset: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Whole sections where the preset names the plugin, single keys elsewhere."""
    found = {}
    for section, keys in preset.items():
        if section in CHOICES and CHOICES[section].selector in keys:
            found[section] = to_toml(dict(keys))
        else:
            found |= {f"{section}.{key}": to_toml(value) for key, value in keys.items()}
    return found


def _require_disjoint(
    axes: Sequence[Axis], settings: Mapping[tuple[str, str], Mapping[str, str]]
) -> None:
    """Raises UserError when two axes set the same key, as a preset and a key of it do."""
    for axis, other in permutations(axes, 2):
        theirs = {key for value in other.values for key in settings[other.key, value]}
        for value in axis.values:
            both = sorted(theirs & settings[axis.key, value].keys())
            if both:
                raise UserError(
                    f"--vary {axis.key}={value}: sets {both[0]}, and so does --vary {other.key}",
                    "vary one of them",
                )


def _base_name(base: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "_", PurePosixPath(base).name)


def _file_name(point: Point, short: Mapping[str, str]) -> str:
    parts = [v if k in VARIANTS else f"{short[k]}={v}" for k, v in point]
    readable = "-".join(part.replace(":", "_").replace("=", "") for part in parts)
    return safe_name(readable, spell([list(pair) for pair in point]))


def safe_name(readable: str, whole: str) -> str:
    """A name that any file system takes, the same however the grid grows.

    Where `readable` cannot stay as it is, a hash of `whole` distinguishes it from others.
    """
    safe = re.sub(r"[^A-Za-z0-9._-]+", "_", readable).lstrip("._-") or "cell"
    if safe != readable or len(safe) > LONGEST_NAME:
        digest = hashlib.sha256(whole.encode()).hexdigest()[:8]
        safe = f"{safe[:LONGEST_NAME]}-{digest}"
    return safe
