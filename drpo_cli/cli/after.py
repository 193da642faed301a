"""Verbs that look at what runs have left."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from drpo_cli.cli import _complete
from drpo_cli.cli._help import examples
from drpo_cli.cli._options import app


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
    from drpo_cli.evaluate.command import evaluate as score

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
    from drpo_cli.checkpoint import export as write

    write(checkpoint, folder)
    typer.echo(f"wrote {folder}")
