"""Verbs for before a run: set it up, check it, estimate it, examine the machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from drpo_cli.cli import completion
from drpo_cli.cli.common import (
    BEFORE,
    JoinTimeout,
    NodeRank,
    Nodes,
    Overrides,
    Processes,
    Rendezvous,
    SpecFile,
    app,
    as_typed,
    examples,
)


@app.command(
    rich_help_panel=BEFORE,
    epilog=examples(
        "drpo init --list", "drpo init demo --template quickstart", "drpo init demo --slurm"
    ),
)
def init(
    folder: Annotated[
        Path | None, typer.Argument(metavar="DIR", help="The folder to create.")
    ] = None,
    template: Annotated[
        str,
        typer.Option(
            metavar="T", help="The template to copy.", autocompletion=completion.templates
        ),
    ] = "quickstart",
    slurm: Annotated[
        bool, typer.Option("--slurm", help="Also write train.sbatch, a job for SLURM.")
    ] = False,
    kubernetes: Annotated[
        bool, typer.Option("--kubernetes", help="Also write job.yaml, a job for Kubernetes.")
    ] = False,
    list_: Annotated[bool, typer.Option("--list", help="List the templates and exit.")] = False,
) -> None:
    """Create a run folder from a template.

    Writes run.toml, a README, the other files of the template, and `run.schema.json`, which is the
    output of `drpo schema`: with it an editor completes and checks run.toml. Writes either all
    files or none, and refuses a folder that is not empty.

    `--slurm` and `--kubernetes` add the file of a job that trains run.toml on several machines. In
    a folder that has a run.toml already, they write only that file (docs/scaling.md).
    """
    from drpo_cli.tools import init as scaffold

    source = scaffold.template_folder()
    if list_:
        for name, summary in scaffold.templates(source).items():
            typer.echo(f"{name:<16} {summary}")
        return
    if folder is None:
        raise typer.BadParameter("name the folder to create, or use --list", param_hint="DIR")
    jobs = [name for name, wanted in (("slurm", slurm), ("kubernetes", kubernetes)) if wanted]
    if jobs and (folder / "run.toml").is_file():
        for path in scaffold.add_jobs(folder, jobs, source):
            typer.echo(f"wrote {path}")
        return
    for warning in scaffold.init(folder, template, source):
        typer.echo(f"warning: {warning}", err=True)
    scaffold.add_jobs(folder, jobs, source)
    spec = as_typed(folder / "run.toml")
    typer.echo(f"wrote {folder}\nnext:\n  drpo check {spec}\n  drpo train {spec}")


@app.command(
    rich_help_panel=BEFORE, epilog=examples("drpo schema --out demo/run.schema.json", "drpo schema")
)
def schema(
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write to this file, not to the screen.")
    ] = None,
) -> None:
    """Print the JSON Schema of a spec, for editors.

    The schema has every section and key with its meaning, default and bounds, and the options of
    every plugin, also of installed packages. An editor with a TOML language server (Taplo, known as
    Even Better TOML, or Tombi) uses it for a spec whose first line is
    `#:schema ./run.schema.json`, followed by an empty line. `drpo init` writes both. Write the
    schema again after you update drpo or install plugins.

    A schema cannot express everything: `drpo check` also checks rules between keys, and that files
    exist.
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
    rich_help_panel=BEFORE,
    epilog=examples(
        "drpo check demo/run.toml",
        "drpo check demo/run.toml --diff",
        "drpo check demo/run.toml --set rollout.samples_per_prompt=16 --nproc 2",
    ),
)
def check(
    spec: SpecFile,
    set_: Overrides = None,
    nproc: Processes = None,
    diff: Annotated[
        bool,
        typer.Option("--diff", help="List the keys that differ from their defaults, and why."),
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON document, for tools.")
    ] = False,
) -> None:
    """Validate a spec, and show the run that it describes.

    Reports every error at once, each with file, line, column and the line itself, and then exits 2.
    Of a file that is not TOML it reports the first syntax error. Warnings do not change the exit
    code. For a valid spec it shows the arithmetic of a step, and
    the effect of the trust region.

    Imports the plugins. Checks the signature of each reward function without calling it: names of
    arguments, annotations that do not fit the arguments, return types that are not a score. Needs
    no GPU and no engine, and reads no data.

    `--set section.key=value` overrides a key for one command, here and wherever a command takes a
    spec. The value is read as TOML where it is valid TOML, and as text otherwise. `data[0].path=…`
    or `data.0.path=…` sets a key in an array.
    """
    from drpo_cli.tools.check import check as checked

    raise typer.Exit(checked(spec, set_ or [], nproc or 1, diff, as_json))


