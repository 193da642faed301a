"""The page's part on what was run: specs, what differs from the defaults, versions, hardware."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

import tomli

from drpo_cli.report.elements import escaped, paragraph
from drpo_cli.runs.metrics import flatten
from drpo_cli.runs.saved import SavedRun
from drpo_cli.spec.model import SECTIONS

OWN = frozenset({"run.name", "run.folder"})
"""Keys that differ between any two runs."""
MARKED = "Marked: what differs from the default of a section that is no plugin, or has none."


def spec_text(run: SavedRun) -> str:
    """The spec as it was run, with the keys marked that are not at their defaults."""
    lines = run.folder.spec.read_text(encoding="utf-8").splitlines()
    shown = "\n".join(_marked(lines))
    return f"{paragraph(MARKED, 'note')}<pre>{shown}</pre>"


def versions_text(run: SavedRun) -> str:
    """Versions of packages, and the machine."""
    path = run.folder.versions
    if not path.is_file():
        return paragraph("Not recorded.")
    return f"<pre>{escaped(json.dumps(json.loads(path.read_text()), indent=1))}</pre>"


def differing_keys(runs: Sequence[SavedRun]) -> list[list[str]]:
    """A row for each key that is not the same in all specs: the key, then each run's value."""
    specs = [
        {k: json.dumps(v, ensure_ascii=False, default=str) for k, v in flatten(run.spec)}
        for run in runs
    ]
    keys = list(dict.fromkeys(key for spec in specs for key in spec))
    rows = [[key, *(spec.get(key, "–") for spec in specs)] for key in keys if key not in OWN]
    return [row for row in rows if len(set(row[1:])) > 1]


def _marked(lines: Sequence[str]) -> Iterator[str]:
    """Lines as HTML; a resolved spec has every key on a line of its own."""
    section = ""
    for line in lines:
        stripped = line.strip()
        if stripped.startswith("["):
            section = stripped.strip("[]")
        shown = escaped(line)
        yield f"<mark>{shown}</mark>" if _set(section, stripped) else shown


def _set(section: str, line: str) -> bool:
    key, equals, text = line.partition("=")
    settings = SECTIONS.get(section)
    field = settings.model_fields.get(key.strip()) if settings and equals else None
    if field is None:
        return False
    try:
        value = tomli.loads(f"x = {text}")["x"]
    except tomli.TOMLDecodeError:  # a value of several lines
        return True
    default = field.get_default(call_default_factory=True)
    return field.is_required() or json.dumps(value, default=str) != json.dumps(default, default=str)
