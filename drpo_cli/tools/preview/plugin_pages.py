"""What the pages of plugins share: `drpo reward list | show` and `drpo environment list | show`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import tomli_w
from rich.table import Column, Table
from rich.text import Text

from drpo_cli import plugins
from drpo_cli.errors import UserError
from drpo_cli.spec.reference import REQUIRED, Option
from drpo_cli.tools.tables import make_console, make_grid, make_table


def list_plugins(kind: str, closing: str) -> None:
    """Prints every plugin of a kind that has a name, with the first line of its docstring."""
    grid = make_grid()
    for name in plugins.available(kind):
        grid.add_row(Text(name, "bold"), Text(_summary(kind, name)))
    for name, value in plugins.installed(kind).items():
        grid.add_row(Text(name, "bold"), Text(f"{_summary(kind, name)}  ({value})"))
    console = make_console()
    if grid.row_count:
        console.print(grid)
        console.print()
    console.print(closing)


def print_page(parts: Iterable[tuple[str, Table | str]]) -> None:
    """Prints headings with their contents; the last is to paste, so its lines are not wrapped."""
    console, found = make_console(), list(parts)
    for at, (heading, content) in enumerate(found, start=1):
        console.print(Text(heading, "bold"))
        console.print(content, soft_wrap=at == len(found))


def options_table(found: Iterable[Option]) -> Table:
    """A table of options: key, value, default and meaning."""
    table = make_table(
        Column("key", no_wrap=True),
        Column("value", max_width=24),
        Column("default", max_width=18),
        "meaning",
    )
    for option in found:
        value, default = option.value.replace("`", ""), option.default.replace("`", "")
        table.add_row(option.name, value, default, option.meaning)
    return table


def as_toml(section: str, name: str, own: Iterable[Option], example: Mapping[str, Any]) -> str:
    """A table with the required options; its other options are commented out."""
    lines = [f"[[{section}]]", tomli_w.dumps({"type": name}).strip()]
    for option in sorted(own, key=lambda option: option.default != REQUIRED):
        if option.default != REQUIRED:
            default = option.default.strip("`")
            lines.append(f"# {option.name} = {default if default != 'not set' else '…'}")
        elif option.name in example:
            lines.append(tomli_w.dumps({option.name: example[option.name]}).strip())
        else:
            lines.append(f"{option.name} = …  # {option.value.replace('`', '')}")
    return "\n".join(lines)


def _summary(kind: str, name: str) -> str:
    try:
        doc = plugins.load(kind, name).doc or "No docstring."
    except UserError as error:  # a broken package does not hide the others
        return f"does not load: {error}"
    return doc.partition("\n")[0]
