"""Verbs that look at what runs have left."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from drpo_cli.cli import _complete
from drpo_cli.cli._help import examples
from drpo_cli.cli._options import app, runs_app


@app.command(
    name="eval",
    epilog=examples(
        "drpo eval demo/model demo/runs/quickstart",
        "drpo eval demo/runs/quickstart/checkpoints/step-000100 --samples 32 --json scores.json",
        "drpo eval demo/model my-model --spec demo/run.toml",
    ),
)
def evaluate(
    targets: Annotated[
        list[str],
        typer.Argument(
            metavar="TARGET",
            help="Run, checkpoint or model folders.",
            autocompletion=_complete.run_folders,
        ),
    ],
    spec: Annotated[
        Path | None,
        typer.Option(
            metavar="RUN.toml",
            help="Problems, rewards and sampling; by default those of the first run named.",
            autocompletion=_complete.specs,
        ),
    ] = None,
    samples: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="K",
            help="Responses to each problem; eval.samples_per_prompt by default.",
        ),
    ] = None,
    json_out: Annotated[
        Path | None, typer.Option("--json", metavar="OUT", help="Write the results here too.")
    ] = None,
) -> None:
    """Score models on held-out problems, and compare them.

    A target is a run folder (its newest checkpoint), a checkpoint or a Hugging Face model folder;
    every two of them are compared on the same problems. The JSON has the scores of every problem.

    Models are scored as they are: `rollout.dtype` counts, `rollout.weight_rounding` does not,
    unlike in the evaluations during a run.
    """
    from drpo_cli.tools.evaluate import evaluate as score

    raise typer.Exit(score(targets, spec, samples, json_out))


@app.command(
    epilog=examples(
        "drpo export demo/runs/quickstart/checkpoints/step-000200 my-model",
        "drpo export demo/runs/quickstart my-model",
    )
)
def export(
    checkpoint: Annotated[
        Path,
        typer.Argument(
            metavar="CHECKPOINT",
            help="A saved checkpoint, or a run folder: its newest.",
            autocompletion=_complete.run_folders,
        ),
    ],
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder to write.")],
) -> None:
    """Write a checkpoint as a Hugging Face folder that any tool loads.

    In `model.dtype`, the tokenizer included. Refuses a folder that is not empty.
    """
    from drpo_cli.step.checkpoint import export as write

    write(checkpoint, folder)
    typer.echo(f"wrote {folder}")


@app.command(
    epilog=examples(
        "drpo report demo/runs/quickstart",
        "drpo report demo/runs/first demo/runs/second --out comparison.html",
    )
)
def report(
    runs: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN_DIR...", help="Folders of runs.", autocompletion=_complete.run_folders
        ),
    ],
    out: Annotated[
        Path | None, typer.Option(metavar="FILE.html", help="The page to write.")
    ] = None,
) -> None:
    """Write one page that says what a run did, or how several differ.

    The page holds all it shows: it opens from disk, fetches nothing and can be mailed. It has the
    verdict on the held-out score, alerts, charts of every metric, a table of samples to search and
    sort, what failed, the spec and the versions. Of several runs, charts are overlaid and held-out
    scores are compared problem by problem.

    Without `--out`, a single run's page is RUN_DIR/report.html, and that of several is
    comparison.html in the current folder. A run that is still training can be looked at too.
    """
    from drpo_cli.report.page import report as write

    typer.echo(f"wrote {write(runs, out)}")


AsJson = Annotated[bool, typer.Option("--json", help="Print it as JSON.")]


@runs_app.command(
    name="list", epilog=examples("drpo runs", "drpo runs demo/runs", "drpo runs list --json")
)
def runs(
    folder: Annotated[
        Path | None,
        typer.Argument(metavar="DIR", help="Where to look; ./runs, or here, when not given."),
    ] = None,
    json_: AsJson = False,
) -> None:
    """List the runs in a folder and below; `runs` for short.

    The newest comes first; `drpo runs [DIR]` is the same.
    Of each: its state, steps done of those asked for, held-out score of the untrained model → now
    (best), objective, the time that its steps took, when it last wrote, and its size on disk.
    """
    from drpo_cli.tools.runs import list_runs

    list_runs(folder, json_)


@runs_app.command(epilog=examples("drpo runs diff demo/runs/first demo/runs/second"))
def diff(
    first: Annotated[
        Path,
        typer.Argument(metavar="A", help="A run folder.", autocompletion=_complete.run_folders),
    ],
    second: Annotated[
        Path, typer.Argument(metavar="B", help="Another.", autocompletion=_complete.run_folders)
    ],
    json_: AsJson = False,
) -> None:
    """Tell how two runs differ.

    In their specs, in versions and machines, and in held-out scores.
    """
    from drpo_cli.tools.runs import diff as told

    told(first, second, json_)


@app.command(epilog=examples("drpo track demo/runs/quickstart"))
def track(
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="RUN_DIR", help="Folder of a run.", autocompletion=_complete.run_folders
        ),
    ],
    seconds: Annotated[
        float, typer.Option(min=1, metavar="S", help="Longest time to take, in seconds.")
    ] = 600.0,
) -> None:
    """Send a run's trackers what they have not been sent.

    Which trackers is read from the `spec.toml` in the run's folder, so one can be added there
    afterwards. Steps that a tracker has taken are not sent again. Ends with 1 when some are left.
    """
    from drpo_cli.launch.tracking import send

    raise typer.Exit(send(folder, seconds))
