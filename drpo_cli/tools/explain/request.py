"""What `drpo explain` should draw, read and checked without torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from pydantic import ValidationError

from drpo_cli import plugins
from drpo_cli.errors import UserError
from drpo_cli.settings import ObjectiveSettings
from drpo_cli.spec.messages import problems_of
from drpo_cli.spec.overrides import parse_variant
from drpo_cli.spec.problems import key_text

MU = (0.01, 0.1, 0.3, 0.6, 0.9)
MOST_MU = 9
"""Curves per panel: the terminal draws each with a digit."""
SUFFIXES = (".png", ".svg", ".pdf")


@dataclass(frozen=True)
class Variant:
    """An objective with its options, as the command line names it."""

    type: str
    config: ObjectiveSettings

    @property
    def plugin(self) -> plugins.Plugin[Any]:
        """The objective itself."""
        return plugins.load("objectives", self.type)

    @property
    def name(self) -> str:
        """The name to show; for an objective that works on responses, also what a point is."""
        name = plugins.short_name(self.type)
        sequence_level = self.plugin.sequence_level
        return f"{name}, responses of one token" if sequence_level else name

    @property
    def options(self) -> str:
        """Every option that is set, defaults included: `delta=0.2`."""
        given = self.config.model_dump(exclude_none=True)
        return " ".join(f"{key}={_short(value)}" for key, value in given.items())


def read_variants(texts: Sequence[str]) -> list[Variant]:
    """Each text as a variant. Raises one UserError with all mistakes, one per line."""
    variants, problems = [], []
    for text in texts:
        try:
            variants.append(read_variant(text))
        except UserError as error:
            problems.append(str(error))
    if problems:
        raise UserError("\n".join(problems))
    return variants


def read_variant(text: str) -> Variant:
    """`drpo:delta=0.05` as a checked variant.

    Raises UserError for an unknown objective or option, or a wrong value.
    """
    type, options = parse_variant(text)
    model = plugins.load("objectives", type).Config
    try:
        config = model.model_validate(options)
    except ValidationError as error:
        problems = problems_of(error.errors(), model, ("objective",), options)
        said = [f"{key_text(p.key[1:])}: {p.what}" if p.key[1:] else p.what for p in problems]
        raise UserError("\n".join(f"{text}: {what}" for what in said)) from None
    return Variant(type, cast(ObjectiveSettings, config))


def read_mu(text: str | None) -> tuple[float, ...]:
    """`0.05,0.5` as rising probabilities; None gives the default. Raises UserError."""
    if text is None:
        return MU
    values = sorted({_probability(part.strip()) for part in text.split(",")})
    if len(values) > MOST_MU:
        raise UserError(f"--mu {text}: has {len(values)} values", f"give at most {MOST_MU}")
    return tuple(values)


def check_out(out: Path) -> None:
    """Raises UserError unless the file name has the suffix of a known figure format."""
    if out.suffix.lower() not in SUFFIXES:
        formats = ", ".join(SUFFIXES)
        raise UserError(f"--out {out}: unknown figure format", f"use a name that ends in {formats}")


def _probability(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value <= 1:
        raise UserError(
            f"--mu: {text!r} is not a probability above 0 and at most 1",
            "write for example --mu 0.05,0.5",
        )
    return value


def _short(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
