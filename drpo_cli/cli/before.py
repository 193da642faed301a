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


@app.command(epilog="Example: drpo plan demo/run.toml --gpus 8 --gpu h100-80g")
def plan(
    spec: SpecFile,
    gpus: Annotated[int, typer.Option(min=1, metavar="N", help="Devices of each node.")] = 1,
    gpu: Annotated[
        str,
        typer.Option(metavar="NAME", help="h100-80g, a100-40g, … or a size: 48g, cpu-24g, cpu."),
    ] = "cpu",
    nodes: Annotated[int, typer.Option(min=1, metavar="N", help="Nodes.")] = 1,
    set_: Overrides = None,
    json_: Annotated[bool, typer.Option("--json", help="Print JSON, sizes in bytes.")] = False,
) -> None:
    """Say what a run will take in memory, without a GPU. Exits 1 when it does not fit.

    A bar for every phase of a step shows what a device holds at its peak: weights, optimizer
    state, gradients, gathered layers, activations of the fullest micro-batch, log-prob blocks,
    the engine's weights and KV cache. The figures come from the trainer's own passes over the
    model's real shapes on fake tensors, in seconds; docs/plan.md says what was checked, and what
    is assumed. Below: how many sequences run at once, what a weight sync moves, and, where the
    run does not fit, which settings give most room.

    Needs the model's config.json, no weights. `--gpu cpu` is this machine, shared by the processes.
    """
    from drpo_cli.spec import load

    load(spec, set_ or [])  # a wrong spec is said before torch is imported
    from drpo_cli.sizing.command import plan as planned

    raise typer.Exit(planned(spec, set_ or [], gpus, gpu, nodes, json_))


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
