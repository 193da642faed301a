"""What a check found, and how the findings are shown to people and to programs."""

from __future__ import annotations

import json
import subprocess
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Literal, TextIO

from rich.table import Table
from rich.text import Text

from drpo_cli.errors import UserError
from drpo_cli.tools.tables import make_console, make_grid

Status = Literal["ok", "warning", "wrong"]
ERRORS = (OSError, ImportError, ValueError, RuntimeError, subprocess.SubprocessError)
"""Errors that a check may raise on a machine that is not set up as it should be."""
STYLES = {"ok": "green", "warning": "yellow", "wrong": "bold red"}
NARROW = 60
"""Columns of a terminal below which a finding is one column of text."""


@dataclass(frozen=True)
class Finding:
    """One line of the report: what was checked, its status, what was found, and how to fix it."""

    check: str
    status: Status
    found: str
    fix: str = ""


def ok(check: str, found: str) -> Finding:
    """As it should be."""
    return Finding(check, "ok", found)


def warning(check: str, found: str, fix: str) -> Finding:
    """A run works, but slowly, partly, or untested."""
    return Finding(check, "warning", found, fix)


def wrong(check: str, found: str, fix: str) -> Finding:
    """A run does not work."""
    return Finding(check, "wrong", found, fix)


def run_check(name: str, check: Callable[[], Iterable[Finding]]) -> list[Finding]:
    """The findings of a check; a warning with the reason where the check itself fails."""
    found: list[Finding] = []
    try:
        found.extend(check())
    except (UserError, *ERRORS) as error:
        text = f"could not be checked: {type(error).__name__}: {error}"
        found.append(warning(name, text, "fix the cause; a run may meet the same error"))
    return found


def as_json(findings: Sequence[Finding]) -> str:
    """`{"wrong": count, "warnings": count, "findings": […]}`."""
    counts = Counter(each.status for each in findings)
    found = [asdict(each) for each in findings]
    return json.dumps(
        {"wrong": counts["wrong"], "warnings": counts["warning"], "findings": found}, indent=1
    )


def show(findings: Sequence[Finding], stream: TextIO) -> None:
    """Prints a table on a terminal, unwrapped lines in a pipe, and the counts below."""
    console = make_console(stream)
    if console.is_terminal:
        console.print(_make_table(findings, narrow=console.width < NARROW))
    else:
        stream.writelines(_plain_lines(findings))
    counts = Counter(each.status for each in findings)
    warnings = f"{counts['warning']} warning{'s' * (counts['warning'] != 1)}"
    console.print(f"{counts['ok']} ok, {warnings}, {counts['wrong']} wrong")


def _plain_lines(findings: Sequence[Finding]) -> Iterator[str]:
    width = max(len(each.check) for each in findings)
    for each in findings:
        yield f"{each.status:<7}  {each.check:<{width}}  {each.found}\n"
        if each.fix:
            yield f"{'':<7}  {'':<{width}}  fix: {each.fix}\n"


def _make_table(findings: Sequence[Finding], narrow: bool) -> Table:
    table = make_grid(gap=1 if narrow else 2)
    for _ in range(1 if narrow else 3):
        table.add_column(overflow="fold")
    for each in findings:
        status = Text(each.status, STYLES[each.status])
        found = Text(each.found)
        if narrow:
            found = Text.assemble(status, f" {each.check}: {each.found}")
        if each.fix:
            found.append("\n").append(f"fix: {each.fix}", "bold")
        table.add_row(*([found] if narrow else [status, Text(each.check), found]))
    return table
