"""`drpo data show`: the prompts that a run would train on, from the code that serves the run."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.bar import Bar
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from drpo_cli import suites
from drpo_cli.data.pipeline.stream import Data, PromptStream
from drpo_cli.plan import Plan, lone_plan
from drpo_cli.rewards.grading.contract import prepare_all
from drpo_cli.spec import Spec, load
from drpo_cli.spec.lengths import room_for_responses
from drpo_cli.step import build
from drpo_cli.tools.preview.completions import load_tokenizer
from drpo_cli.tools.tables import make_console, make_grid, make_table, numbers
from drpo_cli.types import Prompt

COUNTED = 1000
"""The first prompts of the run, whose lengths and shares are counted."""
MOST_BINS = 12
BAR_WIDTH = 40
COLUMNS_WIDTH = 160
"""Characters to show of a row's other columns."""
END = "◂"


def show(spec_path: Path, overrides: Sequence[str], shown: int) -> None:
    """Prints the first `shown` prompts of the run, and statistics of the data.

    Runs `model.prepare` when the model folder does not exist. Raises UserError for any error in the
    data that would stop the run.
    """
    spec = load(spec_path, overrides)
    for warning in spec.warnings:
        sys.stderr.write(f"warning: {warning}\n")
    names = [reward.name for reward in prepare_all(spec.reward)]
    encoder = load_tokenizer(spec.model)
    plan = lone_plan(spec)  # reads the context length from the model folder
    data = build.data(plan, encoder, 0, build.suite_rows(suites.of_run(spec)))
    prompts = list(_first(data.stream, max(shown, min(COUNTED, data.train_rows))))
    console = make_console()
    for number, prompt in enumerate(prompts[:shown], start=1):
        _print_prompt(console, number, prompt, encoder, names)
    if shown:
        console.print(f"{END} is where the response begins.\n", style="dim")
    _print_sources(console, data, prompts)
    for text in data.remarks:
        sys.stderr.write(f"note: {text}\n")
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
    answer = "no answer" if prompt.answer is None else f"answer {_shorten(prompt.answer, 30)}"
    rewards = ", ".join(prompt.rewards if prompt.rewards is not None else names)
    facts = [f"{len(prompt.token_ids):,} tokens", answer]
    if prompt.environment is not None:
        facts.append(f"played in {prompt.environment}, which says what the model sees")
    if rewards or prompt.environment is None:
        facts.append(f"scored by {rewards or 'no reward'}")
    console.print(Text(f"{number}  {prompt.id}", "bold"), "·", " · ".join(facts))
    if prompt.metadata:
        columns = ", ".join(f"{key} = {value!r}" for key, value in prompt.metadata.items())
        console.print(Text(f"   {_shorten(columns, COLUMNS_WIDTH)}", "dim"))
    # Decoded from the ids, to show what the tokenizer adds or does not know.
    text = Text(encoder.decode(list(prompt.token_ids), clean_up_tokenization_spaces=False))
    text.highlight_words(encoder.all_special_tokens, "cyan")
    console.print(text + Text(END, "dim"), soft_wrap=True)
    console.print()


def _print_sources(console: Console, data: Data, prompts: Sequence[Prompt]) -> None:
    served: dict[str, list[Prompt]] = {}
    for prompt in prompts:
        served.setdefault(prompt.id.rpartition("/")[0], []).append(prompt)
    headings = ["rows", "weight", "share", "with answer", "tokens"]
    table = make_table(Column("source", overflow="fold"), *numbers(headings))
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


def _sizes(spec: Spec, plan: Plan, data: Data, counted: int) -> Table:
    grid = make_grid()
    source = "the sources of [[eval.data]]" if spec.eval_data else "these rows, never trained on"
    grid.add_row("held out", f"{len(data.held_out):,} of {source}")
    longest = room_for_responses(spec)
    context = build.context_length(plan)
    grid.add_row(
        "room",
        f"{context - longest:,} tokens for a prompt: {context:,} of context − {longest:,} new ones",
    )
    grid.add_row(f"skipped before {counted:,} prompts", _reasons(data.stream.skipped))
    grid.add_row("skipped of the held-out", _reasons(data.held_out_skipped))
    return grid


def _reasons(skipped: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} by {option}" for option, count in skipped.items()) or "none"


def _print_lengths(console: Console, lengths_P: np.ndarray) -> None:
    low, middle, most, high = np.percentile(lengths_P, (0, 50, 95, 100))
    console.print(
        f"\nPrompt tokens of the run's first {len(lengths_P):,} prompts: least {low:g}, median "
        f"{middle:g}, 95 % up to {most:g}, most {high:g}"
    )
    width = max(1, int(np.ceil((high - low + 1) / MOST_BINS)))
    counts, edges = np.histogram(lengths_P, np.arange(low, high + width + 1, width))
    grid = make_grid(Column(justify="right"), Column(width=BAR_WIDTH), Column(justify="right"))
    for start, count in zip(edges[:-1].astype(int), counts.tolist(), strict=True):
        label = f"{start}" if width == 1 else f"{start}–{start + width - 1}"
        grid.add_row(label, Bar(int(counts.max()), 0, count), f"{count:,}")
    console.print(grid)


def _shorten(text: str, width: int) -> str:
    line = text.replace("\n", "⏎")
    return line if len(line) <= width else f"{line[: width - 1]}…"
