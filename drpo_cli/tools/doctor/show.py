"""The findings, for people and for programs."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import TextIO

from rich.console import Console
from rich.table import Table
from rich.text import Text

from drpo_cli.tools.doctor.findings import Finding

_STYLES = {"ok": "green", "warning": "yellow", "wrong": "bold red"}
_NARROW = 60


def as_json(findings: Sequence[Finding]) -> str:
    """`{"wrong": how many, "warnings": how many, "findings": […]}`."""
    counts = Counter(each.status for each in findings)
    found = [asdict(each) for each in findings]
    return json.dumps(
        {"wrong": counts["wrong"], "warnings": counts["warning"], "findings": found}, indent=1
    )


def show(findings: Sequence[Finding], stream: TextIO) -> None:
    """A table as wide as the terminal, the counts below; for a pipe, lines that are not broken."""
    console = Console(file=stream, markup=False, highlight=False)
    if console.is_terminal:
        console.print(_table(findings, narrow=console.width < _NARROW))
    else:
        stream.writelines(_plain(findings))
    counts = Counter(each.status for each in findings)
    warnings = f"{counts['warning']} warning{'s' * (counts['warning'] != 1)}"
    console.print(f"{counts['ok']} ok, {warnings}, {counts['wrong']} wrong")


def _plain(findings: Sequence[Finding]) -> Iterator[str]:
    width = max(len(each.check) for each in findings)
    for each in findings:
        yield f"{each.status:<7}  {each.check:<{width}}  {each.found}\n"
        if each.fix:
            yield f"{'':<7}  {'':<{width}}  fix: {each.fix}\n"


def _table(findings: Sequence[Finding], narrow: bool) -> Table:
    table = Table.grid(padding=(0, 2 - narrow))
    for _ in range(1 if narrow else 3):
        table.add_column(overflow="fold")
    for each in findings:
        status = Text(each.status, _STYLES[each.status])
        if narrow:
            lines = [Text.assemble(status, f" {each.check}: {each.found}")]
        else:
            lines = [Text(each.found)]
        if each.fix:
            lines.append(Text(f"fix: {each.fix}", "bold"))
        body = Text("\n").join(lines)
        table.add_row(*([body] if narrow else [status, Text(each.check), body]))
    return table
