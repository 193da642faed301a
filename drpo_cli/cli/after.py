"""Verbs that look at what runs have left."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from drpo_cli.cli._options import app, runs_app


@app.command(name="eval", epilog="Example: drpo eval demo/model demo/runs/quickstart")
def evaluate(
    targets: Annotated[
        list[str], typer.Argument(metavar="TARGET", help="Run, checkpoint or model folders.")
    ],
    spec: Annotated[
        Path | None, typer.Option(metavar="RUN.toml", help="Problems and rewards to score with.")
    ] = None,
    samples: Annotated[
        int | None, typer.Option(min=1, metavar="K", help="Responses to each problem.")
    ] = None,
    json_out: Annotated[
        Path | None, typer.Option("--json", metavar="OUT", help="Write the results here too.")
    ] = None,
) -> None:
    """Score models on held-out problems, and compare them when there are several."""
    from drpo_cli.evaluate.command import evaluate as score

    raise typer.Exit(score(targets, spec, samples, json_out))


@app.command(epilog="Example: drpo export demo/runs/quickstart/checkpoints/step-000200 my-model")
def export(
    checkpoint: Annotated[Path, typer.Argument(metavar="CHECKPOINT", help="A saved checkpoint.")],
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder to write.")],
) -> None:
    """Write a checkpoint as a Hugging Face folder that any tool loads."""
    from drpo_cli.checkpoint import export as write

    write(checkpoint, folder)
    typer.echo(f"wrote {folder}")


AsJson = Annotated[bool, typer.Option("--json", help="Print it as JSON.")]


@runs_app.command(name="list", epilog="Example: drpo runs list demo/runs")
def runs(
    folder: Annotated[
        Path | None,
        typer.Argument(metavar="DIR", help="Where to look; ./runs, or here, when not given."),
    ] = None,
    json_: AsJson = False,
) -> None:
    """List the runs in a folder and below, the newest first; `drpo runs [DIR]` for short.

    Of each: its state, steps done of those asked for, held-out score of the untrained model → now
    (best), objective, the time that its steps took, when it last wrote, and its size on disk.
    """
    from drpo_cli.runs.command import list_runs

    list_runs(folder, json_)


@runs_app.command(epilog="Example: drpo runs diff demo/runs/first demo/runs/second")
def diff(
    first: Annotated[Path, typer.Argument(metavar="A", help="A run folder.")],
    second: Annotated[Path, typer.Argument(metavar="B", help="Another.")],
    json_: AsJson = False,
) -> None:
    """Tell how two runs differ: in their specs, versions and machines, and held-out scores."""
    from drpo_cli.runs.command import diff as told

    told(first, second, json_)
