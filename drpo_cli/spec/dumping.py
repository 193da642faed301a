"""Writes a spec out in full."""

from __future__ import annotations

from typing import Any

import tomli_w

from drpo_cli.plugins import Selected
from drpo_cli.spec.model import CHOICES, LISTS, ORDER, Spec


def dump(spec: Spec) -> str:
    """The spec as TOML: every value explicit, every path absolute, what is not set left out.

    Loading the text gives an equal spec, from whatever folder.
    """
    return tomli_w.dumps(document(spec))


def document(spec: Spec) -> dict[str, Any]:
    """The spec as a document, as `dump` writes it."""
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
    if spec.eval_data:
        written["eval"]["data"] = [_table(s, LISTS["data"].selector) for s in spec.eval_data]
    return written


def _table(selected: Selected[Any], selector: str) -> dict[str, Any]:
    options: dict[str, Any] = selected.config.model_dump(mode="json", exclude_none=True)
    return {selector: selected.type} | options
