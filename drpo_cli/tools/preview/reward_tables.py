"""The tables of `drpo reward test`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Column
from rich.text import Text

from drpo_cli.rewards.grading.grader import Graded, Usage
from drpo_cli.tools.preview.scores import Agreement, Sample, distribution
from drpo_cli.tools.tables import make_table, numbers

SHOWN_SAMPLES = 24
SHOWN_FAILURES = 3
"""Failed calls that are shown per reward and kind of failure."""
SHOWN_DISAGREEMENTS = 4
NUMBER_WIDTH, SCORE_WIDTH, LEAST_TEXT = 3, 6, 24
"""Characters of a sample's number, of a score, and of the narrowest text beside them."""
FAILED = Text("failed", "red")


def show(
    console: Console,
    samples: Sequence[Sample],
    graded: Graded,
    agreement: Agreement,
    origin: str,
) -> None:
    """Prints the samples, the distributions, the failures, and the agreement with the answers."""
    prompts = len({id(sample.group) for sample in samples})
    size = f"{_count(len(samples), 'sample')} of {_count(prompts, 'prompt')}"
    console.print(f"{size}: {origin}\n", soft_wrap=True)
    _print_samples(console, samples, list(graded.usage))
    _print_distributions(console, samples, graded.usage)
    _print_failures(console, graded.quarantine)
    _print_agreement(console, agreement)


def _print_samples(console: Console, samples: Sequence[Sample], names: Sequence[str]) -> None:
    """One line per sample, below its prompt: every reward, the total, milliseconds."""
    columns = (*names, "total", "ms")
    # Set here: rich would shorten the scores instead of the text.
    taken = NUMBER_WIDTH + sum(2 + max(len(name), SCORE_WIDTH) for name in columns)
    width = max(LEAST_TEXT, console.width - taken - 2)
    table = make_table(
        Column("", justify="right", style="dim", width=NUMBER_WIDTH),
        Column("prompt, completion", no_wrap=True, overflow="ellipsis", min_width=LEAST_TEXT),
        *(Column(name, justify="right", overflow="fold") for name in columns),
    )
    last = None
    for sample in samples[:SHOWN_SAMPLES]:
        if sample.group is not last:
            last = sample.group
            table.add_row("", Text(_format_prompt(sample, width), "dim"))
        cells = [_format_score(sample, name) for name in names]
        total = FAILED if sample.total is None else Text(_format(sample.total), "bold")
        took = f"{sum(sample.milliseconds.values()):.1f}"
        text = Text(_format_completion(sample, width))
        table.add_row(str(sample.number), text, *cells, total, took)
    console.print(table)
    if len(samples) > SHOWN_SAMPLES:
        more = len(samples) - SHOWN_SAMPLES
        console.print(f"and {more:,} more samples; --json FILE writes all of them\n")


def _print_distributions(
    console: Console, samples: Sequence[Sample], usage: Mapping[str, Usage]
) -> None:
    """One line per reward, and one for the total."""
    headings = ["min", "25 %", "median", "75 %", "max", "zeros", "calls", "ms/call", "slowest"]
    table = make_table(Column("reward", overflow="fold"), *numbers([*headings, "failed"]))
    for name, used in usage.items():
        failed = sum(used.failures.values())
        table.add_row(
            name,
            *_format_quartiles(distribution(sample.rewards.get(name) for sample in samples)),
            f"{used.calls:,}",
            f"{1000 * used.seconds / max(1, used.calls):.1f}",
            f"{1000 * used.slowest:.1f}",
            Text(str(failed), "red" if failed else ""),
        )
    skipped = sum(sample.total is None for sample in samples)
    totals = _format_quartiles(distribution(sample.total for sample in samples))
    failed_totals = Text(str(skipped), "red" if skipped else "")
    table.add_row(Text("total", "bold"), *totals, "", "", "", failed_totals)
    console.print(table)
    for name, used in usage.items():
        if used.counts:
            counts = ", ".join(f"{key} {count:,g}" for key, count in used.counts.items())
            console.print(f"{name} counted: {counts}")


def _print_failures(console: Console, quarantine: Sequence[Mapping[str, Any]]) -> None:
    """The failed calls by reward and kind of failure, the first ones in full."""
    by_kind: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for record in quarantine:
        by_kind.setdefault((record["reward"], record["reason"]), []).append(record)
    for (name, kind), records in by_kind.items():
        console.print(Text(f"{name}: {kind}, {_count(len(records), 'call')}", "red"))
        for record in records[:SHOWN_FAILURES]:
            text = record["completion"]
            shown = f"group of {len(text)}" if isinstance(text, list) else repr(_cut(text, 60))
            console.print(f"  {record['prompt_id']}, {shown}")
            console.print(f"    {record['detail']}", soft_wrap=True)  # keeps a path in one piece
        if len(records) > SHOWN_FAILURES:
            console.print(f"  and {len(records) - SHOWN_FAILURES:,} more")
    console.print()


def _print_agreement(console: Console, agreement: Agreement) -> None:
    """The two-by-two table, and the samples where the total and the answer disagree."""
    if not any(agreement.cells.values()):
        console.print("no sample has both a reference answer and a total: no agreement to show")
        return
    table = make_table(
        "agreement with the reference answers",
        Column(f"total ≥ {agreement.threshold:g}", justify="right"),
        Column(f"total < {agreement.threshold:g}", justify="right"),
    )
    for label, has in (
        ("completion has the answer", True),
        ("completion does not have the answer", False),
    ):
        table.add_row(label, *(str(agreement.count(has, high)) for high in (True, False)))
    console.print(table)
    for label, cell in (
        ("has the answer, but a low total", agreement.cells[True, False]),
        ("does not have the answer, but a high total", agreement.cells[False, True]),
    ):
        if cell:
            names = ", ".join(f"sample {sample.number}" for sample in cell[:SHOWN_DISAGREEMENTS])
            more = len(cell) - SHOWN_DISAGREEMENTS
            console.print(f"{label}: {names}{f' and {more:,} more' if more > 0 else ''}")


def _format_prompt(sample: Sample, width: int) -> str:
    prompt = sample.group.prompt
    answer = "" if prompt.answer is None else f" → {_cut(prompt.answer, width // 4)}"
    left = width - len(prompt.id) - len(answer) - 2
    return f"{prompt.id}: {_cut(prompt.text, max(left, width // 4))}{answer}"


def _format_completion(sample: Sample, width: int) -> str:
    mark = " (cut off)" if sample.group.rollouts_G[sample.index].truncated else ""
    return _cut(sample.completion, width - len(mark)) + mark


def _format_score(sample: Sample, name: str) -> Text:
    if name not in sample.rewards:
        return Text("–", "dim")  # the source of the prompt names other rewards
    value = sample.rewards[name]
    return FAILED if value is None else Text(_format(value))


def _format_quartiles(found: Mapping[str, float]) -> Iterable[str]:
    if not found:
        return ("–",) * 6
    quartiles = (_format(found[key]) for key in ("min", "q1", "median", "q3", "max"))
    return (*quartiles, f"{found['zeros']:.0%}")


def _format(value: float) -> str:
    return f"{value:.4g}"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'s' * (number != 1)}"


def _cut(text: str, width: int) -> str:
    """The text on one line, without its middle if it is too long."""
    line = repr(text)[1:-1]
    if len(line) <= width:
        return line
    half = (width - 3) // 2
    return f"{line[:half]} … {line[-half:]}"
