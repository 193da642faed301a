"""Verbs that try a part of a run: its rewards and its data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from drpo_cli.cli import completion
from drpo_cli.cli.common import (
    BEFORE,
    Overrides,
    SpecFile,
    app,
    data_app,
    examples,
    reward_app,
)


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
    reasoning. `--generate` uses the run's model, engine and `rollout` settings, and
    plays episodes in a run with environments.

    A line of `FILE` is `{"prompt": "…", "completion": "…"}`, with optional `answer`, `metadata`,
    `truncated`, and `messages`: the whole conversation of an episode, whose own reward is not
    scored. Lines that agree in everything but the completion form one group. Where a reward asks
    for `tokens` and the line has no `token_ids`, the model's tokenizer makes them. When a source
    names its own `rewards`, only those score its prompts; the `prompt_id` of a run's samples tells
    the source.

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
    responses (`gspo`, `trm`, `cppo`) is drawn for responses of one token.
    """
    from drpo_cli.tools.explain.command import explain as drawn

    typer.echo(drawn(objectives, mu, gradient, out))
