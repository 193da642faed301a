"""The command's groups of verbs, and arguments that several verbs take."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from drpo_cli.cli import _complete
from drpo_cli.cli._help import Verbs, examples

app = typer.Typer(
    name="drpo",
    cls=Verbs,
    help="Post-train language models with Divergence Regularized Policy Optimization.",
    epilog=examples("drpo init demo", "drpo train demo/run.toml"),
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
reward_app = typer.Typer(cls=Verbs, no_args_is_help=True, rich_markup_mode=None)
app.add_typer(reward_app, name="reward", help="Try rewards before training, and look them up.")
data_app = typer.Typer(cls=Verbs, no_args_is_help=True, rich_markup_mode=None)
app.add_typer(data_app, name="data", help="Look at the data before training.")


class ListsByDefault(Verbs):
    """A group whose command `list` is meant where no command is named.

    A folder that is called like one of the commands is given as ./NAME.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Puts `list` in front of arguments that name no command."""
        if not args or args[0] not in (*self.commands, *ctx.help_option_names):
            args = ["list", *args]
        return super().parse_args(ctx, args)


runs_app = typer.Typer(cls=ListsByDefault, rich_markup_mode=None)
app.add_typer(runs_app, name="runs", help="List runs, and tell how two differ.")

SpecFile = Annotated[
    Path,
    typer.Argument(metavar="RUN.toml", help="The spec of the run.", autocompletion=_complete.specs),
]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="a.b=v",
        help="Override a key of the spec; repeatable.",
        autocompletion=_complete.keys,
    ),
]
Processes = Annotated[
    int | None,
    typer.Option("--nproc", min=1, metavar="N", help="Processes, one a device."),
]
