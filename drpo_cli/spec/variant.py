"""`drpo:delta=0.05`: a plugin with some of its options, in one word of a command line."""

from __future__ import annotations

from typing import Any

from drpo_cli.spec.overrides import parse_value


def parse_variant(text: str) -> tuple[str, dict[str, Any]]:
    """The type and the options of `type:option=value:option=value`.

    A value is TOML where it parses as TOML, else text. A part without `=` belongs to the type, so
    that `./mine.py:loss:cap=3` is the function `loss` of a file.
    """
    parts = text.split(":")
    name = ":".join(part for part in parts if "=" not in part)
    pairs = (part.partition("=") for part in parts if "=" in part)
    return name, {key.strip(): parse_value(value.strip()) for key, _, value in pairs}