@app.command(
    rich_help_panel=BEFORE,
    epilog=examples(
        "drpo plan demo/run.toml --gpus 8 --gpu h100-80g",
        "drpo plan demo/run.toml --nodes 2 --gpus 8 --gpu h100-80g --link 400 --network 50",
    ),
)
def plan(
    spec: SpecFile,
    gpus: Annotated[int, typer.Option(min=1, metavar="N", help="Devices per node.")] = 1,
    gpu: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="The device: h100-80g, a100-40g, …, or a size: 48g, cpu-24g, cpu.",
        ),
    ] = "cpu",
    nodes: Annotated[int, typer.Option(min=1, metavar="N", help="Number of nodes.")] = 1,
    link: Annotated[
        float | None,
        typer.Option(min=0.001, metavar="GB/s", help="Into a device from its node."),
    ] = None,
    network: Annotated[
        float | None,
        typer.Option(min=0.001, metavar="GB/s", help="Into a node from the others."),
    ] = None,
    tflops: Annotated[
        float | None,
        typer.Option(min=0.001, metavar="TFLOP/s", help="Reached by training, per device."),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            exists=True,
            dir_okay=False,
            help="The config.json of another model than the spec's.",
        ),
    ] = None,
    set_: Overrides = None,
    json_: Annotated[bool, typer.Option("--json", help="Print JSON, sizes in bytes.")] = False,
) -> None:
    """Estimate the memory that a run needs, without a GPU.

    Exits 1 when the run does not fit.

    Draws a bar for every phase of a step: what one device holds at the peak of the phase. Parts are
    weights, optimizer state, gradients, gathered layers, activations of the largest micro-batch,
    log-prob blocks, and the engine's weights and KV cache. The numbers come from the trainer's own
    code, run on fake tensors with the shapes of the real model; this takes seconds. docs/plan.md
    says what was measured and what is assumed. Also shows how many sequences the engine runs at
    once, how much data a weight sync moves and, when the run does not fit, which settings save the
    most memory.

    For several devices it shows what they send each other in a step. With `--link` and `--network`
    it adds the least time of that, and with `--tflops` its share of the training time. These rates
    are yours to state: `drpo doctor --nodes` measures them.

    Needs the model's config.json, but no weights; for common models of the hub not even that, and
    no network: drpo has a table of their shapes. Runs `model.prepare` first when the model folder
    does not exist. `--gpu cpu` is this machine, its memory shared by the processes.
    """
    from drpo_cli.spec import load

    load(spec, set_ or [])  # report a wrong spec before importing torch
    from drpo_cli.tools.memory.command import plan as planned
    from drpo_cli.tools.memory.traffic import Links

    links = Links(link, network, tflops)
    raise typer.Exit(planned(spec, set_ or [], gpus, gpu, nodes, links, json_, config))


@app.command(
    rich_help_panel=BEFORE,
    epilog=examples(
        "drpo doctor",
        "drpo doctor demo/run.toml",
        "drpo doctor demo/run.toml --nodes 2 --node-rank 0 --rendezvous 10.0.0.1:29500",
    ),
)
def doctor(
    spec: Annotated[
        Path | None,
        typer.Argument(metavar="RUN.toml", help="Also check what this run needs."),
    ] = None,
    nodes: Nodes = None,
    node_rank: NodeRank = None,
    rendezvous: Rendezvous = None,
    join_timeout: JoinTimeout = None,
    json_: Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")] = False,
) -> None:
    """Check this machine: versions, devices, limits, folders.

    Exits 1 when something is wrong.

    Each line is ok, a warning (a run works, but slowly, partly, or untested) or wrong (a run does
    not work), with what was found and how to fix it. Imports torch, transformers and vLLM in
    separate processes, so that a broken package does not stop the other checks. Starts two
    processes that add two numbers, connected as the processes of a run are.

    With `--nodes`, give the command on every machine, as `drpo train`. It also tries the
    rendezvous, whether versions differ and `run.folder` is shared, and measures round trips,
    bandwidth and clocks.
    """
    from drpo_cli.launch.place import read_place

    place = read_place(nodes, node_rank, rendezvous, join_timeout)
    from drpo_cli.tools.doctor.command import doctor as examined

    raise typer.Exit(examined(spec, json_, place))
