"""Verbs that look at a run before it starts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from drpo_cli.cli import _complete
from drpo_cli.cli._help import examples
from drpo_cli.cli._options import Overrides, Processes, SpecFile, app


@app.command(epilog=examples("drpo init --list", "drpo init demo --template quickstart"))
def init(
    folder: Annotated[Path | None, typer.Argument(metavar="DIR", help="Folder to write.")] = None,
    template: Annotated[
        str,
        typer.Option(metavar="T", help="What to start from.", autocompletion=_complete.templates),
    ] = "quickstart",
    list_: Annotated[bool, typer.Option("--list", help="List the templates and stop.")] = False,
) -> None:
    """Write a new run folder from a template.

    All of it or nothing: run.toml, README and what else the template has, and `run.schema.json`,
    the output of `drpo schema`, with which an editor completes and checks run.toml. Refuses a
    folder that is not empty.
    """
    from drpo_cli.tools import init as scaffold

    source = scaffold.template_folder()
    if list_:
        for name, summary in scaffold.templates(source).items():
            typer.echo(f"{name:<16} {summary}")
        return
    if folder is None:
        raise typer.BadParameter("name the folder to write, or use --list", param_hint="DIR")
    for warning in scaffold.init(folder, template, source):
        typer.echo(f"warning: {warning}", err=True)
    spec = folder / "run.toml"
    typer.echo(f"wrote {folder}\nnext:\n  drpo check {spec}\n  drpo train {spec}")


@app.command(epilog=examples("drpo schema --out demo/run.schema.json", "drpo schema"))
def schema(
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write it here, not to the screen.")
    ] = None,
) -> None:
    """Print the JSON Schema of a spec, for editors.

    It has every section and key with its meaning, default and bounds, and the options of every
    plugin, those of installed packages included. A spec whose first line is
    `#:schema ./run.schema.json`, an empty line below it, is completed, explained and checked with
    it by editors that run a TOML language server: Taplo (Even Better TOML) or Tombi. `drpo init`
    writes both; write the schema anew after an update, or after installing plugins.

    A schema cannot say everything: rules that join keys, and files that are not there, are for
    `drpo check`.
    """
    from drpo_cli.spec import schema as described

    if out is None:
        built = described.build()
        typer.echo(built.text(), nl=False)
        warnings = built.warnings
    else:
        warnings = described.write(out)
        typer.echo(f"wrote {out}")
    for warning in warnings:
        typer.echo(f"warning: {warning}", err=True)


@app.command(
    epilog=examples(
        "drpo check demo/run.toml",
        "drpo check demo/run.toml --diff",
        "drpo check demo/run.toml --set rollout.samples_per_prompt=16 --nproc 2",
    )
)
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
    """Validate a spec, and show the run that it makes.

    Everything that is wrong is reported at once, with file, line and column and the text of the
    line (of a file that is not TOML, the first syntax error); the exit code is then 2. A warning
    is not an error. Of a valid spec it shows the arithmetic of a step, and what the trust region
    does.

    Imports the plugins. Reward functions are held to their contract without being called: argument
    names, annotations that cannot hold what comes, returns that are no score. Needs neither a GPU
    nor an engine, and reads no data.

    `--set section.key=value` overrides a key for one command, here and wherever a spec is given.
    The value is TOML where it parses as TOML, else text; `data[0].path=…` or `data.0.path=…`
    reaches into an array.
    """
    from drpo_cli.tools.check import check as checked

    raise typer.Exit(checked(spec, set_ or [], nproc or 1, diff, as_json))


@app.command(
    epilog=examples("drpo plan demo/run.toml --gpus 8 --gpu h100-80g", "drpo plan demo/run.toml")
)
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
    """Say what memory a run will take, without a GPU.

    Exits 1 when it does not fit.

    A bar for every phase of a step shows what a device holds at its peak: weights, optimizer
    state, gradients, gathered layers, activations of the fullest micro-batch, log-prob blocks,
    the engine's weights and KV cache. The figures come from the trainer's own passes over the
    model's real shapes on fake tensors, in seconds; docs/plan.md says what was checked, and what
    is assumed. Below: how many sequences run at once, what a weight sync moves, and, where the
    run does not fit, which settings give most room.

    Needs the model's config.json, no weights; runs `model.prepare` first where there is no model.
    `--gpu cpu` is this machine, shared by the processes.
    """
    from drpo_cli.spec import load

    load(spec, set_ or [])  # a wrong spec is said before torch is imported
    from drpo_cli.tools.memory.command import plan as planned

    raise typer.Exit(planned(spec, set_ or [], gpus, gpu, nodes, json_))


@app.command(epilog=examples("drpo doctor", "drpo doctor demo/run.toml"))
def doctor(
    spec: Annotated[
        Path | None,
        typer.Argument(metavar="RUN.toml", help="Look at what this run needs too."),
    ] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")] = False,
) -> None:
    """Look the machine over: versions, devices, folders, self-tests.

    Exits 1 when something is wrong.

    Every line is ok, a warning (it works, but slowly, in part, or untested) or wrong (a run does
    not work), with what was found and the fix. The self-tests hold the gradient of the DRPO loss
    to its formula, and let two processes add up as a run's do. What may be broken is imported in
    processes of its own, so that the rest is still looked at.
    """
    from drpo_cli.tools.doctor.command import doctor as examined

    raise typer.Exit(examined(spec, json_))


@app.command(
    epilog=examples(
        "drpo explain drpo:delta=0.2 dppo ppo_clip spo",
        "drpo explain drpo:delta=0.05 drpo:delta=12.5 --mu 0.05,0.5 --out regimes.svg",
        "drpo explain none ./mine.py:loss --gradient",
    )
)
def explain(
    objectives: Annotated[
        list[str],
        typer.Argument(
            metavar="OBJECTIVE",
            help="An objective, as NAME or NAME:option=value:…",
            autocompletion=_complete.objectives,
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Write a .png, .svg or .pdf instead, the same each time."
        ),
    ] = None,
    mu: Annotated[
        str | None, typer.Option(metavar="0.05,0.5", help="Values of μ, at most nine.")
    ] = None,
    gradient: Annotated[
        bool,
        typer.Option(
            "--gradient",
            help="Draw A r w = −∂loss/∂log π, not w alone: what descent adds to log π.",
        ),
    ] = False,
) -> None:
    """Draw the gradient weight of a token against π.

    That is w in ∂loss/∂log π = −A r w, for several μ (0.01, 0.1, 0.3, 0.6 and 0.9 unless you name
    others), for A = +1 and A = −1, objectives side by side. A file of your own (`./mine.py:loss`)
    counts from the working directory. What is drawn is what the objective's own `loss` returns.
    Prints plain text of 80 columns, with a table of values at a few shifts π − μ.

    A dot marks π = μ, a tick on the zero line the edge of the trust region (w reaches 0), and in
    the shaded half a token is pulled back. The vertical axis ends at ±6; a note, in the terminal an
    arrow, says where a curve leaves it. An objective on whole responses (`gspo`) is drawn for
    responses of one token.
    """
    from drpo_cli.tools.explain.command import explain as drawn

    typer.echo(drawn(objectives, mu, gradient, out))
