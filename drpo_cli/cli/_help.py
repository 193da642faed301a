"""How the verbs are listed and explained: in the order of a run's life, with examples to copy."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import typer
from typer.core import TyperGroup

from drpo_cli.errors import EXIT_USER_ERROR

LIFE = {
    "Before a run": ("init", "schema", "check", "plan", "doctor", "reward", "data", "explain"),
    "During a run": ("train", "watch", "compare"),
    "After a run": ("eval", "report", "runs", "track", "export"),
}
"""The verbs of each part of a run's life, in the order in which they are of use."""

USAGE_ERROR: type[Exception] = typer.BadParameter.__bases__[0]  # typer gives it no public name


def examples(*lines: str) -> str:
    """Command lines as a verb's `epilog`, one below the other."""
    return "\n".join(f"Example: {line}" for line in lines)


def examples_of(command: Any) -> list[str]:
    """The command lines in a verb's epilog."""
    lines = [line.strip().removeprefix("Example: ") for line in (command.epilog or "").splitlines()]
    return [line for line in lines if line.startswith("drpo ")]


def summary(command: Any) -> str:
    """What a verb does, in a line."""
    text: str = command.help or ""
    return text.partition("\n")[0]


def leaves(group: Any, above: str = "") -> Iterator[tuple[str, Any]]:
    """Every verb under a group with its full name, such as `reward test`, in order."""
    order = [name for names in LIFE.values() for name in names]
    known = sorted(group.commands, key=lambda name: order.index(name) if name in order else 99)
    for name in known:
        command = group.commands[name]
        full = f"{above} {name}".strip()
        if not isinstance(command, TyperGroup) or command.invoke_without_command:
            yield full, command
        if isinstance(command, TyperGroup):
            yield from leaves(command, full)


def by_part(group: Any) -> dict[str, list[tuple[str, Any]]]:
    """The verbs under a group by the part of a run's life that they belong to."""
    parts: dict[str, list[tuple[str, Any]]] = {part: [] for part in [*LIFE, "Commands"]}
    for name, command in leaves(group):
        first = name.partition(" ")[0]
        part = next((part for part, names in LIFE.items() if first in names), "Commands")
        parts[part].append((name, command))
    return {part: found for part, found in parts.items() if found}


class Verbs(TyperGroup):
    """A group of verbs. Its help names them all, and no line of an example is broken."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        for command in (self, *self.commands.values()):
            if lines := examples_of(command):
                # click leaves the lines below a backspace as they are
                command.epilog = "\n".join(["\b", "Examples:", *(f"  {line}" for line in lines)])

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Lists the verbs, those of groups within included."""
        for part, verbs in by_part(self).items():
            with formatter.section(part):
                formatter.write_dl([(name, summary(command)) for name, command in verbs])

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **extra: Any,
    ) -> Any:
        """Runs the verb; what is wrong with the arguments is said on stderr, and the code is 2."""
        prog_name = prog_name or self.name  # also as `python -m drpo_cli`
        run = partial(super().main, args, prog_name, complete_var, False, windows_expand_args)
        if not standalone_mode:
            return run(**extra)
        try:
            code = run(**extra)
        except USAGE_ERROR as error:
            _show(error)
            code = EXIT_USER_ERROR
        sys.exit(code if isinstance(code, int) else 0)


def _show(error: Any) -> None:
    from rich.console import Console
    from rich.text import Text

    shown = io.StringIO()
    error.show(shown)
    usage, mark, message = shown.getvalue().rpartition("Error: ")
    text = Text.assemble(usage, (mark, "bold red"), message)
    Console(stderr=True, highlight=False, soft_wrap=True).print(text, end="")
