"""Makes every prompt before the first step, so that a row that cannot be used is found there."""

from __future__ import annotations

from collections.abc import Sequence

from drpo_cli.data.pipeline.prompts import Prompts
from drpo_cli.data.pipeline.rows import Source, is_endless
from drpo_cli.data.pipeline.split import Split
from drpo_cli.errors import UserError

MOST_CHECKED = 100_000
"""Rows per source of which a prompt is made before the first step."""
CHECKED_AT_ONCE = 1000


def check_rows(data: Split, prompts: Prompts, rank: int, world: int) -> None:
    """Raises UserError for the first of this rank's training rows that cannot be used."""
    refused, checked = list[UserError](), 0
    for source in data.sources:
        if is_endless(source):
            continue
        own = range(rank, min(len(source), MOST_CHECKED), world)
        checked += len(own)
        for start in range(0, len(own), CHECKED_AT_ONCE):
            refused += _refuse(source, own[start : start + CHECKED_AT_ONCE], data, prompts)
    if refused:
        more = f" ({len(refused):,} of {checked:,} rows cannot be used)" if refused[1:] else ""
        raise UserError(f"{refused[0].what}{more}", refused[0].fix)


def _refuse(source: Source, own: range, data: Split, prompts: Prompts) -> list[UserError]:
    """The errors of these rows of a source, in their order."""
    refused, rows = {}, {}
    for at in own:
        try:
            row = source[at]
            if data.trains(row):
                rows[at] = row
        except UserError as error:
            refused[at] = error
    refused |= prompts.check(rows)
    return [refused[at] for at in sorted(refused)]


def list_remarks(sources: Sequence[Source], prompts: Prompts) -> list[str]:
    """What to know of the prompts before the first step, one sentence each."""
    unchecked = [
        f"data {source.name}: {'all' if is_endless(source) else f'from row {MOST_CHECKED:,} on,'} "
        f"rows are checked only when they are read"
        for source in sources
        if len(source) > MOST_CHECKED
    ]
    return unchecked + [
        f"data {name}: prompts begin with two {prompts.bos}: the tokenizer adds one, and template "
        "or prompt writes one; remove that, or set add_special_tokens = false in this source"
        for name in sorted(prompts.doubled_bos)
    ]
