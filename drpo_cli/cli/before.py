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
def check(
    spec: SpecFile,
    set_: Overrides = None,
    nproc: Processes = None,
    diff: Annotated[
        bool, typer.Option("--diff", help="List the keys that are no defaults, and their origin.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Write one JSON document, for tools.")
    ] = False,
) -> None:
    """Validate a spec, its plugins included, and show the run that it makes.

    Everything that is wrong is reported at once, syntax and meaning alike, with file, line and
    column, and the line it is in; the exit code is then 2. A warning is not an error. Of a valid
    spec it shows the arithmetic of a step, and what the trust region does.
    """
    from drpo_cli.check import check as checked

    raise typer.Exit(checked(spec, set_ or [], nproc or 1, diff, as_json))


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
