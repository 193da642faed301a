"""Verbs that run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from drpo_cli.cli._options import Overrides, Processes, SpecFile, app


@app.command(epilog="Example: drpo train demo/run.toml --set train.learning_rate=2e-4 --nproc 2")
def train(
    spec: SpecFile,
    set_: Overrides = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the run's last checkpoint.")
    ] = False,
    nproc: Processes = None,
) -> None:
    """Train: one process a device, on this machine."""
    from drpo_cli.spec import load

    loaded = load(spec, set_ or [])  # a wrong spec is said before torch is imported
    from drpo_cli.launch import train as launch

    raise typer.Exit(launch(loaded, resume, nproc))


@app.command(epilog="Example: drpo watch demo/runs/quickstart")
def watch(
    runs: Annotated[
        list[Path],
        typer.Argument(metavar="RUN_DIR...", help="Run folders, or folders of runs."),
    ],
    once: Annotated[
        bool, typer.Option("--once", help="Show the runs as they are now, and leave.")
    ] = False,
) -> None:
    """Watch runs, running or ended, from another terminal: the view that `drpo train` shows.

    It reads the files of the run folder and nothing else, so it works for runs of `drpo compare`,
    and for those of another machine where the folder is shared. Several runs are shown side by
    side, or one below the other, or in a row each, as the terminal has room. A folder that holds
    runs, such as `runs` or a grid's, stands for all of them.

    It ends when all runs have ended (exit code 0, whatever became of them) or with Ctrl-C (130),
    which the runs do not notice. Where stdout is no terminal it writes a line a step.
    """
    from drpo_cli.report.view.command import watch as show

    raise typer.Exit(show(runs, once))


@app.command(
    name="compare",
    epilog="Example: drpo compare demo/run.toml --vary objective=drpo,dppo,grpo --seeds 0-4",
)
@dataclass
class Compare:
    """Run a grid of specs over several seeds, and compare them with statistics."""

    base: SpecFile
    vary: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=V1,V2,…", help="Values of a key to compare; repeatable."),
    ] = None
    seeds: Annotated[str, typer.Option(metavar="0-4", help="Seeds of every cell.")] = "0-4"
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
        from drpo_cli.compare.command import Asked, compare

        raise typer.Exit(compare(Asked(**vars(self))))
