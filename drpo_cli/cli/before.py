"""Verbs for before a run: set it up, check it, estimate it, and try its parts."""

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
    data_app,
    examples,
    reward_app,
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
    epilog=examples("drpo plan demo/run.toml --gpus 8 --gpu h100-80g", "drpo plan demo/run.toml"),
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

    Needs the model's config.json, but no weights. Runs `model.prepare` first when the model folder
    does not exist. `--gpu cpu` is this machine, its memory shared by the processes.
    """
    from drpo_cli.spec import load

    load(spec, set_ or [])  # report a wrong spec before importing torch
    from drpo_cli.tools.memory.command import plan as planned

    raise typer.Exit(planned(spec, set_ or [], gpus, gpu, nodes, json_))


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


@reward_app.command(
    name="test",
    rich_help_panel=BEFORE,
    epilog=examples(
        "drpo reward test demo/run.toml",
        "drpo reward test demo/run.toml --samples demo/runs/quickstart/samples.jsonl",
        "drpo reward test demo/run.toml --generate 4 --set rollout.engine=transformers",
    ),
)
def reward_test(
    spec: SpecFile,
    samples: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Score the completions in this JSON Lines file, such as a run's samples.jsonl.",
        ),
    ] = None,
    generate: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            help="Sample a group of completions for each of the first N training prompts.",
        ),
    ] = None,
    set_: Overrides = None,
    json_out: Annotated[
        Path | None,
        typer.Option("--json", metavar="FILE", help="Also write all results to this file."),
    ] = None,
) -> None:
    """Score completions with the run's rewards, as training would.

    Uses the same worker processes and time-outs as a run. Shows every reward of every sample, the
    total and the time; the distribution of each reward; failed calls with the line of your code
    that failed; and whether the total agrees with the reference answers. Exits 1 when a call
    failed.

    Without `--samples` and `--generate`, it scores the reference answers of the first 8 problems,
    taken evenly from all sources, as if they were completions. This needs no model, and a tokenizer
    only if a reward asks for `prompt` or `tokens`. Each answer should get a total of at least
    `eval.threshold`, unless a reward rightly wants more than the answer, such as a format or
    reasoning. `--generate` uses the run's model, engine and `rollout` settings.

    A line of `FILE` is `{"prompt": "…", "completion": "…"}`, with optional `answer`, `metadata` and
    `truncated`. Lines that agree in everything but the completion form one group. Where a reward
    asks for `tokens` and the line has no `token_ids`, the model's tokenizer makes them. When a
    source names its own `rewards`, only those score its prompts; the `prompt_id` of a run's samples
    tells the source.

    "Has the answer" means that the completion contains the reference answer, not as part of a
    longer word or number.
    """
    from drpo_cli.tools.preview.reward_test import try_rewards

    raise typer.Exit(try_rewards(spec, set_ or [], samples, generate, json_out))


@reward_app.command(name="list", rich_help_panel=BEFORE, epilog=examples("drpo reward list"))
def reward_list() -> None:
    """List the rewards that can be selected by name.

    These are the built-in rewards, and those of installed packages.
    """
    from drpo_cli.tools.preview.reward_pages import list_rewards

    list_rewards()


@reward_app.command(
    name="show",
    rich_help_panel=BEFORE,
    epilog=examples("drpo reward show regex", "drpo reward show demo/rewards.py:digits"),
)
def reward_show(
    type_: Annotated[
        str,
        typer.Argument(
            metavar="TYPE",
            help="A name, ./file.py:name or package.module:name.",
            autocompletion=completion.rewards,
        ),
    ],
) -> None:
    """Show a reward's options and examples, and a table to paste.

    Shows its docstring, the arguments that it asks for, its options with their defaults, its
    examples, and a `[[reward]]` table for run.toml. A path to a file is relative to the current
    folder.
    """
    from drpo_cli.tools.preview.reward_pages import show

    show(type_)


@data_app.command(
    name="show",
    rich_help_panel=BEFORE,
    epilog=examples(
        "drpo data show demo/run.toml",
        "drpo data show demo/run.toml -n 2 --set data[0].chat=true",
    ),
)
def data_show(
    spec: SpecFile,
    n: Annotated[
        int, typer.Option("-n", min=0, metavar="N", help="Number of prompts to show.")
    ] = 5,
    set_: Overrides = None,
) -> None:
    """Show prompts as the model will see them.

    Shows the first prompts that the run would train on, with template, system message, examples and
    chat template applied, and special tokens visible. Each has its source and row, length, answer,
    other columns, and the rewards that score it. Then come the sources with their rows and shares,
    the number of held-out prompts, how many were skipped for their length, and a histogram of the
    lengths of the first 1,000 prompts. An error in the data that would stop the run stops this
    command too. Needs only the tokenizer. Runs `model.prepare` first when the model folder does not
    exist.
    """
    from drpo_cli.tools.preview.data_show import show

    show(spec, set_ or [], n)


@app.command(
    rich_help_panel=BEFORE,
    epilog=examples(
        "drpo explain drpo:delta=0.2 dppo ppo_clip spo",
        "drpo explain drpo:delta=0.05 drpo:delta=12.5 --mu 0.05,0.5 --out regimes.svg",
        "drpo explain none ./mine.py:loss --gradient",
    ),
)
def explain(
    objectives: Annotated[
        list[str],
        typer.Argument(
            metavar="OBJECTIVE",
            help="An objective: drpo, or with options drpo:delta=0.2.",
            autocompletion=completion.objectives,
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Write a .png, .svg or .pdf file instead. The same call writes the same bytes.",
        ),
    ] = None,
    mu: Annotated[
        str | None, typer.Option(metavar="0.05,0.5", help="The values of μ, at most nine.")
    ] = None,
    gradient: Annotated[
        bool,
        typer.Option(
            "--gradient",
            help="Draw A r w = −∂loss/∂log π instead of w: what gradient descent adds to log π.",
        ),
    ] = False,
) -> None:
    """Draw the gradient weight of a token as a function of π.

    The weight is w in ∂loss/∂log π = −A r w. It is drawn for several μ (0.01, 0.1, 0.3, 0.6 and 0.9
    by default) and for A = +1 and A = −1, with the objectives side by side. The values come from
    the objective's own `loss`. A file of your own (`./mine.py:loss`) is relative to the current
    folder. Prints plain text, 80 columns wide, with a table of values at some differences π − μ.

    A dot marks π = μ. A tick on the zero line marks the edge of the trust region, where w reaches
    0. In the shaded half the gradient pulls the token back. The vertical axis ends at ±6; where a
    curve leaves it, a note (in the terminal: an arrow) says so. An objective that works on whole
    responses (`gspo`) is drawn for responses of one token.
    """
    from drpo_cli.tools.explain.command import explain as drawn

    typer.echo(drawn(objectives, mu, gradient, out))
