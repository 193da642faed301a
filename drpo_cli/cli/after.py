"""Verbs for after a run: evaluate, report, list, track, export."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from drpo_cli.cli import completion
from drpo_cli.cli.common import AFTER, app, examples, runs_app
from drpo_cli.errors import UserError

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command(
    name="eval",
    rich_help_panel=AFTER,
    epilog=examples(
        "drpo eval demo/model demo/runs/quickstart",
        "drpo eval demo/runs/quickstart/checkpoints/step-000100 --samples 32 --json scores.json",
        "drpo eval demo/model my-model --spec demo/run.toml",
        "drpo eval Qwen/Qwen3-0.6B --suite aime24,math500 --json scores.json",
        "drpo eval Qwen/Qwen3-0.6B --suite aime24 --export inspect=logs",
    ),
)
def evaluate(
    targets: Annotated[
        list[str],
        typer.Argument(
            metavar="TARGET",
            help="Run, checkpoint or model folders.",
            autocompletion=completion.run_folders,
        ),
    ],
    spec: Annotated[
        Path | None,
        typer.Option(
            metavar="RUN.toml",
            help="The spec with problems, rewards and sampling. Default: that of the first run.",
            autocompletion=completion.specs,
        ),
    ] = None,
    samples: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="K",
            help="Responses per problem. Default: eval.samples_per_prompt of the spec.",
        ),
    ] = None,
    json_out: Annotated[
        Path | None,
        typer.Option("--json", metavar="OUT", help="Also write the results to this file."),
    ] = None,
    suite: Annotated[
        str | None,
        typer.Option(metavar="A,B", help="Named suites, or files of your own, instead of a spec."),
    ] = None,
    suite_path: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=PATH", help="Read a suite's problems from a local copy. Repeatable."
        ),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="a.b=v", help="Override a key of the suites. Repeatable."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Keep the responses there; sample only those missing."),
    ] = None,
    shard: Annotated[
        str | None,
        typer.Option(metavar="I/N", help="Only sample the I-th of N shares of the problems."),
    ] = None,
    export_to: Annotated[
        list[str] | None,
        typer.Option(
            "--export",
            metavar="FORMAT=DIR",
            help="Also write logs for another tool: inspect=DIR or lm-eval=DIR. Repeatable.",
        ),
    ] = None,
) -> None:
    """Score models on held-out problems, and compare them.

    A target is a run folder (its newest checkpoint), a checkpoint, a Hugging Face model folder, or
    the name of a model of the hub.
    Every pair of targets is compared on the same problems. The JSON file has more metrics, and the
    scores of every problem.

    The models are scored with their own weights: `rollout.dtype` applies, but
    `rollout.weight_rounding` does not, unlike in the evaluations during a run.

    With `--suite`, the problems are those of named suites, which docs/evaluation.md lists, with
    their own prompt, scorer and sampling, and published scores stand beside those measured here.
    Base models, chat templates, thinking, engine and budget are set by `--set`, such as
    `data[0].chat=false`, `eval.max_new_tokens=8192` or `rollout.engine=transformers`.

    With `--out`, every response is kept as soon as it ends. After a kill the same command samples
    the rest; with other rewards, nothing. Shards can run at the same time, on devices and
    nodes that share the folder; at last, the command without `--shard` scores.

    With `--export`, logs with every response and its scores are written, too: `inspect=DIR` for
    `inspect view`, `lm-eval=DIR` in the layout of lm-evaluation-harness. Neither needs the tool.
    """
    from drpo_cli.tools import evaluate as tool

    how = tool.How.read(samples, out, shard, export_to or ())
    if shard is not None and json_out is not None:
        raise UserError("--json: has no effect with --shard, which scores nothing", "remove it")
    if suite is None:
        for option, words in (("--suite-path", suite_path), ("--set", set_)):
            if words:
                raise UserError(f"{option}: has no effect without --suite", "remove it")
        raise typer.Exit(tool.evaluate(targets, spec, json_out, how))
    if spec is not None:
        raise UserError("--spec: has no effect with --suite", "remove one of them")
    names = [name.strip() for name in suite.split(",") if name.strip()]
    copies = dict(_read_copy(text) for text in suite_path or ())
    raise typer.Exit(tool.evaluate_suites(targets, names, json_out, how, set_ or (), copies))


def _read_copy(text: str) -> tuple[str, Path]:
    name, equals, path = text.partition("=")
    if not equals or not name or not path:
        raise UserError(f"--suite-path {text}: is not NAME=PATH", "write aime24=aime24.parquet")
    return name.strip(), Path(path.strip())


@app.command(
    rich_help_panel=AFTER,
    epilog=examples(
        "drpo report demo/runs/quickstart",
        "drpo report demo/runs/first demo/runs/second --out comparison.html",
    ),
)
def report(
    runs: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN_DIR...", help="Run folders.", autocompletion=completion.run_folders
        ),
    ],
    out: Annotated[
        Path | None, typer.Option(metavar="FILE.html", help="The page to write.")
    ] = None,
) -> None:
    """Write one HTML page about a run, or a comparison of several.

    The page contains everything that it shows: it opens from disk, loads nothing from the network,
    and can be mailed. It has the verdict on the held-out score, alerts, charts of every metric, a
    table of samples to search and sort, failures, the spec and the versions. For several runs the
    charts are overlaid, and the held-out scores are compared problem by problem.

    Without `--out`, the page of one run is RUN_DIR/report.html, and the page of several runs is
    comparison.html in the current folder. The run may still be training.
    """
    from drpo_cli.report.page import report as write

    typer.echo(f"wrote {write(runs, out)}")


@runs_app.command(
    name="list",
    rich_help_panel=AFTER,
    epilog=examples("drpo runs", "drpo runs demo/runs", "drpo runs list --json"),
)
def runs_list(
    folder: Annotated[
        Path | None,
        typer.Argument(
            metavar="DIR", help="The folder to search. Default: ./runs, or the current folder."
        ),
    ] = None,
    json_: AsJson = False,
) -> None:
    """List the runs in a folder; `drpo runs` is short for it.

    Also searches the folders below, and shows the newest run first. For each run it shows the
    state, the steps done and planned, the held-out score of the untrained model → the newest (the
    best), the objective, the time that the steps took, the time of the last write, and the size on
    disk.
    """
    from drpo_cli.tools.runs import list_runs

    list_runs(folder, json_)


@runs_app.command(
    name="diff",
    rich_help_panel=AFTER,
    epilog=examples("drpo runs diff demo/runs/first demo/runs/second"),
)
def runs_diff(
    first: Annotated[
        Path,
        typer.Argument(metavar="A", help="A run folder.", autocompletion=completion.run_folders),
    ],
    second: Annotated[
        Path,
        typer.Argument(
            metavar="B", help="Another run folder.", autocompletion=completion.run_folders
        ),
    ],
    json_: AsJson = False,
) -> None:
    """Show how two runs differ.

    Compares their specs, their versions and machines, and their held-out scores.
    """
    from drpo_cli.tools.runs import diff

    diff(first, second, json_)


@app.command(rich_help_panel=AFTER, epilog=examples("drpo track demo/runs/quickstart"))
def track(
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="RUN_DIR", help="A run folder.", autocompletion=completion.run_folders
        ),
    ],
    seconds: Annotated[
        float, typer.Option(min=1, metavar="S", help="The time limit, in seconds.")
    ] = 600.0,
) -> None:
    """Send a run's trackers the steps that they do not have yet.

    The trackers are those of `spec.toml` in the run folder, so you can add one there after the run.
    A step that a tracker has accepted is not sent again. Exits 1 when some steps could not be sent.
    """
    from drpo_cli.launch.tracking import send

    raise typer.Exit(send(folder, seconds))


@app.command(
    rich_help_panel=AFTER,
    epilog=examples(
        "drpo export demo/runs/quickstart/checkpoints/step-000200 my-model",
        "drpo export demo/runs/quickstart my-model",
        "drpo export demo/runs/first my-average --average demo/runs/second --shares 0.7,0.3",
    ),
)
def export(
    checkpoint: Annotated[
        Path,
        typer.Argument(
            metavar="CHECKPOINT",
            help="A checkpoint, or a run folder, which means its newest checkpoint.",
            autocompletion=completion.run_folders,
        ),
    ],
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The folder to write.")],
    merged: Annotated[
        bool,
        typer.Option("--merged", help="Of an adapter, write the model that it makes of its base."),
    ] = False,
    push: Annotated[
        str | None,
        typer.Option(metavar="OWNER/NAME", help="Also upload it to the hub, as a private model."),
    ] = None,
    average: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="OTHER",
            help="Write the average with these weights. Repeatable.",
            autocompletion=completion.run_folders,
        ),
    ] = None,
    shares: Annotated[
        str | None,
        typer.Option(metavar="W,W,…", help="What CHECKPOINT and each OTHER count in the average."),
    ] = None,
) -> None:
    """Write a checkpoint as a Hugging Face model folder.

    Writes the weights in `model.dtype`, the tokenizer, and a model card with the held-out scores
    and the spec of the run. Refuses a folder that is not empty.

    Of a run with `[lora]`, writes the adapter, which peft and vLLM load. With `--merged` it writes
    a model; then CHECKPOINT may also be the folder of an adapter.

    With `--average`, writes the mean of the weights of several runs, checkpoints or model folders
    of one architecture, each with its share, in place of one.
    """
    from drpo_cli.tools import model_card

    if average:
        from drpo_cli.tools.average import write_average

        if merged:
            what = "--merged: has no effect with --average, which merges adapters always"
            raise UserError(what, "remove it")
        write_average([checkpoint, *average], _read_shares(shares), folder)
    else:
        from drpo_cli.step.checkpoint import export as write

        if shares is not None:
            raise UserError("--shares: has no effect without --average", "remove it")
        write(checkpoint, folder, merged)
        model_card.write_card(checkpoint, folder)
    typer.echo(f"wrote {folder}")
    if push is not None:
        typer.echo(f"pushed to {model_card.push(folder, push)}")


def _read_shares(text: str | None) -> list[float] | None:
    try:
        return None if text is None else [float(word) for word in text.split(",")]
    except ValueError:
        raise UserError(f"--shares {text}: is not a list of numbers", "write 0.5,0.5") from None
