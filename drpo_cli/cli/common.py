"""The `drpo` command: its groups of verbs, how help lists them, and arguments that verbs share."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from drpo_cli.cli import completion

BEFORE, DURING, AFTER = PARTS = ("Before a run", "During a run", "After a run")
"""The parts of a run's life: each verb names its own as `rich_help_panel`."""


def as_typed(path: Path) -> str:
    """A path as an argument to copy into a shell."""
    text = str(path)
    return shlex.quote(f"./{text}" if text.startswith("-") else text)


def examples(*lines: str) -> str:
    """The epilog of a verb: command lines to copy, which help never wraps."""
    return "\n".join(["\b", "Examples:", *(f"  {line}" for line in lines)])  # \b: do not wrap


def verbs(group: Any, above: str = "") -> Iterator[tuple[str, Any]]:
    """Yields every verb of a group with its full name, such as `reward test`."""
    for name, command in group.commands.items():
        if isinstance(command, TyperGroup):
            yield from verbs(command, f"{above}{name} ")
        else:
            yield above + name, command


def verbs_by_part(group: Any) -> dict[str, list[tuple[str, Any]]]:
    """The verbs of each part of a run's life, in order."""
    found = list(verbs(group))
    return {part: [verb for verb in found if verb[1].rich_help_panel == part] for part in PARTS}


def summary(command: Any) -> str:
    """The first line of a verb's help."""
    text: str = command.help
    return text.partition("\n")[0]


class ByPart(TyperGroup):
    """The whole command. Its help lists all verbs by the parts of a run's life."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Writes one section per part, with the verbs of nested groups."""
        for part, found in verbs_by_part(self).items():
            with formatter.section(part):
                formatter.write_dl([(name, summary(command)) for name, command in found])


class ListsByDefault(TyperGroup):
    """A group that runs its command `list` when the first word names no command.

    A folder with the name of a command is written ./NAME.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Puts `list` in front of arguments that name no command."""
        completes_command = ctx.resilient_parsing and not args  # `drpo runs di` and TAB
        known = (*self.commands, *ctx.help_option_names)
        if not completes_command and (not args or args[0] not in known):
            args = ["list", *args]
        return super().parse_args(ctx, args)


# rich_markup_mode=None gives plain help; rich's takes twice the time, as it imports rich.markdown.
app = typer.Typer(
    cls=ByPart,
    help="Post-train language models with Divergence Regularized Policy Optimization.",
    epilog=examples("drpo init demo", "drpo train demo/run.toml"),
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
reward_app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
app.add_typer(reward_app, name="reward", help="Try rewards before training, and look them up.")
environment_app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
app.add_typer(environment_app, name="environment", help="Look environments up, and try them.")
data_app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
app.add_typer(data_app, name="data", help="Look at the data before training.")
runs_app = typer.Typer(cls=ListsByDefault, rich_markup_mode=None)
app.add_typer(runs_app, name="runs", help="List runs, and show how two of them differ.")

SpecFile = Annotated[
    Path,
    typer.Argument(
        metavar="RUN.toml", help="The spec of the run.", autocompletion=completion.specs
    ),
]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="a.b=v",
        help="Override a key of the spec. Repeatable.",
        autocompletion=completion.keys,
    ),
]
Processes = Annotated[
    int | None,
    typer.Option("--nproc", min=1, metavar="N", help="Number of processes, one per device."),
]
Nodes = Annotated[
    int | None,
    typer.Option("--nodes", min=1, metavar="N", help="Number of machines, each with a launcher."),
]
NodeRank = Annotated[
    int | None,
    typer.Option("--node-rank", min=0, metavar="K", help="The number of this machine, from 0."),
]
Rendezvous = Annotated[
    str | None,
    typer.Option(
        "--rendezvous", metavar="HOST:PORT", help="An address of node 0, and a free port there."
    ),
]
JoinTimeout = Annotated[
    float | None,
    typer.Option(
        "--join-timeout", min=1, metavar="SECONDS", help="How long to wait for the other machines."
    ),
]
