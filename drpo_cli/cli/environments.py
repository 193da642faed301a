"""Verbs about environments: which there are, and what one has."""

from __future__ import annotations

from typing import Annotated

import typer

from drpo_cli.cli import completion
from drpo_cli.cli.common import BEFORE, environment_app, examples


@environment_app.command(
    name="list", rich_help_panel=BEFORE, epilog=examples("drpo environment list")
)
def environment_list() -> None:
    """List the environments that can be selected by name.

    These are the built-in environments, and those of installed packages.
    """
    from drpo_cli.tools.preview.environment_pages import list_environments

    list_environments()


@environment_app.command(
    name="show",
    rich_help_panel=BEFORE,
    epilog=examples("drpo environment show demo/environments.py:Guess"),
)
def environment_show(
    type_: Annotated[
        str,
        typer.Argument(
            metavar="TYPE",
            help="A name, ./file.py:Name or package.module:Name.",
            autocompletion=completion.environments,
        ),
    ],
) -> None:
    """Show an environment's methods and options, and a table to paste.

    Shows its docstring, its methods with their arguments, its options with their defaults, and an
    `[[environment]]` table for run.toml. A path to a file is relative to the current folder.
    """
    from drpo_cli.tools.preview.environment_pages import show

    show(type_)
