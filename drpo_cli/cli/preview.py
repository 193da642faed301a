"""Verbs that try the parts of a run: its rewards, its data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from drpo_cli.cli._options import Overrides, SpecFile, data_app, reward_app


@reward_app.command(
    name="test", epilog="Example: drpo reward test demo/run.toml --samples tried.jsonl"
)
def reward_test(
    spec: SpecFile,
    samples: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Score these: JSON lines, such as a samples.jsonl."),
    ] = None,
    generate: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Sample N groups from the run's model."),
    ] = None,
    set_: Overrides = None,
    json_out: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write everything here too.")
    ] = None,
) -> None:
    """Score completions, by default the reference answers. Exits 1 when a reward failed."""
    from drpo_cli.preview.reward_test import try_rewards

    raise typer.Exit(try_rewards(spec, set_ or [], samples, generate, json_out))


@reward_app.command(name="list", epilog="Example: drpo reward list")
def reward_list() -> None:
    """List the rewards that a name selects."""
    from drpo_cli.preview.plugin_pages import list_rewards

    list_rewards()


@reward_app.command(name="show", epilog="Example: drpo reward show regex")
def reward_show(
    type_: Annotated[
        str, typer.Argument(metavar="TYPE", help="A name, ./file.py:name or package.module:name.")
    ],
) -> None:
    """Show what a reward says, its options, examples, and a table to paste."""
    from drpo_cli.preview.plugin_pages import show

    show(type_)


@data_app.command(name="show", epilog="Example: drpo data show demo/run.toml -n 3")
def data_show(
    spec: SpecFile,
    n: Annotated[int, typer.Option("-n", min=0, metavar="N", help="Prompts to show.")] = 5,
    set_: Overrides = None,
) -> None:
    """Show prompts as the model will see them, their lengths, and what is held out."""
    from drpo_cli.preview.data_show import show

    show(spec, set_ or [], n)
