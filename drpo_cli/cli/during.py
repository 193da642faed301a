"""Verbs that run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from drpo_cli.cli import _complete
from drpo_cli.cli._help import examples
from drpo_cli.cli._options import Overrides, Processes, SpecFile, app


@app.command(
    epilog=examples(
        "drpo train demo/run.toml",
        "drpo train demo/run.toml --set train.learning_rate=2e-4 --set run.name=slower --nproc 2",
        "drpo train demo/run.toml --resume",
    )
)
def train(
    spec: SpecFile,
    set_: Overrides = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the newest checkpoint, if there is one.")
    ] = False,
    nproc: Processes = None,
) -> None:
    """Train on this machine, one process a device.

    Into the folder `<run.folder>/<run.name>`. Refuses one that is in use or finished, and one with
    an unfinished run unless `--resume` is given. There is a process for each visible GPU, and one
    on a CPU, unless `--nproc` says otherwise: at most the number of GPUs, on a CPU of cores. On
    SIGINT or SIGTERM the step is finished and saved.
    """
    from drpo_cli.spec import load

    loaded = load(spec, set_ or [])  # a wrong spec is said before torch is imported
    from drpo_cli.launch.launcher import train as launch

    raise typer.Exit(launch(loaded, resume, nproc))


@app.command(epilog=examples("drpo watch demo/runs/quickstart", "drpo watch demo/runs --once"))
def watch(
    runs: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN_DIR...",
            help="Run folders, or folders of runs.",
            autocompletion=_complete.run_folders,
        ),
    ],
    once: Annotated[
        bool, typer.Option("--once", help="Show the runs as they are now, and leave.")
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE.svg", help="Draw the runs as they are now, and leave."),
    ] = None,
) -> None:
    """Watch runs, running or ended, from another terminal.

    This is the view that `drpo train` shows. It reads the files of the run folder and nothing
    else, so it works for runs of `drpo compare`, and for those of another machine where the folder
    is shared. Several runs are shown side by side, or one below the other, or in a row each, as
    the terminal has room. A folder that holds runs, such as `runs` or a grid's, stands for all
    that are in it.

    It ends when all runs have ended (exit code 0, whatever became of them) or with Ctrl-C (130),
    which the runs do not notice. Where stdout is no terminal it writes a line a step.
    """
    from drpo_cli.report.view.command import watch as show

    raise typer.Exit(show(runs, once, out))


@app.command(
    name="compare",
    epilog=examples(
        "drpo compare demo/run.toml --vary objective=drpo:delta=0.2,dppo,grpo --seeds 0-4",
        "drpo compare demo/run.toml --vary objective=drpo,spo --vary train.learning_rate=1e-3,5e-4",
    ),
)
@dataclass
class Compare:
    """Run a grid of specs over several seeds, and compare them.

    Tables in the terminal, a page, figures and JSON in the grid's folder, which is
    `<run.folder>/compare-<name of the spec>` unless `--out` says otherwise. Every cell and seed is
    an ordinary run. Give the command again to go on after a stop, or with more values or seeds:
    what is finished is not run again. How to read the numbers: docs/compare.md.

    All combinations of the `--vary` are run. For `objective`, `advantage` and `rollout` a value is
    a plugin with options, `drpo:delta=0.2`; `objective` also takes the presets. The baseline is a
    value of the first `--vary`, or `KEY=VALUE` of any; it is the first value of the first when not
    given. As many runs go at a time as there are GPUs, or cores.

    Exits 1 when a run failed; the others are run and reported all the same. On SIGINT or SIGTERM
    the running ones finish their step and save.
    """

    base: SpecFile
    vary: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=V1,V2,…", help="Values of a key to compare; repeatable."),
    ] = None
    seeds: Annotated[
        str, typer.Option(metavar="0-4", help="Seeds of every cell, as a range or a list (0,3,7).")
    ] = "0-4"
    jobs: Annotated[int | None, typer.Option(min=1, metavar="N", help="Runs at a time.")] = None
    baseline: Annotated[
        str | None, typer.Option(metavar="VALUE", help="What the others are compared with.")
    ] = None
    target: Annotated[
        float | None, typer.Option(metavar="0.6", help="Held-out score to count the steps to.")
    ] = None
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder of the grid's runs and report.")
    ] = None
    set_: Overrides = None
    nproc: Processes = None

    def __post_init__(self) -> None:
        """Does it: the verb has more options than a function should have arguments."""
        from drpo_cli.tools.compare.command import Asked, compare

        raise typer.Exit(compare(Asked(**vars(self))))
