"""Verbs that try the parts of a run: its rewards, its data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from drpo_cli.cli import _complete
from drpo_cli.cli._help import examples
from drpo_cli.cli._options import Overrides, SpecFile, data_app, reward_app


@reward_app.command(
    name="test",
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
            metavar="FILE", help="Score these: JSON lines; a run's samples.jsonl will do."
        ),
    ] = None,
    generate: Annotated[
        int | None,
        typer.Option(
            min=1, metavar="N", help="Sample a group for each of the first N training prompts."
        ),
    ] = None,
    set_: Overrides = None,
    json_out: Annotated[
        Path | None,
        typer.Option(
            "--json", metavar="FILE", help="Write everything, all samples included, here too."
        ),
    ] = None,
) -> None:
    """Score completions by the run's rewards, as training would.

    In the same processes, with the same time-outs. Shows every reward of every sample, the total
    and the time; the distribution of each reward; failed calls with the line of your code they
    failed at; and how the total agrees with the reference answers. Exits 1 when a call failed.

    Without `--samples` and `--generate` the reference answers of the first 8 problems, taken from
    all sources alike, are scored as if they were completions. That needs no model, and no tokenizer
    unless a reward asks for `prompt` or `tokens`. Each should get a high total, at least
    `eval.threshold`; a reward that wants more than the answer (a format, reasoning) is right not to
    give one. `--generate` takes the run's model, engine and `rollout` settings.

    A line of `FILE` is `{"prompt": "…", "completion": "…"}`, with `answer`, `metadata` and
    `truncated` if you like. Lines alike in all else are one group, in their order. Where a reward
    asks for `tokens` and the line has no `token_ids`, the model's tokenizer makes them. Prompts of
    a source that names its `rewards` are scored by those, told by the `prompt_id` of a run's
    samples.

    "Has the answer" means that the reference answer stands in the completion, not as part of a
    longer word or number.
    """
    from drpo_cli.tools.preview.reward_test import try_rewards

    raise typer.Exit(try_rewards(spec, set_ or [], samples, generate, json_out))


@reward_app.command(name="list", epilog="Example: drpo reward list")
def reward_list() -> None:
    """List the rewards that a name selects.

    Those that are built in, and those that an installed package brings.
    """
    from drpo_cli.tools.preview.plugin_pages import list_rewards

    list_rewards()


@reward_app.command(
    name="show",
    epilog=examples("drpo reward show regex", "drpo reward show demo/rewards.py:digits"),
)
def reward_show(
    type_: Annotated[
        str,
        typer.Argument(
            metavar="TYPE",
            help="A name, ./file.py:name or package.module:name.",
            autocompletion=_complete.rewards,
        ),
    ],
) -> None:
    """Show a reward's options and examples, and a table to paste.

    What it says of itself: what it asks for, its options with their defaults, examples, and a
    `[[reward]]` table for run.toml. A file counts from the working directory.
    """
    from drpo_cli.tools.preview.plugin_pages import show

    show(type_)


@data_app.command(
    name="show",
    epilog=examples(
        "drpo data show demo/run.toml",
        "drpo data show demo/run.toml -n 2 --set data[0].chat=true",
    ),
)
def data_show(
    spec: SpecFile,
    n: Annotated[int, typer.Option("-n", min=0, metavar="N", help="Prompts to show.")] = 5,
    set_: Overrides = None,
) -> None:
    """Show prompts as the model will see them.

    The first ones that the run would train on: template, system message, examples and chat template
    applied, special tokens visible; each with its source and row, length, answer, other columns,
    and the rewards that score it. Then the sources with their rows and shares, how many prompts are
    held out, what is skipped for its length, and a histogram of the lengths of the first 1,000
    prompts. Whatever would stop the run at its data stops this. Needs the tokenizer only; runs
    `model.prepare` first where the model's folder is not there yet.
    """
    from drpo_cli.tools.preview.data_show import show

    show(spec, set_ or [], n)
