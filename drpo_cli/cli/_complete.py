"""What the shell offers after a TAB. Each call is a process of its own, so nothing heavy here.

Where nothing is found the shell falls back to its own completion of files.
"""

from __future__ import annotations

import glob
import os
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import typer

MOST_BYTES = 1_000_000


def templates(incomplete: str) -> list[tuple[str, str]]:
    """Names of templates, each with what it is, in a line that no shell has to break."""
    from drpo_cli.tools import init as scaffold

    found = scaffold.templates(scaffold.template_folder())
    return [
        (name, textwrap.shorten(what, 60, placeholder="…"))
        for name, what in found.items()
        if name.startswith(incomplete)
    ]


def objectives(incomplete: str) -> list[str]:
    """Names of objectives, built in or installed."""
    return _plugins("objectives", incomplete)


def rewards(incomplete: str) -> list[str]:
    """Names of rewards, built in or installed."""
    return _plugins("rewards", incomplete)


def specs(incomplete: str) -> list[str]:
    """TOML files that have a `[run]`, here or a folder further down."""
    found = _matching(incomplete, "", "/*.toml")
    return [path for path in found if path.endswith(".toml") and "run" in _document(path)]


def run_folders(incomplete: str) -> list[str]:
    """Folders of runs, here or up to two folders further down."""
    found = _matching(incomplete, "/spec.toml", "/*/spec.toml", "/*/*/spec.toml")
    return [path.removesuffix("/spec.toml") for path in found]


def keys(ctx: typer.Context, incomplete: str) -> list[str]:
    """Keys of a spec as `section.key=`, with the options of the plugins that the spec selects."""
    # the parser stops at the `--set` that still has no value, before it gives words their names
    named = [ctx.params.get("spec"), ctx.params.get("base"), *ctx.args]
    path = next((str(word) for word in named if str(word).endswith(".toml")), None)
    document = _document(path) if path else {}
    return sorted(key for key in _keys(document) if key.startswith(incomplete))


def _plugins(kind: str, incomplete: str) -> list[str]:
    from drpo_cli import plugins

    return [name for name in plugins.names(kind) if name.startswith(incomplete)]


def _matching(incomplete: str, *tails: str) -> list[str]:
    folder, slash, start = incomplete.rpartition("/")
    base = Path(os.path.expanduser(folder + slash))
    found = [path for tail in tails for path in base.glob(f"{glob.escape(start)}*{tail}")]
    shown = (path.relative_to(base) for path in sorted(found) if path.is_file())
    return [f"{folder}{slash}{path}" for path in shown if not path.parts[0].startswith(".")]


def _document(name: str) -> dict[str, Any]:
    """The TOML of a file; nothing where it has none, which is no time to complain."""
    import tomli

    path = Path(os.path.expanduser(name))
    try:
        if path.stat().st_size > MOST_BYTES:
            return {}
        return tomli.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def _keys(document: dict[str, Any]) -> Iterator[str]:
    from drpo_cli.spec.model import CHOICES, LISTS, SECTIONS
    from drpo_cli.spec.presets import KEY, PRESETS

    yield from (f"{KEY}={name}" for name in PRESETS)
    for section, model in SECTIONS.items():
        yield from _options(section, model)
    for section, choice in CHOICES.items():
        yield from _selecting(section, choice, document.get(section, {}))
    for section, choice in LISTS.items():
        tables = document.get(section)
        for place, table in enumerate(tables if isinstance(tables, list) else []):
            yield from _selecting(f"{section}.{place}", choice, table)


def _selecting(section: str, choice: Any, table: Any) -> Iterator[str]:
    """Keys of a table that selects a plugin: one of the user's own is not imported for this."""
    from drpo_cli import plugins

    known = plugins.available(choice.kind)
    yield from (f"{section}.{choice.selector}={name}" for name in known)
    name = table.get(choice.selector, choice.default) if isinstance(table, dict) else None
    base = plugins.KINDS[choice.kind].base
    config = plugins.load(choice.kind, name).Config if name in known else base
    yield from _options(section, config)


def _options(section: str, model: Any) -> Iterator[str]:
    for key, field in model.model_fields.items():
        values = [v for v in get_args(field.annotation) if isinstance(v, str)]
        if field.annotation is bool:
            values = ["true", "false"]
        yield from (f"{section}.{key}={value}" for value in values or [""])
