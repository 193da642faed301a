"""What `drpo compare` was asked for: `--vary` and `--seeds`, read from the command line."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from drpo_cli.errors import UserError
from drpo_cli.spec.overrides import parse_value, parse_variant

VARIANTS = ("objective", "advantage", "rollout")
"""Keys that name a section with a plugin: their values are variants, `drpo:delta=0.2`."""
OWN = {
    "run.seed": "give --seeds",
    "run.name": "each run of a grid gets a name of its own",
    "run.folder": "give --out",
}
OPEN, CLOSE, QUOTES = "[{(", "]})", "\"'"
HIGHEST_SEED = 2**32 - 1
MOST_SEEDS = 10_000  # more is a slip of the hand: `--seeds 0-40000`


@dataclass(frozen=True)
class Axis:
    """One `--vary`: a key of the spec and its values, in one spelling each."""

    key: str
    values: tuple[str, ...]


def axes(texts: Sequence[str]) -> tuple[Axis, ...]:
    """Every `KEY=V1,V2,…`. Raises UserError for what is no axis, and for what is given twice."""
    if not texts:
        raise UserError("--vary: is missing; say what to compare: --vary objective=drpo,grpo")
    found = tuple(_axis(text) for text in texts)
    keys = [axis.key for axis in found]
    for key in keys:
        if keys.count(key) > 1:
            raise UserError(f"--vary {key}: is given twice; put all its values into one --vary")
    return found


def seeds(text: str) -> tuple[int, ...]:
    """`0-4` or `0,3,7`, or both, as seeds in that order. Raises UserError for anything else."""
    found: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d+)\s*(?:-\s*(\d+)\s*)?", part)
        if match is None:
            raise UserError(f"--seeds {text}: {part!r} is no seed; write 0-4, or 0,3,7")
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first:
            raise UserError(f"--seeds {text}: {part.strip()} goes down; write {last}-{first}")
        if last > HIGHEST_SEED:
            raise UserError(f"--seeds {text}: {last} is too high; a seed is at most {HIGHEST_SEED}")
        if last - first >= MOST_SEEDS:
            raise UserError(f"--seeds {text}: is over {MOST_SEEDS:,} seeds; ask for fewer")
        found += range(first, last + 1)
    seed, times = Counter(found).most_common(1)[0]
    if times > 1:
        raise UserError(f"--seeds {text}: names seed {seed} twice; name it once")
    return tuple(found)


def split(text: str) -> list[str]:
    """The parts between commas that stand outside brackets and quotes, stripped."""
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


def spelled(value: Any) -> str:
    """A value as labels and names have it: `1e-3` and `0.001` are one. Reading it gives it back."""
    return value if isinstance(value, str) and parse_value(value) == value else toml(value)


def toml(value: Any) -> str:
    """A value on one line of TOML."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
        return f'"{escaped}"'
    if isinstance(value, list | tuple):
        return f"[{', '.join(toml(item) for item in value)}]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{toml(k)} = {toml(v)}" for k, v in value.items()) + "}"
    return str(value)


def _axis(text: str) -> Axis:
    key, equals, rest = text.partition("=")
    key = key.strip()
    if not equals or not key:
        raise UserError(f"--vary {text}: is no axis; write section.key=value,value")
    if key in OWN:
        raise UserError(f"--vary {key}: cannot be varied; {OWN[key]}")
    parts = split(rest)
    if not all(parts):
        raise UserError(f"--vary {text}: has an empty value; write {key}=value,value")
    values = [_value(key, part) for part in parts]
    for value in values:
        if values.count(value) > 1:
            raise UserError(f"--vary {text}: names {value} twice; name it once")
    return Axis(key, tuple(values))


def _value(key: str, text: str) -> str:
    if key not in VARIANTS:
        return spelled(parse_value(text))
    name, options = parse_variant(text)
    if not name:
        raise UserError(f"--vary {key}={text}: names no {key}; write name:option=value")
    return ":".join([name, *(f"{option}={spelled(v)}" for option, v in options.items())])
