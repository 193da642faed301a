"""Verbs that look at what runs have left."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from drpo_cli.cli._options import app


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


@app.command(epilog="Example: drpo report runs/a runs/b --out comparison.html")
def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN_DIR...", help="Folders of runs.")],
    out: Annotated[
        Path | None, typer.Option(metavar="FILE.html", help="The page to write.")
    ] = None,
) -> None:
    """Write one page that says what a run did, or how several differ.

    The page holds all it shows: it opens from disk, fetches nothing and can be mailed. It has the
    verdict on the held-out score, alerts, charts of every metric, a table of samples to search and
    sort, what failed, the spec and the versions. Of several runs, charts are overlaid and held-out
    scores are compared problem by problem.

    Without --out, a single run's page is RUN_DIR/report.html, and that of several is
    comparison.html in the current folder. A run that is still training can be looked at too.
    """
    from drpo_cli.report.command import report as write

    typer.echo(f"wrote {write(runs, out)}")


@app.command(epilog="Example: drpo track runs/quickstart")
def track(
    folder: Annotated[Path, typer.Argument(metavar="RUN_DIR", help="Folder of a run.")],
    seconds: Annotated[
        float, typer.Option(min=1, metavar="S", help="Longest time to take, in seconds.")
    ] = 600.0,
) -> None:
    """Send a run's trackers what they were not sent while it trained.

    Which trackers is read from the `spec.toml` in the run's folder, so one can be added there
    afterwards. Steps that a tracker has taken are not sent again. Ends with 1 when some are left.
    """
    from drpo_cli.trackers._follow import send

    raise typer.Exit(send(folder, seconds))
