"""The verbs. Each only reads its arguments and calls the module that does the work."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from drpo_cli import __version__
from drpo_cli.errors import EXIT_USER_ERROR, UserError

app = typer.Typer(
    name="drpo",
    help="Post-train language models with Divergence Regularized Policy Optimization.",
    epilog="Start with: drpo init demo; drpo train demo/run.toml",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
reward_app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
app.add_typer(reward_app, name="reward", help="Try rewards before training, and look them up.")
data_app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
app.add_typer(data_app, name="data", help="Look at the data before training.")

SpecFile = Annotated[Path, typer.Argument(metavar="RUN.toml", help="The spec of the run.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="a.b=v", help="Override a key of the spec; repeatable."),
]
Processes = Annotated[
    int | None,
    typer.Option("--nproc", min=1, metavar="N", help="Processes, one a device."),
]


def main() -> None:
    """The `drpo` command. Exits 2 on a user's mistake, 1 with a traceback on a bug."""
    try:
        app()
    except UserError as error:
        text = str(error)
        sys.stderr.write(f"error: {text}\n" if "\n" not in text else f"error:\n{text}\n")
        sys.exit(EXIT_USER_ERROR)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"drpo {__version__}")
        raise typer.Exit


@app.callback()
def drpo(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Post-train language models with Divergence Regularized Policy Optimization."""


@app.command(epilog="Example: drpo init demo --template quickstart")
def init(
    folder: Annotated[Path | None, typer.Argument(metavar="DIR", help="Folder to write.")] = None,
    template: Annotated[str, typer.Option(help="What to start from.")] = "quickstart",
    list_: Annotated[bool, typer.Option("--list", help="List the templates.")] = False,
) -> None:
    """Write a new run folder: run.toml, README and what else the template has."""
    from drpo_cli import scaffold

    source = scaffold.template_folder()
    if list_:
        for name, summary in scaffold.templates(source).items():
            typer.echo(f"{name:<16} {summary}")
        return
    if folder is None:
        raise typer.BadParameter("name the folder to write, or use --list", param_hint="DIR")
    scaffold.init(folder, template, source)
    spec = folder / "run.toml"
    typer.echo(f"wrote {folder}\nnext:\n  drpo check {spec}\n  drpo train {spec}")


@app.command(epilog="Example: drpo check demo/run.toml --set rollout.samples_per_prompt=16")
def check(spec: SpecFile, set_: Overrides = None, nproc: Processes = None) -> None:
    """Validate a spec, its plugins included, and show the batch arithmetic."""
    from rich.console import Console
    from rich.table import Table

    from drpo_cli.plan import describe, make_plan
    from drpo_cli.rewards._contract import prepared
    from drpo_cli.spec import load

    loaded = load(spec, set_ or [])
    plan = make_plan(loaded, world=nproc or 1)
    prepared(loaded.reward)  # finds a reward that nobody can call
    table = Table.grid(padding=(0, 2))
    for label, value in describe(plan):
        table.add_row(label, value)
    Console(markup=False, highlight=False).print(table)
    for warning in loaded.warnings:
        typer.echo(f"warning: {warning}", err=True)
    typer.echo(f"{spec} is valid")


@reward_app.command(
    name="test", epilog="Example: drpo reward test demo/run.toml --samples tried.jsonl"
)
def reward_test(
    spec: SpecFile,
    samples: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Score these: JSON lines, such as a samples.jsonl."),
    ] = None,
    generate: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Sample N groups from the run's model."),
    ] = None,
    set_: Overrides = None,
    json_out: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write everything here too.")
    ] = None,
) -> None:
    """Score completions, by default the reference answers. Exits 1 when a reward failed."""
    from drpo_cli.preview.reward_test import try_rewards

    raise typer.Exit(try_rewards(spec, set_ or [], samples, generate, json_out))


@reward_app.command(name="list", epilog="Example: drpo reward list")
def reward_list() -> None:
    """List the rewards that a name selects."""
    from drpo_cli.preview.plugin_pages import list_rewards

    list_rewards()


@reward_app.command(name="show", epilog="Example: drpo reward show regex")
def reward_show(
    type_: Annotated[
        str, typer.Argument(metavar="TYPE", help="A name, ./file.py:name or package.module:name.")
    ],
) -> None:
    """Show what a reward says, its options, examples, and a table to paste."""
    from drpo_cli.preview.plugin_pages import show

    show(type_)


@data_app.command(name="show", epilog="Example: drpo data show demo/run.toml -n 3")
def data_show(
    spec: SpecFile,
    n: Annotated[int, typer.Option("-n", min=0, metavar="N", help="Prompts to show.")] = 5,
    set_: Overrides = None,
) -> None:
    """Show prompts as the model will see them, their lengths, and what is held out."""
    from drpo_cli.preview.data_show import show

    show(spec, set_ or [], n)


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


@app.command(epilog="Example: drpo explain drpo:delta=0.2 dppo ppo_clip --out weights.svg")
def explain(
    objectives: Annotated[
        list[str],
        typer.Argument(metavar="OBJECTIVE", help="An objective, as NAME or NAME:option=value:…"),
    ],
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write a .png, .svg or .pdf instead.")
    ] = None,
    mu: Annotated[
        str | None, typer.Option(metavar="0.05,0.5", help="Values of μ to draw a curve for.")
    ] = None,
    gradient: Annotated[
        bool, typer.Option("--gradient", help="Draw A r w = −∂loss/∂log π, not w alone.")
    ] = False,
) -> None:
    """Draw the gradient weight w of a token against π, where ∂loss/∂log π = −A r w."""
    from drpo_cli.explain.command import explain as drawn

    typer.echo(drawn(objectives, mu, gradient, out))


@app.command(epilog="Example: drpo export demo/runs/quickstart/checkpoints/step-000200 my-model")
def export(
    checkpoint: Annotated[Path, typer.Argument(metavar="CHECKPOINT", help="A saved checkpoint.")],
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder to write.")],
) -> None:
    """Write a checkpoint as a Hugging Face folder that any tool loads."""
    from drpo_cli.checkpoint import export as write

    write(checkpoint, folder)
    typer.echo(f"wrote {folder}")
