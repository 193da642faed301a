"""Verbs for during a run: train, watch, compare."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from drpo_cli.cli import completion
from drpo_cli.cli.common import (
    DURING,
    JoinTimeout,
    NodeRank,
    Nodes,
    Overrides,
    Processes,
    Rendezvous,
    SpecFile,
    app,
    examples,
)


@app.command(
    rich_help_panel=DURING,
    epilog=examples(
        "drpo train demo/run.toml",
        "drpo train demo/run.toml --set train.learning_rate=2e-4 --set run.name=slower --nproc 2",
        "drpo train demo/run.toml --resume",
        "drpo train demo/run.toml --set run.name=further --from demo/runs/quickstart@100",
        "drpo train demo/run.toml --nodes 2 --node-rank 0 --rendezvous 10.0.0.1:29500",
    ),
)
def train(
    spec: SpecFile,
    set_: Overrides = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue from the newest checkpoint, if there is one.")
    ] = False,
    from_: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="RUN[@STEP]",
            help="Begin with the weights of another run, in place of the spec's model.",
            autocompletion=completion.run_folders,
        ),
    ] = None,
    keep: Annotated[
        str | None,
        typer.Option(
            "--keep",
            metavar="optimizer,data",
            help="With --from: take over the optimizer's moments, the place in the data, or both.",
        ),
    ] = None,
    nproc: Processes = None,
    nodes: Nodes = None,
    node_rank: NodeRank = None,
    rendezvous: Rendezvous = None,
    join_timeout: JoinTimeout = None,
    external: Annotated[
        bool,
        typer.Option(
            "--external",
            help="Be one rank of a job of torchrun, SLURM or others: give this in every task.",
        ),
    ] = False,
) -> None:
    """Train with one process per device, on this machine or on several.

    Writes to the folder `<run.folder>/<run.name>`. Refuses a folder that is in use or whose run is
    finished, and one with an unfinished run unless `--resume` is given. By default it starts one
    process per visible GPU, or one process on a CPU. `--nproc` changes the number, up to the number
    of GPUs or, on a CPU, of cores. On SIGINT or SIGTERM it finishes the step and saves a
    checkpoint.

    `--from` names another run, of which the newest or the given checkpoint is taken, or a
    checkpoint. Its weights, configuration and tokenizer are copied into the new run's folder; a
    run with adapters is merged. Its steps and its schedule are not continued, nor, without
    `--keep`, the moments of its optimizer and its place in the data.

    On several machines, give the command on each with `--nodes`, `--node-rank` and `--rendezvous`;
    `--nproc` is then the number per machine. All need the same packages, the same spec and a run
    folder that they share. Node 0 shows the run (docs/scaling.md).

    With `--external` another launcher starts one process per device, each with this
    command: `torchrun --nproc-per-node 8 -m drpo_cli train RUN.toml --external`. Rank 0 prepares
    the run folder, then each becomes one rank of the run. RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR
    and MASTER_PORT tell its place; where they are not set, those of SLURM do.
    """
    from drpo_cli.launch.place import read_place
    from drpo_cli.spec import load

    place = read_place(nodes, node_rank, rendezvous, None if external else join_timeout)
    if external and (nproc or place):
        option = "--nproc" if nproc else "--nodes"
        raise typer.BadParameter(f"the job itself says what {option} does", param_hint="--external")
    loaded = load(spec, set_ or [])  # report a wrong spec before importing torch
    from drpo_cli.launch.origin import Origin

    origin = Origin.read(from_, [part.strip() for part in keep.split(",")] if keep else [])
    if external:
        from drpo_cli.launch.external import train as join

        join(loaded, resume, join_timeout, origin)
    from drpo_cli.launch.launcher import train as launch

    raise typer.Exit(launch(loaded, resume, nproc, place, origin))


@app.command(
    rich_help_panel=DURING,
    epilog=examples("drpo watch demo/runs/quickstart", "drpo watch demo/runs --once"),
)
def watch(
    runs: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN_DIR...",
            help="Run folders, or folders of runs.",
            autocompletion=completion.run_folders,
        ),
    ],
    once: Annotated[
        bool, typer.Option("--once", help="Show the runs as they are now, and exit.")
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE.svg", help="Draw the runs as they are now to a file, and exit."),
    ] = None,
) -> None:
    """Watch runs, running or ended, from another terminal.

    Shows the view that `drpo train` shows. It only reads the files of the run folder, so it also
    works for the runs of `drpo compare`, and for runs on another machine that shares the folder.
    Several runs are shown side by side, one below the other, or one per row, depending on the size
    of the terminal. A folder that contains runs, such as `runs` or the folder of a grid, means all
    of its runs.

    Ends when all runs have ended (exit code 0, also when a run failed) or on Ctrl-C (exit code
    130), which does not affect the runs. When stdout is not a terminal, it writes one line per
    step.
    """
    from drpo_cli.report.view.command import watch as show

    raise typer.Exit(show(runs, once, out))


@app.command(
    name="compare",
    rich_help_panel=DURING,
    epilog=examples(
        "drpo compare demo/run.toml --vary objective=drpo:delta=0.2,dppo,grpo --seeds 0-4",
        "drpo compare demo/run.toml --vary objective=drpo,spo --vary train.learning_rate=1e-3,5e-4",
        "drpo compare demo/run.toml --vary objective=drpo,spo --bases model-a,model-b,model-c",
        "drpo compare demo/run.toml --vary objective=spo,drpo --tune spo:epsilon=0.2,1 "
        "--tune drpo:delta=0.2,0.5 --select-seeds 0-2 --report-seeds 5-14",
    ),
)
def compare(
    base: SpecFile,
    vary: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=V1,V2,…", help="Values of a key to compare; repeatable."),
    ] = None,
    seeds: Annotated[
        str | None,
        typer.Option(
            metavar="0-4", help="Seeds of every cell, as a range or a list (0,3,7). Default 0-4."
        ),
    ] = None,
    tune: Annotated[
        list[str] | None,
        typer.Option(
            metavar="METHOD:OPTION=V1,V2,…",
            help="Values to choose from on the selection seeds; or KEY=V1,V2,…; repeatable.",
        ),
    ] = None,
    select_seeds: Annotated[
        str | None, typer.Option(metavar="0-4", help="Seeds that --tune chooses on.")
    ] = None,
    report_seeds: Annotated[
        str | None, typer.Option(metavar="5-14", help="Seeds that are reported with --tune.")
    ] = None,
    halve: Annotated[
        bool,
        typer.Option("--halve", help="Drop the worse half of --tune's values after each seed."),
    ] = False,
    jobs: Annotated[int | None, typer.Option(min=1, metavar="N", help="Runs at a time.")] = None,
    bases: Annotated[
        str | None,
        typer.Option(metavar="A,B,C", help="Base models (model.path); each cell runs on all."),
    ] = None,
    baseline: Annotated[
        str | None, typer.Option(metavar="VALUE", help="What the others are compared with.")
    ] = None,
    target: Annotated[
        float | None, typer.Option(metavar="0.6", help="Held-out score to count the steps to.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder of the grid's runs and report.")
    ] = None,
    set_: Overrides = None,
    nproc: Processes = None,
) -> None:
    """Run a grid of specs over several seeds, and compare them.

    The results are tables in the terminal, and a page, figures and JSON in the grid's folder,
    which is `<run.folder>/compare-<name of the spec>` unless `--out` names another. Every cell
    and seed is an ordinary run. After a stop, give the command again to continue; with more values
    or seeds it runs only what is missing. How to read the numbers: docs/compare.md.

    All combinations of the `--vary` are run. For `objective`, `advantage` and `rollout` a value is
    a plugin with options, `drpo:delta=0.2`; `objective` also takes the presets. `lag=1,4,16` makes
    rollouts older and leaves mini-batch, samples and updates the same. With several `--bases`,
    intervals cover other base models. The baseline is a value of the first `--vary`, or `KEY=VALUE`
    of any; by default, the first value of the first. As many runs train at a time as there are
    GPUs, or cores.

    With `--tune`, all combinations of its values run on the `--select-seeds`; each cell keeps the
    one with the highest mean final score, and only that runs on the `--report-seeds`, which all
    other tables are about. METHOD is a value of `--vary objective=…`, and `a+b=V1,V2` sets two
    options to one value. Every method with options needs the same number of values. With `--halve`
    the worse half of a cell's combinations is dropped after each seed on each base model.

    Given the compare.json of a grid instead of a spec, it shows the tables again without the runs.

    The exit code is 1 when a run failed; the others are run and reported all the same. On SIGINT
    or SIGTERM the running ones finish their step and save.
    """
    from drpo_cli.tools.compare import command

    tuning = (tune, select_seeds, report_seeds, halve)
    where = (baseline, target, out, set_, nproc, bases)
    request = command.Request(base, vary, seeds, jobs, *where, *tuning)
    raise typer.Exit(command.compare(request))
