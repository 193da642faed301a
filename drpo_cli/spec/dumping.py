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
    document: dict[str, Any] = {}
    for name in ORDER:
        part = getattr(spec, name)
        if part is None or part == ():
            continue
        if name in LISTS:
            document[name] = [_table(selected, LISTS[name].selector) for selected in part]
        elif name in CHOICES:
            document[name] = _table(part, CHOICES[name].selector)
        else:
            document[name] = part.model_dump(mode="json", exclude_none=True)
    if spec.eval_data:
        document["eval"]["data"] = [_table(s, LISTS["data"].selector) for s in spec.eval_data]
    return tomli_w.dumps(document)


def _table(selected: Selected, selector: str) -> dict[str, Any]:
    return {selector: selected.type} | selected.config.model_dump(mode="json", exclude_none=True)
