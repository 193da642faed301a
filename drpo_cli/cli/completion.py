"""What the shell offers after TAB. Each TAB starts a process, so nothing here imports torch.

Where a function returns nothing, the shell completes file names itself.
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
"""A larger TOML file is not read: it cannot be a spec."""


def templates(incomplete: str) -> list[tuple[str, str]]:
    """Names of templates, each with its summary, short enough for one line of the shell."""
    from drpo_cli.tools import init as scaffold

    found = scaffold.templates(scaffold.template_folder())
    return [
        (name, textwrap.shorten(text, 60, placeholder="…"))
        for name, text in found.items()
        if name.startswith(incomplete)
    ]


def objectives(incomplete: str) -> list[str]:
    """Names of objectives, built in or installed."""
    return _plugin_names("objectives", incomplete)


def rewards(incomplete: str) -> list[str]:
    """Names of rewards, built in or installed."""
    return _plugin_names("rewards", incomplete)


def environments(incomplete: str) -> list[str]:
    """Names of environments, built in or installed."""
    return _plugin_names("environments", incomplete)


def specs(incomplete: str) -> list[str]:
    """TOML files that have a `[run]` table, in this folder or one level down."""
    found = _find_files(incomplete, "", "/*.toml")
    return [path for path in found if path.endswith(".toml") and "run" in _read_toml(path)]


def run_folders(incomplete: str) -> list[str]:
    """Folders of runs, in this folder or up to two levels down."""
    found = _find_files(incomplete, "/spec.toml", "/*/spec.toml", "/*/*/spec.toml")
    return [path.removesuffix("/spec.toml") for path in found]


def keys(ctx: typer.Context, incomplete: str) -> list[str]:
    """Keys of a spec as `section.key=`, with the options of the plugins that the spec selects."""
    # The parser stops at the `--set` that has no value yet, so the spec may still be in `args`.
    words = [ctx.params.get("spec"), ctx.params.get("base"), *ctx.args]
    path = next((str(word) for word in words if str(word).endswith(".toml")), None)
    document = _read_toml(path) if path else {}
    return sorted(key for key in _all_keys(document) if key.startswith(incomplete))


def _plugin_names(kind: str, incomplete: str) -> list[str]:
    from drpo_cli import plugins

    return [name for name in plugins.names(kind) if name.startswith(incomplete)]


def _find_files(incomplete: str, *tails: str) -> list[str]:
    """Files whose path begins with `incomplete` and ends in one of the tails; no hidden ones."""
    folder, slash, start = incomplete.rpartition("/")
    base = Path(os.path.expanduser(folder + slash))
    found = [path for tail in tails for path in base.glob(f"{glob.escape(start)}*{tail}")]
    files = (path.relative_to(base) for path in sorted(found) if path.is_file())
    return [f"{folder}{slash}{path}" for path in files if not path.parts[0].startswith(".")]


def _read_toml(name: str) -> dict[str, Any]:
    """The content of a TOML file; empty where it cannot be read: completion reports no errors."""
    import tomli

    path = Path(os.path.expanduser(name))
    try:
        if path.stat().st_size > MOST_BYTES:
            return {}
        return tomli.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def _all_keys(document: dict[str, Any]) -> Iterator[str]:
    from drpo_cli.spec.model import CHOICES, LISTS, SECTIONS
    from drpo_cli.spec.presets import KEY, PRESETS

    yield from (f"{KEY}={name}" for name in PRESETS)
    for section, model in SECTIONS.items():
        yield from _keys_of_model(section, model)
    for section, choice in CHOICES.items():
        yield from _keys_of_choice(section, choice, document.get(section, {}))
    for section, choice in LISTS.items():
        tables = document.get(section)
        for index, table in enumerate(tables if isinstance(tables, list) else []):
            yield from _keys_of_choice(f"{section}.{index}", choice, table)


def _keys_of_choice(section: str, choice: Any, table: Any) -> Iterator[str]:
    """Keys of a table that selects a plugin. A plugin of the user's own is not imported here."""
    from drpo_cli import plugins

    known = plugins.available(choice.kind)
    yield from (f"{section}.{choice.selector}={name}" for name in known)
    name = table.get(choice.selector, choice.default) if isinstance(table, dict) else None
    base = plugins.KINDS[choice.kind].base
    config = plugins.load(choice.kind, name).Config if name in known else base
    yield from _keys_of_model(section, config)


def _keys_of_model(section: str, model: Any) -> Iterator[str]:
    for key, field in model.model_fields.items():
        values = [value for value in get_args(field.annotation) if isinstance(value, str)]
        if field.annotation is bool:
            values = ["true", "false"]
        yield from (f"{section}.{key}={value}" for value in values or [""])
