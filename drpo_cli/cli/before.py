"""Verbs that look at a run before it starts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from drpo_cli.cli._options import Overrides, Processes, SpecFile, app


@app.command(epilog="Example: drpo init demo --template quickstart")
def init(
    folder: Annotated[Path | None, typer.Argument(metavar="DIR", help="Folder to write.")] = None,
    template: Annotated[str, typer.Option(help="What to start from.")] = "quickstart",
    list_: Annotated[bool, typer.Option("--list", help="List the templates.")] = False,
) -> None:
    """Write a new run folder: run.toml, README and what else the template has."""
    from drpo_cli import scaffold

    source = scaffold.template_folder()
    if list_:
        for name, summary in scaffold.templates(source).items():
            typer.echo(f"{name:<16} {summary}")
        return
    if folder is None:
        raise typer.BadParameter("name the folder to write, or use --list", param_hint="DIR")
    scaffold.init(folder, template, source)
    spec = folder / "run.toml"
    typer.echo(f"wrote {folder}\nnext:\n  drpo check {spec}\n  drpo train {spec}")


@app.command(epilog="Example: drpo check demo/run.toml --set rollout.samples_per_prompt=16")
def check(spec: SpecFile, set_: Overrides = None, nproc: Processes = None) -> None:
    """Validate a spec, its plugins included, and show the batch arithmetic."""
    from rich.console import Console
    from rich.table import Table

    from drpo_cli.plan import describe, make_plan
    from drpo_cli.rewards._contract import prepared
    from drpo_cli.spec import load

    loaded = load(spec, set_ or [])
    plan = make_plan(loaded, world=nproc or 1)
    prepared(loaded.reward)  # finds a reward that nobody can call
    table = Table.grid(padding=(0, 2))
    for label, value in describe(plan):
        table.add_row(label, value)
    Console(markup=False, highlight=False).print(table)
    for warning in loaded.warnings:
        typer.echo(f"warning: {warning}", err=True)
    typer.echo(f"{spec} is valid")


@app.command(epilog="Example: drpo doctor demo/run.toml")
def doctor(
    spec: Annotated[
        Path | None,
        typer.Argument(metavar="RUN.toml", help="Look at what this run needs too."),
    ] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")] = False,
) -> None:
    """Look at the machine: versions, devices, folders, self-tests. Exits 1 when something is wrong.

    Every line is ok, a warning (it works, but slowly, in part, or untested) or wrong (a run does
    not work), with what was found and the fix. The self-tests hold the gradient of the DRPO loss
    to its formula, and let two processes add up as a run's do. What may be broken is imported in
    processes of its own, so that the rest is still looked at.
    """
    from drpo_cli.doctor.command import doctor as examined

    raise typer.Exit(examined(spec, json_))


@app.command(epilog="Example: drpo explain drpo:delta=0.2 dppo ppo_clip --out weights.svg")
def explain(
    objectives: Annotated[
        list[str],
        typer.Argument(metavar="OBJECTIVE", help="An objective, as NAME or NAME:option=value:…"),
    ],
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write a .png, .svg or .pdf instead.")
    ] = None,
    mu: Annotated[
        str | None, typer.Option(metavar="0.05,0.5", help="Values of μ to draw a curve for.")
    ] = None,
    gradient: Annotated[
        bool, typer.Option("--gradient", help="Draw A r w = −∂loss/∂log π, not w alone.")
    ] = False,
) -> None:
    """Draw the gradient weight w of a token against π, where ∂loss/∂log π = −A r w."""
    from drpo_cli.explain.command import explain as drawn

    typer.echo(drawn(objectives, mu, gradient, out))
