"""Says what differs where a run continues with another spec or other packages than before."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from drpo_cli.errors import UserError
from drpo_cli.runs import checkpoints as saved
from drpo_cli.runs.events import say
from drpo_cli.runs.flat import flatten
from drpo_cli.runs.folder import RunFolder
from drpo_cli.runs.saved import open_run
from drpo_cli.runs.summary import KeyDifference, compare_values
from drpo_cli.spec import Spec
from drpo_cli.spec.dumping import document

OF_WEIGHTS = ("model.path", "model.prepare", "lora.start", "sft")
"""Keys that say which weights a run starts from: a checkpoint has its own."""
MOST_NAMED = 8


def say_changes(folder: RunFolder, spec: Spec, versions: Mapping[str, Any]) -> None:
    """Puts on record, and prints, how spec and packages differ from those of the last start."""
    try:
        before = open_run(folder.path)
        old, used = before.spec, before.versions
    except UserError:  # what cannot be read is written anew
        return
    begun = bool(saved.complete(folder.checkpoints))
    changed = [one for one in _differences(old, document(spec)) if not one.quiet]
    unused = [one for one in changed if begun and one.key.startswith(OF_WEIGHTS)]
    taken = [one for one in changed if one not in unused]
    newer = _differences(used.get("packages", {}), versions["packages"])
    for text in _sentences(taken, unused, newer):
        say(folder, text)
        sys.stderr.write(f"{text}\n")


def _sentences(
    taken: list[KeyDifference], unused: list[KeyDifference], newer: list[KeyDifference]
) -> Iterator[str]:
    if taken:
        yield f"continues with other settings: {_list(taken)}"
    if unused:
        yield f"has no effect, since the checkpoint has the weights: {_list(unused)}"
    if newer:
        yield (
            f"continues with other packages, so that numbers may differ in their last bits: "
            f"{_list(newer)}"
        )


def _differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[KeyDifference]:
    return compare_values(dict(flatten(old)), dict(flatten(new)))


def _list(changed: list[KeyDifference]) -> str:
    named = [f"{one.key} = {_show(one.b)} (was {_show(one.a)})" for one in changed[:MOST_NAMED]]
    more = len(changed) - MOST_NAMED
    return ", ".join(named) + (f", and {more} more" if more > 0 else "")


def _show(value: Any) -> str:
    if value is None:
        return "not set"
    return str(Path(value).name if isinstance(value, str) and value.startswith("/") else value)
