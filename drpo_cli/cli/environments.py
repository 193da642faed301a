"""Verbs about environments: which there are, what one has, and an episode to try."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from drpo_cli.cli import completion
from drpo_cli.cli.common import BEFORE, Overrides, SpecFile, environment_app, examples


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


@environment_app.command(
    name="try",
    rich_help_panel=BEFORE,
    epilog=examples(
        "drpo environment try demo/run.toml",
        "drpo environment try demo/run.toml --row 17 --seed 3",
        "drpo environment try demo/run.toml --model --json episode.jsonl",
        "drpo environment try demo/run.toml --weights demo/runs/agent",
    ),
)
def environment_try(
    spec: SpecFile,
    environment: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="The environment. Default: the first of the spec."),
    ] = None,
    row: Annotated[
        str,
        typer.Option(
            metavar="N", help="A row of its data, by its number or its id, such as words/17."
        ),
    ] = "0",
    seed: Annotated[
        int, typer.Option(metavar="N", help="The seed of the episode: the same gives the same.")
    ] = 0,
    model: Annotated[
        bool, typer.Option("--model", help="Have the spec's model play, and print every token.")
    ] = False,
    weights: Annotated[
        str | None,
        typer.Option(
            metavar="TARGET",
            help="Have these weights play: a run, a checkpoint or a model folder.",
            autocompletion=completion.run_folders,
        ),
    ] = None,
    set_: Overrides = None,
    json_out: Annotated[
        Path | None,
        typer.Option(
            "--json", metavar="FILE", help="Write the episode as a line of samples.jsonl."
        ),
    ] = None,
) -> None:
    """Play an episode yourself, or have the model play it.

    By hand, it prints what the policy would see and asks for one action after the other: a line of
    text, several lines between `<<<` and `>>>`, or `/call NAME {...}` for a tool (`/tools` shows
    them). After each it prints the reward, what the environment says next, and how long that took.
    It needs no model. Ctrl-D ends the episode. Actions may also come from a file or a pipe, one per
    line.

    With `--model` or `--weights` the model plays with the run's engine and sampling, and every
    token is printed: what was sampled in colour, neighbouring tokens in different shades, and what
    it only read in grey. Where the output has no colour, sampled text is in double brackets.

    The environment runs in worker processes with the time-outs of a run. Exits 1 when it failed.
    """
    from drpo_cli.tools.preview import environment_try as tries

    by_hand = not model and weights is None
    found = tries.Wanted(spec, set_ or [], environment, row, seed, json_out)
    raise typer.Exit(tries.try_by_hand(found) if by_hand else tries.try_model(found, weights))
