"""What trying the rewards out showed, for the terminal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from drpo_cli.rewards.grading.grader import Usage
from drpo_cli.tools.preview.summary import Agreement, Sample, distribution

SHOWN_SAMPLES = 24
SHOWN_FAILURES = 3
"""Of each reward and kind."""
SHOWN_DISAGREEMENTS = 4
NUMBER_WIDTH, SCORE_WIDTH, LEAST_TEXT = 3, 6, 24
"""Characters of a sample's number, of a score, and of the narrowest text beside them."""
FAILED = Text("failed", "red")


def print_samples(console: Console, tried: Sequence[Sample], names: Sequence[str]) -> None:
    """One line a sample below its prompt: every reward, the total, milliseconds."""
    columns = (*names, "total", "ms")
    # Set by hand: rich would take the room from the scores, not from the text.
    taken = NUMBER_WIDTH + sum(2 + max(len(name), SCORE_WIDTH) for name in columns)
    width = max(LEAST_TEXT, console.width - taken - 2)
    table = _table()
    table.add_column("", justify="right", style="dim", width=NUMBER_WIDTH)
    table.add_column("prompt, completion", no_wrap=True, overflow="ellipsis", min_width=LEAST_TEXT)
    for name in columns:
        table.add_column(name, justify="right", overflow="fold")
    last = None
    for sample in tried[:SHOWN_SAMPLES]:
        if sample.group is not last:
            last = sample.group
            table.add_row("", Text(_asked(sample, width), "dim"))
        cells = [_score(sample, name) for name in names]
        total = FAILED if sample.total is None else Text(_number(sample.total), "bold")
        took = f"{sum(sample.milliseconds.values()):.1f}"
        table.add_row(str(sample.number), Text(_shown(sample, width)), *cells, total, took)
    console.print(table)
    if len(tried) > SHOWN_SAMPLES:
        console.print(
            f"and {len(tried) - SHOWN_SAMPLES:,} samples more; --json FILE has them all\n"
        )


def print_distributions(
    console: Console, tried: Sequence[Sample], usage: Mapping[str, Usage]
) -> None:
    """One line a reward, and one for the total."""
    table = _table()
    table.add_column("reward", overflow="fold")
    headings = ("min", "25 %", "median", "75 %", "max", "zeros", "calls", "ms a call", "slowest")
    for heading in (*headings, "failed"):
        table.add_column(heading, justify="right", no_wrap=True)
    for name, used in usage.items():
        failed = sum(used.failures.values())
        table.add_row(
            name,
            *_spread(distribution(sample.rewards.get(name) for sample in tried)),
            f"{used.calls:,}",
            f"{1000 * used.seconds / max(1, used.calls):.1f}",
            f"{1000 * used.slowest:.1f}",
            Text(str(failed), "red" if failed else ""),
        )
    skipped = sum(sample.total is None for sample in tried)
    totals = _spread(distribution(sample.total for sample in tried))
    blank = ("",) * 3
    table.add_row(Text("total", "bold"), *totals, *blank, Text(str(skipped), "red" * bool(skipped)))
    console.print(table)
    for name, used in usage.items():
        if used.counts:
            told = ", ".join(f"{key} {count:,g}" for key, count in used.counts.items())
            console.print(f"{name} counted: {told}")


def print_failures(console: Console, quarantine: Sequence[Mapping[str, Any]]) -> None:
    """The failed calls by reward and kind, a few of each in full."""
    by_kind: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for record in quarantine:
        by_kind.setdefault((record["reward"], record["reason"]), []).append(record)
    for (name, kind), records in by_kind.items():
        console.print(Text(f"{name}: {kind}, {count(len(records), 'call')}", "red"))
        for record in records[:SHOWN_FAILURES]:
            what = record["completion"]
            whole = f"group of {len(what)}" if isinstance(what, list) else repr(_cut(what, 60))
            console.print(f"  {record['prompt_id']}, {whole}")
            console.print(f"    {record['detail']}", soft_wrap=True)  # a path stays whole
        if len(records) > SHOWN_FAILURES:
            console.print(f"  and {len(records) - SHOWN_FAILURES:,} more")
    console.print()


def print_agreement(console: Console, held: Agreement) -> None:
    """The two-by-two table, and where the total and the answer disagree."""
    if not any(held.cells.values()):
        console.print("no sample has both a reference answer and a total: nothing to agree with")
        return
    table = _table()
    table.add_column("agreement with the reference answers")
    table.add_column(f"total ≥ {held.threshold:g}", justify="right")
    table.add_column(f"total < {held.threshold:g}", justify="right")
    for label, has in (("completion has the answer", True), ("completion has it not", False)):
        table.add_row(label, *(str(held.count(has, high)) for high in (True, False)))
    console.print(table)
    for label, cell in (
        ("has the answer, and a low total", held.cells[True, False]),
        ("has not the answer, but a high total", held.cells[False, True]),
    ):
        if cell:
            console.print(f"{label}: {_listed(cell)}")


def _listed(cell: Sequence[Sample]) -> str:
    shown = ", ".join(f"sample {sample.number}" for sample in cell[:SHOWN_DISAGREEMENTS])
    more = len(cell) - SHOWN_DISAGREEMENTS
    return f"{shown} and {more:,} more" if more > 0 else shown


def _table() -> Table:
    return Table(box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)


def _asked(sample: Sample, width: int) -> str:
    prompt = sample.group.prompt
    answer = "" if prompt.answer is None else f" → {_cut(prompt.answer, width // 4)}"
    left = width - len(prompt.id) - len(answer) - 2
    return f"{prompt.id}: {_cut(prompt.text, max(left, width // 4))}{answer}"


def _shown(sample: Sample, width: int) -> str:
    mark = " (cut off)" if sample.group.rollouts_G[sample.index].truncated else ""
    return _cut(sample.completion, width - len(mark)) + mark


def _score(sample: Sample, name: str) -> Text:
    if name not in sample.rewards:
        return Text("–", "dim")  # the prompt's source names other rewards
    value = sample.rewards[name]
    return FAILED if value is None else Text(_number(value))


def _spread(found: Mapping[str, float]) -> Iterable[str]:
    if not found:
        return ("–",) * 6
    quartiles = (_number(found[key]) for key in ("min", "q1", "median", "q3", "max"))
    return (*quartiles, f"{found['zeros']:.0%}")


def _number(value: float) -> str:
    return f"{value:.4g}"


def count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'s' * (number != 1)}"


def _cut(text: str, width: int) -> str:
    """The text on one line, its middle left out where it is long."""
    line = repr(text)[1:-1]
    if len(line) <= width:
        return line
    half = (width - 3) // 2
    return f"{line[:half]} … {line[-half:]}"
