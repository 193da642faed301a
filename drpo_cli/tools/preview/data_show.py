"""`drpo data show`: what a run would train on, made by the code that serves the run."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.bar import Bar
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from drpo_cli.data.pipeline.stream import Data, PromptStream
from drpo_cli.plan import Plan, make_plan
from drpo_cli.rewards.grading.contract import prepared
from drpo_cli.spec import Spec, load
from drpo_cli.step import build as assemble
from drpo_cli.tools.preview.model import tokenizer
from drpo_cli.types import Prompt

LOOKED_AT = 1000
"""Prompts, the first that the run would train on, that lengths and shares are taken of."""
MOST_BINS = 12
BAR_WIDTH = 40
COLUMNS_WIDTH = 160
"""Characters of a row's other columns that are shown."""
END = "◂"


def show(spec_path: Path, overrides: Sequence[str], shown: int) -> None:
    """Prints the first `shown` prompts of the run's training, and what there is of all.

    Makes the model's folder where `model.prepare` has yet to. Raises UserError for whatever would
    stop the run at its data.
    """
    spec = load(spec_path, overrides)
    for warning in spec.warnings:
        sys.stderr.write(f"warning: {warning}\n")
    names = [reward.name for reward in prepared(spec.reward)]
    encoder = tokenizer(spec.model)
    plan = make_plan(spec, world=1)  # after the model is there: its context is known only then
    data = assemble.data(plan, encoder, rank=0)
    prompts = list(_first(data.stream, max(shown, min(LOOKED_AT, data.train_rows))))
    console = Console(markup=False, highlight=False)
    for number, prompt in enumerate(prompts[:shown], start=1):
        _print_prompt(console, number, prompt, encoder, names)
    if shown:
        console.print(f"{END} is where the response begins.\n", style="dim")
    _print_sources(console, data, prompts)
    console.print(_sizes(spec, plan, data, len(prompts)))
    _print_lengths(console, np.array([len(prompt.token_ids) for prompt in prompts]))


def _first(stream: PromptStream, count: int) -> Iterator[Prompt]:
    while count > 0:
        step_P = stream.next()[:count]
        count -= len(step_P)
        yield from step_P


def _print_prompt(
    console: Console, number: int, prompt: Prompt, encoder: Any, names: Sequence[str]
) -> None:
    answer = "no answer" if prompt.answer is None else f"answer {_short(prompt.answer, 30)}"
    scored = ", ".join(prompt.rewards if prompt.rewards is not None else names)
    facts = (f"{len(prompt.token_ids):,} tokens", answer, f"scored by {scored or 'nothing'}")
    console.print(Text(f"{number}  {prompt.id}", "bold"), "·", " · ".join(facts))
    if prompt.metadata:
        columns = ", ".join(f"{key} = {value!r}" for key, value in prompt.metadata.items())
        console.print(Text(f"   {_short(columns, COLUMNS_WIDTH)}", "dim"))
    # From the ids, not the text: what a tokenizer adds or does not know is to be seen.
    text = Text(encoder.decode(list(prompt.token_ids), clean_up_tokenization_spaces=False))
    text.highlight_words(encoder.all_special_tokens, "cyan")
    console.print(text + Text(END, "dim"), soft_wrap=True)
    console.print()


def _print_sources(console: Console, data: Data, prompts: Sequence[Prompt]) -> None:
    served: dict[str, list[Prompt]] = {}
    for prompt in prompts:
        served.setdefault(prompt.id.rpartition("/")[0], []).append(prompt)
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("source", overflow="fold")
    for heading in ("rows", "weight", "share", "with answer", "tokens"):
        table.add_column(heading, justify="right", no_wrap=True)
    for name, rows, weight in data.stream.state_dict()["sources"]:
        own = served.get(name, [])
        lengths = [len(prompt.token_ids) for prompt in own]
        table.add_row(
            name,
            f"{rows:,}",
            "–" if weight is None else f"{weight:g}",
            f"{len(own) / max(1, len(prompts)):.1%}",
            f"{np.mean([prompt.answer is not None for prompt in own]):.0%}" if own else "–",
            f"{min(lengths)}–{max(lengths)}" if own else "–",
        )
    console.print(table)


def _sizes(spec: Spec, plan: Plan, data: Data, looked_at: int) -> Table:
    grid = Table.grid(padding=(0, 2))
    source = "the sources of [[eval.data]]" if spec.eval_data else "these rows, never trained on"
    grid.add_row("held out", f"{len(data.held_out):,} of {source}")
    longest = max(spec.rollout.config.max_new_tokens, spec.eval.max_new_tokens or 0)
    context = assemble.context_length(plan)
    grid.add_row(
        "room",
        f"{context - longest:,} tokens for a prompt: {context:,} of context − {longest:,} new ones",
    )
    for label, skipped in (
        (f"skipped before {looked_at:,} prompts", data.stream.skipped),
        ("skipped of the held-out", data.held_out_skipped),
    ):
        grid.add_row(label, _reasons(skipped))
    return grid


def _reasons(skipped: Mapping[str, int]) -> str:
    return ", ".join(f"{n:,} by {option}" for option, n in Counter(skipped).items()) or "none"


def _print_lengths(console: Console, lengths_P: np.ndarray) -> None:
    low, middle, most, high = np.percentile(lengths_P, (0, 50, 95, 100))
    console.print(
        f"\nPrompt tokens of the run's first {len(lengths_P):,} prompts: least {low:g}, median "
        f"{middle:g}, 95 % up to {most:g}, most {high:g}"
    )
    width = max(1, int(np.ceil((high - low + 1) / MOST_BINS)))
    counts, edges = np.histogram(lengths_P, np.arange(low, high + width + 1, width))
    grid = Table.grid(padding=(0, 2))
    grid.add_column(justify="right")
    grid.add_column(width=BAR_WIDTH)
    grid.add_column(justify="right")
    for start, count in zip(edges[:-1].astype(int), counts.tolist(), strict=True):
        label = f"{start}" if width == 1 else f"{start}–{start + width - 1}"
        grid.add_row(label, Bar(int(counts.max()), 0, count), f"{count:,}")
    console.print(grid)


def _short(text: str, width: int) -> str:
    line = text.replace("\n", "⏎")
    return line if len(line) <= width else f"{line[: width - 1]}…"
