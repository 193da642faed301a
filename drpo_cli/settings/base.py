"""The base class of all options, and the types that options share."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
)

from drpo_cli import secrets


def _relative_to_spec(value: object, info: ValidationInfo) -> object:
    folder = (info.context or {}).get("folder")
    if isinstance(value, str):
        value = Path(os.path.expanduser(value))  # unlike Path's, it leaves an unknown ~name
        return folder / value if folder is not None else value
    return value


SpecPath = Annotated[Path, BeforeValidator(_relative_to_spec)]
"""A path in a spec; a relative one counts from the folder of the spec."""

PLAIN_PATH = re.compile(r"[\w./ +@=,-]+")
"""A path that no library takes for a pattern or an address; others are handed over by a link."""

FolderName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
"""A name that is valid for a file or a folder on every system."""

Count = Annotated[int, Field(ge=1)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Decay = Annotated[float, Field(ge=0, lt=1)]
HeadDtype = Literal["float32", "model"]


class AbsentKeyError(AttributeError):
    """A key has no value, because it is wrong in the spec that is being checked."""


class Settings(BaseModel):
    """Options: strict (a string is not a number), closed (no unknown keys) and immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    @field_validator("*")
    @classmethod
    def _holds_no_secret(cls, value: object) -> object:
        if any(secrets.in_url(text) or secrets.is_secret(text) for text in _texts(value)):
            raise ValueError(
                "holds a password or a key, and the run folder keeps a copy of the spec; name the "
                "environment variable with it instead: in an option `*_env`, or in the variable "
                "that the server's client reads"
            )
        return value

    def model_post_init(self, context: object) -> None:
        """Has the values of the variables masked from now on."""
        with suppress(AbsentKeyError):  # of a spec whose mistakes are collected
            secrets.keep(self.needs_environment())

    def needs_environment(self) -> tuple[str, ...]:
        """Environment variables that must be set: those that options `*_env` name."""
        named = (value for name, value in self if name.endswith("_env"))
        return tuple(one for value in named for one in _texts(value))

    if not TYPE_CHECKING:  # for mypy, every field is there

        def __getattr__(self, name):
            if name in type(self).model_fields:
                raise AbsentKeyError(name)
            return super().__getattr__(name)


def _texts(value: object) -> Iterable[str]:
    """The texts of a value: itself, or those in it."""
    several: Iterable[object] = (value,)
    if isinstance(value, Mapping):
        several = value.values()
    elif isinstance(value, tuple | list):
        several = value
    return [one for one in several if isinstance(one, str)]
