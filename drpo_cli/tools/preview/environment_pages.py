"""`drpo environment list` and `drpo environment show`: which environments exist, how to use one."""

from __future__ import annotations

import inspect
from typing import Any

from rich.table import Table

from drpo_cli import plugins
from drpo_cli.settings import EnvironmentSettings
from drpo_cli.spec.reference import options, own_options
from drpo_cli.spec.rules_environment import METHODS, is_async
from drpo_cli.tools.preview.plugin_pages import as_toml, list_plugins, options_table, print_page

OWN = "./file.py:Name or package.module:Name, a class of your own; see docs/environments.md"


def list_environments() -> None:
    """Prints every environment with a name, and the first line of its docstring."""
    list_plugins("environments", f"{OWN}\nMore about one: drpo environment show TYPE")


def show(name: str) -> None:
    """Prints the page of one environment. Raises UserError when it does not exist."""
    plugin = plugins.load("environments", name)
    config = plugin.Config
    own = own_options(config, EnvironmentSettings)
    shared = [option for option in config.model_fields if option not in own]
    parts: list[tuple[str, Table | str]] = [
        (name, (plugin.doc or "No docstring.") + "\n"),
        ("Methods", _methods(plugin.entry) + "\n"),
    ]
    if own:
        parts.append(("Its options", options_table(options(config, own))))
    parts += [
        ("Options that every environment has", options_table(options(config, shared))),
        ("To paste into run.toml", as_toml("environment", name, options(config, own), {})),
    ]
    print_page(parts)


def _methods(entry: Any) -> str:
    """The signatures of its methods, and where they run."""
    lines = []
    for name in METHODS:
        method = getattr(entry, name, None)
        if method is not None:
            begin = "async def" if inspect.iscoroutinefunction(method) else "def"
            lines.append(f"  {begin} {name}{inspect.signature(method)}")
    where = "several episodes in each (async)" if is_async(entry) else "one episode in each"
    return "\n".join([*lines, f"  called in worker processes, {where}"])
